"""The direction of Muon: the polar factors of the momentum of all matrices of a tree, taken together.

Design. All matrices of two equal sides are one batch of products (`stacks`), on a mesh shared among its devices
(`sharding`). The momentum is float32 and lies as the parameters do; only what enters the iteration is rounded, as it is
written into the stack (to bfloat16 also for float16 iterations: a gradient has the range of float32, and
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
from jax.sharding import Mesh
from jax.typing import DTypeLike

from jaxdiv.checks import check_choice, check_flag, check_integer, check_real, check_scalar, fail
from jaxdiv.optimizers.matrices import MatrixAxes, column_shape, from_matrices, matrix_shapes, to_matrices
from jaxdiv.optimizers.normuon import neuron_factors
from jaxdiv.optimizers.polar import orthogonalize
from jaxdiv.optimizers.routing import resolve_routes
from jaxdiv.optimizers.schedules import Schedule, find_schedule
from jaxdiv.optimizers.sharding import check_leaves, check_mesh, column_sums, find_specs, keep_whole, map_sharded_leaves
from jaxdiv.optimizers.stacks import map_leaves
from jaxdiv.optimizers.symmetric import Kernels
from jaxdiv.typing import Array, PyTree

Rate = float | Array | Callable[[Array], Array]
"""A number, or a function of the number of steps done."""

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
    kernels: Kernels = "auto",
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
        schedule: of the Newton-Schulz iteration, see `orthogonalize`; as are the next three.
        dtype: of the iteration; a name, since optax.inject_hyperparams takes ``jnp.bfloat16`` for a schedule.
        method: of the iteration; a stack split along its longer side (see ``mesh``) takes the standard one.
        kernels: of the symmetric products, see `orthogonalize`.
        scale: s: a key of `SCALES` or a function of a matrix's inputs and outputs.
        second_moment: "normuon" normalises each output, see `normalize_neurons`.
        second_moment_decay: of it.
        mesh: whose devices share the iterations, of Auto or Explicit axes. None: each device of a sharded
            computation does what the partitioner decides; parameters split over Explicit axes need the mesh.
        sharding: a (prefix) tree of ``PartitionSpec`` or ``NamedSharding``, how the parameters lie on the mesh; None:
            replicated. Where it is not what they do, arrays move there and back: slower and no less right.
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
    orthogonalize_fn = functools.partial(orthogonalize, schedule=schedule, dtype=dtype, method=method, kernels=kernels)
    jax.eval_shape(orthogonalize_fn, jax.ShapeDtypeStruct((2, 4), jnp.float32))  # checks dtype, method, kernels
    if not callable(scale):
        check_choice(name, "scale", scale, SCALES)
    scale_fn = scale if callable(scale) else SCALES[scale]
    check_choice(name, "second_moment", second_moment, (None, "normuon"))
    check_scalar(name, "second_moment_decay", second_moment_decay, 0.0, 1.0, open_high=True)
    check_mesh(name, mesh, sharding)
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
        if (state.second_moment is None) != (second_moment is None):
            stored = "has no second moment" if state.second_moment is None else "has NorMuon's second moment"
            raise fail(name, "state", stored, f"one that init made with second_moment={second_moment!r}")
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
        check_leaves(name, mesh, looks)
        specs = None if mesh is None else find_specs(name, mesh, sharding, updates)
        placed = None if specs is None else [specs[i] for i in chosen]
        if mesh is None:
            polar = map_leaves(orthogonalize_fn, looks, axes, max_stack_bytes=max_stack_bytes)
        else:
            polar = map_sharded_leaves(
                orthogonalize_fn, looks, axes, mesh=mesh, specs=placed,
                schedule=schedule, dtype=jnp.dtype(dtype), kernels=kernels, max_stack_bytes=max_stack_bytes,
            )  # fmt: skip
        polar = [x.astype(buffers[i].dtype) for i, x in zip(chosen, polar, strict=True)]
        moments = None if second_moment is None else treedef.flatten_up_to(state.second_moment)
        scales: list[Any] = [_scales(scale_fn, x.shape, a) for x, a in zip(polar, axes, strict=True)]
        if moments is not None:
            sums = column_sums([jnp.square(x) for x in polar], axes, mesh=mesh, specs=placed)
            for k, (i, x, a) in enumerate(zip(chosen, polar, axes, strict=True)):
                sizes = [m[:, 0] * (sums[k].size / x.size) for m in to_matrices(sums[k], a)]  # means over the inputs
                pairs = zip(sizes, moments[i], strict=True)
                done = [neuron_factors(part, v, decay=second_moment_decay) for part, v in pairs]
                moments[i] = tuple(v for _, v in done)
                factors = from_matrices([f[:, None] for f, _ in done], a, sums[k].shape)
                scales[k] = scales[k] * keep_whole(factors, mesh)
        for i, x, factor in zip(chosen, polar, scales, strict=True):
            leaves[i] = factor * x
        state = MuonState(
            optax.safe_increment(state.count),
            treedef.unflatten(buffers),
            None if moments is None else treedef.unflatten(moments),
        )
        return treedef.unflatten(leaves), state

    return optax.GradientTransformation(init_fn, update_fn)


def _scales(scale_fn: Callable[[int, int], float], shape: tuple[int, ...], axes: MatrixAxes) -> float | Array:
    """What multiplies a leaf: a number, or one for each output where its splits differ in size."""
    found = matrix_shapes(shape, axes)
    factors = []
    for m in found:
        factor = scale_fn(m.inputs, m.outputs)
        text = f"scale({m.inputs}, {m.outputs})"
        check_real("scale_by_muon", text, factor, 0.0, math.inf, open_low=True, open_high=True)
        factors.append(float(factor))
    if len(set(factors)) == 1:
        return factors[0]
    columns = [jnp.full((m.count, 1, m.outputs), factor) for m, factor in zip(found, factors, strict=True)]
    return from_matrices(columns, axes, column_shape(shape, axes))
