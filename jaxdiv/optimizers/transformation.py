"""Muon: momentum, its polar factor, a step of known size, as an optax transformation that treats the tree as a whole.

Design. All matrices of two equal sides are one batch of products (`stacks`), on a mesh shared among its devices
(`sharding`). The momentum is float32 and lies as the parameters do; only what enters the iteration is rounded, once,
as it is written into the stack (in bfloat16 also for float16 iterations: a gradient has the range of float32, and
`orthogonalize` scales in float32 before it casts). Everything else is elementwise, and XLA fuses it with the sum that
applies the update. The state holds arrays that the steps made and no setting, so that a restored state obeys the
optimizer that restores it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxdiv.checks import check_choice, check_flag, check_instance, check_integer, check_real, check_scalar, fail
from jaxdiv.numerics import promote
from jaxdiv.optimizers.hyperball import scale_to_hyperball
from jaxdiv.optimizers.matrices import MatrixAxes, from_matrices, matrix_shapes, to_matrices
from jaxdiv.optimizers.normuon import normalize_neurons
from jaxdiv.optimizers.polar import orthogonalize
from jaxdiv.optimizers.routing import broadcast_prefix, resolve_routes
from jaxdiv.optimizers.schedules import Schedule, find_schedule
from jaxdiv.optimizers.sharding import map_sharded_leaves
from jaxdiv.optimizers.stacks import Block, map_stacks
from jaxdiv.optimizers.weight_decay import decay_weights
from jaxdiv.typing import Array, PyTree

Rate = float | Array | Callable[[Array], Array]

SCALES: dict[str, Callable[[int, int], float]] = {
    "match_rms": lambda inputs, outputs: 0.2 * math.sqrt(max(inputs, outputs)),
    "spectral": lambda inputs, outputs: math.sqrt(outputs / inputs),
    "original": lambda inputs, outputs: math.sqrt(max(1.0, outputs / inputs)),
}
"""What multiplies the polar factor of an ``[in, out]`` matrix. "match_rms" gives entries of root mean square 0.2, as
AdamW's are, so that its learning rates fit (Liu et al., Muon is scalable for LLM training, 2025, arXiv 2502.16982,
eq. 4); "spectral" gives outputs of one size whatever the sides (Yang et al., 2023, arXiv 2310.17813); "original" is
Jordan's."""


class MuonState(NamedTuple):
    """What `scale_by_muon` carries from step to step."""

    count: Array
    """int32: steps done; the argument of a momentum schedule."""
    momentum: PyTree
    """float32 (float64 where the parameter is), of the shape of each parameter that Muon treats."""
    second_moment: PyTree
    """None, or NorMuon's: for each parameter a tuple of ``[count, out]``, see `to_matrices`."""


def scale_by_muon(
    *,
    routes: Any = None,
    momentum: Rate = 0.95,
    nesterov: bool = True,
    schedule: str | Schedule = "you",
    dtype: DTypeLike = "bfloat16",
    method: str = "standard",
    scale: str | Callable[[int, int], float] = "match_rms",
    second_moment: str | None = None,
    second_moment_decay: float | Array = 0.95,
    mesh: Mesh | None = None,
    sharding: PyTree = None,
    max_stack_bytes: int | None = None,
) -> optax.GradientTransformation:
    r"""The direction of Muon: a multiple of the polar factor of each matrix's momentum.

    ``m <- b m + (1 - b) g``, then ``u = b m + (1 - b) g`` with Nesterov's look-ahead and ``u = m`` without, and
    ``s(in, out) polar(u)``. There is no correction of the momentum's start at 0, since the polar factor has no size.

    Args:
        routes: which parameters are matrices: see `muon`. Leaves for AdamW pass unchanged.
        momentum: b in [0, 1), or a function of the number of steps done.
        nesterov: as above.
        schedule: of the Newton-Schulz iteration, see `orthogonalize`; also ``dtype`` and ``method``.
        dtype: of the iteration; a name, since optax.inject_hyperparams takes ``jnp.bfloat16`` for a schedule.
        method: of the iteration; a stack split along its longer side (see ``mesh``) takes the standard one.
        scale: s: a key of `SCALES` or a function of a matrix's inputs and outputs.
        second_moment: "normuon" normalises each output, see `normalize_neurons`.
        second_moment_decay: of it.
        mesh: whose devices share the iterations; the gradients may lie on it as they like. None: each device of a
            sharded computation does what the partitioner decides.
        sharding: a (prefix) tree of ``PartitionSpec`` or ``NamedSharding``, how the parameters lie on the mesh; None:
            replicated. Where it is not what they do, the step is slower and no less right.
        max_stack_bytes: no stack of matrices is larger on any device, unless a single matrix is.

    Returns:
        A transformation whose updates are float32 (float64 where the gradient is) for the matrices, to be multiplied by
        a negative learning rate. Nothing is differentiated.

    Raises:
        ValueError: for any other argument; at ``init`` and ``update`` for routes that do not fit the parameters.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).

    >>> optimizer = scale_by_muon(scale="original", schedule="polar_express_8", dtype="float32")
    >>> params = {"kernel": jnp.zeros((2, 2))}
    >>> updates, _ = optimizer.update({"kernel": jnp.diag(jnp.array([3.0, -4.0]))}, optimizer.init(params))
    >>> [[round(float(v), 2) for v in row] for row in updates["kernel"]]
    [[1.0, 0.0], [0.0, -1.0]]
    """
    name = "scale_by_muon"
    if not callable(momentum):
        check_scalar(name, "momentum", momentum, 0.0, 1.0, open_high=True)
    check_flag(name, "nesterov", nesterov)
    schedule = find_schedule(name, schedule)
    orthogonalize_fn = functools.partial(orthogonalize, schedule=schedule, dtype=dtype, method=method)
    jax.eval_shape(orthogonalize_fn, jax.ShapeDtypeStruct((2, 4), jnp.float32))  # checks dtype and method
    if not callable(scale):
        check_choice(name, "scale", scale, SCALES)
    scale_fn = scale if callable(scale) else SCALES[scale]
    check_choice(name, "second_moment", second_moment, (None, "normuon"))
    check_scalar(name, "second_moment_decay", second_moment_decay, 0.0, 1.0, open_high=True)
    if mesh is not None:
        check_instance(name, "mesh", mesh, Mesh)
    elif sharding is not None:
        raise fail(name, "mesh", "is None", "the mesh that sharding refers to")
    if max_stack_bytes is not None:
        check_integer(name, "max_stack_bytes", max_stack_bytes, 1)
    wire = jnp.bfloat16 if jnp.dtype(dtype).itemsize == 2 else jnp.dtype(dtype)

    def init_fn(params: PyTree) -> MuonState:
        leaves, treedef = jax.tree.flatten(params)
        axes = resolve_routes(name, params, routes)
        masked, zero = optax.MaskedNode(), jnp.zeros((), jnp.int32)
        buffers: list[Any] = [
            masked if a is None else jnp.zeros_like(x, dtype=jnp.promote_types(x.dtype, jnp.float32))
            for x, a in zip(leaves, axes, strict=True)
        ]
        if second_moment is None:
            return MuonState(zero, treedef.unflatten(buffers), None)
        moments = [
            masked if a is None else tuple(jnp.zeros((m.count, m.outputs), b.dtype) for m in matrix_shapes(b.shape, a))
            for b, a in zip(buffers, axes, strict=True)
        ]
        return MuonState(zero, treedef.unflatten(buffers), treedef.unflatten(moments))

    def update_fn(updates: PyTree, state: MuonState, params: PyTree = None) -> tuple[PyTree, MuonState]:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        routed = resolve_routes(name, updates, routes)
        chosen = [i for i, a in enumerate(routed) if a is not None]
        axes = [routed[i] for i in chosen]
        buffers = treedef.flatten_up_to(state.momentum)
        decay = momentum(state.count) if callable(momentum) else momentum
        looks = []
        for i in chosen:
            gradient = leaves[i].astype(buffers[i].dtype)
            buffers[i] = gradient + decay * (buffers[i] - gradient)
            look = gradient + decay * (buffers[i] - gradient) if nesterov else buffers[i]
            looks.append(look.astype(wire))
        if mesh is None:
            polar = map_leaves(orthogonalize_fn, looks, axes, max_stack_bytes=max_stack_bytes)
        else:
            specs = _find_specs(mesh, sharding, updates)
            polar = map_sharded_leaves(
                orthogonalize_fn, looks, axes, mesh=mesh, specs=[specs[i] for i in chosen],
                schedule=schedule, dtype=jnp.dtype(dtype), max_stack_bytes=max_stack_bytes,
            )  # fmt: skip
        moments = None if second_moment is None else treedef.flatten_up_to(state.second_moment)
        for i, x, a in zip(chosen, polar, axes, strict=True):
            factors = [_factor(scale_fn, m.inputs, m.outputs) for m in matrix_shapes(x.shape, a)]
            x = x.astype(buffers[i].dtype)
            if moments is None and len(set(factors)) == 1:
                leaves[i] = factors[0] * x
                continue
            parts = to_matrices(x, a)
            if moments is not None:
                pairs = zip(parts, moments[i], strict=True)
                done = [normalize_neurons(part, v, decay=second_moment_decay) for part, v in pairs]
                parts, moments[i] = [part for part, _ in done], tuple(v for _, v in done)
            leaves[i] = from_matrices([f * part for f, part in zip(factors, parts, strict=True)], a, x.shape)
        state = MuonState(
            optax.safe_increment(state.count),
            treedef.unflatten(buffers),
            None if moments is None else treedef.unflatten(moments),
        )
        return treedef.unflatten(leaves), state

    return optax.GradientTransformation(init_fn, update_fn)


def muon(
    learning_rate: Rate,
    *,
    routes: Any = None,
    momentum: Rate = 0.95,
    nesterov: bool = True,
    schedule: str | Schedule = "you",
    dtype: DTypeLike = "bfloat16",
    method: str = "standard",
    scale: str | Callable[[int, int], float] = "match_rms",
    weight_decay: float | Array | None = None,
    weight_decay_mask: Any = None,
    cautious: bool = False,
    second_moment: str | None = None,
    second_moment_decay: float | Array = 0.95,
    radius: str | None = None,
    aux: optax.GradientTransformation | None = None,
    aux_learning_rate: Rate | None = None,
    aux_weight_decay: float | Array = 0.0,
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
        momentum: and also ``nesterov, schedule, dtype, method, scale, second_moment, second_moment_decay, mesh,
            sharding, max_stack_bytes``: of `scale_by_muon`.
        nesterov: see there.
        schedule: see there.
        dtype: see there.
        method: see there.
        scale: see there.
        weight_decay: of the matrices; None is 0.1, or 0 on the hyperball.
        weight_decay_mask: True where a parameter decays, as `decay_weights` takes it; for the rest as well.
        cautious: let the matrices decay only in entries that the step shrinks, see `decay_weights`.
        second_moment: see there.
        second_moment_decay: see there.
        radius: "hyperball" keeps the norm of each matrix, with steps of ``learning_rate`` times it: `step_on_sphere`.
        aux: an optax transformation for the rest; None is AdamW with decays 0.9 and 0.95 and eps 1e-8, in float32.
        aux_learning_rate: AdamW's, a number or a function; None: ``learning_rate``.
        aux_weight_decay: AdamW's.
        mesh: see there.
        sharding: see there.
        max_stack_bytes: see there.

    Returns:
        A transformation whose ``update`` needs params. Its state holds no setting. Under ``optax.inject_hyperparams``
        name as static arguments what is callable and no schedule: mesh, and routes, scale or mask as functions.

    Raises:
        ValueError: for any other argument; at ``init`` and ``update`` for routes that do not fit the parameters.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); Liu et al., Muon is scalable
    for LLM training (2025), arXiv 2502.16982, for decay and scale.

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
    check_scalar("muon", "aux_weight_decay", aux_weight_decay, 0.0, math.inf, open_high=True)
    directions = scale_by_muon(
        routes=routes, momentum=momentum, nesterov=nesterov, schedule=schedule, dtype=dtype, method=method, scale=scale,
        second_moment=second_moment, second_moment_decay=second_moment_decay, mesh=mesh, sharding=sharding,
        max_stack_bytes=max_stack_bytes,
    )  # fmt: skip
    if radius is not None:
        if weight_decay is not None or cautious:
            raise fail("muon", "weight_decay or cautious", "is given", "neither with radius='hyperball'")
        matrices = optax.chain(directions, scale_to_hyperball(learning_rate, routes=routes))
    else:
        decay = decay_weights(0.1 if weight_decay is None else weight_decay, mask=weight_decay_mask, cautious=cautious)
        matrices = optax.chain(directions, decay, optax.scale_by_learning_rate(learning_rate))
    if aux is None:
        rate = learning_rate if aux_learning_rate is None else aux_learning_rate
        decay = decay_weights(aux_weight_decay, mask=weight_decay_mask)
        adam = optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8)
        aux = _in_float32(optax.chain(adam, decay, optax.scale_by_learning_rate(rate)))
    else:
        check_instance("muon", "aux", aux, optax.GradientTransformation)
        if aux_learning_rate is not None:
            raise fail("muon", "aux_learning_rate", "is given", "none beside aux, which has its own")

    def label_fn(params: PyTree) -> PyTree:
        axes = resolve_routes("muon", params, routes)
        return jax.tree.unflatten(jax.tree.structure(params), ["adamw" if a is None else "muon" for a in axes])

    return optax.partition({"muon": matrices, "adamw": aux}, label_fn)


def map_leaves(
    orthogonalize_fn: Callable[[Array], Array],
    leaves: list[Array],
    axes: list[MatrixAxes],
    *,
    max_stack_bytes: int | None = None,
) -> list[Array]:
    """A function of stacks ``[N, short, long]`` on the matrices of all leaves."""
    parts = [to_matrices(x, a) for x, a in zip(leaves, axes, strict=True)]
    blocks = [Block(x, x.shape[1] > x.shape[2]) for leaf_parts in parts for x in leaf_parts]
    done = iter(map_stacks(lambda stack, _: orthogonalize_fn(stack), blocks, max_stack_bytes=max_stack_bytes))
    return [
        from_matrices([next(done) for _ in leaf_parts], a, x.shape)
        for x, leaf_parts, a in zip(leaves, parts, axes, strict=True)
    ]


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation with its statistics in float32 (float64 where the leaves are) for leaves of any dtype."""

    def widen(tree: PyTree) -> PyTree:
        return jax.tree.map(promote, tree)

    def update_fn(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return inner.update(widen(updates), state, None if params is None else widen(params))

    return optax.GradientTransformation(lambda params: inner.init(widen(params)), update_fn)


def _find_specs(mesh: Mesh, sharding: PyTree, updates: PyTree) -> list[PartitionSpec]:
    """One PartitionSpec for each leaf of the updates."""
    tree = PartitionSpec() if sharding is None else sharding
    found = broadcast_prefix("scale_by_muon", "sharding", tree, updates, _is_spec)
    specs = []
    for value in found:
        spec = PartitionSpec() if value is None else value.spec if isinstance(value, NamedSharding) else value
        if not isinstance(spec, PartitionSpec):
            raise fail("scale_by_muon", "sharding", f"holds {value!r}", "PartitionSpec or NamedSharding leaves")
        names = jax.tree.leaves(tuple(spec))
        if not set(names) <= set(mesh.axis_names):
            raise fail("scale_by_muon", "sharding", f"holds {spec}", f"axes of the mesh {mesh.axis_names}")
        specs.append(spec)
    return specs


def _is_spec(value: Any) -> bool:
    return value is None or isinstance(value, PartitionSpec | NamedSharding)


def _factor(scale_fn: Callable[[int, int], float], inputs: int, outputs: int) -> float:
    factor = scale_fn(inputs, outputs)
    check_real("scale_by_muon", f"scale({inputs}, {outputs})", factor, 0.0, math.inf, open_low=True, open_high=True)
    return float(factor)


def _check_schedule(function: str, argument: str, value: Any) -> None:
    if not callable(value):
        check_scalar(function, argument, value, 0.0, math.inf, open_high=True)
