"""Brute force in float64 numpy for the two-sample statistics, and the kernels both sides are made of."""

import numpy as np

from jaxdiv.divergences import two_sample as ts


def distances(x, y):
    return np.sqrt(np.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1))


# Name -> (the record, its value from float64 arrays of rows).
KERNELS = {
    "gaussian": (ts.gaussian_kernel(1.3), lambda x, y: np.exp(-(distances(x, y) ** 2) / (2 * 1.3**2))),
    "gaussians": (
        ts.gaussian_kernel(np.array([0.5, 1.0, 4.0])),
        lambda x, y: np.mean([np.exp(-(distances(x, y) ** 2) / (2 * h * h)) for h in (0.5, 1.0, 4.0)], axis=0),
    ),
    "laplace": (ts.laplace_kernel(0.8), lambda x, y: np.exp(-distances(x, y) / 0.8)),
    "rational_quadratic": (
        ts.rational_quadratic_kernel(1.1, exponent=0.7),
        lambda x, y: (1 + distances(x, y) ** 2 / (2 * 0.7 * 1.1**2)) ** -0.7,
    ),
    "inverse_multiquadric": (
        ts.inverse_multiquadric_kernel(0.9),
        lambda x, y: 1 / np.sqrt(1 + distances(x, y) ** 2 / 0.81),
    ),
    "distance": (ts.distance_kernel(), lambda x, y: -distances(x, y)),
    "distance_1.5": (ts.distance_kernel(1.5), lambda x, y: -(distances(x, y) ** 1.5)),
    "polynomial": (ts.polynomial_kernel(3, scale=0.5), lambda x, y: (0.5 * x @ y.T + 1) ** 3),
    "linear": (ts.linear_kernel(), lambda x, y: x @ y.T),
}
POSITIVE = ("gaussian", "gaussians", "laplace", "rational_quadratic", "inverse_multiquadric")
SMOOTH = ("gaussian", "gaussians", "rational_quadratic", "inverse_multiquadric")


def means(k, p, q, unbiased):
    """E k(x, x'), E k(y, y'), E k(x, y) of a kernel function."""

    def within(x):
        gram = k(x, x)
        if not unbiased:
            return gram.mean()
        return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))

    return within(p), within(q), k(p, q).mean()


def mmd(k, p, q, unbiased):
    a, b, c = means(k, p, q, unbiased)
    return a + b - 2 * c


def cauchy_schwarz(k, p, q, unbiased):
    a, b, c = means(k, p, q, unbiased)
    return np.log(a) + np.log(b) - 2 * np.log(c)


def samples(seed, n, m, d, shift=0.4, scale=1.2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + scale * rng.normal(size=(m, d))


def central_differences(fn, x, step=1e-6):
    """The gradient of a scalar function of one float64 array."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (float(fn(up)) - float(fn(down))) / (2 * step)
    return gradient
