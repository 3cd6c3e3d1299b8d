"""The MMCR loss in its closed cases, matrix entropy and the L12 norm against numpy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import l12_norm, matrix_entropy, mmcr_loss, token_directions
from jaxdiv.optimizers import nuclear_norm


def directions(x):
    x = x - x.mean(-2, keepdims=True)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def entropy(x):
    p = np.linalg.svd(x, compute_uv=False) ** 2
    p = p / p.sum(-1, keepdims=True)
    return -np.sum(p * np.log(np.clip(p, 1e-300, None)), axis=-1)


def test_mmcr_is_its_definition(x64):
    views = np.random.default_rng(0).normal(size=(2, 6, 3, 5))
    unit = views / np.linalg.norm(views, axis=-1, keepdims=True)
    first = np.linalg.svd(unit.mean(2), compute_uv=False).sum(-1)
    second = np.linalg.svd(unit, compute_uv=False).sum(-1).mean(-1)
    np.testing.assert_allclose(mmcr_loss(views), -first, rtol=1e-12)
    np.testing.assert_allclose(mmcr_loss(7.0 * views, local_weight=0.3), -first + 0.3 * second, rtol=1e-12)


def test_mmcr_closed_cases():
    orthonormal = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (9, 9)))[0][:7]
    equal = jnp.repeat(3.0 * orthonormal[:, None], 4, axis=1)
    np.testing.assert_allclose(mmcr_loss(equal), -7.0, rtol=1e-6)
    centroids = jnp.mean(equal, axis=1) / 3.0
    fast = mmcr_loss(equal, schedule="polar_express"), -nuclear_norm(centroids, schedule="polar_express")
    np.testing.assert_allclose(*fast, rtol=1e-5)
    np.testing.assert_allclose(mmcr_loss(equal, local_weight=0.5), -7.0 + 0.5 * 2.0, rtol=1e-6)  # |Z_b|_* = sqrt(V)
    np.testing.assert_allclose(mmcr_loss(jnp.ones((7, 4, 9))), -(7.0**0.5), rtol=1e-6)
    opposite = jnp.stack([orthonormal, -orthonormal], axis=1)
    np.testing.assert_allclose(mmcr_loss(opposite), 0.0, atol=1e-6)
    assert float(mmcr_loss(jnp.zeros((3, 2, 4)), local_weight=1.0)) == 0.0
    views = jax.random.normal(jax.random.key(1), (40, 12, 3, 5))  # more examples than dimensions
    assert np.all(mmcr_loss(views) >= -((5 * 12) ** 0.5))


def test_entropy_and_norms_of_hidden_states():
    """Rank 1 and random, 200 x 64: the L12 norm is far above where all tokens lie on a line, close where not."""
    rng = np.random.default_rng(1)
    line = np.outer(rng.normal(size=200), rng.normal(size=64))
    random = rng.normal(size=(200, 64))
    found = {}
    for name, x in {"line": line, "random": random}.items():
        r = directions(x)
        np.testing.assert_allclose(token_directions(np.float32(x)), r, atol=2e-5)
        found[name] = float(l12_norm(token_directions(np.float32(x)))), float(nuclear_norm(np.float32(r)))
        np.testing.assert_allclose(found[name][0], np.linalg.norm(r, axis=0).sum(), rtol=1e-5)
        np.testing.assert_allclose(found[name][1], np.linalg.svd(r, compute_uv=False).sum(), rtol=1e-4)
        np.testing.assert_allclose(matrix_entropy(np.float32(x)), entropy(r), atol=1e-4)
        np.testing.assert_allclose(matrix_entropy(np.float32(x), center=False), entropy(x), atol=1e-4)
        assert found[name][1] < found[name][0] < 8.0 * 200**0.5 + 1e-3  # sqrt(d) |R|_F
    assert found["line"][0] > 5.0 * found["line"][1] and found["random"][0] < 1.06 * found["random"][1]
    np.testing.assert_allclose(found["line"][1], 200**0.5, rtol=1e-5)


def test_equality_where_columns_are_orthogonal():
    square = jnp.linalg.qr(jax.random.normal(jax.random.key(2), (2, 16, 16)))[0]
    np.testing.assert_allclose(l12_norm(square), 16.0, rtol=1e-5)
    np.testing.assert_allclose(nuclear_norm(square), 16.0, rtol=1e-5)
    np.testing.assert_allclose(matrix_entropy(square, center=False) / np.log(16.0), 1.0, rtol=1e-5)
    wide = jax.random.normal(jax.random.key(3), (50, 2, 5))  # fewer tokens than dimensions: the bound holds
    assert np.all(l12_norm(wide) >= nuclear_norm(wide))


def test_equal_tokens_zeros_scale_and_nan():
    same = jnp.full((5, 3), 0.1)
    assert float(matrix_entropy(same)) == 0.0 and np.all(token_directions(same) == 0.0)
    assert float(l12_norm(jnp.zeros((5, 3)))) == 0.0
    np.testing.assert_allclose(l12_norm(jnp.float32([[3e30, 0.0], [4e30, 1e-30]])), 5e30, rtol=1e-6)
    broken = same.at[2, 1].set(jnp.nan)
    for value in (matrix_entropy(broken), l12_norm(broken), mmcr_loss(broken[:, None])):
        assert jnp.isnan(value)
    half = jnp.asarray(np.random.default_rng(3).normal(size=(4, 3)), jnp.bfloat16)
    assert all(f(half).dtype == jnp.float32 for f in (matrix_entropy, l12_norm, token_directions))


def test_gradients(x64):
    x = jnp.sin(1.0 + jnp.arange(24.0) ** 1.5).reshape(4, 2, 3)
    way = jnp.cos(jnp.arange(24.0)).reshape(4, 2, 3)

    @jax.jit
    def value(x):
        tokens = x.reshape(8, 3)
        return (
            mmcr_loss(x, local_weight=0.2)
            + matrix_entropy(tokens)
            + l12_norm(tokens) * l12_norm(token_directions(tokens))
        )

    numeric = (value(x + 1e-6 * way) - value(x - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(value)(x), way), numeric, rtol=1e-6)
    flat = jnp.zeros((3, 2, 4))
    assert np.all(jax.grad(lambda v: mmcr_loss(v, local_weight=1.0))(flat) == 0.0)
    assert np.all(jax.grad(lambda v: l12_norm(token_directions(v[:, 0])))(flat) == 0.0)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mmcr_loss(X), r"mmcr_loss: views has shape \(4, 2\); expected shape \[..., B, V, C\]"),
        (lambda: mmcr_loss(X[None, :0]), "mmcr_loss: views has shape"),
        (lambda: mmcr_loss(X[None], local_weight=-1.0), "mmcr_loss: local_weight is -1.0"),
        (lambda: mmcr_loss(X[None], schedule="newton"), "schedule"),
        (lambda: matrix_entropy(X[0]), r"matrix_entropy: x has shape \(2,\)"),
        (lambda: matrix_entropy(X, center=1), "matrix_entropy: center is 1"),
        (lambda: token_directions(X.astype(int)), "token_directions: x has dtype"),
        (lambda: l12_norm("x"), "l12_norm: x is 'x'"),
    ],
    ids="rank empty weight schedule vector flag integers string".split(),
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
