"""Gradients of the losses in one dimension against reference numbers, finite differences and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    Objective,
    data_space_squared,
)
from jaxdiv.divergences import kl, pearson_chi2, reverse_kl
from tests.distillation.fixtures import (
    CASES,
    FORWARD_KL,
    ONE,
    SIGMA,
    Student,
    assert_close,
    distance,
    divergence_gradient,
    expanded_gradient,
    law,
    loss_gradient,
    objective_gradient,
    scores_fn,
)

pytestmark = pytest.mark.usefixtures("x64")

EXACT = [("integral", "detached"), ("expanded", "through_x"), ("expanded", "detached_repaired")]

# Gradients in (mean, std) from an independent quadrature in numpy. Its "js" is twice jensen_shannon().
JS = 0.5
INTEGRAL = {
    "reverse_kl": (0.06360191, -0.31238507),
    "kl": (0.13, -0.416),
    "jensen_shannon": (JS * 0.04287062, JS * -0.17213784),
    "softened_reverse_kl": (0.02073129, -0.14024723),
    "neyman_chi2": (0.05808957, -0.5350891),
    "squared_hellinger": (0.04550717, -0.17688693),
    "jeffreys": (0.19360191, -0.72838507),
    "pearson_chi2": (0.54333214, -1.30758294),
}
EXPANDED = {
    "reverse_kl": (-0.029831, -1.170126),
    "kl": (0.26, -1.664),
    "jensen_shannon": (JS * 0.028955, JS * -0.647896),
    "pearson_chi2": (1.982902, -6.090373),
    "jeffreys": (0.230169, -2.834126),
}
WITHOUT_PATH_TERM = {
    "reverse_kl": (0.127204, -1.249540),
    "kl": (0.26, -1.664),
    "jensen_shannon": (JS * 0.085741, JS * -0.688551),
    "pearson_chi2": (1.086664, -5.230332),
    "jeffreys": (0.387204, -2.913540),
}
DETACHED = {
    "kl": (0.26, -1.23825911),
    "jensen_shannon": (JS * 0.05792958, JS * -0.60013815),
    "pearson_chi2": (1.05439375, -2.4482374),
}


# Integral form: f-distill.


@pytest.mark.parametrize("name", INTEGRAL)
def test_integral_gradient_is_the_reference(name):
    found = objective_gradient(Objective(CASES[name].make(), "integral", "detached"))
    np.testing.assert_allclose(found, INTEGRAL[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_integral_gradient_is_that_of_the_divergence(name):
    assert_close(
        objective_gradient(Objective(CASES[name].make(), "integral", "detached")), divergence_gradient(name, 1)
    )


def test_the_integral_form_has_no_use_for_the_derivative_of_the_ratio():
    found = [objective_gradient(Objective(pearson_chi2(), "integral", ratio)) for ratio in ("detached", "through_x")]
    np.testing.assert_array_equal(*found)


def test_integral_kl_in_closed_form():
    """KL to a Gaussian sees the teacher's two moments alone: M = 0.17, V + sigma^2 = 1.5031."""
    m, s, mean, variance = 0.3, 0.8, 0.17, 1.1431 + SIGMA**2
    v = s**2 + SIGMA**2
    closed = ((m - mean) / v, s / v - s * (variance + (m - mean) ** 2) / v**2)
    np.testing.assert_allclose(closed, (0.13, -0.416), atol=1e-12)
    assert_close(objective_gradient(Objective(kl(), "integral", "detached")), closed, 1e-10)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 2.0])
@pytest.mark.parametrize("form", EXACT)
def test_moments_are_the_optimum_of_kl(form, sigma):
    problem = ONE._replace(student=Student(np.array([0.17]), np.array([[np.sqrt(1.1431)]])))
    assert np.abs(objective_gradient(Objective(kl(), *form), problem, sigma)).max() < 2e-7


# Expanded form: Uni-Instruct.


@pytest.mark.parametrize("name", EXPANDED)
def test_expanded_gradient_is_the_reference(name):
    np.testing.assert_allclose(
        objective_gradient(Objective(CASES[name].make(), "expanded", "through_x")), EXPANDED[name], rtol=1e-6, atol=6e-7
    )


@pytest.mark.parametrize("name", CASES)
def test_expanded_gradient_is_that_of_its_integrand(name):
    """Through x and repaired agree with finite differences and so with each other; the plain value is biased."""
    divergence, wanted = CASES[name].make(), expanded_gradient(name, 1)
    assert_close(objective_gradient(Objective(divergence, "expanded", "through_x")), wanted)
    assert_close(objective_gradient(Objective(divergence, "expanded", "detached_repaired")), wanted)
    biased = objective_gradient(Objective(divergence, "expanded", "detached"))
    if name == "reverse_kl":  # its coefficients are constants
        assert_close(biased, wanted)
    else:
        assert distance(biased, wanted) > 5e-3


@pytest.mark.parametrize("name", CASES)
def test_without_the_path_term_only_kl_is_exact(name):
    found = objective_gradient(Objective(CASES[name].make(), "expanded", "through_x", alpha=1.0))
    if name in FORWARD_KL:
        assert_close(found, expanded_gradient(name, 1))
    else:
        assert distance(found, expanded_gradient(name, 1)) > 1e-3
    if name in WITHOUT_PATH_TERM:
        np.testing.assert_allclose(found, WITHOUT_PATH_TERM[name], rtol=1e-6, atol=6e-7)


@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_value_is_biased_by_the_reference_amount(name):
    found = objective_gradient(Objective(CASES[name].make(), "expanded", "detached"))
    np.testing.assert_allclose(found, DETACHED[name], rtol=1e-6)


def test_sid_is_affine_in_alpha():
    def at(alpha):
        return objective_gradient(Objective(reverse_kl(), "expanded", "one", alpha=alpha))

    exact, sim = at(0.5), at(1.0)
    np.testing.assert_allclose(exact, EXPANDED["reverse_kl"], atol=6e-7)
    np.testing.assert_allclose(sim, WITHOUT_PATH_TERM["reverse_kl"], atol=6e-7)
    for alpha in (0.0, 0.75, 1.2):
        assert_close(at(alpha), exact + (alpha - 0.5) / 0.5 * (sim - exact), 1e-10)
    cosines = [at(a) @ exact / np.linalg.norm(at(a)) / np.linalg.norm(exact) for a in (0.75, 1.0, 1.2)]
    np.testing.assert_allclose(cosines, [0.9978, 0.9920, 0.9851], atol=6e-5)


def test_sid_in_its_own_notation():
    """SiD's loss on denoised images is data_space_squared times the exact integrand."""
    alpha, scores = 1.2, scores_fn(ONE.teacher, law(ONE.student))

    def sid(x0, noise, sigma):
        fake, teacher, _ = scores(x0 + sigma[:, None] * noise, sigma)
        return jnp.sum((teacher - fake) * ((teacher - x0) - alpha * (teacher - fake)), axis=1)

    objective = Objective(reverse_kl(), "expanded", "one", data_space_squared, alpha=alpha, reduction="sum")
    assert_close(objective_gradient(objective), loss_gradient(sid, ONE), 1e-12)
