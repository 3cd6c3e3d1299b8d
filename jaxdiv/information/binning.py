"""Mutual information of binned samples: a row's pattern of bins is one symbol."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_choice, check_integer, check_range, check_shape, fail, floating_array, number_array
from jaxdiv.information.arguments import check_rows, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array

CORRECTIONS = ("none", "miller_madow")


def binned_mutual_information(x: Any, y: Any, *, bins: Any, correction: str = "none") -> Estimate:
    r"""I(bin(X); bin(Y)) = H(bin(X)) + H(bin(Y)) - H(bin(X), bin(Y)) from the counts of patterns of bins.

    Each column is binned on its own and the whole row of bins is one symbol, so wide rows are soon all distinct: then
    the value is log N or the other side's entropy and says nothing but that. For a representation T that is a
    deterministic function of distinct inputs, I(bin(T); X) is H(bin(T)): pass integer y = arange(N), and read it as a
    measure of how T fills the bins. Plug-in entropies are too low by about (occupied symbols - 1) / (2 N), which
    "miller_madow" adds to each of the three.

    Values outside given edges fall into two more bins, below and above, and are counted: nothing wraps around and
    nothing is merged with the outermost bins. Not differentiable. O(d N log N).

    Args:
        x: [N, dx] or [N], N >= 2. Floating values are binned; integers are symbols as they are.
        y: [N, dy] or [N], the same.
        bins: an integer, the number of equal bins between each column's minimum and maximum; or edges [m], m >= 2,
            increasing (not checked in jax arrays), shared by all columns: bins [e_i, e_i+1), the last one closed.
        correction: "none" or "miller_madow".

    Returns:
        An `Estimate` of kind "plug-in", float32 (float64 where an input is), with a standard error from the terms
        log(N n_xy / (n_x n_y)) and a ceiling from N and the number of bins. `info`: `entropy_x`, `entropy_y`,
        `entropy_xy` with the correction; `symbols_x`, `symbols_y`, `symbols_xy`, the occupied ones; `outside_x`,
        `outside_y`, how many entries fell outside the edges. NaN in the data, and with an integer number of bins
        infinity too, gives NaN.

    Raises:
        ValueError: wrong shapes or dtypes, one row, bins or a correction that is none.

    Source: Paninski, "Estimation of entropy and mutual information" (2003), section 4; Shwartz-Ziv and Tishby,
    arXiv:1703.00810, for patterns of bins.

    >>> x = jnp.array([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.8, 0.2]])  # two patterns
    >>> round(float(binned_mutual_information(x, jnp.array([0, 0, 1, 1]), bins=jnp.array([0.0, 0.5, 1.0]))), 6)
    0.693147
    """
    function = "binned_mutual_information"
    check_choice(function, "correction", correction, CORRECTIONS)
    edges = None
    if isinstance(bins, int | np.integer) or np.ndim(bins) == 0:
        check_integer(function, "bins", bins, 1)
    else:
        edges = floating_array(function, "bins", bins)
        check_shape(function, "bins", edges, (None,))
        check_range(function, "the number of bins", edges.shape[0] - 1, 1)
        if not isinstance(bins, jax.Array) and np.any(np.diff(np.asarray(bins)) <= 0.0):
            raise fail(function, "bins", "has edges that do not increase", "increasing edges")
    sides = [_cells(function, name, value, bins, edges) for name, value in (("x", x), ("y", y))]
    count = sides[0].cells.shape[0]
    check_rows(function, "x", sides[0].cells, 2)
    if sides[1].cells.shape[0] != count:
        raise fail(function, "y", f"has {sides[1].cells.shape[0]} rows", f"the {count} rows of x")
    dtype = jnp.result_type(jnp.float32, *(side.dtype for side in sides))
    symbols = [_row_symbols(side.cells) for side in sides]
    symbols.append(_row_symbols(jnp.stack(symbols, axis=1)))
    counts = [jnp.zeros(count, dtype).at[s].add(1.0)[s] for s in symbols]
    occupied = [jnp.max(s) + 1 for s in symbols]
    logs = [jnp.log(c) for c in counts]
    size = jnp.log(jnp.asarray(count, dtype))
    invalid = sides[0].invalid | sides[1].invalid
    # Grouped so that a constant side gives exactly 0: its count is N and the joint count that of the other side.
    local = jnp.where(invalid, jnp.nan, (logs[2] - logs[1]) + (size - logs[0]))
    ceiling = min(np.log(count), *(side.log_cells for side in sides))
    extra = [jnp.zeros((), dtype)] * 3
    if correction == "miller_madow":
        extra = [(m - 1) / jnp.asarray(2.0 * count, dtype) for m in occupied]
        ceiling += (np.exp(ceiling) - 1.0) / (2.0 * count)
    entropies = [jnp.where(invalid, jnp.nan, size - jnp.mean(v)) + e for v, e in zip(logs, extra, strict=True)]
    info = {}
    for i, name in enumerate(("x", "y", "xy")):
        info |= {f"entropy_{name}": entropies[i], f"symbols_{name}": occupied[i]}
    for side, name in zip(sides, ("x", "y"), strict=True):
        info[f"outside_{name}"] = side.outside
    value = jnp.mean(local) + extra[0] + extra[1] - extra[2]
    return make_estimate(value, kind="plug-in", local=local, ceiling=ceiling, **info)


class _Side(NamedTuple):
    cells: Array
    """[N, d] int32."""
    outside: Array
    invalid: Array
    log_cells: float
    """Log of the number of possible symbols."""
    dtype: Any


def _cells(function: str, name: str, value: Any, bins: Any, edges: Array | None) -> _Side:
    none = jnp.zeros((), jnp.int32)
    array = number_array(function, name, value)
    if jnp.issubdtype(array.dtype, jnp.integer):
        if array.ndim not in (1, 2) or 0 in array.shape:
            raise fail(function, name, f"has shape {array.shape}", "shape [N, d] or [N] with entries")
        return _Side(array.reshape(array.shape[0], -1), none, jnp.bool_(False), np.inf, jnp.float32)
    (samples,) = paired_samples(function, **{name: value})
    width = samples.shape[1]
    if edges is None:
        low, high = jnp.min(samples, axis=0), jnp.max(samples, axis=0)
        share = (samples - low) / jnp.where(high == low, 1.0, high - low)
        cells = jnp.minimum(jnp.floor(share * bins), bins - 1)
        invalid = ~jnp.all(jnp.isfinite(samples))
        return _Side(cells.astype(jnp.int32), none, invalid, width * float(np.log(bins)), samples.dtype)
    edges = edges.astype(samples.dtype)
    cells = jnp.searchsorted(edges, samples, side="right").astype(jnp.int32)
    cells = jnp.where(samples == edges[-1], edges.size - 1, cells)
    outside = jnp.sum((samples < edges[0]) | (samples > edges[-1]), dtype=jnp.int32)
    return _Side(cells, outside, jnp.any(jnp.isnan(samples)), width * float(np.log(edges.size + 1)), samples.dtype)


def _row_symbols(cells: Array) -> Array:
    """Ranks 0, 1, ... [N] of the distinct rows: columns refine the ranks one after the other, so none can collide."""
    index = jnp.arange(cells.shape[0], dtype=jnp.int32)

    def refine(symbols, column):
        first, second, order = jax.lax.sort((symbols, column, index), num_keys=2)
        new = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        ranks = jnp.concatenate([index[:1], jnp.cumsum(new, dtype=jnp.int32)])
        return symbols.at[order].set(ranks), None

    return jax.lax.scan(refine, jnp.zeros_like(index), cells.T)[0]
