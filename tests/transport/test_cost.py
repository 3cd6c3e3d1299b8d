"""Ground costs against scipy, their derivatives, and the record that makes blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxdiv.transport import PointCost, cosine, l1, monge_gap, point_cost, sqeuclidean
from jaxdiv.transport.blocks import map_rows, transposed
from tests.transport.problems import clouds, differences, squares

COSTS = {sqeuclidean: "sqeuclidean", l1: "cityblock", cosine: "cosine"}


@pytest.mark.parametrize("cost_fn", COSTS, ids=COSTS.values())
def test_values_are_those_of_scipy(cost_fn):
    x, y = clouds(7, 5, 3, batch=(2,))
    ours = cost_fn(x, y)
    assert ours.shape == (2, 7, 5) and ours.dtype == jnp.float32
    for i in range(2):
        np.testing.assert_allclose(ours[i], cdist(x[i], y[i], COSTS[cost_fn]), rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize("cost_fn", COSTS, ids=COSTS.values())
def test_dtypes(cost_fn, x64):
    x, y = clouds(3, 4)
    half = cost_fn(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.float16))
    assert half.dtype == jnp.float32 and cost_fn(x.astype(np.float64), y).dtype == jnp.float64
    exact = cost_fn(jnp.asarray(x, jnp.bfloat16).astype(np.float64), jnp.asarray(y, jnp.float16).astype(np.float64))
    np.testing.assert_allclose(half, exact, atol=5e-6)


@pytest.mark.parametrize("cost_fn", COSTS, ids=COSTS.values())
def test_gradients_by_finite_differences(cost_fn, x64):
    x, y = clouds(3, 4, dtype=np.float64)
    mix = np.random.default_rng(1).normal(size=(3, 4))
    for argument in (0, 1):
        fn = (lambda v: jnp.sum(mix * cost_fn(v, y))) if argument == 0 else (lambda v: jnp.sum(mix * cost_fn(x, v)))
        point = (x, y)[argument]
        np.testing.assert_allclose(jax.grad(fn)(point), differences(jax.jit(fn), point), rtol=1e-6, atol=1e-8)


def test_squares_keep_their_digits_far_from_the_origin():
    x, y = clouds(20, 30, 4)
    far = np.float32(1000.0)
    expected = squares(x + far, y + far)
    np.testing.assert_allclose(sqeuclidean(x + far, y + far), expected, atol=2e-6 * expected.max())


def test_a_point_is_at_distance_zero_of_itself_with_the_right_derivatives(x64):
    x = clouds(5, 1, dtype=np.float64)[0]
    assert float(jnp.max(jnp.diagonal(sqeuclidean(x, x)))) < 1e-14
    hessian = jax.hessian(lambda v: sqeuclidean(v[None], x)[0, 2])(jnp.asarray(x[2]))
    np.testing.assert_allclose(hessian, 2.0 * np.eye(2), atol=1e-12)
    np.testing.assert_array_equal(jax.grad(lambda v: l1(v[None], x)[0, 2])(jnp.asarray(x[2])), 0.0)


def test_cosine_of_zero_tiny_and_huge_vectors():
    x = jnp.array([[0.0, 0.0], [1e-30, 0.0], [1e30, 1e30]])
    np.testing.assert_allclose(cosine(x, x[1:]), [[1, 1], [0, 1 - 0.5**0.5], [1 - 0.5**0.5, 0]], atol=2e-7)
    gradient = jax.grad(lambda v: jnp.sum(cosine(v, x)))(x[:1])
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("cost_fn", COSTS, ids=COSTS.values())
def test_a_point_that_is_no_number_is_at_no_distance(cost_fn):
    x = jnp.array([[jnp.nan, 1.0], [1.0, 2.0]])
    np.testing.assert_array_equal(np.isnan(cost_fn(x, x[1:])), [[True], [False]])
    assert np.isnan(monge_gap(x, x + 1.0, epsilon=0.1, cost_fn=cost_fn))


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_blocks_of_rows_are_the_rows_of_the_matrix(chunk_size):
    x, y = clouds(7, 5, batch=(2,))
    cost = point_cost(x, y, chunk_size=chunk_size)
    assert isinstance(cost, PointCost) and cost.shape == (2, 7, 5) and cost.transposed.shape == (2, 5, 7)
    offset = jnp.arange(7.0) * jnp.ones((2, 1))

    def total(block, offset):
        return jnp.sum(block, axis=-1) + offset

    np.testing.assert_allclose(map_rows(total, cost, offset), sqeuclidean(x, y).sum(-1) + offset, rtol=1e-6)
    columns = map_rows(lambda block: jnp.sum(block, axis=-1), transposed(cost))
    np.testing.assert_allclose(columns, sqeuclidean(x, y).sum(-2), rtol=1e-6)


BAD = [
    ("x", (None, np.zeros((2, 2), np.float32))),
    ("x", ("points", np.zeros((2, 2), np.float32))),
    ("x", (np.zeros(3, np.float32), np.zeros((2, 3), np.float32))),
    ("x", (np.zeros((0, 2), np.float32), np.zeros((2, 2), np.float32))),
    ("x", (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32))),
    ("y", (np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32))),
    ("y", (np.zeros((4, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32))),
    ("y", (np.zeros((2, 2), np.float32), [[1.0, 2.0], [3.0]])),
    ("y", (np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))),
    ("y", (np.zeros((2, 2), np.float32), np.zeros((2, 2), np.complex64))),
]


@pytest.mark.parametrize("cost_fn", [sqeuclidean, l1, cosine, point_cost])
@pytest.mark.parametrize(("argument", "clouds"), BAD)
def test_bad_points_are_named(cost_fn, argument, clouds):
    with pytest.raises(ValueError, match=f"^{cost_fn.__name__}: {argument} "):
        cost_fn(*clouds)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"chunk_size": 2.0}, "chunk_size is 2.0; expected an integer"),
        ({"chunk_size": None}, "chunk_size is None"),
        ({"cost_fn": "l1"}, "cost_fn is 'l1'"),
        ({"cost_fn": lambda x, y: jnp.zeros(3)}, r"cost_fn returns shape \(3,\); expected shape \(4, 3\)"),
    ],
)
def test_bad_settings_of_the_record_are_named(settings, message):
    with pytest.raises(ValueError, match="^point_cost: " + message):
        point_cost(*clouds(4, 3), **settings)
