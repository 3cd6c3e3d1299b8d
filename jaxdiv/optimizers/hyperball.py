"""Steps that keep the norm of every matrix: the learning rate is an angle, and weight decay has nothing left to do."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_same_shape, check_scalar, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers.matrices import from_matrices, to_matrices
from jaxdiv.optimizers.routing import resolve_routes
from jaxdiv.typing import Array, PyTree


class HyperballState(NamedTuple):
    """The number of steps done, which a learning-rate schedule is a function of."""

    count: Array


def step_on_sphere(matrices: Array, updates: Array, *, learning_rate: float | Array) -> Array:
    r"""Where a step of relative length ``learning_rate`` ends that is brought back to the norm it started from.

    ``p' = p - learning_rate |p| u / |u|``, then ``p' |p| / |p'|``, in Frobenius norms of each matrix. A matrix of zeros
    has no direction and stays: initialise it. An update of zeros moves nothing.

    Args:
        matrices: ``[..., m, n]``.
        updates: u, of the same shape; its size does not count.
        learning_rate: about the tangent of the angle between the matrix before and after.

    Returns:
        The new matrices, in float32 (float64 where either is).

    Source: the MuonH optimizer of marin-community/marin, and record 40 of modded-nanogpt's third track (2025).

    >>> x = step_on_sphere(jnp.array([[3.0, 4.0]]), jnp.array([[8.0, -6.0]]), learning_rate=1.0)
    >>> [round(float(v), 3) for v in x[0]]
    [-0.707, 4.95]
    """
    matrices = promote(floating_array("step_on_sphere", "matrices", matrices))
    updates = promote(floating_array("step_on_sphere", "updates", updates))
    check_same_shape("step_on_sphere", matrices=matrices, updates=updates)
    check_scalar("step_on_sphere", "learning_rate", learning_rate, 0.0, math.inf, open_high=True)
    radius = _norm(matrices)
    moved = matrices - learning_rate * radius * updates / _nonzero(_norm(updates))
    return moved * (radius / _nonzero(_norm(moved)))


def scale_to_hyperball(learning_rate: float | Array | Callable, *, routes: Any = None) -> optax.GradientTransformation:
    """Turns directions into the updates by which `step_on_sphere` moves every matrix; other leaves stay.

    Args:
        learning_rate: a number or a function of the number of steps done.
        routes: which axes form matrices, as `muon` takes them.

    Returns:
        A transformation, to stand last: its updates, in float32, are to be added. State: the count of steps.

    >>> optimizer = scale_to_hyperball(0.1)
    >>> params = {"kernel": jnp.ones((2, 2))}
    >>> updates, _ = optimizer.update({"kernel": jnp.eye(2)}, optimizer.init(params), params)
    >>> round(float(jnp.linalg.norm(params["kernel"] + updates["kernel"])), 4)
    2.0
    """
    if not callable(learning_rate):
        check_scalar("scale_to_hyperball", "learning_rate", learning_rate, 0.0, math.inf, open_high=True)

    def update_fn(updates: PyTree, state: HyperballState, params: PyTree = None) -> tuple[PyTree, HyperballState]:
        if params is None:
            raise fail("scale_to_hyperball", "params", "is None", "the parameters")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        leaves, treedef = jax.tree.flatten(updates)
        axes = resolve_routes("scale_to_hyperball", updates, routes)
        moved = []
        for u, p, leaf_axes in zip(leaves, jax.tree.leaves(params), axes, strict=True):
            if leaf_axes is None:
                moved.append(u)
                continue
            pairs = zip(to_matrices(p, leaf_axes), to_matrices(u, leaf_axes), strict=True)
            new = [step_on_sphere(matrices, update, learning_rate=rate) for matrices, update in pairs]
            moved.append(from_matrices(new, leaf_axes, p.shape) - promote(p))
        return treedef.unflatten(moved), HyperballState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: HyperballState(jnp.zeros((), jnp.int32)), update_fn)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True))


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0.0, 1.0, x)
