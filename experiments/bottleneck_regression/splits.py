"""Training, validation and test rows by seed, imputed and standardised by the training rows alone."""

from typing import NamedTuple

import numpy as np

from experiments.bottleneck_regression.data import Table
from jaxdiv.checks import fail

FRACTIONS = (0.64, 0.16)
"""Of training and validation; the test set is the rest."""
LEAST_ROWS = 50


class Part(NamedTuple):
    """Rows in standard units, float32; stacked splits have a leading axis of seeds."""

    x: np.ndarray
    y: np.ndarray


class Split(NamedTuple):
    """One split, or several stacked along a leading axis."""

    train: Part
    validation: Part
    test: Part
    scale: np.ndarray
    """Standard deviation of the training targets: an error in standard units times this is one in the target's."""


def make_split(table: Table, *, seed: int, max_rows: int | None = None) -> Split:
    """64, 16 and 20 percent of the rows in an order that the seed gives.

    Blanks become the training median of their column. Columns and target are shifted and scaled to mean 0 and standard
    deviation 1 over the training rows; a column that is constant there is only shifted.

    Args:
        table: the set.
        seed: of the order.
        max_rows: use only the first of the rows in that order.

    >>> table = Table(np.arange(100.0)[:, None], np.arange(100.0), ("a",))
    >>> split = make_split(table, seed=0)
    >>> split.train.x.shape, split.validation.y.shape, split.test.y.shape
    ((64, 1), (16,), (20,))
    """
    order = np.random.default_rng(seed).permutation(len(table.y))[:max_rows]
    if len(order) < LEAST_ROWS:
        raise fail("make_split", "table", f"gives {len(order)} rows", f"at least {LEAST_ROWS}")
    first = round(FRACTIONS[0] * len(order))
    second = first + round(FRACTIONS[1] * len(order))
    train, *others = (order[:first], order[first:second], order[second:])

    known = table.x[train]
    if empty := [name for name, blank in zip(table.columns, np.isnan(known).all(axis=0), strict=True) if blank]:
        raise fail("make_split", "table", f"has only blanks among training rows in {empty[0]!r}", "numbers")
    median = np.nanmedian(known, axis=0)
    known = np.where(np.isnan(known), median, known)
    center, width = known.mean(axis=0), known.std(axis=0)
    width = np.where(width > 0, width, 1.0)
    shift, scale = table.y[train].mean(), table.y[train].std()
    if scale == 0:
        raise fail("make_split", "table", "has one target on all training rows", "targets that vary")

    def part(rows):
        x = np.where(np.isnan(table.x[rows]), median, table.x[rows])
        return Part(np.float32((x - center) / width), np.float32((table.y[rows] - shift) / scale))

    return Split(part(train), *(part(rows) for rows in others), scale=np.float64(scale))


def stack_splits(table: Table, *, seeds: range, max_rows: int | None = None) -> Split:
    """`make_split` for every seed; each array gains a leading axis."""
    splits = [make_split(table, seed=seed, max_rows=max_rows) for seed in seeds]

    def parts(name):
        return Part(*(np.stack(arrays) for arrays in zip(*(getattr(split, name) for split in splits), strict=True)))

    return Split(parts("train"), parts("validation"), parts("test"), np.stack([split.scale for split in splits]))
