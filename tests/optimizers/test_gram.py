import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.optimizers import SCHEDULES, orthogonalize
from jaxdiv.optimizers.gram import almost_orthogonal, gram_form_fits, gram_steps
from tests.optimizers.oracles import SPECTRA, iterate, matrix, relative_error, sigma_range


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_gram_form_is_the_same_iteration(name):
    with jax.enable_x64(True):
        for shape in ((8, 20), (20, 8), (3, 5)):
            x = matrix(shape, seed=1)[0]
            got = orthogonalize(x, schedule=name, dtype="float64", method="gram")
            np.testing.assert_allclose(got, iterate(x, SCHEDULES[name]), atol=1e-9, err_msg=f"{name} {shape}")


def test_in_float32_it_is_as_accurate_as_the_standard_form():
    for seed in range(3):
        x = matrix((24, 64), seed=seed)[0].astype(np.float32)
        exact = iterate(x, SCHEDULES["you"])
        got = orthogonalize(x, dtype="float32", method="gram")
        np.testing.assert_allclose(got, exact, atol=1e-5)


@pytest.fixture(scope="module")
def wide():
    """256x1024 matrices of the three spectra."""
    pairs = [matrix((256, 1024), k) for k in SPECTRA]
    return np.stack([p[0] for p in pairs]).astype(np.float32), [p[1] for p in pairs]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_its_error_to_the_polar_factor_is_that_of_the_standard_form(wide, dtype):
    x, polar = wide
    fns = [functools.partial(orthogonalize, dtype=dtype, method=method) for method in ("standard", "gram")]
    for exact, standard, gram in zip(polar, *(np.asarray(jax.jit(fn)(x)) for fn in fns), strict=True):
        assert relative_error(gram, exact) <= relative_error(standard, exact) + 2e-3
        # float16 costs the largest singular value a hundredth, no more.
        assert sigma_range(gram)[1] <= sigma_range(standard)[1] + (0.012 if dtype == "float16" else 1e-4)


def test_a_steep_schedule_in_float16_is_refused_because_it_loses_singular_values(wide):
    x = jnp.asarray(wide[0])[list(SPECTRA).index("log_uniform")]
    schedule = SCHEDULES["polar_express"]
    scaled = (x / (schedule.safety * jnp.linalg.norm(x))).astype(jnp.float16)
    lost = jax.jit(lambda x: gram_steps(x, schedule, "xla"))(scaled)
    assert sigma_range(np.asarray(lost, np.float32))[1] > 1.3
    options = {"schedule": "polar_express", "dtype": "float16"}
    with pytest.raises(ValueError, match="^orthogonalize: dtype is float16 with the schedule 'polar_express'"):
        orthogonalize(x, method="gram", **options)
    kept = orthogonalize(x, method="auto", **options)
    np.testing.assert_array_equal(kept, orthogonalize(x, **options))
    assert sigma_range(kept)[1] < 1.15


def test_bfloat16_is_refused_because_it_loses_singular_values():
    """The rule's reason: with Polar Express on a square Gaussian matrix, sigma leaves the range by far."""
    x = jnp.asarray(matrix((256, 256))[0], jnp.float32)
    scaled = (x / (1.02 * jnp.linalg.norm(x))).astype(jnp.bfloat16)
    lost = jax.jit(lambda x: gram_steps(x, SCHEDULES["polar_express"], "xla"))(scaled)
    assert sigma_range(np.asarray(lost, np.float32))[1] > 1.5
    kept = orthogonalize(x, schedule="polar_express", dtype="bfloat16")
    assert sigma_range(np.asarray(kept, np.float32))[1] < 1.15


def test_what_the_form_is_for():
    for shape, fits in (((4, 6), False), ((4, 7), True), ((7, 4), True), ((2, 4, 4), False), ((4, 4, 9), True)):
        for dtype, name, accurate in (
            ("float16", "you", True),
            ("float16", "jordan", False),
            ("float32", "jordan", True),
            ("bfloat16", "you", False),
        ):
            assert gram_form_fits(shape, jnp.dtype(dtype), SCHEDULES[name]) is (fits and accurate)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)], ids=str)
def test_auto_takes_the_standard_form_for_nearly_square_matrices(shape):
    x = jnp.asarray(matrix(shape)[0], jnp.float32)
    standard = orthogonalize(x, dtype="float32")
    np.testing.assert_array_equal(orthogonalize(x, dtype="float32", method="auto"), standard)
    with pytest.raises(ValueError, match=r"^orthogonalize: x has shape .* more than 1.5 times"):
        orthogonalize(x, dtype="float32", method="gram")


def test_auto_takes_the_standard_form_in_bfloat16():
    x = jnp.asarray(matrix((4, 16))[0], jnp.float32)
    np.testing.assert_array_equal(orthogonalize(x, method="auto"), orthogonalize(x))
    with pytest.raises(ValueError, match=r"^orthogonalize: dtype is bfloat16"):
        orthogonalize(x, method="gram")


def test_auto_takes_the_gram_form_where_it_fits():
    x = jnp.asarray(matrix((4, 16))[0], jnp.float32)
    for dtype in ("float16", "float32"):
        gram = orthogonalize(x, dtype=dtype, method="gram")
        np.testing.assert_array_equal(orthogonalize(x, dtype=dtype, method="auto"), gram)


def test_its_products_are_fewer():
    """At n = 4 m: 8 n^2 m + 28 n^3 operations against 20 n^2 m + 10 n^3, counted from the program."""

    def flops(method):
        def fn(x):
            return orthogonalize(x, dtype="float32", method=method)

        total = 0
        for eqn in jax.make_jaxpr(fn)(jnp.ones((16, 64))).eqns:
            inner = eqn.params["jaxpr"].eqns if "jaxpr" in eqn.params else [eqn]
            for e in inner:
                if e.primitive.name == "dot_general":
                    (contract, _), _ = e.params["dimension_numbers"]
                    depth = e.invars[0].aval.shape[contract[0]]
                    total += 2 * depth * e.outvars[0].aval.size
        return total

    n, m = 16, 64
    assert flops("standard") == 20 * n**2 * m + 10 * n**3
    assert flops("gram") <= 8 * n**2 * m + 28 * n**3
    assert flops("gram") < 0.7 * flops("standard")


def test_batches_zeros_and_gradients():
    x = np.stack([matrix((4, 12), seed=s)[0] for s in range(2)] + [np.zeros((4, 12))]).astype(np.float32)
    options = {"dtype": "float32", "method": "gram"}
    y = orthogonalize(x, **options)
    np.testing.assert_array_equal(y[2], 0.0)
    for one, batched in zip(x, y, strict=True):
        np.testing.assert_allclose(orthogonalize(one, **options), batched, atol=2e-6)
    grads = [
        jax.grad(lambda x, m=m: jnp.sum(jnp.sin(orthogonalize(x, dtype="float32", method=m))))(jnp.asarray(x[:2]))
        for m in ("standard", "gram")
    ]
    np.testing.assert_allclose(*grads, atol=1e-4 * np.abs(grads[0]).max())


def test_the_rescaling_reuses_the_gram_matrix():
    with jax.enable_x64(True):
        x = matrix((6, 10), seed=2)[0]
        scaled, gram = almost_orthogonal(jnp.asarray(x), jnp.asarray(x @ x.T))
        np.testing.assert_allclose(gram, scaled @ scaled.T, atol=1e-12)
        np.testing.assert_allclose(scaled, x / np.sqrt(np.abs(x @ x.T).sum(1))[:, None], atol=1e-12)
        assert np.linalg.norm(scaled, 2) <= 1.0
