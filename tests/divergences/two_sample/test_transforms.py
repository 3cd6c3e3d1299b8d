"""Every statistic under jit, vmap, grad, jvp, Hessians, shard_map, in every dtype, and with bounded memory.

With one side sharded and the other replicated, and under pmap, they are rows of `transform_cases` one folder up.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import two_sample as ts
from tests.divergences.two_sample.reference import samples

P, Q = (x.astype(np.float32) for x in samples(0, 7, 5, 2))
KEY = jax.random.key(0)
STATISTICS = {
    "mmd": lambda p, q: ts.squared_mmd(p_samples=p, q_samples=q, kernel=ts.gaussian_kernel(1.0), chunk_size=3),
    "energy": lambda p, q: ts.energy_distance(p_samples=p, q_samples=q, chunk_size=3),
    "cauchy_schwarz": lambda p, q: ts.kernel_cauchy_schwarz(p_samples=p, q_samples=q, chunk_size=3),
    "knn_kl": lambda p, q: ts.knn_kl(p_samples=p, q_samples=q, num_neighbors=2, chunk_size=3).value,
    "knn_renyi": lambda p, q: ts.knn_renyi(0.5, p_samples=p, q_samples=q, num_neighbors=2, chunk_size=3).value,
    "frechet": lambda p, q: ts.frechet_distance(p_samples=p, q_samples=q),
    "sliced": lambda p, q: ts.sliced_wasserstein(KEY, p_samples=p, q_samples=q, num_projections=4),
    "ksd": lambda p, q: ts.squared_ksd(p_samples=p, q_score=lambda x: q[0] - x, chunk_size=3),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_jit_vmap_and_derivatives(name):
    fn = STATISTICS[name]
    value = fn(P, Q)  # as the library gives it, not compiled as a whole
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(fn)(P, Q), value, rtol=2e-4, atol=1e-6)
    batch_p, batch_q = jnp.stack([P, P[::-1] + 1.0]), jnp.stack([Q, Q])
    both = jax.jit(jax.vmap(fn))(batch_p, batch_q)
    np.testing.assert_allclose(both[1], jax.jit(fn)(batch_p[1], Q), rtol=2e-4, atol=1e-6)
    gradient = jax.jit(jax.grad(fn))(P, Q)
    assert np.isfinite(gradient).all() and np.max(np.abs(gradient)) > 1e-4
    direction = np.random.default_rng(1).normal(size=P.shape).astype(np.float32)
    slope = jax.jit(lambda p, t: jax.jvp(lambda p: fn(p, Q), (p,), (t,))[1])(P, direction)
    np.testing.assert_allclose(slope, np.sum(gradient * direction), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", STATISTICS)
def test_hessians(name, x64):
    fn = jax.jit(lambda x: STATISTICS[name](x, jnp.asarray(Q, jnp.float64)))
    x = np.asarray(P, np.float64)
    gradient = jax.jit(jax.grad(fn))
    hessian = jax.jit(jax.hessian(fn))(x)
    step = np.zeros_like(x)
    step[1, 0] = 1e-5
    np.testing.assert_allclose(hessian[1, 0], (gradient(x + step) - gradient(x - step)) / 2e-5, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", STATISTICS)
def test_shard_map(name):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    spec = jax.sharding.PartitionSpec("data")

    def local(p, q):
        value, gradient = jax.value_and_grad(STATISTICS[name])(p[0], q[0])
        return value[None], gradient[None]

    with jax.set_mesh(mesh):
        sharded = jax.jit(jax.shard_map(local, in_specs=(spec, spec), out_specs=(spec, spec)))
        value, gradient = sharded(jax.device_put(P[None], spec), jax.device_put(Q[None], spec))
    np.testing.assert_allclose(value[0], jax.jit(STATISTICS[name])(P, Q), rtol=2e-4, atol=1e-6)
    assert gradient.shape == (1, *P.shape)


@pytest.mark.slow
def test_dtypes(x64):
    """Half precision is computed and returned in float32, exactly as its float32 copy; float64 stays."""
    for name in ("mmd", "knn_kl", "frechet"):
        fn = jax.jit(STATISTICS[name])
        for dtype in (jnp.bfloat16, jnp.float16):
            p, q = jnp.asarray(P, dtype), jnp.asarray(Q, dtype)
            value = fn(p, q)
            assert value.dtype == jnp.float32, name
            np.testing.assert_allclose(value, fn(p.astype(jnp.float32), q.astype(jnp.float32)), rtol=1e-5)
        assert fn(P.astype(np.float64), jnp.asarray(Q)).dtype == jnp.float64


@pytest.mark.parametrize("name", ["mmd", "energy", "cauchy_schwarz", "knn_kl", "ksd"])
def test_memory_grows_with_the_chunk_and_not_with_the_square(name):
    """Temporaries of value and gradient at n = m = 4096, 64 rows at a time: 16 such blocks, a pair matrix has 64."""
    n, chunk_size = 4096, 64
    kernel = ts.gaussian_kernel(1.0)
    statistics = {
        "mmd": functools.partial(ts.squared_mmd, kernel=kernel),
        "energy": ts.energy_distance,
        "cauchy_schwarz": functools.partial(ts.kernel_cauchy_schwarz, kernel=kernel),
        "knn_kl": lambda **a: ts.knn_kl(**a, num_neighbors=2).value,
        "ksd": lambda p_samples, q_samples, chunk_size: ts.squared_ksd(
            p_samples=p_samples, q_score=q_samples, kernel=kernel, chunk_size=chunk_size
        ),
    }
    fn = jax.value_and_grad(lambda p, q: statistics[name](p_samples=p, q_samples=q, chunk_size=chunk_size), (0, 1))
    shape = jax.ShapeDtypeStruct((n, 8), jnp.float32)
    temporary = jax.jit(fn).lower(shape, shape).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 16 * chunk_size * n * 4


def test_memory_of_the_permutation_test():
    n, num = 2048, 50
    fn = functools.partial(ts.kernel_permutation_test, num_permutations=num, chunk_size=64)
    shape = jax.ShapeDtypeStruct((n, 8), jnp.float32)
    compiled = jax.jit(lambda key, p, q: fn(key, p_samples=p, q_samples=q)).lower(KEY, shape, shape).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 4 * (8 * 64 * 2 * n + 10 * num * 2 * n + 8 * 1000**2)
