"""Laws with closed-form scores, and what every loss is held to: integrals by quadrature and their finite differences.

No expected number comes from the library: it is called only for the gradient under test. Densities are mixtures of
Gaussians; a student is ``x_0 = b + A z``, so its noised law is Gaussian too.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import divergences as d
from jaxdiv.distillation import Scores, matching_loss


class Mixture(NamedTuple):
    """Weights ``[K]``, means ``[K, D]``, covariances ``[K, D, D]``."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray


class Student(NamedTuple):
    """``x_0 = shift + matrix z``, ``[D]`` and ``[D, D]``."""

    shift: np.ndarray
    matrix: np.ndarray


def law(student):
    """The clean law of a student, as a mixture of one."""
    shift, matrix = jnp.asarray(student.shift), jnp.asarray(student.matrix)
    return Mixture(jnp.ones(1), shift[None], (matrix @ matrix.T)[None])


def log_density_and_score(mixture, x, sigma):
    """log density ``[N]`` and its gradient ``[N, D]`` at ``x [N, D]``, noised to ``sigma`` (a number or ``[N]``)."""
    dim = x.shape[-1]
    noise = jnp.broadcast_to(jnp.asarray(sigma), x.shape[:1])[:, None, None, None] ** 2 * jnp.eye(dim)
    covariance = jnp.asarray(mixture.covariances) + noise
    precision, determinant = _inverse(covariance)
    offset = x[:, None] - jnp.asarray(mixture.means)
    pull = jnp.einsum("nkij,nkj->nki", precision, offset)
    terms = -0.5 * jnp.einsum("nki,nki->nk", offset, pull) - 0.5 * jnp.log(determinant)
    terms = terms + jnp.log(jnp.asarray(mixture.weights)) - 0.5 * dim * jnp.log(2 * jnp.pi)
    shares = jax.nn.softmax(terms, axis=1)
    return jax.nn.logsumexp(terms, axis=1), -jnp.einsum("nk,nki->ni", shares, pull)


compiled_law = jax.jit(log_density_and_score)


def _inverse(matrix):
    if matrix.shape[-1] == 1:
        return 1 / matrix, matrix[..., 0, 0]
    a, b, c, e = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * e - b * c
    rows = [jnp.stack([e, -b], -1), jnp.stack([-c, a], -1)]
    return jnp.stack(rows, -2) / determinant[..., None, None], determinant


def scores_fn(teacher, student):
    """Exact ``Scores`` of two mixtures, the student's frozen."""

    def fn(x, sigma):
        log_q, score_q = compiled_law(teacher, x, sigma)
        log_p, score_p = compiled_law(student, x, sigma)
        variance = sigma[:, None] ** 2
        return Scores(x + variance * score_p, x + variance * score_q, log_q - log_p)

    return fn


# One dimension: the fixture of the reference numbers. Two: full covariances, full student matrix.

TEACHER_1D = Mixture(np.array([0.35, 0.65]), np.array([[-1.0], [0.8]]), np.array([[[0.25]], [[0.49]]]))
STUDENT_1D = Student(np.array([0.3]), np.array([[0.8]]))
SIGMA = 0.6

TEACHER_2D = Mixture(
    np.array([0.5, 0.2, 0.3]),
    np.array([[-0.8, 0.3], [0.9, 0.7], [0.4, -0.9]]),
    np.array([[[0.5, 0.2], [0.2, 0.6]], [[0.7, -0.3], [-0.3, 0.5]], [[0.6, 0.1], [0.1, 0.8]]]),
)
STUDENT_2D = Student(np.array([0.1, -0.2]), np.array([[0.85, 0.25], [-0.35, 0.8]]))


class Problem(NamedTuple):
    teacher: Mixture
    student: Student
    sigma: float = SIGMA


ONE = Problem(TEACHER_1D, STUDENT_1D)
TWO = Problem(TEACHER_2D, STUDENT_2D)


# The expectation over latents and noise.


@functools.cache
def _standard_grid(dim):
    """Nodes ``[N, 2 D]`` and weights of 2D standard normal numbers; see ``latent_grid``."""
    u = np.linspace(-7.5, 7.5, {1: 151, 2: 61}[dim])
    v, w = np.polynomial.hermite_e.hermegauss(3)
    density = np.exp(-(u**2) / 2)
    nodes = np.stack([g.ravel() for g in np.meshgrid(*[u] * dim, *[v] * dim, indexing="ij")], axis=1)
    weights = functools.reduce(np.multiply.outer, [density / density.sum()] * dim + [w / w.sum()] * dim).ravel()
    return nodes, weights


def latent_grid(student, sigma):
    """Nodes and weights ``z [N, D], noise [N, D], w [N]`` for expectations over latent and noise.

    Rotated, the 2D Gaussian numbers (z, noise) are the D that make x_t and D that are independent of it. The first go
    through the trapezoidal rule, which converges geometrically. Gradients of the losses are polynomials of degree 2 in
    the others, for which three Gauss-Hermite nodes are exact.
    """
    dim = len(student.shift)
    nodes, weights = _standard_grid(dim)
    nodes = nodes @ np.linalg.svd(np.concatenate([student.matrix, sigma * np.eye(dim)], axis=1))[2]
    return nodes[:, :dim], nodes[:, dim:], weights


def loss_gradient(loss_fn, problem, sigma=None, level_weights=(1.0,)):
    """Gradient in ``(shift, matrix)``, flat, of the exact expectation of ``loss_fn(x0, noise, sigma) -> [N]``.

    With several noise levels: the sum of their gradients with the weights given.
    """
    levels = np.atleast_1d(problem.sigma if sigma is None else sigma)
    grids = [latent_grid(problem.student, float(level)) for level in levels]
    z, noise = (jnp.concatenate([grid[i] for grid in grids]) for i in (0, 1))
    weights = jnp.concatenate([w * grid[2] for w, grid in zip(level_weights, grids, strict=True)])
    sigmas = jnp.repeat(jnp.asarray(levels), len(grids[0][2]))

    def expectation(student):
        x0 = student.shift + z @ student.matrix.T
        return jnp.sum(weights * loss_fn(x0, noise, sigmas))

    gradient = jax.grad(expectation)(jax.tree.map(jnp.asarray, problem.student))
    return np.concatenate([np.ravel(gradient.shift), np.ravel(gradient.matrix)])


def objective_gradient(objective, problem=ONE, sigma=None, level_weights=(1.0,), transform=None):
    """Gradient in ``(shift, matrix)``, flat, of the exact expectation of ``matching_loss``."""
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


# The oracle: integrals over x of functions of r and Delta, and their finite differences in the student.


class Fields(NamedTuple):
    """On a uniform grid over x: cell size, density of the student, r = q/p and |Delta|^2."""

    cell: float
    p: np.ndarray
    r: np.ndarray
    squared: np.ndarray


def fields(problem, sigma):
    dim = len(problem.student.shift)
    axis = np.linspace(-8.0, 8.0, {1: 1201, 2: 121}[dim]) * np.sqrt(1 + sigma**2)
    x = np.stack([g.ravel() for g in np.meshgrid(*[axis] * dim, indexing="ij")], axis=1)
    with jax.enable_x64(True):
        log_q, score_q = compiled_law(problem.teacher, jnp.asarray(x), sigma)
        log_p, score_p = compiled_law(law(problem.student), jnp.asarray(x), sigma)
    r = np.exp(np.asarray(log_q - log_p))
    return Fields((axis[1] - axis[0]) ** dim, np.exp(log_p), r, np.sum((score_p - score_q) ** 2, axis=1))


STEP = 2e-3


@functools.cache
def _shifted_fields(dim, sigma):
    """Fields at theta + j STEP e_i for the fourth-order difference, for every parameter i of the student."""
    problem = {1: ONE, 2: TWO}[dim]
    found = []
    for part in ("shift", "matrix"):
        for index in np.ndindex(getattr(problem.student, part).shape):
            row = []
            for j in (-2, -1, 1, 2):
                value = getattr(problem.student, part).copy()
                value[index] += j * STEP
                row.append(fields(problem._replace(student=problem.student._replace(**{part: value})), sigma))
            found.append(row)
    return found


def difference(integrand, dim, sigma=SIGMA):
    """Finite-difference gradient, in the student, of ``integral p integrand(r, |Delta|^2) dx``."""
    rows = _shifted_fields(dim, sigma)
    p, r, squared = (np.array([[f[i] for f in row] for row in rows]) for i in (1, 2, 3))
    integrals = rows[0][0].cell * np.sum(p * np.asarray(integrand(r, squared)), axis=-1)
    return integrals @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * STEP)


# Generators, written from their definitions in r.


class Case(NamedTuple):
    make: Callable[[], d.FDivergence]
    f: Callable


def _alpha(a):
    return lambda r: (r**a - a * r - (1 - a)) / (a * (a - 1))


def _js(pi):
    return lambda r: pi * r * jnp.log(r) - (pi * r + 1 - pi) * jnp.log(pi * r + 1 - pi)


def _skew(pi):
    return lambda r: r * jnp.log(r / (pi * r + 1 - pi))


def _reversed(f):
    return lambda r: r * f(1 / r)


def _times(factor, f):
    return lambda r: factor * f(r)


def _soft(r):
    return (r + 1) * jnp.log((r + 1) / (2 * r))


CASES = {
    "kl": Case(d.kl, lambda r: r * jnp.log(r)),
    "reverse_kl": Case(d.reverse_kl, lambda r: -jnp.log(r)),
    "jensen_shannon": Case(d.jensen_shannon, lambda r: 0.5 * (r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2))),
    "jensen_shannon(0.1)": Case(lambda: d.jensen_shannon(0.1), _js(0.1)),
    "jensen_shannon(0.9)": Case(lambda: d.jensen_shannon(0.9), _js(0.9)),
    "softened_reverse_kl": Case(d.softened_reverse_kl, _soft),
    "neyman_chi2": Case(d.neyman_chi2, lambda r: 1 / r - 2 + r),
    "squared_hellinger": Case(d.squared_hellinger, lambda r: (jnp.sqrt(r) - 1) ** 2),
    "jeffreys": Case(d.jeffreys, lambda r: (r - 1) * jnp.log(r)),
    "pearson_chi2": Case(d.pearson_chi2, lambda r: (r - 1) ** 2),
    "le_cam": Case(d.le_cam, lambda r: (r - 1) ** 2 / (r + 1)),
    "alpha(-0.5)": Case(lambda: d.alpha(-0.5), _alpha(-0.5)),
    "alpha(0.3)": Case(lambda: d.alpha(0.3), _alpha(0.3)),
    "alpha(1)": Case(lambda: d.alpha(1), lambda r: r * jnp.log(r)),
    "alpha(1.5)": Case(lambda: d.alpha(1.5), _alpha(1.5)),
    "alpha(2)": Case(lambda: d.alpha(2), _alpha(2)),
    "skew_kl(0.1)": Case(lambda: d.skew_kl(0.1), _skew(0.1)),
    "skew_kl(0.7)": Case(lambda: d.skew_kl(0.7), _skew(0.7)),
    "jensen_shannon normalized": Case(lambda: d.jensen_shannon(0.1).normalized(), _times(1 / 0.09, _js(0.1))),
    "softened_reverse_kl normalized": Case(lambda: d.softened_reverse_kl().normalized(), _times(2.0, _soft)),
    "softened_reverse_kl reversed": Case(lambda: d.softened_reverse_kl().reversed(), _reversed(_soft)),
    "jensen_shannon(0.1) reversed": Case(lambda: d.jensen_shannon(0.1).reversed(), _reversed(_js(0.1))),
    "skew_kl(0.1) reversed": Case(lambda: d.skew_kl(0.1).reversed(), _reversed(_skew(0.1))),
    "alpha(1.5) reversed": Case(lambda: d.alpha(1.5).reversed(), _alpha(-0.5)),
    "skew_kl(0.7) normalized reversed": Case(
        lambda: d.skew_kl(0.7).normalized().reversed(), _times(1 / 0.09, _reversed(_skew(0.7)))
    ),
}

FORWARD_KL = ("kl", "alpha(1)")
"""The cases with k = 0."""


def _slope(fn):
    """The derivative of an elementwise function."""
    return lambda r: jax.grad(lambda x: jnp.sum(fn(x)))(r)


def curvature_weight(name):
    """h(r) = r^2 f''(r) from the case's own f, by automatic differentiation in r."""
    second = _slope(_slope(CASES[name].f))
    return lambda r: r**2 * second(jnp.asarray(r))


def divergence_gradient(name, dim, sigma=SIGMA):
    """Gradient of D_f at one noise level, by finite differences."""
    return difference(lambda r, squared: CASES[name].f(jnp.asarray(r)), dim, sigma)


def expanded_gradient(name, dim, sigma=SIGMA):
    """Gradient of E_p[h(r) |Delta|^2], by finite differences."""
    h = curvature_weight(name)
    return difference(lambda r, squared: h(r) * squared, dim, sigma)
