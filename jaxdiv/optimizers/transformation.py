"""Muon for the matrices of a network and AdamW for the rest, put together from optax's parts and the area's own."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxdiv.checks import check_choice, check_instance, check_scalar, fail
from jaxdiv.numerics import promote
from jaxdiv.optimizers.directions import Rate, scale_by_muon
from jaxdiv.optimizers.hyperball import scale_to_hyperball
from jaxdiv.optimizers.routing import resolve_routes
from jaxdiv.optimizers.schedules import Schedule
from jaxdiv.optimizers.symmetric import Kernels
from jaxdiv.optimizers.weight_decay import decay_weights
from jaxdiv.typing import Array, PyTree


def muon(
    learning_rate: Rate,
    *,
    routes: Any = None,
    momentum: Rate = 0.95,
    nesterov: bool = True,
    schedule: str | Schedule = "you",
    dtype: DTypeLike = "bfloat16",
    method: str = "standard",
    kernels: Kernels = "auto",
    scale: str | Callable[[int, int], float] = "match_rms",
    weight_decay: float | Array | None = None,
    weight_decay_mask: Any = None,
    cautious: bool = False,
    second_moment: str | None = None,
    second_moment_decay: float | Array = 0.95,
    radius: str | None = None,
    aux: optax.GradientTransformation | None = None,
    aux_learning_rate: Rate | None = None,
    aux_weight_decay: float | Array | None = None,
    mesh: Mesh | None = None,
    sharding: PyTree = None,
    max_stack_bytes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon for the matrices of a network and AdamW for the rest, in one optax transformation.

    ``p <- p - learning_rate (u + weight_decay p)`` with `scale_by_muon`'s u: momentum, polar factor, scale. The decay
    is multiplied by the learning rate alone, not by the scale.

    Args:
        learning_rate: a number or a function of the number of steps done. With the default scale, AdamW's fit.
        routes: None for `route_parameters` with its default rules, which raises for what it would have to guess; a
            function of params, such as ``functools.partial(route_parameters, rules=STACKED_RULES)``; or a (prefix) tree
            with leaves "adamw", None (AdamW), `MatrixAxes` or optax's ``MuonDimensionNumbers``. See `format_routes`.
        momentum: and also ``nesterov, schedule, dtype, method, kernels, scale, second_moment, second_moment_decay,
            mesh, sharding, max_stack_bytes``: of `scale_by_muon`.
        nesterov: see there.
        schedule: see there.
        dtype: see there.
        method: see there.
        kernels: see there.
        scale: see there.
        weight_decay: of the matrices; None is 0.1, or 0 on the hyperball.
        weight_decay_mask: True where a parameter decays, as `decay_weights` takes it; for AdamW's as well.
        cautious: let the matrices decay only in entries that the step shrinks, see `decay_weights`.
        second_moment: see there.
        second_moment_decay: see there.
        radius: "hyperball" keeps the norm of each matrix, with steps of ``learning_rate`` times it: `step_on_sphere`.
        aux: an optax transformation for the rest; None is AdamW with decays 0.9 and 0.95 and eps 1e-8, in float32.
        aux_learning_rate: AdamW's, a number or a function; None: ``learning_rate``.
        aux_weight_decay: AdamW's; None is 0.
        mesh: see there.
        sharding: see there.
        max_stack_bytes: see there.

    Returns:
        A transformation whose ``update`` needs params. Its state holds no setting, and its tree depends on none but
        ``routes``, ``aux`` and ``second_moment``. Updates are float32 (float64) for parameters of any dtype. Under
        ``optax.inject_hyperparams`` name as static arguments max_stack_bytes and what is callable and no schedule:
        mesh, and routes, scale or mask as functions.

    Raises:
        ValueError: for any other argument; at ``init`` and ``update`` for routes that do not fit the parameters.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); Liu et al., Muon is scalable
    for LLM training (2025), arXiv 2502.16982, for decay and scale.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
    >>> optimizer = muon(0.1, weight_decay=0.0, scale="original", schedule="polar_express_8", dtype="float32")
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> [round(float(v), 3) for v in jnp.diag(updates["mlp"]["kernel"])]
    [-0.1, -0.1, -0.1, -0.1]
    """
    _check_schedule("muon", "learning_rate", learning_rate)
    if aux_learning_rate is not None:
        _check_schedule("muon", "aux_learning_rate", aux_learning_rate)
    check_choice("muon", "radius", radius, (None, "hyperball"))
    if aux_weight_decay is not None:
        check_scalar("muon", "aux_weight_decay", aux_weight_decay, 0.0, math.inf, open_high=True)
    directions = scale_by_muon(
        routes=routes, momentum=momentum, nesterov=nesterov, schedule=schedule, dtype=dtype, method=method,
        kernels=kernels, scale=scale, second_moment=second_moment, second_moment_decay=second_moment_decay, mesh=mesh,
        sharding=sharding, max_stack_bytes=max_stack_bytes,
    )  # fmt: skip
    if radius is not None:
        if weight_decay is not None or cautious:
            raise fail("muon", "weight_decay or cautious", "is given", "neither with radius='hyperball'")
        # What takes the place of the decay has no state either, so that either kind of step restores the other's.
        step = scale_to_hyperball(learning_rate, routes=routes, mesh=mesh, sharding=sharding)
        matrices = optax.chain(directions, optax.identity(), step)
    else:
        decay = decay_weights(0.1 if weight_decay is None else weight_decay, mask=weight_decay_mask, cautious=cautious)
        matrices = optax.chain(directions, decay, _scale_by_rate(learning_rate))
    if aux is None:
        rate = learning_rate if aux_learning_rate is None else aux_learning_rate
        decay = decay_weights(0.0 if aux_weight_decay is None else aux_weight_decay, mask=weight_decay_mask)
        adam = optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8)
        aux = _in_float32(optax.chain(adam, decay, _scale_by_rate(rate)))
    else:
        check_instance("muon", "aux", aux, optax.GradientTransformation)
        for name, given in (("aux_learning_rate", aux_learning_rate), ("aux_weight_decay", aux_weight_decay)):
            if given is not None:
                raise fail("muon", name, "is given", "none beside aux, which has its own")

    def label_fn(params: PyTree) -> PyTree:
        axes = resolve_routes("muon", params, routes)
        return jax.tree.unflatten(jax.tree.structure(params), ["adamw" if a is None else "muon" for a in axes])

    return optax.partition({"muon": matrices, "adamw": aux}, label_fn)


def _scale_by_rate(rate: Rate) -> optax.GradientTransformation:
    """``optax.scale_by_learning_rate`` that counts steps for a number too: the state is the same for every rate."""
    return optax.scale_by_learning_rate(rate if callable(rate) else lambda count: rate)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation with its statistics in float32 (float64 where the leaves are) for leaves of any dtype."""

    def widen(tree: PyTree) -> PyTree:
        return jax.tree.map(promote, tree)

    def update_fn(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return inner.update(widen(updates), state, None if params is None else widen(params))

    return optax.GradientTransformation(lambda params: inner.init(widen(params)), update_fn)


def _check_schedule(function: str, argument: str, value: Any) -> None:
    if not callable(value):
        check_scalar(function, argument, value, 0.0, math.inf, open_high=True)
