"""Rank correlations of measures with the gap: overall with bootstrap intervals, and one knob at a time."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdiv.checks import check_integer, fail


def _signs(values: np.ndarray) -> np.ndarray:
    """Of all differences, where infinite values are ties: an upper bound is infinite if a class has one image."""
    if np.isnan(values).any():
        raise fail("rank_correlations", "x or y", "has NaN", "numbers, which may be infinite")
    return (values[:, None] > values[None, :]).astype(np.float64) - (values[:, None] < values[None, :])


def rank_correlations(x: Any, y: Any, weights: Any = None) -> dict[str, np.ndarray]:
    """Spearman's rho and Kendall's tau-b of samples that count as often as the weights say, ties as midranks.

    With S_x the signs of all differences, tau = w S_x S_y w / sqrt(w S_x^2 w  w S_y^2 w), elementwise products in the
    middle; and S_x w is the centred rank. So a bootstrap is a product of matrices.

    Args:
        x: ``[n]``.
        y: ``[n]``.
        weights: ``[..., n]`` of at least 0; None is one each.

    Returns:
        "spearman" and "kendall", ``[...]``; NaN where x or y is constant.

    >>> found = rank_correlations([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0])
    >>> round(float(found["spearman"]), 6), round(float(found["kendall"]), 6)
    (0.8, 0.666667)
    """
    x, y = (np.asarray(values, np.float64) for values in (x, y))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise fail("rank_correlations", "y", f"has shape {y.shape} beside x {x.shape}", "two equal shapes [n], n >= 2")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if w.shape[-1:] != x.shape:
        raise fail("rank_correlations", "weights", f"has shape {w.shape}", f"shape [..., {len(x)}]")
    signs_x, signs_y = _signs(x), _signs(y)
    ranks_x, ranks_y = w @ signs_x.T, w @ signs_y.T

    def ratio(both, only_x, only_y):
        scale = np.sqrt(only_x * only_y)
        return np.divide(both, scale, out=np.full_like(both, np.nan), where=scale > 0)

    def pairs(table):
        return np.asarray(np.sum(w @ table * w, axis=-1))

    def moment(a, b):
        return np.asarray(np.sum(w * a * b, axis=-1))

    return {
        "spearman": ratio(moment(ranks_x, ranks_y), moment(ranks_x, ranks_x), moment(ranks_y, ranks_y)),
        "kendall": ratio(pairs(signs_x * signs_y), pairs(signs_x * signs_x), pairs(signs_y * signs_y)),
    }


def bootstrap_weights(clusters: Sequence[Any], *, resamples: int, seed: int) -> np.ndarray:
    """``[resamples, n]``: how often each sample is in a resample that draws whole clusters with replacement.

    Args:
        clusters: n hashable names; different ones for a bootstrap of samples.
        resamples: how many.
        seed: of the draws.
    """
    check_integer("bootstrap_weights", "resamples", resamples, 1)
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([names[name] for name in clusters])
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1.0 / len(names)), resamples)
    return counts[:, member].astype(np.float64)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the resamples in which the correlation exists; NaN if there is none."""
    values = values[np.isfinite(values)]
    return tuple(float(v) for v in np.quantile(values, [0.025, 0.975])) if len(values) else (np.nan, np.nan)


def granulated_kendall(x: Any, y: Any, knobs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Kendall's coefficient over samples that differ in one knob only, averaged over the settings of the others.

    A pair with equal x (or y) counts as 0, as a measure that a knob does not move says nothing of it: tau-a, not tau-b.

    Args:
        x: ``[n]``, a measure.
        y: ``[n]``, the gap.
        knobs: for every sample its knobs, the same names in each.

    Returns:
        By knob, NaN for one that takes a single value; and "mean", over the other knobs.

    Source: Jiang et al., "Fantastic generalization measures and where to find them" (arXiv:1912.02178), section 2.2.2.

    >>> grid = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    >>> granulated_kendall([0.0, 1.0, 2.0, 3.0], [0.0, 2.0, -1.0, 1.0], grid)  # follows b, is against a
    {'a': -1.0, 'b': 1.0, 'mean': 0.0}
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not len(x) == len(y) == len(knobs) or len(x) == 0:
        raise fail("granulated_kendall", "knobs", f"has {len(knobs)} entries", f"{len(x)} as x, and {len(y)} as y")
    found = {}
    for knob in knobs[0]:
        groups = defaultdict(list)
        for number, setting in enumerate(knobs):
            groups[tuple(value for name, value in setting.items() if name != knob)].append(number)
        taus = []
        for rows in groups.values():
            n = len(rows)
            if n > 1:
                taus.append(np.sum(_signs(x[rows]) * _signs(y[rows])) / (n * (n - 1)))
        found[knob] = float(np.mean(taus)) if taus else float("nan")
    moved = [value for value in found.values() if np.isfinite(value)]
    return found | {"mean": float(np.mean(moved)) if moved else float("nan")}


def granulated_deviation(knobs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Standard deviation of `granulated_kendall` by knob, had the measure nothing to do with the gap, and no ties.

    Of n samples in random order Kendall's coefficient has variance 2 (2 n + 5) / (9 n (n - 1)); the groups' average
    divides it by their number, as if they were independent. They are not where all share the same few training sets or
    seeds: the coefficient of such a knob may then move as far as that of a single group. NaN for a knob of one value.

    >>> found = granulated_deviation([{"a": a, "b": b} for a in (0, 1) for b in (0, 1)])
    >>> round(found["a"] ** 2, 6)  # two pairs, each +-1
    0.5
    """
    found = {}
    for knob in knobs[0]:
        count = len({setting[knob] for setting in knobs})
        variance = 2.0 * (2.0 * count + 5.0) / (9.0 * count * (count - 1.0)) if count > 1 else np.nan
        found[knob] = float(np.sqrt(variance * count / len(knobs)))
    return found


def partial_spearman(x: Any, y: Any, given: Any) -> float:
    """Spearman's coefficient of x and y with the ranks of a third quantity taken out of both, linearly.

    Args:
        x: ``[n]``.
        y: ``[n]``.
        given: ``[n]``.

    Returns:
        NaN where it determines x or y, or one of the three is constant.

    >>> round(partial_spearman([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], [1.0, 2.0, 4.0, 3.0]), 6)
    -0.111111
    """
    xy, xz, yz = (float(rank_correlations(*pair)["spearman"]) for pair in ((x, y), (x, given), (y, given)))
    rest = (1.0 - xz**2) * (1.0 - yz**2)
    return (xy - xz * yz) / float(np.sqrt(rest)) if rest > 1e-12 else float("nan")
