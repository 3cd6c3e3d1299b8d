"""Networks with a handful of parameters, exact where the data are Gaussian: the training cycle's test subjects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.distillation import Networks, update

DIM = 2
TEACHER = {"mean": np.array([0.5, -0.3], np.float32), "factor": np.array([[0.7, 0.0], [0.3, 0.5]], np.float32)}
STUDENT = {"mean": np.array([-0.4, 0.6], np.float32), "factor": np.array([[0.4, -0.3], [0.2, 0.9]], np.float32)}


def student_fn(params, z, labels):
    """``mean + factor z``; with labels the mean has a row for each class."""
    mean = params["mean"] if labels is None else params["mean"][labels]
    return mean + z @ params["factor"].T


def _inverse(matrix):
    """Of symmetric 2x2 matrices: a formula compiles faster than a solver."""
    a, b, e = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = a * e - b * b
    rows = jnp.stack([jnp.stack([e, -b], -1), jnp.stack([-b, a], -1)], -2)
    return rows / determinant[..., None, None], determinant


def _precision(params, sigma):
    covariance = params["factor"] @ params["factor"].T
    return _inverse(covariance + sigma[:, None, None] ** 2 * jnp.eye(DIM))


def log_density(params, x, sigma, labels=None):
    """log density of ``N(mean, factor factor^T + sigma^2)``, without the constant."""
    offset = x - (params["mean"] if labels is None else params["mean"][labels])
    precision, determinant = _precision(params, sigma)
    return -0.5 * jnp.einsum("bi,bij,bj->b", offset, precision, offset) - 0.5 * jnp.log(determinant)


def denoise_fn(params, x, sigma, labels):
    """``(E[x_0 | x], features)`` of the Gaussian; the features depend on the parameters, as a network's do."""
    offset = x - (params["mean"] if labels is None else params["mean"][labels])
    precision, _ = _precision(params, sigma)
    denoised = x - sigma[:, None] ** 2 * jnp.einsum("bij,bj->bi", precision, offset)
    return denoised, {"x": x, "denoised": denoised}


def linear_head_fn(params, features, sigma):
    """A logit that is linear in the input, plus one that reads the network's output."""
    return features["x"] @ params["x"] + features["denoised"] @ params["denoised"] / (1 + sigma)


def gaussian_head_fn(params, features, sigma):
    """log of the teacher's density over a Gaussian's with learned parameters: exact once these are the student's."""
    teacher = jax.tree.map(jnp.asarray, TEACHER)
    return log_density(teacher, features["x"], sigma) - log_density(params, features["x"], sigma)


HEAD = {"x": np.array([0.3, -0.2], np.float32), "denoised": np.array([0.1, 0.4], np.float32)}
NETWORKS = Networks(student_fn, denoise_fn, denoise_fn, linear_head_fn)


def teacher_samples(key, shape):
    return student_fn(jax.tree.map(jnp.asarray, TEACHER), jax.random.normal(key, (*shape, DIM)), None)


def jitted(config, networks=NETWORKS, **kwargs):
    """One compiled cycle."""
    return jax.jit(functools.partial(update, config=config, networks=networks, **kwargs))


def kl_of_gaussians(p, q):
    """KL(p || q) of ``N(mean, factor factor^T)``."""
    cp, cq = (np.asarray(g["factor"], float) @ np.asarray(g["factor"], float).T for g in (p, q))
    offset = np.asarray(p["mean"], float) - np.asarray(q["mean"], float)
    inverse = np.linalg.inv(cq)
    return 0.5 * (np.trace(inverse @ cp) - DIM + offset @ inverse @ offset - np.log(np.linalg.det(cp @ inverse)))
