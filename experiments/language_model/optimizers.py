"""The optimizers that are compared, as transformations of a learning rate that may be a traced number."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_choice
from jaxdiv.optimizers import STACKED_RULES, muon, route_parameters
from jaxdiv.typing import Array, ArrayLike, PyTree

MUON_VARIANTS: dict[str, dict[str, Any]] = {
    "muon": {},
    "normuon": {"second_moment": "normuon"},
    "muon_cautious": {"cautious": True},
    "muon_hyperball": {"radius": "hyperball", "weight_decay": None},
    "muon_polar_express": {"schedule": "polar_express"},
    "muon_jordan": {"schedule": "jordan"},
    "muon_spectral": {"scale": "spectral"},
}
"""Names of Muon and of its variants, with what they change."""

decoder_routes = partial(route_parameters, rules=STACKED_RULES)
"""Muon for the layers' matrices, AdamW for embedding, head, norms and routers."""

OPTIMIZERS = ("adamw", *MUON_VARIANTS)
DECAYS = ("linear", "cosine")


def warmup_decay(
    peak: ArrayLike, *, horizon: ArrayLike, warmup: float = 0.1, decay: str = "linear"
) -> Callable[[Array], Array]:
    """The learning rate of a step: up to ``peak`` over a share of the horizon, then down to 0 at its end.

    Both numbers may be traced, so that one compiled program serves every peak and every horizon.

    Args:
        peak: the largest rate.
        horizon: total number of steps; another horizon is another schedule, not a cut one.
        warmup: the share of the steps that goes up.
        decay: "linear" or "cosine".

    >>> rate = warmup_decay(1.0, horizon=20, warmup=0.2)
    >>> [round(float(rate(jnp.int32(step))), 3) for step in (0, 3, 4, 12, 19)]
    [0.25, 1.0, 1.0, 0.5, 0.062]
    """
    check_choice("warmup_decay", "decay", decay, DECAYS)

    def rate(step: Array) -> Array:
        total = jnp.asarray(horizon, jnp.float32)
        rising = jnp.maximum(jnp.round(warmup * total), 1.0)
        left = jnp.clip((total - step) / jnp.maximum(total - rising, 1.0), 0.0, 1.0)
        falling = left if decay == "linear" else 0.5 - 0.5 * jnp.cos(jnp.pi * left)
        return peak * jnp.minimum((step + 1) / rising, falling)

    return rate


def build_optimizer(
    name: str,
    rate: float | Callable[[Array], Array],
    *,
    weight_decay: float = 0.1,
    clip_norm: float = 1.0,
    aux_factor: float = 1.0,
) -> optax.GradientTransformation:
    """Muon (or a variant) with AdamW for what is no hidden matrix, or AdamW for all; gradients clipped before either.

    Both decay the same leaves, the hidden matrices (on the hyperball none), and both AdamWs have b1 = 0.9, b2 = 0.95.

    Args:
        name: one of ``OPTIMIZERS``.
        rate: a number, or a function of the step.
        weight_decay: per unit of learning rate, of the hidden matrices.
        clip_norm: global norm above which a gradient is scaled down.
        aux_factor: Muon's AdamW takes this multiple of the rate. Muon's updates have the root mean square of AdamW's,
            so 1 gives every leaf steps of one size.
    """
    check_choice("build_optimizer", "name", name, OPTIMIZERS)
    if name == "adamw":
        core = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=weight_decay, mask=hidden_matrices)
    else:
        # Half precision runs on an accelerator's matrix units; a CPU emulates it.
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        options = {"weight_decay": weight_decay, "dtype": dtype} | MUON_VARIANTS[name]
        core = muon(rate, routes=decoder_routes, aux_learning_rate=_scaled(rate, aux_factor), **options)
    return optax.chain(optax.clip_by_global_norm(clip_norm), core)


def _scaled(rate: Any, factor: float) -> Any:
    return (lambda step: factor * rate(step)) if callable(rate) else factor * rate


def hidden_matrices(params: PyTree) -> PyTree:
    """True at the leaves that Muon takes: every matrix of a layer but its router's.

    >>> part = {"kernel": jnp.zeros((2, 4, 4))}
    >>> hidden_matrices({"layers": {"up": part, "router": part}, "head": part})
    {'head': {'kernel': False}, 'layers': {'router': {'kernel': False}, 'up': {'kernel': True}}}
    """
    routes = decoder_routes(params)
    return jax.tree.map(lambda _, route: route != "adamw", params, routes)


def state_bytes(optimizer_state: PyTree) -> int:
    """What an optimizer keeps between steps.

    >>> state_bytes(optax.adam(1.0).init(jnp.zeros(10)))
    84
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(optimizer_state))
