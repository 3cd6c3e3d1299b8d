"""Shampoo with full matrices, written to be read: both preconditioners by eigendecompositions, steps of Adam's size."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxdiv.typing import Array, PyTree


class ShampooState(NamedTuple):
    """What Shampoo keeps; each tree has the parameters' structure."""

    count: Array
    adam: optax.ScaleByAdamState
    """Its first moment is also what the preconditioners are applied to."""
    left: PyTree
    """Decaying mean of ``G G^T``."""
    right: PyTree
    """Decaying mean of ``G^T G``."""
    left_root: PyTree
    """``left^(-1/4)`` as of the last refresh."""
    right_root: PyTree


def scale_by_shampoo(
    *, b1: float = 0.9, b2: float = 0.999, decay: float = 0.99, ridge: float = 1e-6, refresh_every: int = 10
) -> optax.GradientTransformation:
    r"""``L^(-1/4) M R^(-1/4)`` for every leaf, a matrix, with the Frobenius norm of Adam's update of the same leaf.

    L and R are decaying means of ``G G^T`` and ``G^T G``, M is Adam's first moment. Taking the size from Adam
    ("grafting") makes the scale of L and R irrelevant and lets the learning rates of Adam fit.

    Args:
        b1: decay of M.
        b2: decay of Adam's second moment.
        decay: of L and R.
        ridge: added to the eigenvalues, as a fraction of the largest one.
        refresh_every: steps between eigendecompositions; the first step has one.

    Source: Gupta, Koren and Singer, Shampoo: preconditioned stochastic tensor optimization (ICML 2018),
    arXiv 1802.09568, algorithm 1, with means in place of sums; Anil et al., Scalable second order optimization for
    deep learning (2020), arXiv 2002.09018, for grafting and stale roots.

    >>> optimizer = scale_by_shampoo(b1=0.0, ridge=1e-12)
    >>> g = jnp.diag(jnp.array([3.0, -4.0]))
    >>> updates, _ = optimizer.update({"kernel": g}, optimizer.init({"kernel": g}))
    >>> [round(float(v), 3) for v in jnp.diag(updates["kernel"])]
    [1.0, -1.0]
    """
    adam = optax.scale_by_adam(b1=b1, b2=b2)

    def init_fn(params: PyTree) -> ShampooState:
        left = jax.tree.map(lambda x: jnp.zeros((x.shape[0],) * 2, x.dtype), params)
        right = jax.tree.map(lambda x: jnp.zeros((x.shape[1],) * 2, x.dtype), params)
        return ShampooState(jnp.zeros((), jnp.int32), adam.init(params), left, right, left, right)

    def update_fn(updates: PyTree, state: ShampooState, params: PyTree = None) -> tuple[PyTree, ShampooState]:
        del params
        sizes, adam_state = adam.update(updates, state.adam)
        moments = cast(optax.ScaleByAdamState, adam_state).mu
        left = jax.tree.map(lambda s, g: decay * s + (1 - decay) * (g @ g.T), state.left, updates)
        right = jax.tree.map(lambda s, g: decay * s + (1 - decay) * (g.T @ g), state.right, updates)
        left_root, right_root = jax.lax.cond(
            state.count % refresh_every == 0,
            lambda: jax.tree.map(lambda s: inverse_fourth_root(s, ridge=ridge), (left, right)),
            lambda: (state.left_root, state.right_root),
        )

        def direction(m: Array, left_root: Array, right_root: Array, size: Array) -> Array:
            u = left_root @ m @ right_root
            return u * (jnp.linalg.norm(size) / jnp.maximum(jnp.linalg.norm(u), 1e-30))

        directions = jax.tree.map(direction, moments, left_root, right_root, sizes)
        return directions, ShampooState(state.count + 1, adam_state, left, right, left_root, right_root)

    return optax.GradientTransformation(init_fn, update_fn)


def inverse_fourth_root(x: Array, *, ridge: float) -> Array:
    """``(x + ridge |x|_2 I)^(-1/4)`` of a positive semidefinite matrix; finite for 0.

    >>> [round(float(v), 4) for v in jnp.diag(inverse_fourth_root(jnp.diag(jnp.array([16.0, 1.0])), ridge=0.0))]
    [0.5, 1.0]
    """
    values, vectors = jnp.linalg.eigh(x)
    values = jnp.maximum(values, 0.0)
    values = jnp.maximum(values + ridge * values[-1], 1e-30)
    return (vectors * values**-0.25) @ vectors.T
