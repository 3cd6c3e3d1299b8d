"""Gradients of the losses in one dimension against reference numbers, finite differences and closed forms."""

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
    data_space_squared,
    de_bruijn,
    generator_loss,
    matching_loss,
    normalize_ratio,
)
from jaxdiv.divergences import jeffreys, jensen_shannon, kl, neyman_chi2, pearson_chi2, reverse_kl, softened_reverse_kl
from tests.distillation.fixtures import (
    CASES,
    FORWARD_KL,
    ONE,
    SIGMA,
    Problem,
    Student,
    divergence_gradient,
    expanded_gradient,
    fields,
    latent_grid,
    law,
    log_density_and_score,
    loss_gradient,
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


def gradient(objective, problem=ONE, sigma=None, level_weights=(1.0,), transform=None):
    scores = scores_fn(problem.teacher, law(problem.student))

    def loss_fn(x0, noise, sigma):
        found = matching_loss(objective, x0, noise, sigma=sigma, scores_fn=scores, ratio_transform=transform)
        return found.loss

    return loss_gradient(loss_fn, problem, sigma, level_weights)


def assert_close(found, wanted, rtol=1e-6):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=rtol * np.abs(wanted).max())


def distance(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


# Integral form: f-distill.


@pytest.mark.parametrize("name", INTEGRAL)
def test_integral_gradient_is_the_reference(name):
    found = gradient(Objective(CASES[name].make(), "integral", "detached"))
    np.testing.assert_allclose(found, INTEGRAL[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_integral_gradient_is_that_of_the_divergence(name):
    assert_close(gradient(Objective(CASES[name].make(), "integral", "detached")), divergence_gradient(name, 1))


def test_the_integral_form_has_no_use_for_the_derivative_of_the_ratio():
    found = [gradient(Objective(pearson_chi2(), "integral", ratio)) for ratio in ("detached", "through_x")]
    np.testing.assert_array_equal(*found)


def test_integral_kl_in_closed_form():
    """KL to a Gaussian sees the teacher's two moments alone: M = 0.17, V + sigma^2 = 1.5031."""
    m, s, mean, variance = 0.3, 0.8, 0.17, 1.1431 + SIGMA**2
    v = s**2 + SIGMA**2
    closed = ((m - mean) / v, s / v - s * (variance + (m - mean) ** 2) / v**2)
    np.testing.assert_allclose(closed, (0.13, -0.416), atol=1e-12)
    assert_close(gradient(Objective(kl(), "integral", "detached")), closed, 1e-10)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 2.0])
@pytest.mark.parametrize("form", EXACT)
def test_moments_are_the_optimum_of_kl(form, sigma):
    problem = ONE._replace(student=Student(np.array([0.17]), np.array([[np.sqrt(1.1431)]])))
    assert np.abs(gradient(Objective(kl(), *form), problem, sigma)).max() < 2e-7


# Expanded form: Uni-Instruct.


@pytest.mark.parametrize("name", EXPANDED)
def test_expanded_gradient_is_the_reference(name):
    np.testing.assert_allclose(
        gradient(Objective(CASES[name].make(), "expanded", "through_x")), EXPANDED[name], rtol=1e-6, atol=6e-7
    )


@pytest.mark.parametrize("name", CASES)
def test_expanded_gradient_is_that_of_its_integrand(name):
    """Through x and repaired agree with finite differences and so with each other; the plain value is biased."""
    divergence, wanted = CASES[name].make(), expanded_gradient(name, 1)
    assert_close(gradient(Objective(divergence, "expanded", "through_x")), wanted)
    assert_close(gradient(Objective(divergence, "expanded", "detached_repaired")), wanted)
    biased = gradient(Objective(divergence, "expanded", "detached"))
    if name == "reverse_kl":  # its coefficients are constants
        assert_close(biased, wanted)
    else:
        assert distance(biased, wanted) > 5e-3


@pytest.mark.parametrize("name", CASES)
def test_without_the_path_term_only_kl_is_exact(name):
    found = gradient(Objective(CASES[name].make(), "expanded", "through_x", alpha=1.0))
    if name in FORWARD_KL:
        assert_close(found, expanded_gradient(name, 1))
    else:
        assert distance(found, expanded_gradient(name, 1)) > 1e-3
    if name in WITHOUT_PATH_TERM:
        np.testing.assert_allclose(found, WITHOUT_PATH_TERM[name], rtol=1e-6, atol=6e-7)


@pytest.mark.parametrize("name", DETACHED)
def test_a_detached_value_is_biased_by_the_reference_amount(name):
    found = gradient(Objective(CASES[name].make(), "expanded", "detached"))
    np.testing.assert_allclose(found, DETACHED[name], rtol=1e-6)


def test_sid_is_affine_in_alpha():
    def at(alpha):
        return gradient(Objective(reverse_kl(), "expanded", "one", alpha=alpha))

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
    assert_close(gradient(objective), loss_gradient(sid, ONE), 1e-12)


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
    wanted = gradient(plain, sigma=[low, high], level_weights=(1.0, -1.0))
    assert_close(gradient(objective, sigma=sigma, level_weights=sampled), wanted, 1e-5)


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
    boundary = (high**3 - low**3) / 3 * gradient(Objective(divergence, "integral", "detached"), sigma=high)
    inside = gradient(expanded, sigma=sigma, level_weights=width)
    assert_close(gradient(f_distill, sigma=sigma, level_weights=width), boundary + inside, 1e-5)


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
    parts = [gradient(Objective(f, *form)) for f in (kl(), reverse_kl())]
    assert_close(gradient(Objective(jeffreys(), *form)), sum(parts), 1e-12)
    rho = jnp.linspace(-4, 4, 9)
    total = jax.tree.map(jnp.add, coefficients(kl(), rho), coefficients(reverse_kl(), rho))
    for found, wanted in zip(coefficients(jeffreys(), rho), total, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_jensen_shannon_and_softened_reverse_kl_make_reverse_kl():
    rho = jnp.linspace(-30, 30, 13)
    np.testing.assert_allclose(2 * jensen_shannon().weight(rho) + softened_reverse_kl().weight(rho), 1.0, rtol=1e-12)
    found = [gradient(Objective(f, "integral", "detached")) for f in (jensen_shannon(), softened_reverse_kl())]
    assert_close(2 * found[0] + found[1], INTEGRAL["reverse_kl"], 1e-7)


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
    assert np.abs(gradient(objective, SAME, transform=normalized if settings else None)).max() < 1e-9


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
        log_q, _ = log_density_and_score(ONE.teacher, jnp.asarray(x), 0.3)
        log_p, _ = log_density_and_score(law(Student(np.array([0.3]), np.array([[std]]))), jnp.asarray(x), 0.3)
        weight = coefficients(neyman_chi2(), log_q - log_p).c
        return float(np.sum(np.exp(log_p) * weight) * (x[1, 0] - x[0, 0]))

    assert truncated(0.9, 24.0) == pytest.approx(truncated(0.9, 12.0), rel=1e-5)
    assert truncated(1.1, 24.0) > 1e3 * truncated(1.1, 12.0)


@pytest.mark.parametrize("form", FORMS[1:3] + FORMS[4:])
def test_clipping_keeps_neyman_finite(form):
    """The far tail alone: without the clip a float32 ratio overflows."""
    x0, noise = jnp.full((4, 1), 60.0, jnp.float32), jnp.zeros((4, 1), jnp.float32)
    student = Student(np.array([0.3]), np.array([[1.1]]))
    scores = scores_fn(ONE.teacher, law(student))

    def found(x0, transform):
        sigma = jnp.full(4, 0.3, jnp.float32)

        def as_float32(xt, sigma):
            return jax.tree.map(lambda x: x.astype(jnp.float32), scores(xt, sigma))

        return matching_loss(
            Objective(neyman_chi2(), *form), x0, noise, sigma=sigma, scores_fn=as_float32, ratio_transform=transform
        )

    def clip(log_ratio, sigma):
        return clip_ratio(log_ratio, limit=10.0)[0]

    assert not np.isfinite(np.asarray(found(x0, None).weight)).all()
    clipped = jax.grad(lambda x: found(x, clip).loss.sum())(x0)
    assert np.isfinite(np.asarray(clipped)).all() and np.abs(clipped).max() > 0
    np.testing.assert_allclose(found(x0, clip).log_ratio, -10.0)


def test_the_law_of_noise_levels_and_its_weight():
    """Monte Carlo over LogNormal with the de Bruijn weight agrees with the integral it stands for."""
    law_of_sigma = LogNormal(mean=-0.5, std=0.4)

    def density(sigma):
        return jnp.exp(-0.5 * ((jnp.log(sigma) + 0.5) / 0.4) ** 2) / (sigma * 0.4 * np.sqrt(2 * np.pi))

    sigma = jax.vmap(law_of_sigma)(jax.random.split(jax.random.key(3), 20000))
    inside = (sigma > 0.3) & (sigma < 1.0)
    values = np.where(inside, de_bruijn(density)(sigma), 0.0)
    assert abs(values.mean() - (1.0 - 0.09) / 2) < 4 * values.std() / np.sqrt(values.size)
