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


def frontier(ratio: np.ndarray, error: np.ndarray) -> list[int]:
    """Numbers of the betas that no other beats in both: in the order of r, errors rise with it.

    >>> frontier(np.array([0.0, 0.8, 0.4, 0.9]), np.array([1.0, 9.0, 3.0, 5.0]))
    [0, 2, 3]
    """
    kept: list[int] = []
    for number in np.argsort(ratio, kind="stable")[::-1]:
        if not kept or error[number] < error[kept[-1]]:
            kept.append(int(number))
    return kept[::-1]


def at_compression(ratio: np.ndarray, error: np.ndarray, values: np.ndarray, target: float) -> float:
    """A value at compression r, on the straight lines between the betas of the frontier.

    A beta that ruined a network is not on the frontier where another compresses more and errs less. Where even the
    frontier's first beta compresses more than is asked for, its value stands.

    Args:
        ratio: ``[betas]``, r on validation rows.
        error: ``[betas]``, RMSE on validation rows. These two alone say which betas count, and with what weights.
        values: ``[betas]``, of test rows.
        target: the compression asked for.

    Returns:
        NaN where no beta compresses so much.

    >>> at_compression(np.array([0.0, 0.4, 0.8]), np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 7.0]), 0.5)
    4.0
    """
    if not np.isfinite(ratio).all():
        return float("nan")
    kept = frontier(ratio, error)
    if target > ratio[kept[-1]]:
        return float("nan")
    return round(float(np.interp(target, ratio[kept], values[kept])), 9)


def equal_compression(
    ratios: np.ndarray, errors: np.ndarray, values: np.ndarray, targets: tuple[float, ...]
) -> np.ndarray:
    """`at_compression` for every target and seed: ``[targets, seeds]`` from three ``[betas, seeds]``."""
    seeds = range(ratios.shape[1])
    return np.array([[at_compression(ratios[:, s], errors[:, s], values[:, s], r) for s in seeds] for r in targets])
