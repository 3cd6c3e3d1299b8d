"""Stacks across the tree: which matrices share one, and that each comes back to its place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.optimizers.stacks import Block, map_stacks, plan_stacks


def blocks_of(*shapes, keys=None):
    rng = np.random.default_rng(0)
    keys = keys or [None] * len(shapes)
    return [
        Block(jnp.asarray(rng.standard_normal(shape), jnp.float32), shape[1] > shape[2], key)
        for shape, key in zip(shapes, keys, strict=True)
    ]


@pytest.mark.parametrize("max_stack_bytes", [None, 1, 100, 300, 10**6])
def test_every_matrix_comes_back_to_its_place(max_stack_bytes):
    blocks = blocks_of((3, 2, 5), (4, 5, 2), (1, 4, 4), (2, 2, 5), (6, 2, 2), (1, 4, 4))
    seen = []

    def double_and_note(stack, key):
        seen.append(stack.shape)
        return 2.0 * stack

    done = map_stacks(double_and_note, blocks, max_stack_bytes=max_stack_bytes)
    for block, result in zip(blocks, done, strict=True):
        np.testing.assert_array_equal(result, 2.0 * block.matrices)
    assert all(short <= long for _, short, long in seen)
    sums = {}
    for num, short, long in seen:
        sums[short, long] = sums.get((short, long), 0) + num
        assert max_stack_bytes is None or num == 1 or num * short * long * 4 <= max_stack_bytes
    assert sums == {(2, 5): 9, (4, 4): 2, (2, 2): 6}
    if max_stack_bytes is None:
        assert len(seen) == 3


def test_a_function_sees_one_matrix_at_a_time_in_its_orientation():
    """Row sums of the shorter side: what a tall block gives is the transposed of what its transposed gives."""
    wide, tall = blocks_of((2, 2, 5), (2, 5, 2))
    tall = tall._replace(matrices=wide.matrices.mT)
    a, b = map_stacks(lambda stack, _: stack * stack.sum(axis=2, keepdims=True), [wide, tall])
    np.testing.assert_allclose(a, b.mT)
    np.testing.assert_allclose(a, wide.matrices * wide.matrices.sum(axis=2, keepdims=True), rtol=1e-6)


def test_keys_keep_blocks_apart():
    seen = []
    blocks = blocks_of((1, 2, 3), (2, 2, 3), (4, 2, 3), keys=["a", "b", "a"])
    map_stacks(lambda stack, key: seen.append((key, len(stack))) or stack, blocks)
    assert seen == [("a", 5), ("b", 2)]


def test_chunks_are_multiples_where_they_can_be():
    def counts(**options):
        return [sum(p.stop - p.start for p in stack) for stack in plan_stacks([(21, 2, 2)], [0], **options)]

    assert counts() == [21]
    assert counts(limit=40) == [10, 10, 1]
    assert counts(limit=40, multiple=8) == [8, 8, 5]
    assert counts(limit=20, multiple=8) == [5, 5, 5, 5, 1], "fewer than eight fit"
    assert counts(limit=1) == [1] * 21
    assert counts(multiple=8) == [21], "a whole group is not cut"


def test_nothing_to_stack():
    assert map_stacks(lambda stack, key: stack, [], max_stack_bytes=100) == []


def test_jit_vmap_and_grad():
    (block,) = blocks_of((3, 4, 2))

    def run(x):
        return map_stacks(lambda stack, _: stack**2, [block._replace(matrices=x)])[0]

    x = block.matrices
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(x[None])[0], x**2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: run(x).sum())(x), 2 * x, rtol=1e-6)
