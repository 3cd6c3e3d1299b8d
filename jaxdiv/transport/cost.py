"""Ground costs between points, as a matrix or as a record that makes its blocks when they are needed."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, fail, floating_array, register_checked
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike

CostFn = Callable[[Array, Array], Array]
"""``(x [..., n, d], y [..., m, d]) -> [..., n, m]``: row i, column j depends on x_i and y_j."""


def points(function: str, **clouds: ArrayLike) -> list[Array]:
    """The clouds as float32 or float64 arrays ``[..., points, d]`` of one dtype, batch shape and dimension."""
    arrays = [promote(floating_array(function, name, cloud)) for name, cloud in clouds.items()]
    first = list(clouds)[0]
    for name, array in zip(clouds, arrays, strict=True):
        if array.ndim < 2 or 0 in array.shape:
            raise fail(function, name, f"has shape {array.shape}", "shape (..., points, dimensions), no size 0")
        if array.shape[:-2] != arrays[0].shape[:-2] or array.shape[-1] != arrays[0].shape[-1]:
            expected = f"batch axes and dimension of {first}, which has shape {arrays[0].shape}"
            raise fail(function, name, f"has shape {array.shape}", expected)
    dtype = jnp.result_type(*arrays)
    return [array.astype(dtype) for array in arrays]


def _not_below_zero(cost: Array) -> Array:
    """Rounding below zero removed; the derivative stays that of the formula, which a clip would halve or drop."""
    return cost + jax.lax.stop_gradient(jnp.maximum(cost, 0.0) - cost)


def magnitude(x: Array) -> Array:
    """|x| with derivative 0 at 0, where jax takes 1: equal points must not push each other."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def sqeuclidean(x: ArrayLike, y: ArrayLike) -> Array:
    r"""Squared Euclidean distances ``|x_i - y_j|^2`` (not halved), as one matrix product.

    The points are centred on the mean of y first, which costs no derivative and keeps the digits that a common offset
    would take. What is left is an absolute error of about 1e-7 (float32) times the squared diameter.

    Args:
        x: ``[..., n, d]``, floating.
        y: ``[..., m, d]``, same batch axes and d.

    Returns:
        ``[..., n, m]``, at least 0, float32 (float64 if an input is).

    Raises:
        ValueError: wrong dtype, rank, mismatched batch axes or dimension, an empty axis.

    >>> sqeuclidean([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]]).tolist()
    [[25.0, 1.0]]
    """
    x, y = points("sqeuclidean", x=x, y=y)
    center = jax.lax.stop_gradient(jnp.mean(y, axis=-2, keepdims=True))
    x, y = x - center, y - center
    products = jnp.matmul(x, jnp.swapaxes(y, -1, -2), precision="highest")
    squares = jnp.sum(x * x, axis=-1)[..., :, None] + jnp.sum(y * y, axis=-1)[..., None, :]
    return _not_below_zero(squares - 2.0 * products)


def l1(x: ArrayLike, y: ArrayLike) -> Array:
    r"""Distances ``sum_k |x_ik - y_jk|``; the derivative where coordinates are equal is 0.

    Args:
        x: ``[..., n, d]``, floating.
        y: ``[..., m, d]``, same batch axes and d.

    Returns:
        ``[..., n, m]``, at least 0, float32 (float64 if an input is).

    Raises:
        ValueError: wrong dtype, rank, mismatched batch axes or dimension, an empty axis.

    >>> l1([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]]).tolist()
    [[7.0, 1.0]]
    """
    x, y = points("l1", x=x, y=y)
    return jnp.sum(magnitude(x[..., :, None, :] - y[..., None, :, :]), axis=-1)


def cosine(x: ArrayLike, y: ArrayLike) -> Array:
    r"""Cosine distances ``1 - <x_i, y_j> / (|x_i| |y_j|)``; a zero vector is at distance 1 from all, derivative 0.

    Args:
        x: ``[..., n, d]``, floating.
        y: ``[..., m, d]``, same batch axes and d.

    Returns:
        ``[..., n, m]`` in [0, 2] to rounding, float32 (float64 if an input is).

    Raises:
        ValueError: wrong dtype, rank, mismatched batch axes or dimension, an empty axis.

    >>> cosine([[2.0, 0.0]], [[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]).tolist()
    [[0.0, 1.0, 2.0]]
    """

    def unit(v: Array) -> Array:
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True))
        v = v / jnp.where(largest > 0, largest, 1.0)  # its square neither overflows nor vanishes
        square = jnp.sum(v * v, axis=-1, keepdims=True)
        return jnp.where(square == 0, 0.0, v * jax.lax.rsqrt(jnp.where(square == 0, 1.0, square)))

    x, y = points("cosine", x=x, y=y)
    return _not_below_zero(1.0 - jnp.matmul(unit(x), jnp.swapaxes(unit(y), -1, -2), precision="highest"))


@register_checked(["x", "y"])
@dataclasses.dataclass(frozen=True)
class PointCost:
    """A cost matrix that is never stored: the points and the function that makes its blocks. `point_cost` makes it.

    Attributes:
        x: points of the rows ``[..., n, d]``.
        y: points of the columns ``[..., m, d]``.
        cost_fn: cost between points; static, so two equal records share a compilation.
        chunk_size: rows (or columns) of a block; static.
    """

    x: Array
    y: Array
    cost_fn: CostFn
    chunk_size: int

    def __post_init__(self) -> None:
        """Refuses points that do not fit and a size of blocks below 1."""
        points("PointCost", x=self.x, y=self.y)
        if not callable(self.cost_fn):
            raise fail("PointCost", "cost_fn", f"is {self.cost_fn!r}", "a function of two point clouds")
        check_integer("PointCost", "chunk_size", self.chunk_size, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``[..., n, m]`` of the matrix that it stands for."""
        return (*self.x.shape[:-1], self.y.shape[-2])

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the points."""
        return self.x.dtype

    @property
    def transposed(self) -> "PointCost":
        """The record whose rows are this one's columns."""
        return PointCost(self.y, self.x, _Swapped(self.cost_fn), self.chunk_size)


@dataclasses.dataclass(frozen=True)
class _Swapped:
    cost_fn: CostFn

    def __call__(self, x: Array, y: Array) -> Array:
        return jnp.swapaxes(self.cost_fn(y, x), -1, -2)


def point_cost(
    x: ArrayLike, y: ArrayLike, *, cost_fn: CostFn = sqeuclidean, chunk_size: int = 1024
) -> PointCost:  # fmt: skip
    """The cost between two point clouds, to be computed block by block wherever a cost matrix is taken.

    The memory of `sinkhorn`, of its values and of their gradients is then that of one block, ``chunk_size * max(n, m)``
    numbers per problem, in reverse mode too; each block is computed anew in every half-iteration and in the backward
    pass.

    Args:
        x: ``[..., n, d]``, floating.
        y: ``[..., m, d]``, same batch axes and d.
        cost_fn: cost between points, such as `sqeuclidean`, `l1`, `cosine`.
        chunk_size: rows of a block, at least 1.

    Returns:
        The record, points in float32 (float64 if an input is).

    Raises:
        ValueError: bad points, a ``cost_fn`` that cannot be called or returns another shape, ``chunk_size`` below 1.

    >>> point_cost(jnp.zeros((5, 2)), jnp.ones((7, 2)), chunk_size=2).shape
    (5, 7)
    """
    check_integer("point_cost", "chunk_size", chunk_size, 1)
    x, y = points("point_cost", x=x, y=y)
    check_cost_fn("point_cost", cost_fn, x, y)
    return PointCost(x, y, cost_fn, int(chunk_size))


def check_cost_fn(function: str, cost_fn: CostFn, x: Array, y: Array) -> None:
    """The function makes of these points a matrix of the right shape."""
    if not callable(cost_fn):
        raise fail(function, "cost_fn", f"is {cost_fn!r}", "a function of two point clouds")
    try:
        shape = getattr(jax.eval_shape(cost_fn, x, y), "shape", None)
    except TypeError as error:
        raise fail(
            function, "cost_fn", f"raises {error}", "a function of two point clouds that returns an array"
        ) from error
    expected = (*x.shape[:-1], y.shape[-2])
    if shape != expected:
        raise fail(function, "cost_fn", f"returns shape {shape}", f"shape {expected}")


def cost_between(function: str, x: Array, y: Array, cost_fn: CostFn, chunk_size: int | None) -> Array | PointCost:
    """The matrix, or the record where ``chunk_size`` is given; the arguments' checks name ``function``."""
    check_cost_fn(function, cost_fn, x, y)
    if chunk_size is None:
        return cost_fn(x, y)
    check_integer(function, "chunk_size", chunk_size, 1)
    return PointCost(x, y, cost_fn, int(chunk_size))


def as_cost(function: str, cost: ArrayLike | PointCost) -> Array | PointCost:
    """The argument ``cost`` of a public function, checked: a float32 or float64 matrix per problem, or the record."""
    if isinstance(cost, PointCost):
        return cost
    cost = promote(floating_array(function, "cost", cost))
    if cost.ndim < 2 or 0 in cost.shape:
        raise fail(function, "cost", f"has shape {cost.shape}", "shape (..., n, m), no size 0")
    return cost
