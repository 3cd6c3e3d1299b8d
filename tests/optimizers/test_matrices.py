"""Leaves to matrices and back: against indices written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers

from jaxdiv.optimizers import MatrixAxes, MatrixShape, from_matrices, matrix_shapes, to_matrices
from jaxdiv.optimizers.matrices import as_matrix_axes

CASES = {
    "plain": ((4, 6), MatrixAxes(), [(1, 4, 6)]),
    "transposed": ((4, 6), MatrixAxes(1, 0), [(1, 6, 4)]),
    "negative": ((3, 4, 6), MatrixAxes(-2, -1, batch=-3), [(3, 4, 6)]),
    "batch behind": ((4, 6, 3), MatrixAxes(0, 1, batch=2), [(3, 4, 6)]),
    "two batch axes": ((2, 3, 4, 6), MatrixAxes(2, 3, batch=(0, 1)), [(6, 4, 6)]),
    "batch axes swapped": ((2, 3, 4, 6), MatrixAxes(2, 3, batch=(1, 0)), [(6, 4, 6)]),
    "the rest": ((2, 3, 4, 6), MatrixAxes(1, 3, batch=None), [(8, 3, 6)]),
    "convolution": ((3, 3, 4, 6), MatrixAxes((0, 1, 2), 3), [(1, 36, 6)]),
    "heads out": ((4, 2, 3), MatrixAxes(0, (1, 2)), [(1, 4, 6)]),
    "per head": ((4, 2, 3), MatrixAxes(0, 2, batch=1), [(2, 4, 3)]),
    "equal splits": ((4, 6), MatrixAxes(0, 1, splits=(2, 2, 2)), [(3, 4, 2)]),
    "unequal splits": ((5, 4, 6), MatrixAxes(1, 2, batch=0, splits=(4, 1, 1)), [(5, 4, 4), (5, 4, 1), (5, 4, 1)]),
    "splits of flattened heads": ((4, 2, 3), MatrixAxes(0, (1, 2), splits=(3, 3)), [(2, 4, 3)]),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes_and_round_trip(name):
    shape, axes, expected = CASES[name]
    x = jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    parts = to_matrices(x, axes)
    assert [part.shape for part in parts] == expected == [tuple(m) for m in matrix_shapes(shape, axes)]
    assert sorted(np.concatenate([np.ravel(part) for part in parts])) == list(range(x.size))
    np.testing.assert_array_equal(from_matrices(parts, axes, shape), x)


def test_entries_are_where_they_should_be():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    (conv,) = to_matrices(jnp.asarray(x), MatrixAxes((0, 1, 2), 3))
    np.testing.assert_array_equal(conv[0], x.reshape(24, 6))
    (rest,) = to_matrices(jnp.asarray(x), MatrixAxes(3, 1, batch=None))
    np.testing.assert_array_equal(rest[1 * 4 + 2], x[1, :, 2, :].T)
    (swapped,) = to_matrices(jnp.asarray(x), MatrixAxes(2, 3, batch=(1, 0)))
    np.testing.assert_array_equal(swapped[2 * 2 + 1], x[1, 2])
    (heads,) = to_matrices(jnp.asarray(x[0]), MatrixAxes(1, 2, batch=0, splits=(2, 2, 2)))
    np.testing.assert_array_equal(heads[1 * 3 + 2], x[0, 1, :, 4:])
    query, key = to_matrices(jnp.asarray(x[0]), MatrixAxes(1, 2, batch=0, splits=(5, 1)))
    np.testing.assert_array_equal(query, x[0, :, :, :5])
    np.testing.assert_array_equal(key, x[0, :, :, 5:])


def test_optax_numbers_leave_the_rest_to_the_batch():
    axes = as_matrix_axes(MuonDimensionNumbers((0, 1), -1))
    assert axes == MatrixAxes((0, 1), -1, batch=None)
    assert matrix_shapes((2, 3, 5, 4), axes) == [MatrixShape(5, 6, 4)]
    assert as_matrix_axes(axes) is axes


def test_axes_are_hashable_and_leaves_of_a_tree():
    assert hash(MatrixAxes(0, 1)) == hash(MatrixAxes((0,), (1,)))
    assert jax.tree.leaves({"a": MatrixAxes()}) == [MatrixAxes()]


def test_transforms():
    axes = MatrixAxes(1, 2, batch=0, splits=(4, 2))
    x = jnp.arange(2 * 3 * 6.0).reshape(2, 3, 6)

    def through(x):
        return from_matrices([2.0 * m for m in to_matrices(x, axes)], axes, x.shape)

    np.testing.assert_array_equal(jax.jit(jax.vmap(through))(x[None])[0], 2 * x)
    np.testing.assert_array_equal(jax.grad(lambda x: through(x).sum())(x), np.full(x.shape, 2.0))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"inputs": "0"}, "inputs"),
        ({"inputs": 0.0}, "inputs"),
        ({"inputs": True}, "inputs"),
        ({"inputs": None}, "inputs"),
        ({"inputs": ()}, "inputs or outputs"),
        ({"outputs": (1, "2")}, "outputs"),
        ({"batch": {0}}, "batch"),
        ({"splits": ()}, "splits"),
        ({"splits": (4, 0)}, "splits"),
        ({"splits": 4}, "splits"),
        ({"splits": (2.0, 2.0)}, "splits"),
    ],
)
def test_malformed_axes(arguments, name):
    with pytest.raises(ValueError, match=f"^MatrixAxes: {name} is"):
        MatrixAxes(**arguments)


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((4,), MatrixAxes(), "has 1 axes, and .* names others"),
        ((4, 5, 6), MatrixAxes(), "has 3 axes, of which .* names 2"),
        ((4, 5), MatrixAxes(0, -2), "names one twice"),
        ((4, 5), MatrixAxes(0, 1, batch=0), "names one twice"),
        ((4, 5), MatrixAxes(0, 1, splits=(2, 2)), r"has 5 outputs, and the splits of .* add up to 4"),
        ((4, 0), MatrixAxes(), "is empty"),
        ((4, 5), MatrixAxes(0, 2), "names others"),
    ],
)
def test_axes_that_do_not_fit(shape, axes, words):
    for call in (lambda: to_matrices(jnp.zeros(shape), axes), lambda: matrix_shapes(shape, axes)):
        with pytest.raises(ValueError, match=rf"^MatrixAxes: of a leaf of shape \(.*{words}"):
            call()
