"""Self-normalised weights against numpy, the tail index against scipy's generalised Pareto distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiv.divergences.importance import importance_weights, pareto_k


def test_against_numpy(x64):
    log_w = np.random.default_rng(0).normal(size=(3, 7)) * 2
    w = np.exp(log_w)
    got = importance_weights(log_w)
    np.testing.assert_allclose(got.weights, w / w.sum(-1, keepdims=True), rtol=1e-13)
    np.testing.assert_allclose(got.effective_sample_size, w.sum(-1) ** 2 / (w**2).sum(-1), rtol=1e-13)
    np.testing.assert_allclose(got.log_mean_weight, np.log(w.mean(-1)), rtol=1e-13)
    across = importance_weights(log_w, axis=0)
    np.testing.assert_allclose(across.weights, w / w.sum(0), rtol=1e-13)
    assert across.effective_sample_size.shape == (7,)


def test_a_mask_is_the_same_as_dropping(x64):
    log_w = np.random.default_rng(1).normal(size=8)
    keep = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    filled = np.where(keep, log_w, np.nan)  # what is masked may be anything
    got, want = importance_weights(filled, where=keep), importance_weights(log_w[keep])
    np.testing.assert_allclose(got.weights[keep], want.weights, rtol=1e-14)
    assert (got.weights[~keep] == 0).all()
    for one, other in zip(got[1:], want[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


def test_effective_sample_size_has_its_bounds():
    equal = importance_weights(jnp.full((2, 1000), -7.0))
    assert equal.effective_sample_size.tolist() == [1000.0, 1000.0]
    one = importance_weights(jnp.array([0.0, -500.0, -jnp.inf]))
    assert float(one.effective_sample_size) == 1.0 and one.weights.tolist() == [1.0, 0.0, 0.0]


def test_extreme_log_weights_make_no_nan():
    huge = importance_weights(jnp.array([300.0, 300.0, -300.0]))
    assert huge.weights.tolist() == [0.5, 0.5, 0.0] and float(huge.log_mean_weight) == pytest.approx(299.594535)
    infinite = importance_weights(jnp.array([jnp.inf, 0.0, jnp.inf]))
    assert infinite.weights.tolist() == [0.5, 0.0, 0.5] and float(infinite.log_mean_weight) == jnp.inf
    for nothing in (
        importance_weights(jnp.full(3, -jnp.inf)),
        importance_weights(jnp.ones(3), where=np.zeros(3, bool)),
    ):
        assert nothing.weights.tolist() == [0.0, 0.0, 0.0]
        assert float(nothing.effective_sample_size) == 0.0 and float(nothing.log_mean_weight) == -jnp.inf
    assert importance_weights(jnp.zeros(2, jnp.bfloat16)).weights.dtype == jnp.float32


def test_gradient_is_that_of_softmax(x64):
    log_w, h = np.array([0.3, -1.0, 2.0]), np.array([1.0, 5.0, -2.0])
    got = jax.jit(jax.grad(lambda x: jnp.sum(importance_weights(x).weights * h)))(log_w)
    np.testing.assert_allclose(got, jax.grad(lambda x: jnp.sum(jax.nn.softmax(x) * h))(log_w), rtol=1e-12)
    slope = jax.grad(lambda x: importance_weights(x).log_mean_weight)(log_w)
    np.testing.assert_allclose(slope, jax.nn.softmax(log_w), rtol=1e-12)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_pareto_k_finds_the_tail_of_pareto_weights(k, x64):
    """At exact quantiles of a generalised Pareto distribution: the truth, and scipy's fit with the pull to 1/2."""
    num = 20000
    weights = stats.genpareto(k).ppf((np.arange(num) + 0.5) / num)
    got = float(pareto_k(np.log(weights)))
    assert got == pytest.approx(k, abs=0.05)
    tail = np.sort(weights)[-425:]  # 3 sqrt(20000) = 424.3
    fitted = stats.genpareto.fit(tail[1:] - tail[0], floc=0)[0]
    assert got == pytest.approx((424 * fitted + 5) / 434, abs=0.02)


def test_pareto_k_of_gaussian_ratios_grows_with_their_distance(x64):
    x = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    narrow, wide = pareto_k(np.stack([0.3 * x, 4.0 * x]))  # log p/q of unit Gaussians 0.3 and 4 apart, less a constant
    assert float(narrow) < 0.4 and float(wide) > 0.7
    assert float(pareto_k(np.stack([x, 4.0 * x], axis=1), axis=0)[1]) == pytest.approx(float(wide))


def test_pareto_k_without_a_tail():
    assert float(pareto_k(jnp.zeros(100))) == -jnp.inf
    assert float(pareto_k(jnp.linspace(-30000.0, 0.0, 100))) == jnp.inf
    assert not np.isnan(pareto_k(jnp.linspace(-300.0, 300.0, 100)))


BAD = [None, "w", [0.0, None], 1.0, np.zeros(3, int), np.zeros((2, 0)), np.zeros(3, complex)]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_errors(bad):
    for fn in (importance_weights, pareto_k):
        with pytest.raises(ValueError, match=f"{fn.__name__}: (log_weights|axis) "):
            fn(bad)


def test_errors_of_options():
    log_w = np.zeros(30, np.float32)
    for axis in (1, -2, None, 0.0, (0,)):
        with pytest.raises(ValueError, match="axis is"):
            importance_weights(log_w, axis=axis)
    for where in (np.ones(30), np.ones(1, bool), "x", True):
        with pytest.raises(ValueError, match="where "):
            importance_weights(log_w, where=where)
    with pytest.raises(ValueError, match="at least 25"):
        pareto_k(log_w[:24])
