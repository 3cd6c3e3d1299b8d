"""Steps that keep the norm of every matrix: the learning rate is an angle, and weight decay has nothing left to do."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdiv.checks import check_same_shape, check_scalar, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers.matrices import MatrixAxes, from_matrices, to_matrices
from jaxdiv.optimizers.routing import resolve_routes
from jaxdiv.optimizers.sharding import check_leaves, check_mesh, column_sums, find_specs, keep_whole
from jaxdiv.typing import Array, PyTree


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
    # By way of the largest entries, so that no square leaves the range.
    top, u_top = (_nonzero(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)) for x in (matrices, updates))
    matrices, updates = matrices / top, updates / u_top
    products = matrices * matrices, matrices * updates, updates * updates
    keep, move = _step_factors(*(jnp.sum(x, axis=(-2, -1), keepdims=True) for x in products), rate=learning_rate)
    return top * (keep * matrices - move * updates)


def scale_to_hyperball(
    learning_rate: float | Array | Callable,
    *,
    routes: Any = None,
    mesh: Mesh | None = None,
    sharding: PyTree = None,
) -> optax.GradientTransformation:
    """Turns directions into the updates by which `step_on_sphere` moves every matrix; other leaves stay.

    Sums of squares of a matrix and of its direction are taken as they are: a matrix where either is below every float
    stays where it is, and one where either is beyond every float becomes NaN.

    Args:
        learning_rate: a number or a function of the number of steps done.
        routes: which axes form matrices, as `muon` takes them.
        mesh: as `scale_by_muon` takes it: the norms of all matrices then take one all-reduce. Without it the
            partitioner makes three for each leaf whose matrices are split.
        sharding: see there.

    Returns:
        A transformation, to stand last: its updates, in float32, are to be added. The state is optax's of a
        learning-rate schedule, the count of steps.

    >>> optimizer = scale_to_hyperball(0.1)
    >>> params = {"kernel": jnp.ones((2, 2))}
    >>> updates, _ = optimizer.update({"kernel": jnp.eye(2)}, optimizer.init(params), params)
    >>> round(float(jnp.linalg.norm(params["kernel"] + updates["kernel"])), 4)
    2.0
    """
    if not callable(learning_rate):
        check_scalar("scale_to_hyperball", "learning_rate", learning_rate, 0.0, math.inf, open_high=True)
    check_mesh("scale_to_hyperball", mesh, sharding)

    def update_fn(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, optax.ScaleByScheduleState]:
        if params is None:
            raise fail("scale_to_hyperball", "params", "is None", "the parameters")
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        leaves, treedef = jax.tree.flatten(updates)
        axes = resolve_routes("scale_to_hyperball", updates, routes)
        chosen = [i for i, a in enumerate(axes) if a is not None]
        specs = None if mesh is None else find_specs("scale_to_hyperball", mesh, sharding, updates)
        found = jax.tree.leaves(params)
        pairs = [(promote(found[i]), promote(leaves[i])) for i in chosen]
        check_leaves("scale_to_hyperball", mesh, [p for p, _ in pairs])
        products = [x for p, u in pairs for x in (p * p, p * u, u * u)]
        thrice = [i for i in chosen for _ in range(3)]
        lie = None if specs is None else [specs[i] for i in thrice]
        sums = column_sums(products, [axes[i] for i in thrice], mesh=mesh, specs=lie)
        for k, (i, (p, u)) in enumerate(zip(chosen, pairs, strict=True)):
            leaves[i] = _step(p, u, sums[3 * k : 3 * k + 3], axes[i], rate, mesh)
        return treedef.unflatten(leaves), optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update_fn)


def _step(p: Array, u: Array, sums: Sequence[Array], axes: MatrixAxes, rate: float | Array, mesh: Mesh | None) -> Array:
    """The update of one leaf, from p p, p u and u u summed over inputs."""
    keep, move = [], []
    for columns in zip(*(to_matrices(x, axes) for x in sums), strict=True):
        factors = _step_factors(*(jnp.sum(x, axis=-1, keepdims=True) for x in columns), rate=rate)
        for found, factor in zip((keep, move), factors, strict=True):
            found.append(jnp.broadcast_to(factor, columns[0].shape))
    k, b = (keep_whole(from_matrices(found, axes, sums[0].shape), mesh) for found in (keep, move))
    return (k - 1.0) * p - b * u


def _step_factors(pp: Array, pu: Array, uu: Array, *, rate: float | Array) -> tuple[Array, Array]:
    """(k, b) with p' = k p - b u, from the inner products of p and u: no norm of the moved matrix is summed up."""
    radius, length = jnp.sqrt(pp), jnp.sqrt(uu)
    rate = jnp.where((radius == 0.0) | (length == 0.0), 0.0, rate)
    cosine = pu / _nonzero(radius * length)
    keep = 1.0 / _nonzero(jnp.sqrt(jnp.maximum(1.0 - 2.0 * rate * cosine + rate * rate, 0.0)))
    return keep, keep * rate * radius / _nonzero(length)


def _nonzero(x: Array) -> Array:
    return jnp.where(x == 0.0, 1.0, x)
