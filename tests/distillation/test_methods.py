"""The table of methods: what each paper fixes, row by row, and the words that papers leave open."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    METHODS,
    KarrasUniform,
    LogNormal,
    Method,
    Objective,
    Scores,
    data_space,
    data_space_squared,
    epsilon_space,
    matching_loss,
    method,
    one_step_student,
)
from jaxdiv.divergences import alpha, jensen_shannon, kl, pearson_chi2, reverse_kl

# Gradient, ratio, time weight, divergence; then alpha, sample weight, reduction, number of fake steps, GAN weight > 0.
ROWS = {
    "diff_instruct": ("integral", "one", data_space, "reverse_kl", 0.5, "none", "mean", 1, False),
    "vsd": ("integral", "one", epsilon_space, "reverse_kl", 0.5, "none", "mean", 1, False),
    "dmd": ("integral", "one", data_space, "reverse_kl", 0.5, "l1", "mean", 1, False),
    "dmd2": ("integral", "one", data_space, "reverse_kl", 0.5, "l1", "mean", 5, True),
    "sim": ("expanded", "one", data_space_squared, "reverse_kl", 1.0, "none", "sum", 1, False),
    "sid": ("expanded", "one", data_space_squared, "reverse_kl", 1.2, "l1", "sum", 1, False),
    "sida": ("expanded", "one", data_space_squared, "reverse_kl", 1.0, "l1", "sum", 1, True),
    "f_distill": ("integral", "detached", data_space, "jensen_shannon(0.5)", 0.5, "l1", "mean", 5, True),
    "uni_instruct": ("expanded", "through_x", data_space_squared, "reverse_kl", 0.5, "l1", "sum", 1, True),
}


def test_the_table_has_these_rows():
    assert set(METHODS) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row(name):
    found, o = METHODS[name], METHODS[name].objective
    choices = (o.gradient, o.ratio, o.time_weight, o.divergence.name, o.alpha, o.sample_weight, o.reduction)
    assert (*choices, found.num_fake_steps, found.gan_weight > 0) == ROWS[name]
    assert isinstance(hash(found), int) and method(name) == found


def test_further_terms():
    assert METHODS["dmd"].regression_weight > 0
    assert all(m.regression_weight == 0 for n, m in METHODS.items() if n != "dmd")
    assert METHODS["f_distill"].feature_source == "teacher"
    assert METHODS["f_distill"].objective.weight_scale == "batch_mean"
    needs = {name for name, m in METHODS.items() if m.needs_discriminator}
    assert needs == {"dmd2", "sida", "f_distill", "uni_instruct"}


def test_noise_laws():
    for name in ("sim", "sid", "sida", "uni_instruct"):
        assert METHODS[name].student_noise == KarrasUniform(0.0, 0.8)
        assert METHODS[name].fake_noise == LogNormal(-1.2, 1.2)
    for name in ("dmd", "dmd2", "f_distill"):
        assert METHODS[name].student_noise == METHODS[name].fake_noise == KarrasUniform(0.02, 0.98)


@pytest.mark.parametrize("name", ["f_distill", "uni_instruct"])
@pytest.mark.parametrize("divergence", [kl(), reverse_kl(), pearson_chi2(), alpha(0.3), jensen_shannon(0.2)])
def test_free_divergences(name, divergence):
    found = method(name, divergence=divergence)
    assert found.objective.divergence == divergence
    back = dataclasses.replace(
        found, objective=dataclasses.replace(found.objective, divergence=METHODS[name].objective.divergence)
    )
    assert back == METHODS[name]


@pytest.mark.parametrize("name", ["sim", "sid", "sida", "uni_instruct"])
def test_alpha_of_expanded_methods(name):
    assert method(name, alpha=0.75).objective == dataclasses.replace(METHODS[name].objective, alpha=0.75)


def test_naming_the_fixed_divergence_is_no_error():
    assert method("dmd2", divergence=reverse_kl()) == METHODS["dmd2"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: method("dmd3"), "name"),
        (lambda: method("sid", divergence=kl()), "divergence is kl.*f_distill or uni_instruct"),
        (lambda: method("dmd2", alpha=1.0), "alpha is 1.0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=rf"^method: {message}"):
        call()


def test_sids_loss_from_its_row():
    """The row, on denoisers of one's own: SiD's published loss divided by the frozen distance to the teacher."""
    x0, noise = (jax.random.normal(jax.random.key(i), (3, 4)) for i in (0, 1))
    sigma = jnp.array([0.3, 1.0, 2.0])

    def scores_fn(x, sigma):
        return Scores(jnp.sin(x), jnp.tanh(x))

    def sid(x0):
        fake, teacher, _ = scores_fn(x0 + sigma[:, None] * noise, sigma)
        weight = jax.lax.stop_gradient(1 / jnp.mean(jnp.abs(x0 - teacher), axis=1))
        return jnp.sum(weight[:, None] * (teacher - fake) * ((teacher - x0) - 1.2 * (teacher - fake)))

    def ours(x0):
        return matching_loss(METHODS["sid"].objective, x0, noise, sigma=sigma, scores_fn=scores_fn).loss.sum()

    assert float(ours(x0)) == pytest.approx(float(sid(x0)), rel=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(x0), jax.grad(sid)(x0), rtol=1e-4, atol=1e-6)


def test_a_denoiser_read_as_a_generator():
    calls = []

    def denoise_fn(params, x, sigma, labels):
        calls.append((sigma, labels))
        return params * x + sigma[:, None]

    z, labels = jnp.ones((3, 2)), jnp.arange(3)
    found = one_step_student(denoise_fn, init_sigma=2.5)(2.0, z, labels)
    np.testing.assert_allclose(found, 2 * 2.5 + 2.5)
    np.testing.assert_allclose(calls[0][0], [2.5] * 3)
    assert calls[0][1] is labels


def test_any_objective_makes_a_method():
    exact = Method(Objective(kl(), "expanded", "detached_repaired"))
    assert exact.needs_discriminator and not Method(Objective(kl())).needs_discriminator
    assert Method(Objective(kl()), gan_weight=0.1).needs_discriminator
