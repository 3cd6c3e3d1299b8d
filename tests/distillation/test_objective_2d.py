"""Gradients of the losses in two dimensions: three full covariances against a student with a full matrix."""

import numpy as np
import pytest

from jaxdiv.distillation import Objective, data_space
from tests.distillation.fixtures import (
    CASES,
    FORWARD_KL,
    TWO,
    Student,
    distance,
    divergence_gradient,
    expanded_gradient,
    latent_grid,
    objective_gradient,
)

pytestmark = pytest.mark.usefixtures("x64")


EXACT = [("integral", "detached"), ("expanded", "through_x"), ("expanded", "detached_repaired")]


def gradient(name, *form, problem=TWO, **settings):
    return objective_gradient(Objective(CASES[name].make(), *form, **{"reduction": "sum", **settings}), problem)


def test_the_latent_grid_integrates_moments():
    z, noise, weights = latent_grid(TWO.student, 0.6)
    numbers = np.concatenate([z, noise], axis=1)
    np.testing.assert_allclose(weights @ numbers, 0, atol=1e-12)
    np.testing.assert_allclose((weights * numbers.T) @ numbers, np.eye(4), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_integral_gradient_is_that_of_the_divergence(name):
    assert distance(gradient(name, "integral", "detached"), divergence_gradient(name, 2)) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_expanded_gradient_is_that_of_its_integrand(name):
    wanted = expanded_gradient(name, 2)
    assert distance(gradient(name, "expanded", "through_x"), wanted) < 1e-6
    assert distance(gradient(name, "expanded", "detached_repaired"), wanted) < 1e-6
    if name == "reverse_kl":
        assert distance(gradient(name, "expanded", "one"), wanted) < 1e-6
    else:
        assert distance(gradient(name, "expanded", "detached"), wanted) > 5e-3


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "pearson_chi2"])
def test_the_path_term_matters_but_for_kl(name):
    error = distance(gradient(name, "expanded", "through_x", alpha=1.0), expanded_gradient(name, 2))
    assert error < 1e-6 if name in FORWARD_KL else error > 1e-2


def test_a_ratio_of_one_is_reverse_kl_whatever_the_divergence():
    wanted = divergence_gradient("reverse_kl", 2)
    for name, factor in [("kl", 1.0), ("pearson_chi2", 2.0), ("jensen_shannon", 0.25)]:
        assert distance(gradient(name, "integral", "one"), factor * wanted) < 1e-6


@pytest.mark.parametrize("form", EXACT)
def test_moments_are_the_optimum_of_kl(form):
    weights, means, covariances = TWO.teacher
    mean = weights @ means
    centred = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances) + np.einsum("k,ki,kj->ij", weights, centred, centred)
    problem = TWO._replace(student=Student(mean, np.linalg.cholesky(covariance)))
    assert np.abs(gradient("kl", *form, problem=problem)).max() < 1e-6


def test_mean_and_weight_are_factors():
    plain = gradient("jensen_shannon", "integral", "detached")
    scaled = gradient("jensen_shannon", "integral", "detached", reduction="mean", time_weight=data_space)
    np.testing.assert_allclose(scaled, plain * 0.6**2 / 2, rtol=1e-12)
