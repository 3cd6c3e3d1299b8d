"""Choices on validation rows, and what follows from them for the test: the best beta, accuracy at a compression."""

import numpy as np


def compression_ratio(information: np.ndarray) -> np.ndarray:
    """R = 1 - I / I(beta = 0) by seed, from ``[betas, seeds]`` whose first row has beta 0.

    0 without compression, 1 where nothing of x is left; below 0 where a beta kept more than none did.

    >>> compression_ratio(np.array([[4.0], [1.0]])).tolist()
    [[0.0], [0.75]]
    """
    return 1.0 - information / information[:1]


def best_beta(validation_rmse: np.ndarray) -> np.ndarray:
    """The number of the beta with the least error, for each seed, from ``[betas, seeds]``.

    >>> best_beta(np.array([[2.0, 1.0], [1.0, 3.0]])).tolist()
    [1, 0]
    """
    return np.argmin(validation_rmse, axis=0)


def at_compression(ratio: np.ndarray, values: np.ndarray, target: float) -> float:
    """A value between two betas whose validation ratios enclose the target, on the straight line between them.

    Args:
        ratio: ``[betas]``, r on validation rows: it alone says which betas and at what weights.
        values: ``[betas]``, of test rows.
        target: the compression asked for.

    Returns:
        NaN where no beta compresses so much (or so little).

    >>> at_compression(np.array([0.0, 0.4, 0.8]), np.array([1.0, 2.0, 6.0]), 0.5)
    3.0
    """
    if not ratio.min() <= target <= ratio.max():
        return float("nan")
    order = np.argsort(ratio, kind="stable")
    above = int(np.searchsorted(ratio[order], target))
    if above == 0:
        return float(values[order[0]])
    low, high = order[above - 1], order[above]
    weight = (target - ratio[low]) / (ratio[high] - ratio[low])
    return round(float((1.0 - weight) * values[low] + weight * values[high]), 12)


def equal_compression(ratios: np.ndarray, values: np.ndarray, targets: tuple[float, ...]) -> np.ndarray:
    """`at_compression` for every target and seed: ``[targets, seeds]`` from ``[betas, seeds]``."""
    seeds = range(ratios.shape[1])
    return np.array([[at_compression(ratios[:, s], values[:, s], target) for s in seeds] for target in targets])
