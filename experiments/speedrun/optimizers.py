"""Optimizers whose rate follows the share of the stage that is done, so that the number of steps is no constant.

How many steps fit into a budget is known only after the compiled step was timed. A schedule that held the number would
be compiled a second time; here it is one integer of the optimizer's state, set by :func:`with_total_steps`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxdiv.optimizers import ADAMW_RULES, MatrixAxes, muon, route_parameters
from jaxdiv.typing import Array, PyTree

# Of a U-Net under Muon: kernels [h, w, in, out] and [in, out]; the noise embedding, the first and the last
# convolution and a discriminator's head (the second of the fake score's two trees) are AdamW's.
MUON_RULES = (
    *ADAMW_RULES,
    (r"^1/|map_|\d+x\d+_conv/|aux_conv/", "adamw"),
    (r"kernel$", (MatrixAxes(inputs=0, outputs=1), MatrixAxes(inputs=(0, 1, 2), outputs=3))),
)


class ProgressState(NamedTuple):
    """int32 scalars."""

    count: Array
    """Updates done."""
    total_steps: Array
    """Updates of the whole stage."""


def scale_by_progress(rate_fn: Callable[[Array], Array]) -> optax.GradientTransformation:
    """Multiplies updates by ``-rate_fn(count / total_steps)``; the total is 1 until :func:`with_total_steps`."""

    def init_fn(params: PyTree) -> ProgressState:
        del params
        return ProgressState(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))

    def update_fn(updates: PyTree, state: ProgressState, params: PyTree = None) -> tuple[PyTree, ProgressState]:
        del params
        rate = rate_fn(state.count / state.total_steps)
        return optax.tree.scale(-rate, updates), state._replace(count=state.count + 1)

    return optax.GradientTransformation(init_fn, update_fn)


def with_total_steps(state: PyTree, total_steps: int) -> PyTree:
    """The state, of an optimizer or with some inside, for a stage of so many updates of each."""
    return optax.tree.set(state, total_steps=jnp.asarray(total_steps, jnp.int32))


def trapezoid(rate: float, *, warmup: float, decay_from: float) -> Callable[[Array], Array]:
    """The rate by progress in [0, 1]: linear up to ``warmup``, constant to ``decay_from``, then a cosine to 0.

    >>> rate_fn = trapezoid(2.0, warmup=0.1, decay_from=0.5)
    >>> [round(float(rate_fn(t)), 3) for t in (0.05, 0.3, 0.75, 1.0)]
    [1.0, 2.0, 1.0, 0.0]
    """

    def rate_fn(progress: Array | float) -> Array:
        up = jnp.clip(progress / warmup, 0.0, 1.0) if warmup else 1.0
        done = jnp.clip((progress - decay_from) / max(1.0 - decay_from, 1e-6), 0.0, 1.0)
        return rate * up * 0.5 * (1.0 + jnp.cos(jnp.pi * done))

    return rate_fn


def build_optimizer(
    name: str, rate_fn: Callable[[Array], Array], *, b1: float, clip_norm: float
) -> optax.GradientTransformation:
    """Adam (b2 = 0.99), or Muon without weight decay, its updates of Adam's usual size; gradients are clipped first."""
    # Without a first decay Adam is RMSprop with bias correction, which keeps no first moment.
    adam = (
        optax.scale_by_adam(b1=b1, b2=0.99) if b1 else optax.scale_by_rms(0.99, eps_in_sqrt=False, bias_correction=True)
    )
    if name == "muon":
        # muon descends and so must its rest: the sign is turned back, since the rate is applied here.
        rest = optax.chain(adam, optax.scale(-1.0))
        routes = partial(route_parameters, rules=MUON_RULES)
        directions = optax.chain(muon(1.0, routes=routes, weight_decay=0.0, aux=rest), optax.scale(-1.0))
    else:
        directions = adam
    return optax.chain(optax.clip_by_global_norm(clip_norm), directions, scale_by_progress(rate_fn))
