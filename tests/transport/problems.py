"""Random problems and a float64 solver in numpy that several files here compare with."""

import numpy as np


def clouds(n, m, d=2, *, seed=0, batch=(), dtype=np.float32):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(*batch, n, d)), 0.5 + 1.3 * rng.normal(size=(*batch, m, d))
    return x.astype(dtype), y.astype(dtype)


def weights(n, *, seed=0, batch=(), dtype=np.float32):
    return np.log(np.random.default_rng(seed).dirichlet(2.0 * np.ones(n), size=batch)).astype(dtype)


def squares(x, y):
    """Squared distances by differences, in float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)


def differences(fn, x, step=1e-5):
    """Central differences of a scalar function in every entry of x."""
    x = np.asarray(x, np.float64)
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        slopes[index] = (float(fn(x + change)) - float(fn(x - change))) / (2 * step)
    return slopes
