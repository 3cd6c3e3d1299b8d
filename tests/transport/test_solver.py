"""Sinkhorn against POT, closed forms and the laws of entropic transport."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from ot.batch import solve_batch
from scipy.optimize import linear_sum_assignment

from jaxdiv.transport import (
    entropic_cost,
    epsilon_schedule,
    l1,
    plan,
    point_cost,
    regularized_cost,
    sinkhorn,
    sqeuclidean,
    transport_cost,
)
from tests.transport.problems import clouds, squares, weights

VALUES = (transport_cost, regularized_cost, entropic_cost)


@functools.partial(jax.jit, static_argnames=("num_iters", "tol"))
def solved(cost, log_a=None, log_b=None, *, epsilon, **settings):
    """Plan and the three values."""
    result = sinkhorn(cost, log_a, log_b, epsilon=epsilon, **settings)
    return plan(result, cost), [value(result, cost) for value in VALUES], result


def values_of(plan, cost, a, b, epsilon):
    """The three values of any plan, from their definitions in float64."""
    linear = (plan * cost).sum()
    log_plan = np.log(np.where(plan > 0, plan, 1.0))
    independent = np.where(plan > 0, a[:, None] * b[None, :], 1.0)
    return linear, linear + epsilon * (plan * (log_plan - np.log(independent))).sum(), linear + epsilon * (
        plan * log_plan
    ).sum()  # fmt: skip


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 30.0])
def test_plan_and_values_are_those_of_pot(x64, epsilon):
    x, y = clouds(9, 12, dtype=np.float64)
    log_a, log_b = weights(9, seed=1, dtype=np.float64), weights(12, seed=2, dtype=np.float64)
    a, b = np.exp(log_a), np.exp(log_b)
    cost = squares(x, y)
    expected = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", numItermax=4000, stopThr=1e-13, warn=False)
    found, values, result = solved(cost, log_a, log_b, epsilon=epsilon, num_iters=4000)
    assert float(result.marginal_error) < 1e-12
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(values, values_of(expected, cost, a, b, epsilon), rtol=1e-11)


def test_a_batch_is_that_of_pots_batched_solver():
    x, y = clouds(10, 14, 3, batch=(6,))
    log_a, log_b = weights(10, seed=1, batch=(6,)), weights(14, seed=2, batch=(6,))
    cost = np.asarray(sqeuclidean(x, y))
    theirs = solve_batch(
        cost.astype(np.float64), reg=1.0, a=np.exp(log_a.astype(np.float64)), b=np.exp(log_b.astype(np.float64)),
        method="log_sinkhorn", max_iter=5000, tol=1e-12, grad="detach",
    )  # fmt: skip
    found, (linear, *_), result = solved(cost, log_a, log_b, epsilon=1.0, num_iters=1000)
    np.testing.assert_allclose(found, theirs.plan, atol=2e-6)
    np.testing.assert_allclose(linear, theirs.value_linear, rtol=1e-5)
    assert result.f.shape == (6, 10) and result.g.shape == (6, 14) and result.num_iters.shape == (6,)
    np.testing.assert_array_equal(result.num_iters, 1000)


@pytest.mark.slow
def test_leading_axes_vmap_and_one_by_one_agree():
    x, y = clouds(6, 5, batch=(2, 3))
    log_a = weights(6, seed=1, batch=(2, 3))
    cost = sqeuclidean(x, y)
    for settings in ({"num_iters": 30}, {"num_iters": 300, "tol": 1e-4}):
        together = sinkhorn(cost, log_a, epsilon=0.7, **settings)
        mapped = jax.vmap(jax.vmap(lambda c, w: sinkhorn(c, w, epsilon=0.7, **settings)))(cost, log_a)  # noqa: B023
        chex.assert_trees_all_close(together._replace(epsilon=0.0), mapped._replace(epsilon=0.0), rtol=1e-5, atol=1e-5)
        one = sinkhorn(cost[1, 2], log_a[1, 2], epsilon=0.7, **settings)
        np.testing.assert_allclose(together.f[1, 2], one.f, rtol=1e-5, atol=1e-5)
        assert int(together.num_iters[1, 2]) == int(one.num_iters)


def test_tolerance_stops_each_problem_where_it_converged():
    cost = sqeuclidean(*clouds(8, 8)) * jnp.array([0.1, 0.3, 1.0, 3.0])[:, None, None]
    result = sinkhorn(cost, epsilon=0.5, num_iters=2000, tol=1e-3)
    assert (result.marginal_error <= 1e-3).all()
    assert (np.diff(result.num_iters) > 0).all() and int(result.num_iters[-1]) < 2000
    short = sinkhorn(cost, epsilon=0.5, num_iters=2, tol=1e-3)
    assert int(short.num_iters.max()) == 2 and float(short.marginal_error[-1]) > 1e-3
    again = sinkhorn(cost, epsilon=0.5, num_iters=2000, tol=2e-3, init=(result.f, result.g))
    np.testing.assert_array_equal(again.num_iters, 1)


def test_the_error_is_that_of_the_plan_and_falls():
    x, y = clouds(8, 11)
    log_a = weights(8, seed=1)
    cost = sqeuclidean(x, y)
    errors = []
    for num_iters in (1, 4, 16, 64):
        found, _, result = solved(cost, log_a, epsilon=0.5, num_iters=num_iters)
        np.testing.assert_allclose(found.sum(axis=0), 1 / 11, rtol=2e-6)
        np.testing.assert_allclose(np.abs(found.sum(axis=1) - np.exp(log_a)).sum(), result.marginal_error, atol=1e-6)
        errors.append(float(result.marginal_error))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]


def test_the_dual_value_rises_to_the_optimum(x64):
    x, y = clouds(8, 11, dtype=np.float64)
    cost = squares(x, y)
    values = [float(solved(cost, epsilon=0.3, num_iters=k)[1][1]) for k in (1, 2, 5, 20, 2000)]
    assert (np.diff(values) > 0).all()


def test_permutation_and_transposition():
    x, y = clouds(6, 9)
    log_a, log_b = weights(6, seed=1), weights(9, seed=2)
    cost = sqeuclidean(x, y)
    found, values, _ = solved(cost, log_a, log_b, epsilon=1.0, num_iters=200)
    rows, columns = np.random.default_rng(0).permutation(6), np.random.default_rng(1).permutation(9)
    moved, same, _ = solved(cost[rows][:, columns], log_a[rows], log_b[columns], epsilon=1.0, num_iters=200)
    np.testing.assert_allclose(moved, found[rows][:, columns], atol=1e-6)
    np.testing.assert_allclose(same, values, rtol=1e-5)
    turned, same, _ = solved(cost.T, log_b, log_a, epsilon=1.0, num_iters=200)
    np.testing.assert_allclose(turned, found.T, atol=1e-6)
    np.testing.assert_allclose(same, values, rtol=1e-5)


def test_small_epsilon_is_the_exact_assignment(x64):
    x, y = clouds(12, 12, dtype=np.float64)
    cost = squares(x, y)
    rows, columns = linear_sum_assignment(cost)
    schedule = epsilon_schedule(10.0, 0.005, num_iters=3000)
    found, (linear, regularized, entropic), result = solved(cost, epsilon=schedule, num_iters=3000)
    assert float(result.epsilon) == 0.005 and float(result.marginal_error) < 1e-5
    exact = cost[rows, columns].mean()
    assert exact - 1e-4 <= linear <= exact + 1e-3
    np.testing.assert_array_equal(np.argmax(found, axis=1), columns)
    assert entropic <= exact <= regularized + 1e-6
    np.testing.assert_allclose(regularized - entropic, 0.005 * 2 * np.log(12))


def test_large_epsilon_is_independence(x64):
    x, y = clouds(5, 7, dtype=np.float64)
    cost = squares(x, y)
    found, (linear, regularized, _), _ = solved(cost, epsilon=1e6)
    np.testing.assert_allclose(found, np.full((5, 7), 1 / 35), rtol=1e-4)
    np.testing.assert_allclose([linear, regularized], cost.mean(), rtol=1e-4)


def test_annealing_needs_fewer_iterations():
    x, y = clouds(40, 40)
    cost = sqeuclidean(x, y)
    plain = sinkhorn(cost, epsilon=0.05, num_iters=60)
    annealed = sinkhorn(cost, epsilon=epsilon_schedule(20.0, 0.05, num_iters=60), num_iters=60)
    assert float(annealed.marginal_error) < 0.5 * float(plain.marginal_error)
    stopped = sinkhorn(
        cost, epsilon=epsilon_schedule(20.0, 2.0, num_iters=200, num_annealing=50), num_iters=200, tol=1e-2
    )
    assert 50 < int(stopped.num_iters) < 200  # met at a larger strength, the tolerance does not count


@pytest.mark.parametrize(("mean_shift", "s", "t", "epsilon"), [(0.7, 1.0, 1.5, 0.8), (0.0, 0.6, 0.6, 2.0)])
def test_gaussians_in_closed_form(x64, mean_shift, s, t, epsilon):
    """N(0, s^2) and N(shift, t^2) on a grid, cost (x - y)^2: completing squares in the Schroedinger system.

    With f = c0 + c1 x + c2 x^2 the optimal coupling is Gaussian with correlation k solving
    2 s t / epsilon = k / (1 - k^2); <P, C> = shift^2 + s^2 + t^2 - 2 k s t and KL = -log(1 - k^2) / 2.
    """
    grid = np.linspace(-13.0, 14.0, 500)
    log_a, log_b = (
        w - np.log(np.exp(w).sum()) for w in (-(grid**2) / (2 * s * s), -((grid - mean_shift) ** 2) / (2 * t * t))
    )
    cost = (grid[:, None] - grid[None, :]) ** 2
    k = (np.sqrt(1 + 16 * s * s * t * t / epsilon**2) - 1) / (4 * s * t / epsilon)
    _, (linear, regularized, _), _ = solved(cost, log_a, log_b, epsilon=epsilon, num_iters=300)
    expected = mean_shift**2 + s * s + t * t - 2 * k * s * t
    np.testing.assert_allclose(linear, expected, rtol=1e-8)
    np.testing.assert_allclose(regularized, expected - epsilon * np.log(1 - k * k) / 2, rtol=1e-8)


def test_points_of_weight_zero_are_left_out_exactly():
    x, y = clouds(6, 7)
    log_a, log_b = weights(6, seed=1), weights(7, seed=2)
    _, values, small = solved(sqeuclidean(x, y), log_a, log_b, epsilon=0.5)
    far = np.full((2, 2), 1e4, np.float32)
    padded = sqeuclidean(np.concatenate([x, far]), np.concatenate([far, y]))
    empty = np.full(2, -np.inf, np.float32)
    found, same, result = solved(
        padded, np.concatenate([log_a, empty]), np.concatenate([empty, log_b]), epsilon=0.5
    )  # fmt: skip
    assert (np.asarray(found[6:]) == 0).all() and (np.asarray(found[:, :2]) == 0).all()
    assert np.isfinite(result.f).all() and np.isfinite(result.g).all() and np.isfinite(result.marginal_error)
    exact = sinkhorn(padded[:6, 2:], log_a, log_b, epsilon=0.5)
    np.testing.assert_allclose(result.f[:6], exact.f, rtol=1e-6)
    np.testing.assert_allclose(same, [value(exact, padded[:6, 2:]) for value in VALUES], rtol=1e-6)
    assert np.isfinite(values).all() and np.isfinite(small.f).all()


def test_an_infinite_cost_forbids_a_pair():
    cost = jnp.array([[jnp.inf, 1.0, 2.0], [1.0, jnp.inf, 1.0], [0.5, 1.0, 3.0]])
    found, values, _ = solved(cost, epsilon=0.3, num_iters=300)
    assert float(found[0, 0]) == 0.0 and float(found[1, 1]) == 0.0
    large, near, _ = solved(jnp.where(jnp.isinf(cost), 100.0, cost), epsilon=0.3, num_iters=300)
    np.testing.assert_allclose(found, large, atol=1e-6)
    np.testing.assert_allclose(values, near, rtol=1e-5)
    for value in VALUES:
        gradient = jax.grad(lambda c: value(sinkhorn(c, epsilon=0.3), c))(cost)  # noqa: B023
        assert np.isfinite(gradient).all() and float(gradient[0, 0]) == 0.0


def test_no_value_hides_a_cost_that_is_no_number():
    cost = jnp.ones((2, 3, 3)).at[0, 1, 2].set(jnp.nan)
    _, values, _ = solved(cost, epsilon=0.3)
    np.testing.assert_array_equal(np.isnan(values), [[True, False]] * 3)


def test_a_row_of_weight_zero_may_be_forbidden_altogether():
    cost = jnp.asarray(np.random.default_rng(0).random((4, 3)), jnp.float32)
    padded = cost.at[3].set(jnp.inf)
    log_a = jnp.log(jnp.array([1 / 3, 1 / 3, 1 / 3, 0.0]))
    result, short = sinkhorn(padded, log_a, epsilon=0.1), sinkhorn(cost[:3], epsilon=0.1)
    np.testing.assert_allclose(result.f, jnp.append(short.f, 0.0), rtol=1e-5)
    for value in VALUES:
        np.testing.assert_allclose(value(result, padded), value(short, cost[:3]), rtol=1e-5)
        across = value(sinkhorn(padded.T, None, log_a, epsilon=0.1), padded.T)
        np.testing.assert_allclose(across, value(short, cost[:3]), rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_float32_out(dtype):
    cost = jnp.asarray(sqeuclidean(*clouds(6, 7)), dtype)
    result = sinkhorn(cost, jnp.asarray(weights(6), dtype), epsilon=jnp.asarray(0.5, dtype))
    exact = sinkhorn(cost.astype(jnp.float32), jnp.asarray(weights(6), dtype).astype(jnp.float32), epsilon=0.5)
    chex.assert_trees_all_equal(result, exact)
    assert {v.dtype for v in result[:6]} == {jnp.dtype(jnp.float32)}
    assert plan(result, cost).dtype == jnp.float32 and regularized_cost(result, cost).dtype == jnp.float32


@pytest.mark.parametrize("chunk_size", [1, 4, 64])
def test_blocks_give_what_the_matrix_gives(chunk_size):
    x, y = clouds(9, 6, batch=(2,))
    log_a, log_b = weights(9, seed=1, batch=(2,)), weights(6, seed=2, batch=(2,))
    for cost_fn in (sqeuclidean, l1):
        stored = solved(cost_fn(x, y), log_a, log_b, epsilon=0.5, num_iters=20)
        blocks = solved(
            point_cost(x, y, cost_fn=cost_fn, chunk_size=chunk_size), log_a, log_b, epsilon=0.5, num_iters=20
        )
        chex.assert_trees_all_close(blocks, stored, rtol=1e-4, atol=2e-5)


def test_traced_once_with_any_epsilon_and_start():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def value(cost, epsilon, init):
        return regularized_cost(sinkhorn(cost, epsilon=epsilon, init=init, num_iters=5), cost)

    x, y = clouds(4, 5)
    for epsilon in (0.1, 2.0):
        value(sqeuclidean(x, y), epsilon, (jnp.zeros(4), jnp.full(5, epsilon)))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def online(cost):
        return regularized_cost(sinkhorn(cost, epsilon=1.0, num_iters=5), cost)

    for shift in (0.0, 1.0):
        online(point_cost(x + np.float32(shift), y, chunk_size=2))


def test_schedule():
    schedule = epsilon_schedule(4.0, 0.25, num_iters=9, num_annealing=4)
    np.testing.assert_allclose(schedule, [4, 2, 1, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25], rtol=1e-14)
    assert schedule[-1] == 0.25 and len(epsilon_schedule(1.0, 0.1, num_iters=5)) == 5
    np.testing.assert_array_equal(epsilon_schedule(3.0, 2.0, num_iters=2, num_annealing=0), 2.0)
    with pytest.raises(ValueError, match="epsilon_schedule: initial is 0.0"):
        epsilon_schedule(0.0, 1.0, num_iters=3)
    with pytest.raises(ValueError, match="epsilon_schedule: final is '1'"):
        epsilon_schedule(1.0, "1", num_iters=3)
    with pytest.raises(ValueError, match="epsilon_schedule: num_annealing is 3"):
        epsilon_schedule(1.0, 0.1, num_iters=3, num_annealing=3)
    with pytest.raises(ValueError, match="epsilon_schedule: num_iters is 2.5"):
        epsilon_schedule(1.0, 0.1, num_iters=2.5)


COST = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((np.ones(3, np.float32),), {}, r"cost has shape \(3,\)"),
        ((np.ones((0, 3), np.float32),), {}, r"cost has shape \(0, 3\)"),
        ((np.ones((2, 3), np.int32),), {}, "cost has dtype int32"),
        ((None,), {}, "cost "),
        (("cost",), {}, "cost "),
        ((COST, np.zeros(4, np.float32)), {}, r"log_a has shape \(4,\); expected shape \(3\)"),
        ((COST, None, np.zeros((1, 4), np.float32)), {}, r"log_b has shape \(1, 4\)"),
        ((COST, np.zeros(3, np.int32)), {}, "log_a has dtype int32"),
        ((COST, [0.0, None, 0.0]), {}, "log_a "),
        ((COST, np.full(3, 1 / 3)), {}, "log_a has a total mass of 4.18684; expected logarithms of weights that sum"),
        ((COST, None, np.zeros((4,), np.float32)), {}, "log_b has a total mass of 4"),
        ((COST,), {"epsilon": 0.0}, "epsilon is 0.0"),
        ((COST,), {"epsilon": -1}, "epsilon is -1"),
        ((COST,), {"epsilon": float("nan")}, "epsilon is nan"),
        ((COST,), {"epsilon": float("inf")}, "epsilon is inf"),
        ((COST,), {"epsilon": True}, "epsilon is True"),
        ((COST,), {"epsilon": None}, "epsilon "),
        ((COST,), {"epsilon": "1"}, "epsilon "),
        ((COST,), {"epsilon": [1.0] * 99}, r"epsilon has shape \(99,\); expected shape \(\) or .* = \(100,\)"),
        ((COST,), {"epsilon": [1.0, -1.0], "num_iters": 2}, "epsilon is .* numbers in"),
        ((COST,), {"num_iters": 0}, "num_iters is 0"),
        ((COST,), {"num_iters": 1.5}, "num_iters is 1.5"),
        ((COST,), {"num_iters": True}, "num_iters is True"),
        ((COST,), {"tol": -1.0}, "tol is -1.0"),
        ((COST,), {"tol": "small"}, "tol is 'small'"),
        ((COST,), {"tol": 0.1, "unroll": True}, "tol is 0.1 with unroll"),
        ((COST,), {"unroll": 1}, "unroll is 1"),
        ((COST,), {"init": np.zeros(3)}, "init is a ndarray"),
        ((COST,), {"init": (np.zeros(3), None)}, r"init\[1\] is None"),
        ((COST,), {"init": (np.zeros(4), np.zeros(4))}, r"init\[0\] has shape \(4,\)"),
    ],
)
def test_a_bad_argument_is_named(arguments, settings, message):
    with pytest.raises(ValueError, match="^sinkhorn: " + message):
        sinkhorn(*arguments, **{"epsilon": 1.0} | settings)


@pytest.mark.parametrize("value", [plan, *VALUES])
def test_a_value_refuses_the_cost_of_another_problem(value):
    result = sinkhorn(COST, epsilon=1.0, num_iters=1)
    with pytest.raises(ValueError, match=rf"^{value.__name__}: cost has shape \(4, 3\); expected the shape \(3, 4\)"):
        value(result, COST.T)
    with pytest.raises(ValueError, match=f"^{value.__name__}: result is "):
        value((1, 2), COST)
    with pytest.raises(ValueError, match=f"^{value.__name__}: cost "):
        value(result, None)
