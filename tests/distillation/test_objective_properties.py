"""What each choice of the objective does to a loss, apart from whether its gradient is right."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    Objective,
    Scores,
    coefficients,
    data_space,
    data_space_squared,
    epsilon_space,
    matching_loss,
    uniform,
)
from jaxdiv.divergences import alpha, jensen_shannon, kl, pearson_chi2, reverse_kl, total_variation

SHAPE = (6, 4, 2)
FORMS = [
    ("integral", "one"),
    ("integral", "through_x"),
    ("integral", "detached"),
    ("expanded", "one"),
    ("expanded", "through_x"),
    ("expanded", "detached"),
    ("expanded", "detached_repaired"),
]
X0, NOISE = jax.random.normal(jax.random.key(0), SHAPE), jax.random.normal(jax.random.key(1), SHAPE)
SIGMA = jnp.array([0.1, 0.4, 0.9, 1.5, 4.0, 20.0])


def scores_fn(x, sigma, gain=0.6):
    """Denoisers that bend, so that input derivatives matter, and a log-ratio that depends on x."""
    weight = 1 / (1 + sigma[:, None, None] ** 2)
    fake, teacher = weight * x, jnp.tanh(gain * weight * x + 0.1)
    return Scores(fake, teacher, jnp.sum(jnp.sin(x), axis=(1, 2)) * 0.5)


def loss(objective, x0=X0, noise=NOISE, sigma=SIGMA, scores=scores_fn, **kwargs):
    return matching_loss(objective, x0, noise, sigma=sigma, scores_fn=scores, **kwargs).loss


def gradient(objective, x0=X0, **kwargs):
    return jax.grad(lambda x: jnp.sum(loss(objective, x, **kwargs)))(x0)


@pytest.mark.parametrize("form", FORMS)
def test_sum_is_the_number_of_elements_times_mean(form):
    mean, total = (loss(Objective(jensen_shannon(), *form, reduction=r)) for r in ("mean", "sum"))
    np.testing.assert_allclose(total, 8 * mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "of_sigma"),
    [
        (uniform, lambda s: 1.0),
        (epsilon_space, lambda s: s),
        (data_space, lambda s: s**2),
        (data_space_squared, lambda s: s**4 / 2),
    ],
)
@pytest.mark.parametrize("form", [FORMS[2], FORMS[4], FORMS[6]])
def test_a_time_weight_multiplies_each_example(form, weight, of_sigma):
    plain, weighted = (gradient(Objective(kl(), *form, time_weight=w)) for w in (uniform, weight))
    np.testing.assert_allclose(weighted, plain * np.reshape(of_sigma(SIGMA) * np.ones(6), (6, 1, 1)), rtol=2e-4)


@pytest.mark.parametrize("form", FORMS)
def test_sample_weight_divides_by_the_frozen_distance_to_the_teacher(form):
    plain, weighted = (gradient(Objective(kl(), *form, sample_weight=w)) for w in ("none", "l1"))
    x_t = X0 + SIGMA[:, None, None] * NOISE
    distance = np.mean(np.abs(X0 - scores_fn(x_t, SIGMA).teacher), axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(weighted, plain / distance, rtol=2e-4, atol=1e-5)


def test_sample_weight_is_finite_where_student_and_teacher_agree():
    def scores(x, sigma):
        return Scores(x * 0 + 1.0, X0, None)

    found = gradient(Objective(reverse_kl(), sample_weight="l1"), scores=scores)
    np.testing.assert_allclose(found, (1 - X0) / SIGMA[:, None, None] ** 2 / 8 * 1e5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_weight_scale_divides_by_the_mean_weight(form):
    plain, scaled = (gradient(Objective(kl(), *form, weight_scale=w)) for w in ("none", "batch_mean"))
    x_t = X0 + SIGMA[:, None, None] * NOISE
    mean = 1.0 if form[1] == "one" else np.mean(np.exp(scores_fn(x_t, SIGMA).log_ratio))
    np.testing.assert_allclose(scaled, plain / mean, rtol=1e-4, atol=1e-6)


def test_the_mean_of_scaled_weights_is_one():
    found = matching_loss(
        Objective(pearson_chi2(), "integral", "detached", weight_scale="batch_mean"),
        X0, NOISE, sigma=SIGMA, scores_fn=scores_fn,
    )  # fmt: skip
    assert float(found.weight.mean()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_alpha_moves_the_path_term_alone(form):
    objectives = [Objective(jensen_shannon(), *form, alpha=a) for a in (0.0, 0.5, 1.0)]
    zero, half, one = (gradient(o) for o in objectives)
    if form[0] == "integral":
        np.testing.assert_array_equal(zero, one)
    else:
        np.testing.assert_allclose(half, (zero + one) / 2, rtol=1e-3, atol=1e-3)
        assert float(jnp.abs(zero - one).max()) > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_input_gives_float32(form, dtype):
    def scores(x, sigma):
        return jax.tree.map(lambda y: y.astype(dtype), scores_fn(x, sigma))

    found = matching_loss(
        Objective(jensen_shannon(), *form), X0.astype(dtype), NOISE.astype(dtype), sigma=SIGMA, scores_fn=scores
    )
    assert (found.loss.dtype, found.log_ratio.dtype, found.weight.dtype) == (jnp.float32,) * 3
    assert found.loss.shape == (6,)
    assert np.isfinite(np.asarray(found.loss)).all()


@pytest.mark.parametrize("form", FORMS)
def test_jit_gives_what_eager_gives(form):
    objective = Objective(jensen_shannon(), *form, sample_weight="l1", weight_scale="batch_mean")
    jitted = jax.jit(gradient, static_argnums=0)
    np.testing.assert_allclose(jitted(objective), gradient(objective), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_examples_do_not_mix(form):
    """Losses of a batch are those of its examples, and vmap over examples of one agrees."""
    objective = Objective(jensen_shannon(), *form, sample_weight="l1")
    together = loss(objective)
    alone = jax.vmap(lambda *xs: loss(objective, *(x[None] for x in xs))[0])(X0, NOISE, SIGMA)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    jacobian = jax.jacobian(lambda x: loss(objective, x))(X0)
    off = jacobian[~np.eye(6, dtype=bool)]
    np.testing.assert_array_equal(off, 0)


@pytest.mark.parametrize("form", FORMS[:3])
def test_the_integral_form_freezes_the_score_networks(form):
    """No gradient reaches what scores_fn closes over, and none passes through it to the samples."""

    def of_gain(gain):
        return loss(Objective(kl(), *form), scores=lambda x, s: scores_fn(x, s, gain)).sum()

    assert float(jax.grad(of_gain)(0.6)) == 0.0

    def stopped(x, sigma):
        return jax.lax.stop_gradient(scores_fn(x, sigma))

    np.testing.assert_array_equal(gradient(Objective(kl(), *form)), gradient(Objective(kl(), *form), scores=stopped))


def test_the_expanded_form_goes_through_the_score_networks():
    def stopped(x, sigma):
        return jax.lax.stop_gradient(scores_fn(x, sigma))

    free, frozen = (gradient(Objective(reverse_kl(), "expanded"), scores=s) for s in (scores_fn, stopped))
    assert float(jnp.abs(free - frozen).max()) > 1e-2


def test_sigma_and_noise_get_no_say_in_the_weights():
    """Weight and ratio that the caller gets are frozen; the raw log-ratio keeps its dependence on x."""

    def out(x, name):
        found = matching_loss(Objective(kl(), "expanded", "through_x"), x, NOISE, sigma=SIGMA, scores_fn=scores_fn)
        return jnp.sum(found.scores.log_ratio if name == "raw" else getattr(found, name))

    assert float(jnp.abs(jax.grad(out)(X0, "weight")).max()) == 0.0
    assert float(jnp.abs(jax.grad(out)(X0, "log_ratio")).max()) == 0.0
    assert float(jnp.abs(jax.grad(out)(X0, "raw")).max()) > 0.1


def test_what_entered_is_reported():
    def halved(log_ratio, sigma):
        return log_ratio / 2 + sigma

    found = matching_loss(
        Objective(kl(), "integral", "detached"), X0, NOISE, sigma=SIGMA, scores_fn=scores_fn, ratio_transform=halved
    )
    np.testing.assert_allclose(found.log_ratio, found.scores.log_ratio / 2 + SIGMA, rtol=1e-6)
    np.testing.assert_allclose(found.weight, np.exp(found.log_ratio), rtol=1e-5)
    found = matching_loss(
        Objective(pearson_chi2()), X0, NOISE, sigma=SIGMA, scores_fn=scores_fn, ratio_transform=halved
    )
    np.testing.assert_array_equal(found.log_ratio, 0)
    np.testing.assert_allclose(found.weight, 2.0, rtol=1e-6)


@pytest.mark.parametrize("limit", [60.0, 88.0])
def test_bounded_weights_survive_extreme_ratios(limit):
    def scores(x, sigma):
        found = scores_fn(x, sigma)
        return found._replace(log_ratio=jnp.where(jnp.arange(6) % 2 == 0, limit, -limit) + 0 * found.log_ratio)

    for form in FORMS:
        assert np.isfinite(np.asarray(gradient(Objective(jensen_shannon(), *form), scores=scores))).all()


def test_objectives_are_equal_by_content_and_do_not_retrace():
    make = functools.partial(Objective, ratio="through_x", gradient="expanded")
    assert make(alpha(0.3)) == make(alpha(0.3)) and hash(make(alpha(0.3))) == hash(make(alpha(0.3)))
    assert make(alpha(0.3)) != make(alpha(0.4)) and make(kl()) != make(kl(), alpha=1.0)
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def traced(objective, x0):
        traces.append(objective)
        return loss(objective, x0)

    for _ in range(3):
        traced(make(jensen_shannon(0.3)), X0)
    assert len(traces) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(kl()).alpha = 1.0


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"divergence": "kl"}, "divergence"),
        ({"divergence": total_variation()}, "divergence is total_variation"),
        ({"gradient": "both"}, "gradient"),
        ({"ratio": "exact"}, "ratio"),
        ({"sample_weight": "l2"}, "sample_weight"),
        ({"weight_scale": "sum"}, "weight_scale"),
        ({"reduction": "none"}, "reduction"),
        ({"alpha": float("nan")}, "alpha"),
        ({"gradient": "integral", "ratio": "detached_repaired"}, "ratio is 'detached_repaired'"),
    ],
)
def test_a_bad_choice_is_named(change, argument):
    with pytest.raises(ValueError, match=rf"^Objective: {argument}.*expected"):
        Objective(**{"divergence": kl(), **change})


def _without_ratio(x, sigma):
    return scores_fn(x, sigma)._replace(log_ratio=None)


def _wrong_score(x, sigma):
    return scores_fn(x, sigma)._replace(teacher=x[:, :1])


def _wrong_ratio(x, sigma):
    return scores_fn(x, sigma)._replace(log_ratio=jnp.zeros((6, 1)))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"noise": NOISE[:, :1]}, "noise"),
        ({"sigma": SIGMA[:, None]}, "sigma"),
        ({"sigma": SIGMA[0]}, "sigma"),
        ({"x0": jnp.zeros(SHAPE, jnp.int32)}, "x0"),
        ({"scores": _without_ratio}, "scores_fn gives no log_ratio"),
        ({"scores": _wrong_score}, "teacher_score"),
        ({"scores": _wrong_ratio}, "log_ratio"),
    ],
)
def test_a_bad_argument_is_named(change, argument):
    with pytest.raises(ValueError, match=rf"^matching_loss: {argument}.*expected"):
        loss(Objective(kl(), "integral", "detached"), **change)


def test_derivatives_of_coefficients_are_those_of_the_weight():
    rho = jnp.linspace(-3.0, 3.0, 7)
    for divergence in (kl(), alpha(0.3), jensen_shannon(0.2)):
        found = coefficients(divergence, rho)
        slope = jax.vmap(jax.grad(lambda x, f=divergence: f.weight(x)))(rho)
        np.testing.assert_allclose(found.dc, slope, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.k, found.c - slope, rtol=1e-5, atol=1e-6)
