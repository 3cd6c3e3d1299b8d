"""Matrices of a whole parameter tree, batched: all that have the same two sides are one stack ``[N, short, long]``.

A step of Muon is some fifteen dependent products for each matrix, and a product of small matrices takes a device less
time than its launch. So a stack is formed across the tree: each matrix is laid with its shorter side first, cast to
the iteration's dtype and written once into the stack; one batched call treats them all; slices lead back. The casts,
transpositions and slices are left to XLA, which fuses them with the momentum before and the update after.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.optimizers.matrices import MatrixAxes, from_matrices, to_matrices
from jaxdiv.typing import Array


class Block(NamedTuple):
    """Matrices ``[count, in, out]`` of one leaf."""

    matrices: Array
    tall: bool
    """Whether the (whole) matrices have more inputs than outputs, and are transposed in the stack."""
    key: Hashable = None
    """Only blocks of one key share a stack."""


class Piece(NamedTuple):
    """The matrices ``start:stop`` of a block."""

    block: int
    start: int
    stop: int


def plan_stacks(
    shapes: Sequence[tuple[int, int, int]], keys: Sequence[Hashable], *, limit: int | None = None, multiple: int = 1
) -> list[list[Piece]]:
    """Which matrices of which blocks make up each stack, in the blocks' order.

    Args:
        shapes: (count, short, long) of each block.
        keys: blocks share a stack where keys and sides are equal.
        limit: on the number of entries of a stack; one matrix is the least that a stack holds.
        multiple: of as many matrices as this, where the limit leaves room for them.

    >>> [[tuple(p) for p in stack] for stack in plan_stacks([(3, 2, 4), (2, 4, 4), (2, 2, 4)], [0] * 3, limit=32)]
    [[(0, 0, 3), (2, 0, 1)], [(2, 1, 2)], [(1, 0, 2)]]
    """
    groups: dict[Hashable, list[int]] = {}
    for index, ((_, short, long), key) in enumerate(zip(shapes, keys, strict=True)):
        groups.setdefault((short, long, key), []).append(index)
    stacks = []
    for (short, long, _), members in groups.items():
        room = sum(shapes[index][0] for index in members)
        if limit is not None:
            most = max(1, limit // (short * long))
            room = min(room, most // multiple * multiple or most)
        stack, free = [], room
        for index in members:
            start, count = 0, shapes[index][0]
            while start < count:
                taken = min(free, count - start)
                stack.append(Piece(index, start, start + taken))
                start, free = start + taken, free - taken
                if not free:
                    stacks.append(stack)
                    stack, free = [], room
        if stack:
            stacks.append(stack)
    return stacks


def map_stacks(
    stack_fn: Callable[[Array, Any], Array],
    blocks: Sequence[Block],
    *,
    max_stack_bytes: int | None = None,
    multiple: int = 1,
) -> list[Array]:
    """Applies a function of stacks to the matrices of all blocks.

    Args:
        stack_fn: ``(stack [N, short, long], key) -> [N, short, long]``, each matrix by itself.
        blocks: of one dtype.
        max_stack_bytes: no stack is larger, unless it is a single matrix.
        multiple: stacks that this limit cuts hold a multiple of so many matrices, where that many fit.

    Returns:
        For each block the results, ``[count, in, out]``.
    """
    laid = [block.matrices.mT if block.tall else block.matrices for block in blocks]
    limit = None if max_stack_bytes is None or not laid else max_stack_bytes // laid[0].dtype.itemsize
    done: list[list[Array]] = [[] for _ in blocks]
    for pieces in plan_stacks([x.shape for x in laid], [block.key for block in blocks], limit=limit, multiple=multiple):
        # Once: XLA would look for the leaf of each entry again wherever the stack is read.
        stack = jax.lax.optimization_barrier(jnp.concatenate([_cut(laid[p.block], p.start, p.stop) for p in pieces]))
        result, offset = stack_fn(stack, blocks[pieces[0].block].key), 0
        for p in pieces:
            end = offset + p.stop - p.start
            done[p.block].append(_cut(result, offset, end))
            offset = end
    joined = [jnp.concatenate(parts) if len(parts) > 1 else parts[0] for parts in done]
    return [x.mT if block.tall else x for x, block in zip(joined, blocks, strict=True)]


def _cut(x: Array, start: int, stop: int) -> Array:
    """``x[start:stop]``; jax traces an index ten times as long as a slice."""
    return x if (start, stop) == (0, x.shape[0]) else jax.lax.slice_in_dim(x, start, stop)


def map_leaves(
    orthogonalize_fn: Callable[[Array], Array],
    leaves: list[Array],
    axes: list[MatrixAxes],
    *,
    max_stack_bytes: int | None = None,
) -> list[Array]:
    """A function of stacks ``[N, short, long]`` on the matrices of all leaves."""
    parts = [to_matrices(x, a) for x, a in zip(leaves, axes, strict=True)]
    blocks = [Block(x, x.shape[1] > x.shape[2]) for leaf_parts in parts for x in leaf_parts]
    done = iter(map_stacks(lambda stack, _: orthogonalize_fn(stack), blocks, max_stack_bytes=max_stack_bytes))
    return [
        from_matrices([next(done) for _ in leaf_parts], a, x.shape)
        for x, leaf_parts, a in zip(leaves, parts, axes, strict=True)
    ]
