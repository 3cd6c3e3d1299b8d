"""The two forms as one family, identities between divergences, stationarity, and where a divergence is infinite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    LogNormal,
    NoiseBins,
    Objective,
    RatioState,
    clip_ratio,
    coefficients,
    data_space,
    de_bruijn,
    generator_loss,
    matching_loss,
    normalize_ratio,
)
from jaxdiv.divergences import jeffreys, jensen_shannon, kl, neyman_chi2, pearson_chi2, reverse_kl, softened_reverse_kl
from tests.distillation.fixtures import (
    CASES,
    ONE,
    SIGMA,
    Problem,
    Student,
    assert_close,
    compiled_law,
    fields,
    latent_grid,
    law,
    log_density_and_score,
    loss_gradient,
    objective_gradient,
    scores_fn,
)

pytestmark = pytest.mark.usefixtures("x64")

EXACT = [("integral", "detached"), ("expanded", "through_x"), ("expanded", "detached_repaired")]
JS = 0.5  # jensen_shannon() is half of the reference's "js"


# The two forms are one family.


def levels(low, high, num=40):
    """Gauss-Legendre in log sigma: nodes and weights of an integral over sigma."""
    x, w = np.polynomial.legendre.leggauss(num)
    sigma = np.exp(np.log(low) + (x + 1) / 2 * np.log(high / low))
    return sigma, w / 2 * np.log(high / low) * sigma


DIFFERENCES = {
    "reverse_kl": 0.10718812,
    "kl": 0.12771434,
    "jensen_shannon": JS * 0.05662985,
    "softened_reverse_kl": 0.05055827,
    "neyman_chi2": 0.19967531,
    "squared_hellinger": 0.05763980,
    "jeffreys": 0.23490246,
    "pearson_chi2": 0.34813337,
}


@functools.cache
def _levels_of_the_identity():
    sigma, weight = levels(0.3, 3.0, 20)
    at = [fields(ONE, s) for s in sigma]
    p, r, squared = (np.array([f[i] for f in at]) for i in (1, 2, 3))
    return np.array([f.cell for f in at]) * sigma * weight, p, r, squared


@pytest.mark.parametrize("name", CASES)
def test_de_bruijn_identity(name):
    """D_f(0.3) - D_f(3) is the integral of sigma E_p[C |Delta|^2]."""

    def value(sigma):
        at = fields(ONE, sigma)
        return np.sum(at.cell * at.p * np.asarray(CASES[name].f(jnp.asarray(at.r))))

    weight, p, r, squared = _levels_of_the_identity()
    c = np.asarray(coefficients(CASES[name].make(), jnp.log(jnp.asarray(r))).c)
    total = weight @ np.sum(p * c * squared, axis=1)
    np.testing.assert_allclose(total, value(0.3) - value(3.0), rtol=1e-7)
    if name in DIFFERENCES:
        np.testing.assert_allclose(total, DIFFERENCES[name], atol=6e-9)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon", "pearson_chi2"])
def test_de_bruijn_weight_gives_the_gradient_of_the_divergence(name):
    """Sampling sigma from a law and weighting by sigma / density is the integral, whatever the law."""
    low, high, std = 0.3, 3.0, 0.9

    def density(sigma):
        return jnp.exp(-0.5 * (jnp.log(sigma) / std) ** 2) / (sigma * std * np.sqrt(2 * np.pi))

    sigma, width = levels(low, high, 12)
    sampled = np.asarray(density(sigma)) * width
    objective = Objective(CASES[name].make(), "expanded", "through_x", de_bruijn(density))
    plain = Objective(CASES[name].make(), "integral", "detached")
    wanted = objective_gradient(plain, sigma=low) - objective_gradient(plain, sigma=high)
    assert_close(objective_gradient(objective, sigma=sigma, level_weights=sampled), wanted, 1e-5)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "jensen_shannon"])
def test_integral_form_is_an_expanded_form_with_the_integrated_weight(name):
    """int w D' = W(b) D'(b) + int W sigma F', W the integral of w; here w = sigma^2."""
    low, high = 0.3, 3.0
    divergence = CASES[name].make()

    def integrated(sigma):
        return sigma * (sigma**3 - low**3) / 3

    f_distill = Objective(divergence, "integral", "detached", data_space)
    expanded = Objective(divergence, "expanded", "through_x", integrated)
    sigma, width = levels(low, high, 12)
    boundary = (high**3 - low**3) / 3 * objective_gradient(Objective(divergence, "integral", "detached"), sigma=high)
    inside = objective_gradient(expanded, sigma=sigma, level_weights=width)
    assert_close(objective_gradient(f_distill, sigma=sigma, level_weights=width), boundary + inside, 1e-5)


# Identities.


def test_the_fixture_is_normalised():
    at = fields(ONE, SIGMA)
    assert abs(np.sum(at.cell * at.p * at.r) - 1) < 1e-10
    assert abs(np.sum(at.cell * at.p * at.r**2) - 1 - 0.1749667) < 1e-7
    z, noise, weights = latent_grid(ONE.student, SIGMA)
    x0 = ONE.student.shift + z @ ONE.student.matrix.T
    xt = jnp.asarray(x0 + SIGMA * noise)
    _, score = log_density_and_score(law(ONE.student), xt, SIGMA)
    projection = np.sum(weights[:, None] * np.sin(xt) * (score - (x0 - xt) / SIGMA**2))
    assert abs(projection) < 1e-10


@pytest.mark.parametrize("form", EXACT)
def test_jeffreys_is_the_sum_of_both_kl(form):
    parts = [objective_gradient(Objective(f, *form)) for f in (kl(), reverse_kl())]
    assert_close(objective_gradient(Objective(jeffreys(), *form)), sum(parts), 1e-12)
    rho = jnp.linspace(-4, 4, 9)
    total = jax.tree.map(jnp.add, coefficients(kl(), rho), coefficients(reverse_kl(), rho))
    for found, wanted in zip(coefficients(jeffreys(), rho), total, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_jensen_shannon_and_softened_reverse_kl_make_reverse_kl():
    rho = jnp.linspace(-30, 30, 13)
    np.testing.assert_allclose(2 * jensen_shannon().weight(rho) + softened_reverse_kl().weight(rho), 1.0, rtol=1e-12)
    found = [
        objective_gradient(Objective(f, "integral", "detached")) for f in (jensen_shannon(), softened_reverse_kl())
    ]
    assert_close(2 * found[0] + found[1], (0.06360191, -0.31238507), 1e-7)


@pytest.mark.parametrize(
    ("name", "c", "k", "minus_dk"),
    [
        ("reverse_kl", lambda r: 1 + 0 * r, lambda r: 1 + 0 * r, lambda r: 0 * r),
        ("kl", lambda r: r, lambda r: 0 * r, lambda r: 0 * r),
        ("jeffreys", lambda r: 1 + r, lambda r: 1 + 0 * r, lambda r: 0 * r),
        ("pearson_chi2", lambda r: 2 * r**2, lambda r: -2 * r**2, lambda r: 4 * r**2),
        (
            "jensen_shannon",
            lambda r: r / (1 + r) / 2,
            lambda r: (r / (1 + r)) ** 2 / 2,
            lambda r: -(r**2) / (1 + r) ** 3,
        ),
        ("squared_hellinger", lambda r: np.sqrt(r) / 2, lambda r: np.sqrt(r) / 4, lambda r: -np.sqrt(r) / 8),
        ("neyman_chi2", lambda r: 2 / r, lambda r: 4 / r, lambda r: 4 / r),
        ("softened_reverse_kl", lambda r: 1 / (1 + r), lambda r: 1 / (1 + r) + r / (1 + r) ** 2, None),
    ],
)
def test_coefficients_are_the_table(name, c, k, minus_dk):
    rho = np.linspace(-5, 5, 11)
    found, r = coefficients(CASES[name].make(), jnp.asarray(rho)), np.exp(rho)
    np.testing.assert_allclose(found.c, c(r), rtol=1e-12)
    np.testing.assert_allclose(found.k, k(r), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.dc, found.c - found.k, rtol=1e-11, atol=1e-12)
    if minus_dk is not None:
        np.testing.assert_allclose(-found.dk, minus_dk(r), rtol=1e-11, atol=1e-11)


# Stationarity.

SETTINGS = [
    {},
    {"sample_weight": "l1"},
    {"weight_scale": "batch_mean", "reduction": "sum"},
    {"sample_weight": "l1", "weight_scale": "batch_mean", "time_weight": data_space},
]
FORMS = [
    ("integral", "one"),
    ("integral", "through_x"),
    ("integral", "detached"),
    ("expanded", "one"),
    ("expanded", "through_x"),
    ("expanded", "detached"),
    ("expanded", "detached_repaired"),
]
# The student's law, written as a mixture of two equal halves: equal as a function, not as a computation.
SAME = Problem(
    jax.tree.map(np.array, ONE.teacher._replace(means=np.full((2, 1), 0.3), covariances=np.full((2, 1, 1), 0.64))),
    ONE.student,
)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings) or "plain")
@pytest.mark.parametrize("form", FORMS)
def test_a_student_that_equals_its_teacher_stays(form, settings):
    bins = NoiseBins(num=3)
    state = RatioState(jnp.zeros(3), jnp.ones(3, jnp.int32))

    def normalized(rho, sigma):
        return clip_ratio(normalize_ratio(state, rho, sigma, bins=bins), limit=5.0)[0]

    objective = Objective(pearson_chi2(), *form, **settings)
    assert np.abs(objective_gradient(objective, SAME, transform=normalized if settings else None)).max() < 1e-9


def test_the_adversarial_term_too():
    scores = scores_fn(SAME.teacher, law(SAME.student))

    def loss_fn(x0, noise, sigma):
        return generator_loss(scores(x0 + sigma[:, None] * noise, sigma).log_ratio)

    assert np.abs(loss_gradient(loss_fn, SAME)).max() < 1e-12


# Where a divergence is infinite.


def test_neyman_is_finite_below_the_variance_bound():
    """E_p[1/r] converges while v_p < 2 max v_q, which is 1.16 at sigma = 0.3."""

    def truncated(std, width):
        x = np.linspace(-width, width, 4001)[:, None]
        log_q, _ = compiled_law(ONE.teacher, jnp.asarray(x), 0.3)
        log_p, _ = compiled_law(law(Student(np.array([0.3]), np.array([[std]]))), jnp.asarray(x), 0.3)
        weight = coefficients(neyman_chi2(), log_q - log_p).c
        return float(np.sum(np.exp(log_p) * weight) * (x[1, 0] - x[0, 0]))

    assert truncated(0.9, 24.0) == pytest.approx(truncated(0.9, 12.0), rel=1e-5)
    assert truncated(1.1, 24.0) > 1e3 * truncated(1.1, 12.0)


@pytest.mark.parametrize("form", [("integral", "detached"), ("expanded", "through_x")])
def test_clipping_keeps_neyman_finite(form):
    """The far tail alone: without the clip a ratio overflows."""
    scores = scores_fn(ONE.teacher, law(Student(np.array([0.3]), np.array([[1.1]]))))

    def clip(log_ratio, sigma):
        return clip_ratio(log_ratio, limit=10.0)[0]

    def loss(x0, transform):
        found = matching_loss(
            Objective(neyman_chi2(), *form),
            x0,
            jnp.zeros((4, 1)),
            sigma=jnp.full(4, 0.3),
            scores_fn=scores,
            ratio_transform=transform,
        )
        return jnp.sum(found.loss), (found.weight, found.log_ratio)

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    x0 = jnp.full((4, 1), 500.0)
    assert not np.isfinite(gradient(x0, None)[1][0]).any()
    slope, (weight, log_ratio) = gradient(x0, clip)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
    np.testing.assert_allclose(log_ratio, -10.0)
    np.testing.assert_allclose(weight, 2 * np.exp(10.0))


def test_the_law_of_noise_levels_and_its_weight():
    """Monte Carlo over LogNormal with the de Bruijn weight agrees with the integral it stands for."""
    law_of_sigma = LogNormal(mean=-0.5, std=0.4)

    def density(sigma):
        return jnp.exp(-0.5 * ((jnp.log(sigma) + 0.5) / 0.4) ** 2) / (sigma * 0.4 * np.sqrt(2 * np.pi))

    sigma = jax.vmap(law_of_sigma)(jax.random.split(jax.random.key(3), 20000))
    inside = (sigma > 0.3) & (sigma < 1.0)
    values = np.where(inside, de_bruijn(density)(sigma), 0.0)
    assert abs(values.mean() - (1.0 - 0.09) / 2) < 4 * values.std() / np.sqrt(values.size)
