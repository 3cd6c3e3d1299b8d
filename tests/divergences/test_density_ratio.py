"""Classifiers: losses against the divergences they bound, Newton's fit against scipy, calibration error by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jaxdiv import divergences as dv
from jaxdiv.divergences.density_ratio import (
    calibration_error,
    classifier_loss,
    fit_calibration,
    log_ratio_from_logits,
)
from jaxdiv.divergences.variational import fenchel_bound

P = np.array([0.5, 0.3, 0.15, 0.05])
Q = np.array([0.1, 0.2, 0.3, 0.4])
FROM_P, FROM_Q = (np.repeat(np.arange(4), np.rint(20 * law).astype(int)) for law in (P, Q))
RHO = np.log(P / Q)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def at(logits):
    return dict(p_logits=logits[..., FROM_P], q_logits=logits[..., FROM_Q])


def logit(prior):
    return math.log(prior / (1 - prior))


@pytest.mark.parametrize("loss", ["logistic", "brier", "exponential"])
@pytest.mark.parametrize("prior", [0.5, 0.1, 0.95])
def test_losses_are_proper(loss, prior):
    """The true posterior's logits are stationary and best, whatever the prior; taking it off gives the log-ratio."""
    best = RHO + logit(prior)
    risk = functools.partial(classifier_loss, prior=prior, loss=loss)
    np.testing.assert_allclose(jax.grad(lambda x: risk(**at(x)))(best), 0.0, atol=1e-14)
    others = best + np.random.default_rng(0).normal(size=(100, 4))
    assert (risk(**at(others)) > risk(**at(best))).all()
    np.testing.assert_allclose(log_ratio_from_logits(best, prior=prior), RHO, rtol=1e-12)


@pytest.mark.parametrize("prior", [0.5, 0.1, 0.95])
def test_logistic_loss_is_the_bound_on_jensen_shannon(prior):
    logits = np.array([0.4, -0.2, 0.3, -1.0])
    v = logits - logit(prior)
    bound = fenchel_bound(dv.jensen_shannon(prior), p_scores=v[FROM_P], q_scores=v[FROM_Q])
    entropy = -prior * math.log(prior) - (1 - prior) * math.log1p(-prior)
    assert float(classifier_loss(**at(logits), prior=prior)) == pytest.approx(entropy - float(bound), rel=1e-12)


@pytest.mark.parametrize(
    "loss, d, top, factor", [("brier", dv.le_cam(), 0.25, 0.125), ("exponential", dv.squared_hellinger(), 1.0, 0.5)]
)
def test_the_other_losses_bound_theirs(loss, d, top, factor):
    for logits in (RHO, np.array([0.4, -0.2, 0.3, -1.0])):
        bound = fenchel_bound(d, p_scores=logits[FROM_P], q_scores=logits[FROM_Q])
        assert float(classifier_loss(**at(logits), prior=0.5, loss=loss)) == pytest.approx(
            top - factor * float(bound), rel=1e-12
        )


def test_the_default_prior_is_the_share_of_samples():
    p, q = np.array([0.3, -1.0]), np.array([0.1, 2.0, -0.7, 0.4, 0.0, 1.0])
    each = np.concatenate([np.log1p(np.exp(-p)), np.log1p(np.exp(q))])
    assert float(classifier_loss(p_logits=p, q_logits=q)) == pytest.approx(each.mean(), rel=1e-13)


def scipy_fit(p, q, prior, with_shift):
    def risk(theta):
        a, b = theta if with_shift else (theta[0], 0.0)
        return prior * np.logaddexp(0, -(a * p + b)).mean() + (1 - prior) * np.logaddexp(0, a * q + b).mean()

    start = np.zeros(2 if with_shift else 1)
    fit = optimize.minimize(risk, start, method="BFGS", options={"gtol": 1e-10})
    return (fit.x[0], fit.x[1] if with_shift else 0.0, fit.fun)


@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize("prior", [None, 0.1])
def test_calibration_against_scipy(with_shift, prior):
    """Overconfident, shifted and inverted classifiers in one batch."""
    rng = np.random.default_rng(1)
    scale, shift = np.array([[3.0], [0.2], [-1.0], [40.0]]), np.array([[1.0], [-2.0], [0.5], [0.0]])
    p, q = (scale * rng.normal(size=(4, n)) + scale * mean + shift for n, mean in ((60, 0.7), (90, -0.7)))
    got = fit_calibration(p_logits=p, q_logits=q, prior=prior, with_shift=with_shift)
    assert got.converged.all()
    for row in range(4):
        want = scipy_fit(p[row], q[row], 0.4 if prior is None else prior, with_shift)
        np.testing.assert_allclose([got.scale[row], got.shift[row]], want[:2], rtol=2e-5, atol=2e-6)
        assert float(got.loss[row]) == pytest.approx(want[2], rel=1e-10)
    np.testing.assert_allclose(got.apply(p), got.scale[:, None] * p + got.shift[:, None])


def test_calibration_undoes_a_temperature_and_a_wrong_prior():
    """Logits 2 (rho + 0.7) at their own expectation: scale 1/2, shift -0.7, then the log-ratio is exact."""
    logits = 2.0 * (RHO + 0.7)
    fit = fit_calibration(**at(logits), prior=0.25)
    np.testing.assert_allclose(log_ratio_from_logits(fit.apply(logits), prior=0.25), RHO, rtol=1e-9)
    assert float(fit.scale) == pytest.approx(0.5, rel=1e-9)
    single = fit_calibration(**at(jnp.asarray(logits, jnp.float32)), prior=0.25)
    assert single.scale.dtype == jnp.float32 and bool(single.converged)
    assert float(single.scale) == pytest.approx(0.5, rel=1e-4)


def test_calibration_of_hard_cases():
    """Separable, constant, saturated and single samples: finite parameters, and a loss no worse than a coin's."""
    separable = fit_calibration(p_logits=jnp.array([1.0, 2.0]), q_logits=jnp.array([-1.0, -3.0]))
    assert float(separable.loss) < 1e-6 and float(separable.scale) > 10.0
    constant = fit_calibration(p_logits=np.full(3, 2.0), q_logits=np.full(1, 2.0))
    assert float(constant.apply(np.array([2.0]))[0]) == pytest.approx(math.log(3.0), rel=1e-6)
    zeros = fit_calibration(p_logits=np.zeros(3), q_logits=np.zeros(3), with_shift=False)
    assert float(zeros.loss) == pytest.approx(math.log(2.0))
    wide = fit_calibration(p_logits=np.float32([300.0, -300.0, 300.0]), q_logits=np.float32([-300.0, 300.0, -300.0]))
    assert float(wide.scale) * 300 == pytest.approx(math.log(2.0), rel=1e-4)  # right two times in three
    assert abs(float(wide.shift)) < 1e-4
    early = fit_calibration(**at(RHO), num_steps=1)
    assert not bool(early.converged)


def test_calibration_under_transforms():
    p, q = (np.random.default_rng(s).normal(size=(2, 3, 20)) + m for s, m in ((2, 0.3), (3, -0.3)))
    whole = fit_calibration(p_logits=p, q_logits=q)
    mapped = jax.jit(jax.vmap(lambda a, b: fit_calibration(p_logits=a, q_logits=b)))(p, q)
    for one, other in zip(whole, mapped, strict=True):
        assert one.shape == (2, 3)
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_calibration_error_by_hand():
    rng = np.random.default_rng(4)
    p, q, prior, bins = rng.normal(size=30) + 1, rng.normal(size=50) * 2 - 1, 0.3, 10
    prob = special.expit(np.concatenate([p, q]))
    weight = np.concatenate([np.full(30, prior / 30), np.full(50, (1 - prior) / 50)])
    label = np.arange(80) < 30
    got = calibration_error(p_logits=p, q_logits=q, prior=prior, num_bins=bins)
    total = 0.0
    for b in range(bins):
        inside = (prob >= b / bins) & (prob < (b + 1) / bins)
        mass = weight[inside].sum()
        assert float(got.mass[b]) == pytest.approx(mass, abs=1e-14)
        if inside.any():
            confidence = (weight * prob)[inside].sum() / mass
            frequency = (weight * label)[inside].sum() / mass
            assert float(got.confidence[b]) == pytest.approx(confidence, rel=1e-12)
            assert float(got.frequency[b]) == pytest.approx(frequency, rel=1e-12)
            total += mass * abs(confidence - frequency)
    assert float(got.value) == pytest.approx(total, rel=1e-12)
    batched = calibration_error(p_logits=np.stack([p, p]), q_logits=np.stack([q, -q]), prior=prior, num_bins=bins)
    assert batched.mass.shape == (2, 10) and float(batched.value[0]) == pytest.approx(total, rel=1e-12)


def test_calibration_error_of_the_truth_and_of_certainty():
    assert float(calibration_error(**at(RHO + logit(0.25)), prior=0.25).value) == pytest.approx(0.0, abs=1e-14)
    sure = calibration_error(p_logits=np.array([np.inf, -np.inf]), q_logits=np.array([np.inf, 500.0]))
    assert float(sure.value) == pytest.approx(0.75)  # 1 predicted, 1/3 seen in three quarters; 0 predicted, 1 seen


def test_dtypes_and_wide_logits():
    wide = jnp.array([-300.0, 0.0, 300.0], jnp.bfloat16)
    for loss, value in (("logistic", 100.0), ("brier", 0.4), ("exponential", np.inf)):
        got = classifier_loss(p_logits=wide, q_logits=wide, loss=loss)
        assert got.dtype == jnp.float32 and not np.isnan(got) and (got >= value)
    assert log_ratio_from_logits(wide, prior=0.5).dtype == jnp.float32
    assert calibration_error(p_logits=wide, q_logits=wide).value.dtype == jnp.float32


FUNCTIONS = (classifier_loss, fit_calibration, calibration_error)


@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("bad", [None, "x", [0.0, None], 1.0, np.zeros(4, int), np.zeros((2, 0)), 1j, True], ids=str)
def test_bad_logits(fn, bad):
    for name in ("p_logits", "q_logits"):
        with pytest.raises(ValueError, match=f"{fn.__name__}: {name} "):
            fn(**{**dict(p_logits=np.zeros(3), q_logits=np.zeros(3)), name: bad})


@pytest.mark.parametrize("prior", [0.0, 1.0, -1, float("nan"), "0.5", [0.5], True, 0.5j, np.full(2, 0.5)], ids=str)
def test_bad_priors(prior):
    for fn in FUNCTIONS:
        with pytest.raises(ValueError, match=f"{fn.__name__}: prior is"):
            fn(p_logits=np.zeros(3), q_logits=np.zeros(3), prior=prior)
    with pytest.raises(ValueError, match="log_ratio_from_logits: prior is"):
        log_ratio_from_logits(np.zeros(3), prior=prior)


def test_bad_options():
    good = dict(p_logits=np.zeros((2, 3)), q_logits=np.zeros((2, 4)))
    with pytest.raises(ValueError, match="classifier_loss: loss is 'hinge'"):
        classifier_loss(**good, loss="hinge")
    for num in (0, 2.0, None, True, "3"):
        with pytest.raises(ValueError, match="num_steps is"):
            fit_calibration(**good, num_steps=num)
        with pytest.raises(ValueError, match="num_bins is"):
            calibration_error(**good, num_bins=num)
    with pytest.raises(ValueError, match="with_shift is 1"):
        fit_calibration(**good, with_shift=1)
    with pytest.raises(ValueError, match="q_logits has shape"):
        classifier_loss(p_logits=np.zeros((2, 3)), q_logits=np.zeros(3))
    for bad in (None, "x", np.zeros(2, int)):
        with pytest.raises(ValueError, match="log_ratio_from_logits: logits "):
            log_ratio_from_logits(bad, prior=0.5)
    with pytest.raises(ValueError, match="Calibration.apply: logits"):
        fit_calibration(**good).apply("x")


def test_no_product_at_a_gpus_default_precision():
    """Tf32 would end Newton's steps at three digits, and the masses of bins."""
    p, q = jnp.linspace(-1.0, 2.0, 40), jnp.linspace(-2.0, 1.0, 50)
    for fn in (fit_calibration, calibration_error):
        text = str(jax.make_jaxpr(lambda p, q, fn=fn: fn(p_logits=p, q_logits=q))(p, q))
        assert text.count("HIGHEST") == 2 * text.count("dot_general[") > 4
