"""Matrices of known singular values, and what the textbook makes of them in float64."""

import numpy as np

SPECTRA = {
    "gauss": lambda n: None,
    "power": lambda n: 1.0 / np.arange(1, n + 1),
    "log_uniform": lambda n: np.geomspace(1.0, 1e-4, n),
}


def matrix(shape, spectrum="gauss", seed=0):
    """(x, polar factor): a Gaussian matrix, or its singular vectors with other singular values."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    sigma = SPECTRA[spectrum](min(shape))
    return (x if sigma is None else (u * sigma) @ vt), u @ vt


def iterate(x, schedule):
    """X <- a X + (b A + c A^2) X in float64, one matrix at a time, with the scaling of the schedule."""
    x = np.asarray(x, np.float64)
    if x.shape[0] > x.shape[1]:
        return iterate(x.T, schedule).T
    x = x / (schedule.safety * np.linalg.norm(x))
    if schedule.rescale == "aol":
        x = x / np.sqrt(np.abs(x @ x.T).sum(1))[:, None]
    for a, b, c in schedule.coefficients:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def sigma_range(y):
    """(first percentile, largest) of the singular values."""
    sigma = np.linalg.svd(np.asarray(y, np.float64), compute_uv=False)
    return np.percentile(sigma, 1), sigma.max()


def relative_error(y, exact):
    return np.linalg.norm(np.asarray(y, np.float64) - exact) / np.linalg.norm(exact)


def scalar_map(schedule, sigma):
    """What the steps make of singular values of the scaled input."""
    x = sigma / schedule.safety
    for a, b, c in schedule.coefficients:
        x = a * x + b * x**3 + c * x**5
    return x
