"""Critics: networks that score all pairs of two batches, in plain jax."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, fail
from jaxdiv.typing import Array, PRNGKey


class Critic(NamedTuple):
    """Two functions; any network with these signatures is a critic. Equal arguments make the same object."""

    init: Callable[[PRNGKey, int, int], Any]
    """(key, width of x, width of y) -> params, float32."""
    apply: Callable[[Any, Array, Array], Any]
    """(params, x ``[N, d_x]``, y ``[M, d_y]``) -> scores ``[N, M]``, or whatever else the bound takes."""


def check_widths(function: str, widths: Any) -> tuple[int, ...]:
    """The hidden widths as a tuple of positive integers.

    >>> check_widths("f", [8, 4])
    (8, 4)
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str):
        raise fail(function, "widths", f"is {widths!r}", "a sequence of integers")
    for width in widths:
        check_integer(function, "widths", width, 1)
    return tuple(int(width) for width in widths)


def init_layers(key: PRNGKey, sizes: Sequence[int], *, is_zero: bool) -> list[tuple[Array, Array]]:
    """Weights of variance 2 / inputs, which keep the size of signals through relu, and zero offsets, in float32.

    With is_zero the last weights are 0, so that the network starts at 0: a score of 0 is that of independence, and a
    bound that takes exponentials would be far off at others.

    >>> [weight.shape for weight, offset in init_layers(jax.random.key(0), (3, 8, 1), is_zero=True)]
    [(3, 8), (8, 1)]
    """
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    weights = [jax.random.normal(k, s, jnp.float32) * math.sqrt(2.0 / s[0]) for k, s in zip(keys, shapes, strict=True)]
    if is_zero:
        weights[-1] = jnp.zeros_like(weights[-1])
    return [(w, jnp.zeros(w.shape[1], jnp.float32)) for w in weights]


def apply_layers(layers: Sequence[tuple[Array, Array]], x: Array) -> Array:
    """The network of these layers, with relu between them.

    >>> apply_layers([(jnp.eye(2), jnp.array([0.0, -1.0]))], jnp.array([1.0, -1.0])).tolist()
    [1.0, -2.0]
    """
    for weight, offset in layers[:-1]:
        x = jax.nn.relu(x @ weight + offset)
    weight, offset = layers[-1]
    return x @ weight + offset


def bilinear_critic() -> Critic:
    """The score x^T W y: for features that another network has made, as in contrastive predictive coding.

    Returns:
        A `Critic` that starts at W = 0, so at scores of 0.

    >>> critic = bilinear_critic()
    >>> params = critic.init(jax.random.key(0), 2, 1)
    >>> critic.apply(params + 1.0, jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).tolist()
    [[9.0, 12.0]]
    """
    return _BILINEAR


_BILINEAR = Critic(
    init=lambda key, x_width, y_width: jnp.zeros((x_width, y_width), jnp.float32),
    apply=lambda params, x, y: x @ params @ y.T,
)


def separable_critic(*, widths: Sequence[int] = (128, 128), num_features: int = 32) -> Critic:
    """The score g(x) . h(y) / sqrt(num_features) of two networks: N + M evaluations and one product of matrices.

    Scores start at 0.

    Args:
        widths: hidden layers of each network, with relu between; () makes both linear.
        num_features: width of g and h, which bounds the rank of the log-ratio that can be learnt.

    Returns:
        A `Critic`.

    Raises:
        ValueError: widths is no sequence of positive integers, or num_features no positive integer.

    >>> critic = separable_critic(widths=(8,), num_features=4)
    >>> critic.apply(critic.init(jax.random.key(0), 2, 3), jnp.ones((5, 2)), jnp.ones((6, 3))).shape
    (5, 6)
    """
    widths = check_widths("separable_critic", widths)
    check_integer("separable_critic", "num_features", num_features, 1)
    return _separable(widths, int(num_features))


@functools.cache
def _separable(widths: tuple[int, ...], num_features: int) -> Critic:
    def init(key: PRNGKey, x_width: int, y_width: int) -> Any:
        x_key, y_key = jax.random.split(key)
        inner = (*widths, num_features)
        # If both were 0, so would be the gradient.
        x_layers = init_layers(x_key, (x_width, *inner), is_zero=False)
        return {"x": x_layers, "y": init_layers(y_key, (y_width, *inner), is_zero=True)}

    def apply(params: Any, x: Array, y: Array) -> Array:
        return apply_layers(params["x"], x) @ apply_layers(params["y"], y).T / math.sqrt(num_features)

    return Critic(init, apply)


def concatenated_critic(*, widths: Sequence[int] = (32, 32)) -> Critic:
    """The score of one network of (x, y) together: N M evaluations, and no limit of rank.

    The first layer is linear before its relu, so it is evaluated N + M times and added for all pairs. Scores start
    at 0.

    Args:
        widths: hidden layers, at least one, with relu between.

    Returns:
        A `Critic`.

    Raises:
        ValueError: widths is no sequence of positive integers, or empty.

    >>> critic = concatenated_critic(widths=(8,))
    >>> critic.apply(critic.init(jax.random.key(0), 2, 3), jnp.ones((5, 2)), jnp.ones((6, 3))).shape
    (5, 6)
    """
    widths = check_widths("concatenated_critic", widths)
    if not widths:
        raise fail("concatenated_critic", "widths", "is ()", "at least one hidden layer")
    return _concatenated(widths)


@functools.cache
def _concatenated(widths: tuple[int, ...]) -> Critic:
    def init(key: PRNGKey, x_width: int, y_width: int) -> Any:
        return init_layers(key, (x_width + y_width, *widths, 1), is_zero=True)

    def apply(params: Any, x: Array, y: Array) -> Array:
        (weight, offset), *rest = params
        from_x, from_y = x @ weight[: x.shape[1]], y @ weight[x.shape[1] :] + offset
        hidden = jax.nn.relu(from_x[:, None, :] + from_y[None, :, :])
        return apply_layers(rest, hidden)[..., 0]

    return Critic(init, apply)
