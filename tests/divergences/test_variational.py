"""Bounds by enumeration (tight at the log-ratio, below the truth elsewhere), by quadrature on Gaussians, in numpy."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxdiv import divergences as dv
from jaxdiv.divergences.variational import (
    donsker_varadhan_bound,
    f_gan_losses,
    fenchel_bound,
    info_nce_bound,
    nwj_bound,
)
from tests.divergences.reference import CASES, SMOOTH, WITH_CONJUGATE

# Probabilities in twentieths: samples that occur as often as they should are their own expectation.
P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.1, 0.2, 0.3, 0.4])
FROM_P, FROM_Q = (np.repeat(np.arange(4), np.rint(20 * law).astype(int)) for law in (P, Q))
RHO = np.log(P / Q)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def between(d, p=P, q=Q):
    return float(np.sum(q * np.asarray(d.value(np.log(p / q)))))


def at(scores):
    """A critic's table of scores, at the samples."""
    return dict(p_scores=scores[..., FROM_P], q_scores=scores[..., FROM_Q])


@pytest.mark.parametrize("case", CASES)
def test_tight_at_the_log_ratio_and_below_elsewhere(case):
    d = CASES[case].make()
    truth = between(d)
    assert float(fenchel_bound(d, **at(RHO))) == pytest.approx(truth, rel=1e-12)
    critics = RHO + np.random.default_rng(0).normal(size=(200, 4)) * np.geomspace(1e-3, 3.0, 200)[:, None]
    bounds = np.asarray(fenchel_bound(d, **at(critics)))
    assert bounds.shape == (200,) and (bounds <= truth * (1 + 1e-9)).all()
    if case != "total_variation":
        assert (bounds[100:] < truth).all()


@pytest.mark.parametrize("case", SMOOTH)
def test_the_log_ratio_is_a_stationary_point(case):
    d = CASES[case].make()
    slope = jax.grad(lambda scores: fenchel_bound(d, **at(scores)))(RHO)
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)
    assert np.max(np.abs(jax.grad(lambda scores: fenchel_bound(d, **at(scores)))(RHO + [0.5, 0, 0, 0]))) > 0


@pytest.mark.parametrize("case", WITH_CONJUGATE)
def test_dual_scores_are_the_same_bound(case):
    d = CASES[case].make()
    scores = np.array([0.4, -0.2, 0.3, -1.0])
    dual = fenchel_bound(d, **at(np.asarray(d.link(scores))), critic="dual")
    assert float(dual) == pytest.approx(float(fenchel_bound(d, **at(scores))), rel=1e-8, abs=1e-13)


def test_dual_scores_outside_the_domain():
    """-inf above the supremum of f'; a record without a closed conjugate is refused."""
    bound = fenchel_bound(dv.squared_hellinger(), p_scores=np.zeros(2), q_scores=np.array([0.0, 1.5]), critic="dual")
    assert float(bound) == -np.inf
    with pytest.raises(ValueError, match="skew_kl"):
        fenchel_bound(dv.skew_kl(0.5), p_scores=np.zeros(2), q_scores=np.zeros(2), critic="dual")


@pytest.mark.parametrize("d", [dv.kl(), dv.reverse_kl(), dv.squared_hellinger(), dv.skew_kl(0.4)], ids=lambda d: d.name)
def test_gaussians_by_quadrature(d):
    """p = N(0.5, 1), q = N(0, 1) at their own quantiles, with the true critic x/2 - 1/8, against the integral."""
    z = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    got = float(fenchel_bound(d, p_scores=(z + 0.5) / 2 - 0.125, q_scores=z / 2 - 0.125))
    x = np.linspace(-12.0, 12.0, 8001)
    integral = np.sum(stats.norm.pdf(x) * np.asarray(d.value(x / 2 - 0.125))) * (x[1] - x[0])
    assert got == pytest.approx(integral, rel=1e-3)
    if d in (dv.kl(), dv.reverse_kl()):
        assert integral == pytest.approx(0.125, rel=1e-9)


def test_nwj_and_donsker_varadhan():
    truth = between(dv.kl())
    assert float(nwj_bound(**at(RHO))) == pytest.approx(truth, rel=1e-13)
    for shift in (0.0, 3.0, -40.0):
        assert float(donsker_varadhan_bound(**at(RHO + shift))) == pytest.approx(truth, rel=1e-12)
    critics = RHO + np.random.default_rng(1).normal(size=(100, 4))
    nwj, dv_bound = nwj_bound(**at(critics)), donsker_varadhan_bound(**at(critics))
    assert (nwj <= dv_bound + 1e-12).all() and (dv_bound < truth).all()
    want = (critics @ P) - np.log(np.exp(critics) @ Q)
    np.testing.assert_allclose(dv_bound, want, rtol=1e-12)
    np.testing.assert_allclose(nwj, critics @ P - np.exp(critics) @ Q + 1, rtol=1e-12, atol=1e-14)


JOINT = np.array([[0.3, 0.05, 0.1], [0.1, 0.25, 0.2]])


def mutual_information():
    return float(np.sum(JOINT * np.log(JOINT / (JOINT.sum(1, keepdims=True) * JOINT.sum(0)))))


@pytest.mark.parametrize("num", [1, 2, 3])
def test_info_nce_in_expectation_is_below_the_mutual_information(num):
    """All tuples of pairs with their probabilities; at the best critic it rises with N, from 0 at N = 1."""
    pairs = np.array(list(itertools.product(range(6), repeat=num)))
    law = JOINT.ravel()[pairs].prod(-1)
    x, y = pairs // 3, pairs % 3

    def expected(critic):
        return float(law @ np.asarray(info_nce_bound(critic[x[:, :, None], y[:, None, :]])))

    best = expected(np.log(JOINT / JOINT.sum(1, keepdims=True) / JOINT.sum(0)))
    assert best == pytest.approx({1: 0.0, 2: best, 3: best}[num], abs=1e-15)
    assert best < mutual_information()
    assert best == pytest.approx(expected(np.log(JOINT)), abs=0.05) or num > 1
    rng = np.random.default_rng(num)
    assert all(expected(rng.normal(size=(2, 3))) <= mutual_information() for _ in range(20))
    if num == 3:
        pairs2 = np.array(list(itertools.product(range(6), repeat=2)))
        critic = np.log(JOINT / JOINT.sum(1, keepdims=True) / JOINT.sum(0))
        two = info_nce_bound(critic[(pairs2 // 3)[:, :, None], (pairs2 % 3)[:, None, :]])
        assert float(JOINT.ravel()[pairs2].prod(-1) @ np.asarray(two)) < best


def test_info_nce_against_numpy_and_its_ceiling():
    v = np.random.default_rng(2).normal(size=(5, 7, 7)) * 3
    want = [np.mean(np.diag(m) - special.logsumexp(m, axis=1) + math.log(7)) for m in v]
    np.testing.assert_allclose(info_nce_bound(v), want, rtol=1e-12)
    np.testing.assert_allclose(info_nce_bound(v + np.arange(7.0)[:, None]), want, rtol=1e-12)  # functions of x drop out
    assert (info_nce_bound(100 * v) <= math.log(7) + 1e-12).all()
    assert float(info_nce_bound(1e4 * np.eye(7))) == pytest.approx(math.log(7), rel=1e-14)
    assert float(info_nce_bound(np.full((7, 7), 3.0))) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize("case", CASES)
def test_f_gan_losses(case):
    d = CASES[case].make()
    scores = np.array([0.4, -0.2, 0.3, -1.0])
    got = f_gan_losses(d, **at(scores))
    assert float(got.critic) == pytest.approx(-float(fenchel_bound(d, **at(scores))), rel=1e-14)
    assert float(got.generator) == pytest.approx(float(Q @ np.asarray(d.score(scores))), rel=1e-12, abs=1e-14)
    other = f_gan_losses(d, **at(scores), generator="non_saturating")
    assert float(other.generator) == pytest.approx(-float(Q @ np.asarray(d.link(scores))), rel=1e-12, abs=1e-14)


def test_the_gradient_of_the_generator_is_that_of_the_divergence():
    """At the best critic, moving samples along v(x) by dv = v' dx changes the bound as it changes D_f (envelope)."""
    d, z = dv.jensen_shannon(), stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)

    def generator(mean):
        x = mean + z
        return f_gan_losses(d, p_scores=np.zeros(1), q_scores=x - 0.5).generator  # p = N(1, 1), q = N(0, 1)

    def divergence(mean):
        x = np.linspace(-12.0, 12.0, 4001)
        log_q, log_p = -((x - mean) ** 2) / 2, -((x - 1.0) ** 2) / 2
        return jnp.sum(jnp.exp(log_q) * d.value(log_p - log_q)) * (x[1] - x[0]) / math.sqrt(2 * math.pi)

    assert float(jax.grad(generator)(0.0)) == pytest.approx(float(jax.grad(divergence)(0.0)), rel=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_wide_scores_make_no_nan(case):
    d = CASES[case].make()
    scores = jnp.array([-300.0, -88.0, 0.0, 88.0, 300.0], jnp.float32)
    for p, q in itertools.product(scores, scores):
        bound = fenchel_bound(d, p_scores=p[None], q_scores=q[None])
        assert bound.dtype == jnp.float32 and not np.isnan(bound)
    assert not np.isnan(fenchel_bound(d, p_scores=scores, q_scores=scores))
    assert np.isfinite(donsker_varadhan_bound(p_scores=scores, q_scores=scores))
    assert np.isfinite(info_nce_bound(jnp.stack([scores] * 5)))


def test_transforms_and_dtypes():
    critics = np.random.default_rng(3).normal(size=(6, 4))
    p, q = critics[:, FROM_P], critics[:, FROM_Q]
    for bound in (nwj_bound, donsker_varadhan_bound, functools.partial(fenchel_bound, dv.le_cam())):
        whole = bound(p_scores=p, q_scores=q)
        mapped = jax.jit(jax.vmap(lambda a, b, bound=bound: bound(p_scores=a, q_scores=b)))(p, q)
        np.testing.assert_allclose(mapped, whole, rtol=1e-12)
        half = bound(p_scores=p.astype(jnp.bfloat16), q_scores=q.astype(jnp.float16))
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, whole, atol=0.1)
        single = bound(p_scores=p[0, :1], q_scores=q[0, :1])
        assert single.shape == ()


BAD = [None, "x", [0.0, None], 1.0, np.zeros(4, int), np.zeros((2, 0)), 1j, True, [[1.0], [1.0, 2.0]]]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_bad_scores(bad):
    good = np.zeros(4)
    for name in ("p_scores", "q_scores"):
        scores = {**dict(p_scores=good, q_scores=good), name: bad}
        calls = (functools.partial(fenchel_bound, dv.kl()), functools.partial(f_gan_losses, dv.kl()))
        for fn in (*calls, nwj_bound, donsker_varadhan_bound):
            with pytest.raises(ValueError, match=f": {name} "):
                fn(**scores)
    with pytest.raises(ValueError, match="info_nce_bound: scores "):
        info_nce_bound(bad)


def test_bad_options():
    zeros = dict(p_scores=np.zeros((2, 3)), q_scores=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="q_scores has shape"):
        nwj_bound(p_scores=np.zeros((2, 3)), q_scores=np.zeros((3, 3)))
    for shape in ((3,), (2, 3), (0, 0)):
        with pytest.raises(ValueError, match="info_nce_bound: scores has shape"):
            info_nce_bound(np.zeros(shape))
    for fn in (fenchel_bound, f_gan_losses):
        with pytest.raises(ValueError, match="divergence is 'kl'; expected a FDivergence"):
            fn("kl", **zeros)
    with pytest.raises(ValueError, match="critic is 'link'"):
        fenchel_bound(dv.kl(), **zeros, critic="link")
    with pytest.raises(ValueError, match="generator is None"):
        f_gan_losses(dv.kl(), **zeros, generator=None)
