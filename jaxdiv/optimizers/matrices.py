"""Which axes of a parameter form matrices: a leaf becomes arrays of matrices ``[count, in, out]``, and back.

A leaf holds one array of matrices, or one per split where the splits differ in size. Both directions are transpositions
and reshapes, which XLA folds into the loops around them.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from jaxdiv.checks import fail
from jaxdiv.typing import Array


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """The axes of a parameter along which a matrix takes its input and gives its output, and those that count matrices.

    Axes are numbers or tuples of them, negative ones from the end; several input axes are flattened into one, such as
    ``(0, 1, 2)`` of a convolution kernel ``[h, w, in, out]``. Frozen and hashable, so that it can stand in a rule.

    Attributes:
        inputs: what the matrix sums over. The default is the first of a plain ``[in, out]`` kernel.
        outputs: one entry per output.
        batch: axes whose entries are different matrices: layers, experts, heads. ``None``: all that are neither.
        splits: sizes along the flattened outputs that are matrices of their own, such as query, key and value of a
            fused kernel, or its heads: ``splits=(64,) * 12``.

    >>> matrix_shapes((12, 64, 192), MatrixAxes(inputs=1, outputs=2, batch=0, splits=(64, 64, 64)))
    [MatrixShape(count=36, inputs=64, outputs=64)]
    """

    inputs: int | tuple[int, ...] = 0
    outputs: int | tuple[int, ...] = 1
    batch: int | tuple[int, ...] | None = ()
    splits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "batch"):
            value = getattr(self, name)
            if value is not None or name != "batch":
                object.__setattr__(self, name, _axis_tuple(name, value))
        if not self.inputs or not self.outputs:
            raise fail("MatrixAxes", "inputs or outputs", "is empty", "at least one axis each")
        if self.splits is not None:
            sizes = _integers("splits", self.splits)
            if not sizes or min(sizes) < 1:
                raise fail("MatrixAxes", "splits", f"is {self.splits!r}", "a non-empty tuple of positive sizes")
            object.__setattr__(self, "splits", sizes)


class MatrixShape(NamedTuple):
    """So many matrices of one shape."""

    count: int
    inputs: int
    outputs: int


class LeafAxes(NamedTuple):
    """`MatrixAxes` counted from the front of a leaf whose shape they fit."""

    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def as_matrix_axes(route: MatrixAxes | MuonDimensionNumbers) -> MatrixAxes:
    """`MatrixAxes` as they are, and optax's numbers with all other axes as batch axes."""
    if isinstance(route, MatrixAxes):
        return route
    return MatrixAxes(inputs=route.reduction_axis, outputs=route.output_axis, batch=None)


def fit_axes(shape: Sequence[int], axes: MatrixAxes) -> LeafAxes | str:
    """The axes counted from the front, or what keeps them from fitting the shape, in words."""
    rank = len(shape)
    named = {name: getattr(axes, name) or () for name in ("batch", "inputs", "outputs")}
    if any(not -rank <= axis < rank for group in named.values() for axis in group):
        return f"has {rank} axes, and {axes} names others"
    batch, inputs, outputs = (tuple(axis % rank for axis in group) for group in named.values())
    used = batch + inputs + outputs
    if len(set(used)) < len(used):
        return f"has {rank} axes, of which {axes} names one twice"
    if axes.batch is None:
        batch = tuple(axis for axis in range(rank) if axis not in used)
    elif len(used) < rank:
        return f"has {rank} axes, of which {axes} names {len(used)}"
    if 0 in shape:
        return "is empty"
    width = math.prod(shape[axis] for axis in outputs)
    if axes.splits is not None and sum(axes.splits) != width:
        return f"has {width} outputs, and the splits of {axes} add up to {sum(axes.splits)}"
    return LeafAxes(batch, inputs, outputs)


def resolve_axes(shape: Sequence[int], axes: MatrixAxes) -> LeafAxes:
    """The axes counted from the front; a ValueError where they do not fit the shape."""
    found = fit_axes(shape, axes)
    if isinstance(found, str):
        raise fail("MatrixAxes", f"of a leaf of shape {tuple(shape)}", found, "every axis named exactly once")
    return found


def matrix_shapes(shape: Sequence[int], axes: MatrixAxes) -> list[MatrixShape]:
    """The shapes of what `to_matrices` makes of a leaf of this shape: one entry, or one per split of unequal sizes.

    >>> matrix_shapes((3, 3, 16, 32), MatrixAxes(inputs=(0, 1, 2), outputs=3))
    [MatrixShape(count=1, inputs=144, outputs=32)]
    """
    found = resolve_axes(shape, axes)
    count, inputs, outputs = (math.prod(shape[axis] for axis in group) for group in found)
    sizes = axes.splits or (outputs,)
    if len(set(sizes)) == 1:
        return [MatrixShape(count * len(sizes), inputs, sizes[0])]
    return [MatrixShape(count, inputs, size) for size in sizes]


def to_matrices(x: Array, axes: MatrixAxes) -> list[Array]:
    """The matrices of a leaf, as ``matrix_shapes`` says: ``[count, in, out]``, of x's dtype.

    Equal splits lie beside each other in one array, the batch axes before them.

    Raises:
        ValueError: the axes or splits do not fit the shape.

    >>> [m.shape for m in to_matrices(jnp.zeros((8, 20)), MatrixAxes(0, 1, splits=(12, 4, 4)))]
    [(1, 8, 12), (1, 8, 4), (1, 8, 4)]
    """
    found = resolve_axes(x.shape, axes)
    count, inputs, outputs = (math.prod(x.shape[axis] for axis in group) for group in found)
    x = x.transpose(found.batch + found.inputs + found.outputs).reshape(count, inputs, outputs)
    sizes = axes.splits or (outputs,)
    if len(sizes) == 1:
        return [x]
    if len(set(sizes)) > 1:
        return jnp.split(x, np.cumsum(sizes[:-1]), axis=2)
    x = x.reshape(count, inputs, len(sizes), sizes[0])
    return [x.swapaxes(1, 2).reshape(count * len(sizes), inputs, sizes[0])]


def from_matrices(matrices: Sequence[Array], axes: MatrixAxes, shape: Sequence[int]) -> Array:
    """The leaf of this shape whose matrices these are: the inverse of `to_matrices`.

    >>> x, axes = jnp.arange(24.0).reshape(2, 3, 4), MatrixAxes(inputs=2, outputs=1, batch=0)
    >>> bool(jnp.all(from_matrices(to_matrices(x, axes), axes, x.shape) == x))
    True
    """
    found = resolve_axes(shape, axes)
    count, inputs, outputs = (math.prod(shape[axis] for axis in group) for group in found)
    num_splits = len(axes.splits or (0,))
    if num_splits == 1:
        x = matrices[0]
    elif len(matrices) == 1:
        x = matrices[0].reshape(count, num_splits, inputs, outputs // num_splits).swapaxes(1, 2)
    else:
        x = jnp.concatenate(matrices, axis=2)
    order = found.batch + found.inputs + found.outputs
    return x.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def column_shape(shape: Sequence[int], axes: MatrixAxes) -> tuple[int, ...]:
    """A leaf's shape with input axes of size 1: what is left of it when its matrices are summed over their inputs.

    >>> column_shape((8, 24, 48), MatrixAxes(1, 2, batch=0))
    (8, 1, 48)
    """
    inputs = resolve_axes(shape, axes).inputs
    return tuple(1 if axis in inputs else size for axis, size in enumerate(shape))


def _axis_tuple(name: str, value: Any) -> tuple[int, ...]:
    return _integers(name, (value,) if isinstance(value, numbers.Integral) else value)


def _integers(name: str, values: Any) -> tuple[int, ...]:
    whole = isinstance(values, Sequence) and not isinstance(values, str | bytes)
    if not whole or any(not isinstance(v, numbers.Integral) or isinstance(v, bool) for v in values):
        raise fail("MatrixAxes", name, f"is {values!r}", "an integer or a tuple of integers")
    return tuple(int(v) for v in values)
