"""Decoupled weight decay: for all of a parameter, for a part of the tree, or only where the step shrinks it anyway."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv.checks import check_flag, check_scalar, fail
from jaxdiv.numerics import promote
from jaxdiv.optimizers.routing import broadcast_prefix
from jaxdiv.typing import Array, PyTree


def decay_weights(
    weight_decay: float | Array, *, mask: Any = None, cautious: bool = False
) -> optax.GradientTransformation:
    r"""Adds ``weight_decay * p`` to an update ``u`` that a negative learning rate will multiply.

    With ``cautious`` only in entries where ``u p >= 0``: there the step moves the entry towards zero (or across), and
    the decay agrees with it; elsewhere the two would fight.

    Args:
        weight_decay: at least 0; the decay per unit of the learning rate after it.
        mask: True where a parameter decays: a (prefix) tree of booleans or a function of params; None for all.
        cautious: as above.

    Returns:
        A transformation without state. Updates come out in float32 (float64 where they or the parameter are).

    Source: Loshchilov and Hutter, Decoupled weight decay regularization (ICLR 2019), eq. 12; Chen et al., Cautious
    weight decay (2025), arXiv 2510.12402.

    >>> params, updates = jnp.array([2.0, -2.0]), jnp.array([1.0, 1.0])
    >>> [float(u) for u in decay_weights(0.1, cautious=True).update(updates, optax.EmptyState(), params)[0]]
    [1.2000000476837158, 1.0]
    """
    check_scalar("decay_weights", "weight_decay", weight_decay, 0.0, math.inf, open_high=True)
    check_flag("decay_weights", "cautious", cautious)

    def update_fn(updates: PyTree, state: optax.EmptyState, params: PyTree = None) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            raise fail(
                "decay_weights", "params", "is None", "the parameters: optimizer.update(gradient, state, params)"
            )
        leaves, treedef = jax.tree.flatten(updates)
        flags = [True] * len(leaves)
        if mask is not None:
            flags = broadcast_prefix(
                "decay_weights", "mask", mask(params) if callable(mask) else mask, updates, _is_flag
            )
        if not all(map(_is_flag, flags)):
            raise fail("decay_weights", "mask", f"has the leaves {set(map(type, flags))}", "booleans")
        pairs = zip(leaves, jax.tree.leaves(params), flags, strict=True)
        return treedef.unflatten([decayed(u, p) if flag else u for u, p, flag in pairs]), state

    def decayed(update: Array, param: Array) -> Array:
        update, param = promote(update), promote(param)
        decay = weight_decay * param
        return update + (jnp.where(update * param >= 0.0, decay, 0.0) if cautious else decay)

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)
