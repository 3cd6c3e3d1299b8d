import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.networks.attention import cached_attention, causal_attention, flash_fits, max_logit
from jaxdiv.networks.rotary import rotate, rotation_at


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def by_loops(q, k, v, scale):
    """Attention in float64, one query at a time; also the largest logit of each head."""
    batch, length, heads, _ = q.shape
    share = heads // k.shape[2]
    out, largest = np.zeros((batch, length, heads, v.shape[-1])), np.full(heads, -np.inf)
    for b, t, h in np.ndindex(batch, length, heads):
        logits = scale * k[b, : t + 1, h // share].astype(np.float64) @ q[b, t, h]
        largest[h] = max(largest[h], logits.max())
        weights = np.exp(logits - logits.max())
        out[b, t, h] = weights @ v[b, : t + 1, h // share] / weights.sum()
    return out, largest


@pytest.mark.parametrize("heads, groups", [(4, 4), (4, 2), (3, 1)])
def test_causal_attention_and_its_largest_logit(heads, groups):
    q, k, v = draw(2, 5, heads, 6), draw(2, 5, groups, 6, seed=1), draw(2, 5, groups, 3, seed=2)
    expected, largest = by_loops(q, k, v, 0.7)
    np.testing.assert_allclose(causal_attention(q, k, v, scale=0.7, kernel="auto"), expected, atol=2e-6)
    np.testing.assert_allclose(max_logit(q, k, scale=0.7), largest, rtol=1e-6)


def test_large_logits_do_not_overflow():
    q, k, v = 1e4 * draw(1, 4, 2, 6), draw(1, 4, 2, 6, seed=1), draw(1, 4, 2, 6, seed=2)
    out = causal_attention(q, k, v, scale=1.0, kernel="einsum")
    np.testing.assert_allclose(out, by_loops(q, k, v, 1.0)[0], atol=1e-4)
    gradient = jax.grad(lambda q: causal_attention(q, k, v, scale=1.0, kernel="einsum").sum())(q)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_attention_over_a_cache_continues_attention(groups):
    """Queries of the last tokens, against a cache of the others with garbage in its unused slots."""
    q, k, v = draw(2, 9, 4, 6), draw(2, 9, groups, 6, seed=1), draw(2, 9, groups, 3, seed=2)
    expected, _ = by_loops(q, k, v, 0.7)
    attend = jax.jit(lambda *args: cached_attention(*args, scale=0.7))
    for start, stop in ((0, 3), (4, 5), (6, 9)):

        def slots(x, start=start):
            garbage = np.full((2, groups, 8 - start, x.shape[-1]), 100.0, np.float32)
            return np.concatenate([x[:, :start].swapaxes(1, 2), garbage], axis=2)

        new = slice(start, stop)
        queries = q[:, new].swapaxes(1, 2).reshape(2, groups, 4 // groups, stop - start, 6)
        parts = [(x[..., :4], x[..., 4:]) for x in (queries, slots(k), k[:, new].swapaxes(1, 2))]
        out = attend(*parts[:2], slots(v), parts[2], v[:, new].swapaxes(1, 2), jnp.int32(start))
        out = out.reshape(2, 4, stop - start, 3).swapaxes(1, 2)
        np.testing.assert_allclose(out, expected[:, new], atol=2e-6)


def test_half_precision_takes_its_softmax_in_float32():
    q, k, v = (jnp.asarray(draw(1, 64, 2, 16, seed=i), jnp.bfloat16) for i in range(3))
    out = causal_attention(q, k, v, scale=0.25, kernel="einsum")
    exact, _ = by_loops(*(np.asarray(x, np.float32) for x in (q, k, v)), 0.25)
    assert out.dtype == jnp.bfloat16
    assert np.abs(np.asarray(out, np.float32) - exact).max() < 0.02
    assert max_logit(q, k, scale=0.25).dtype == jnp.float32


def test_a_rotation_turns_pairs_of_halves():
    """At dim 4 and base 100 the two frequencies are 1 and 0.1."""
    rotation = rotation_at(jnp.arange(3), 4, base=100.0, dtype=jnp.float32)
    x = jnp.array([1.0, 2.0, 3.0, 4.0])
    out = rotate(jnp.broadcast_to(x, (1, 3, 1, 4)), rotation)[0, :, 0]
    for t, row in enumerate(out):
        first, second = (1 + 3j) * np.exp(1j * t), (2 + 4j) * np.exp(0.1j * t)
        np.testing.assert_allclose(row, [first.real, second.real, first.imag, second.imag], rtol=1e-6)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    q, k = draw(1, 1, 1, 8), draw(1, 1, 1, 8, seed=1)
    positions = jnp.arange(40)
    rotation = rotation_at(positions, 8, base=30.0, dtype=jnp.float32)
    q, k = (rotate(jnp.broadcast_to(x, (1, 40, 1, 8)), rotation)[0, :, 0] for x in (q, k))
    products = np.asarray(q @ k.T)
    for distance in range(-20, 21):
        along = np.diagonal(products, distance)
        np.testing.assert_allclose(along, along[0], atol=1e-5)
    assert np.std(products[0]) > 0.1
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), np.linalg.norm(q[0]), rtol=1e-6)


def test_rotation_keeps_the_dtype_and_works_in_float32():
    rotation = rotation_at(jnp.arange(500, 502), 8, base=1e4, dtype=jnp.float32)
    x = jnp.ones((1, 2, 1, 8), jnp.bfloat16)
    out = rotate(x, rotation)
    assert out.dtype == jnp.bfloat16
    exact = rotate(x.astype(jnp.float32), rotation)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0.005, atol=1e-3)


def test_the_fused_kernel_is_not_chosen_on_a_cpu():
    assert not flash_fits(jnp.zeros((1, 64, 2, 64), jnp.bfloat16))


@pytest.mark.accelerator
@pytest.mark.parametrize("heads, groups, size, values", [(6, 6, 64, 64), (8, 2, 128, 128), (4, 4, 96, 64)])
def test_the_fused_kernel_is_attention(heads, groups, size, values):
    q, k, v = (
        jnp.asarray(draw(2, 192, n, d, seed=i), jnp.bfloat16)
        for i, (n, d) in enumerate([(heads, size), (groups, size), (groups, values)])
    )
    assert flash_fits(q)

    def loss(q, k, v, kernel):
        out = causal_attention(q, k, v, scale=size**-0.5, kernel=kernel)
        return jnp.sin(out.astype(jnp.float32)).sum(), out

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True), static_argnames="kernel")
    fused, plain = run(q, k, v, kernel="cudnn"), run(q, k, v, kernel="einsum")
    for a, b in zip(jax.tree.leaves(fused), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), atol=0.03 * np.abs(np.float32(b)).max())
