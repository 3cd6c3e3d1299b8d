"""Conversions between what networks predict."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.diffusion import PREDICTION_KINDS, from_x0, to_x0


def example():
    x0, epsilon = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    alpha, s = jnp.array([0.99, 0.8, 0.5, 0.05]), jnp.array([0.1, 0.6, 0.5, 1.3])
    return x0, epsilon, alpha, s, alpha[:, None, None] * x0 + s[:, None, None] * epsilon


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
def test_each_kind_is_its_definition(x64, kind):
    x0, epsilon, alpha, s, x_t = example()
    a, b = alpha[:, None, None], s[:, None, None]
    target = {"x0": x0, "epsilon": epsilon, "v": a * epsilon - b * x0, "flow": epsilon - x0}[kind]
    np.testing.assert_allclose(to_x0(target, x_t, alpha=alpha, s=s, kind=kind), x0, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(from_x0(x0, x_t, alpha=alpha, s=s, kind=kind), target, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@pytest.mark.parametrize(("scope", "tolerance"), [(False, 2e-5), (True, 1e-12)])
def test_round_trip(kind, scope, tolerance):
    with jax.enable_x64(scope):
        _, prediction, alpha, s, x_t = example()
        x0 = to_x0(prediction, x_t, alpha=alpha, s=s, kind=kind)
        back = from_x0(x0, x_t, alpha=alpha, s=s, kind=kind)
        np.testing.assert_allclose(back, prediction, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PREDICTION_KINDS, 2)))
def test_any_two_kinds_agree_on_the_clean_data(x64, first, second):
    _, prediction, alpha, s, x_t = example()
    at = {"alpha": alpha, "s": s}
    x0 = to_x0(prediction, x_t, **at, kind=first)
    other = from_x0(x0, x_t, **at, kind=second)
    np.testing.assert_allclose(to_x0(other, x_t, **at, kind=second), x0, rtol=1e-10, atol=1e-10)


def test_flow_is_the_velocity_of_the_straight_path(x64):
    x0, epsilon = jnp.array([0.3, -2.0]), jnp.array([1.1, 0.4])
    t = 0.37
    x_t, velocity = jax.jvp(lambda t: (1 - t) * x0 + t * epsilon, (t,), (1.0,))
    np.testing.assert_allclose(from_x0(x0, x_t, alpha=1 - t, s=t, kind="flow"), velocity, rtol=1e-12)


def test_v_is_the_velocity_in_angle(x64):
    x0, epsilon = jnp.array([0.3, -2.0]), jnp.array([1.1, 0.4])
    x_t, velocity = jax.jvp(lambda angle: jnp.cos(angle) * x0 + jnp.sin(angle) * epsilon, (0.9,), (1.0,))
    np.testing.assert_allclose(from_x0(x0, x_t, alpha=np.cos(0.9), s=np.sin(0.9), kind="v"), velocity, rtol=1e-12)


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_gives_float32_under_jit_vmap_and_grad(kind, dtype):
    _, prediction, alpha, s, x_t = (a.astype(dtype) for a in example())

    def convert(function):
        return lambda value, x_t, alpha, s: function(value, x_t, alpha=alpha, s=s, kind=kind)

    for function in (to_x0, from_x0):
        whole = jax.jit(convert(function))(prediction, x_t, alpha, s)
        each = jax.vmap(convert(function))(prediction, x_t, alpha, s)
        assert whole.dtype == each.dtype == jnp.float32
        np.testing.assert_allclose(each, whole, rtol=1e-4, atol=1e-4)
    slope = jax.grad(lambda p: convert(to_x0)(p, x_t, alpha, s).sum())(prediction)
    a, b = alpha.astype(jnp.float32), s.astype(jnp.float32)
    expected = {"x0": 1 + 0 * a, "epsilon": -b / a, "v": -b / (a * a + b * b), "flow": -b / (a + b)}[kind]
    np.testing.assert_allclose(slope.astype(jnp.float32)[:, 0, 0], expected, rtol=1e-2)


@pytest.mark.parametrize("function", [to_x0, from_x0])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kind": "noise"}, "kind is 'noise'; expected one of 'x0', 'epsilon', 'v', 'flow'"),
        ({"value": jnp.ones((2, 1))}, r"has shape \(2, 1\)"),
        ({"value": jnp.ones((2, 3), int)}, "has dtype int32"),
        ({"alpha": jnp.ones(3)}, r"alpha has shape \(3,\)"),
        ({"s": jnp.ones((2, 1))}, r"s has shape \(2, 1\)"),
    ],
)
def test_bad_arguments_are_named(function, changed, words):
    good = {"value": jnp.ones((2, 3)), "x_t": jnp.ones((2, 3)), "alpha": jnp.ones(2), "s": jnp.ones(2), "kind": "v"}
    arguments = {**good, **changed}
    with pytest.raises(ValueError, match=f"{function.__name__}: .*{words}"):
        function(arguments.pop("value"), arguments.pop("x_t"), **arguments)
