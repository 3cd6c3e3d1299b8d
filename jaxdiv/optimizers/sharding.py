"""Muon's stacks on a mesh: every device orthogonalises its share of whole matrices, without talking in between.

A parameter's axes may be split over mesh axes in any of the usual ways, and three sets of them decide what moves:

- those that split batch axes (layers, experts): each device already has whole matrices of its own;
- those that split sides of the matrices (FSDP, tensor parallelism): one all-to-all gathers whole matrices, and one
  scatters the results;
- the rest, along which the parameter is replicated: each device takes a part of the stack, and one all-gather (or the
  all-to-all above, widened) returns the others'.

So a stack costs at most two collectives, in bfloat16 for half-precision iterations. A stack of fewer matrices than
devices, or of one matrix above ``max_stack_bytes``, is instead split along the longer side: then the products with X
are local, and each step adds up one n x n Gram matrix. The collectives are written out in ``shard_map``; what
a partitioner finds by itself is a gather for each parameter.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiv.checks import check_instance, fail
from jaxdiv.numerics import promote
from jaxdiv.optimizers.gram import almost_orthogonal
from jaxdiv.optimizers.matrices import (
    MatrixAxes,
    column_shape,
    from_matrices,
    matrix_shapes,
    resolve_axes,
    to_matrices,
)
from jaxdiv.optimizers.routing import broadcast_prefix
from jaxdiv.optimizers.schedules import Schedule
from jaxdiv.optimizers.stacks import Block, map_stacks
from jaxdiv.optimizers.symmetric import Kernels, multiply, symmetric_polynomial
from jaxdiv.typing import Array, PyTree

Names = tuple[str, ...]


class Layout(NamedTuple):
    """The mesh axes that split a leaf's batch axes and the two sides of its matrices."""

    batch: Names = ()
    first: Names = ()
    second: Names = ()


def map_sharded_leaves(
    orthogonalize_fn: Callable[[Array], Array],
    leaves: Sequence[Array],
    axes: Sequence[MatrixAxes],
    *,
    mesh: Mesh,
    specs: Sequence[PartitionSpec],
    schedule: Schedule,
    dtype: jnp.dtype,
    kernels: Kernels,
    max_stack_bytes: int | None = None,
) -> list[Array]:
    """The matrices of all leaves orthogonalised, on a mesh: what ``map_stacks`` does on one device.

    Args:
        orthogonalize_fn: of a stack ``[N, short, long]``.
        leaves: of one dtype, which is what goes over the wire.
        axes: one for each leaf.
        mesh: of any axes; all its devices share the work.
        specs: how each leaf lies on the mesh. A leaf split in a way that mixes matrices (along the splits of a fused
            kernel, or along a later one of several input axes) is gathered first.
        schedule: of the iteration that is split along the longer side.
        dtype: of that iteration.
        kernels: of its products.
        max_stack_bytes: no stack on a device is larger, unless it is a single matrix.
    """
    layouts = [find_layout(x.shape, a, spec, mesh) for x, a, spec in zip(leaves, axes, specs, strict=True)]
    local_specs = tuple(
        PartitionSpec() if layout is None else spec for layout, spec in zip(layouts, specs, strict=True)
    )
    tall = [[m.inputs > m.outputs for m in matrix_shapes(x.shape, a)] for x, a in zip(leaves, axes, strict=True)]

    def stack_fn(stack: Array, layout: Layout) -> Array:
        spread = _size(mesh, _replicas(mesh, layout) + layout.first + layout.second)
        size = math.prod(stack.shape[1:]) * _size(mesh, layout.first + layout.second) * stack.dtype.itemsize
        few = stack.shape[0] < spread or (max_stack_bytes is not None and size > max_stack_bytes)
        if spread > 1 and few:
            return share_long_side(stack, layout, mesh=mesh, schedule=schedule, dtype=dtype, kernels=kernels)
        return spread_stack(orthogonalize_fn, stack, layout, mesh=mesh)

    def local_fn(*local: Array) -> tuple[Array, ...]:
        parts = [to_matrices(x, a) for x, a in zip(local, axes, strict=True)]
        blocks = [
            Block(x, is_tall, _turned(layout or Layout(), is_tall))
            for leaf_parts, leaf_tall, layout in zip(parts, tall, layouts, strict=True)
            for x, is_tall in zip(leaf_parts, leaf_tall, strict=True)
        ]
        done = iter(map_stacks(stack_fn, blocks, max_stack_bytes=max_stack_bytes, multiple=mesh.size))
        return tuple(
            from_matrices([next(done) for _ in leaf_parts], a, x.shape)
            for x, leaf_parts, a in zip(local, parts, axes, strict=True)
        )

    # Without check_vma: what comes back is equal along replicated axes, which jax cannot prove.
    sharded_fn = jax.shard_map(local_fn, mesh=mesh, in_specs=local_specs, out_specs=local_specs, check_vma=False)
    done = sharded_fn(*_laid(leaves, mesh, local_specs))
    # Back to where they lay, as what follows on Explicit axes needs them.
    return [_like(y, x) for x, y in zip(leaves, done, strict=True)]


def column_sums(
    arrays: Sequence[Array], axes: Sequence[MatrixAxes], *, mesh: Mesh | None, specs: Sequence[PartitionSpec] | None
) -> list[Array]:
    """Each array summed over the inputs of its matrices, of `column_shape`.

    On a mesh the sums are whole on every device, and one all-reduce brings all of them together. A partitioner would
    make one for each sum.

    Args:
        arrays: leaves, or products of them.
        axes: one for each array.
        mesh: None for one device, or for what the partitioner decides.
        specs: how each array lies on the mesh.
    """
    shapes = [column_shape(x.shape, a) for x, a in zip(arrays, axes, strict=True)]
    inputs = [resolve_axes(x.shape, a).inputs for x, a in zip(arrays, axes, strict=True)]
    names: list[list[Names]] = [[()] * x.ndim for x in arrays]
    if mesh is not None and specs is not None:
        given = [_axis_names(spec, x.ndim) for spec, x in zip(specs, arrays, strict=True)]
        names = [n if _divides(x.shape, n, mesh) else whole for n, x, whole in zip(given, arrays, names, strict=True)]
    if mesh is None or not any(map(any, names)):
        return [jnp.sum(x, axis=over, keepdims=True) for x, over in zip(arrays, inputs, strict=True)]

    def local_fn(*local: Array) -> tuple[Array, ...]:
        parts = []
        for x, shape, over, split in zip(local, shapes, inputs, names, strict=True):
            total = jnp.sum(x, axis=over, keepdims=True)
            copies = tuple(name for name in mesh.axis_names if name not in sum(split, ()))
            if copies:  # one of those that hold the same counts
                total = jnp.where(jax.lax.axis_index(copies) == 0, total, 0.0)
            # Each device's own part, among zeros.
            starts = [
                jax.lax.axis_index(part) * x.shape[axis] if part and axis not in over else 0
                for axis, part in enumerate(split)
            ]
            parts.append(jax.lax.dynamic_update_slice(jnp.zeros(shape, total.dtype), total, starts).ravel())
        whole = jax.lax.psum(jnp.concatenate(parts), mesh.axis_names)
        pieces = jnp.split(whole, np.cumsum([part.size for part in parts[:-1]]))
        return tuple(p.reshape(s).astype(x.dtype) for p, s, x in zip(pieces, shapes, local, strict=True))

    in_specs = tuple(PartitionSpec(*(part or None for part in split)) for split in names)
    sharded_fn = jax.shard_map(local_fn, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec())
    return list(sharded_fn(*_laid(arrays, mesh, in_specs)))


def check_mesh(function: str, mesh: Mesh | None, sharding: PyTree) -> None:
    """A mesh or None, and no sharding without one."""
    if mesh is not None:
        check_instance(function, "mesh", mesh, Mesh)
    elif sharding is not None:
        raise fail(function, "mesh", "is None", "the mesh that sharding refers to")


def check_leaves(function: str, mesh: Mesh | None, leaves: Sequence[Array]) -> None:
    """Arrays whose type says that they are split over Explicit axes lie on the mesh, if there is one."""
    for x in leaves:
        typed = jax.typeof(x).sharding
        if not typed.mesh.explicit_axes or (mesh is None and not any(typed.spec)):
            continue
        lies = f"axes {dict(typed.mesh.shape)} of types {_types(typed.mesh)}, on which the arrays lie"
        if mesh is None:
            raise fail(function, "mesh", "is None", f"a mesh with the {lies}")
        if (dict(mesh.shape), mesh.axis_types) != (dict(typed.mesh.shape), typed.mesh.axis_types):
            raise fail(function, "mesh", f"has axes {dict(mesh.shape)} of types {_types(mesh)}", f"the {lies}")


def _types(mesh: Any) -> str:
    return ", ".join(kind.name for kind in mesh.axis_types)


def _laid(arrays: Sequence[Array], mesh: Mesh, specs: Sequence[PartitionSpec]) -> list[Array]:
    """Arrays as ``shard_map`` is to find them: on Explicit axes it does not bring them there itself."""
    if not any(jax.typeof(x).sharding.mesh.explicit_axes for x in arrays):
        return list(arrays)
    return [jax.sharding.reshard(x, NamedSharding(mesh, spec)) for x, spec in zip(arrays, specs, strict=True)]


def _like(y: Array, x: Array) -> Array:
    """The array y laid as x is, where the type of x says how."""
    typed = jax.typeof(x).sharding
    return jax.sharding.reshard(y, typed) if typed.mesh.explicit_axes else y


def find_specs(function: str, mesh: Mesh, sharding: PyTree, updates: PyTree) -> list[PartitionSpec]:
    """One PartitionSpec for each leaf of the updates."""
    tree = PartitionSpec() if sharding is None else sharding
    found = broadcast_prefix(function, "sharding", tree, updates, _is_spec)
    specs = []
    for value in found:
        spec = PartitionSpec() if value is None else value.spec if isinstance(value, NamedSharding) else value
        if not isinstance(spec, PartitionSpec):
            raise fail(function, "sharding", f"holds {value!r}", "PartitionSpec or NamedSharding leaves")
        names = jax.tree.leaves(tuple(spec))
        if not set(names) <= set(mesh.axis_names):
            raise fail(function, "sharding", f"holds {spec}", f"axes of the mesh {mesh.axis_names}")
        specs.append(spec)
    return specs


def find_layout(shape: Sequence[int], axes: MatrixAxes, spec: PartitionSpec, mesh: Mesh) -> Layout | None:
    """The mesh axes over which a leaf's batch axes, inputs and outputs lie, or None where whole matrices mix.

    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> find_layout((4, 8, 8), MatrixAxes(1, 2, batch=0), PartitionSpec(None, "data"), mesh)
    Layout(batch=(), first=('data',), second=())
    """
    names = _axis_names(spec, len(shape))
    found = resolve_axes(shape, axes)
    uneven = not _divides(shape, names, mesh)
    late = any(names[axis] for side in (found.inputs, found.outputs) for axis in side[1:])
    split = axes.splits is not None and any(names[axis] for axis in found.outputs)
    if uneven or late or split:
        return None
    return Layout(*(tuple(name for axis in group for name in names[axis]) for group in found))


def keep_whole(x: Array, mesh: Mesh | None) -> Array:
    """The array on every device: a partitioner that splits what is computed from the sums has to gather it again."""
    if mesh is None or mesh.abstract_mesh.explicit_axes:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def spread_stack(stack_fn: Callable[[Array], Array], stack: Array, layout: Layout, *, mesh: Mesh) -> Array:
    """Inside ``shard_map``: a function of whole matrices on shards ``[N, n / p, m / q]`` of them, shared evenly.

    The stack is filled up with zeros to a multiple of the devices. At most one collective before and one after.
    """
    shards, replicas = layout.first + layout.second, _replicas(mesh, layout)
    p, q, r = (_size(mesh, names) for names in (layout.first, layout.second, replicas))
    num, n, m = stack.shape
    share = -(-num // (p * q * r))
    x = jnp.pad(stack, ((0, share * p * q * r - num), (0, 0), (0, 0)))
    x = _own_part(x, replicas, 0, r).reshape(p * q, share, n, m)
    if shards:
        x = _exchange(x, shards)
    x = x.reshape(p, q, share, n, m).transpose(2, 0, 3, 1, 4).reshape(share, p * n, q * m)
    y = stack_fn(x).reshape(share, p, n, q, m).transpose(1, 3, 0, 2, 4).reshape(p * q, share, n, m)
    return _to_owners(y, replicas, shards, r).reshape(-1, n, m)[:num]


def share_long_side(
    stack: Array, layout: Layout, *, mesh: Mesh, schedule: Schedule, dtype: jnp.dtype, kernels: Kernels
) -> Array:
    """Inside ``shard_map``: matrices ``[N, n / p, m / q]`` orthogonalised with the longer side split over all devices.

    At most one exchange before and one after; in each step, one sum of n x n matrices over the devices.
    """
    replicas = _replicas(mesh, layout)
    p, r = _size(mesh, layout.first), _size(mesh, replicas)
    num, n, m = stack.shape
    width = -(-m // (p * r))
    x = jnp.pad(stack, ((0, 0), (0, 0), (0, width * p * r - m)))
    x = _own_part(x, replicas, 2, r)
    if layout.first:
        x = jnp.moveaxis(x.reshape(num, n, p, width), 2, 0)
        x = jnp.moveaxis(_exchange(x, layout.first), 0, 1).reshape(num, p * n, width)
    y = _iterate(x, layout.first + layout.second + replicas, schedule, dtype, kernels)
    y = jnp.moveaxis(y.reshape(num, p, n, width), 1, 0)
    y = _to_owners(y, replicas, layout.first, r)
    return jnp.moveaxis(y, 0, 2).reshape(num, n, r * p * width)[:, :, :m]


def _iterate(x: Array, names: Names, schedule: Schedule, dtype: jnp.dtype, kernels: Kernels) -> Array:
    """`orthogonalize` for matrices whose columns lie on several devices."""
    y = promote(x)
    top = jax.lax.pmax(jnp.max(jnp.abs(y), axis=(1, 2), keepdims=True), names)
    y = y / jnp.where(top == 0.0, 1.0, top)
    norm = jnp.sqrt(jax.lax.psum(jnp.sum(jnp.square(y), axis=(1, 2), keepdims=True), names))
    y = (y / (schedule.safety * jnp.where(norm == 0.0, 1.0, norm))).astype(dtype)
    for step, (a, b, c) in enumerate(schedule.coefficients):
        wide = jnp.promote_types(dtype, jnp.float32)
        gram = jnp.matmul(y, y.mT, precision="highest", preferred_element_type=wide)
        gram = jax.lax.psum(gram, names).astype(dtype)
        if step == 0 and schedule.rescale == "aol":
            y, gram = almost_orthogonal(y, gram)
        y = multiply(symmetric_polynomial(gram, a=a, b=b, c=c, kernels=kernels), y)
    return y.astype(x.dtype)


def _to_owners(x: Array, replicas: Names, shards: Names, num_replicas: int) -> Array:
    """From ``[shard it belongs to, ...]`` to ``[replica, shard it comes from, ...]``, the first two axes as one."""
    if shards:
        x = jnp.broadcast_to(x, (num_replicas, *x.shape)).reshape(-1, *x.shape[1:])
        return _exchange(x, replicas + shards)
    return jax.lax.all_gather(x[0], replicas) if replicas else x


def _exchange(x: Array, names: Names) -> Array:
    """From ``[device it goes to, ...]`` to ``[device it comes from, ...]``."""
    # Flat: XLA may give the parts of a transposed array different layouts, and then refuses them in one all-to-all.
    return jax.lax.all_to_all(x.reshape(x.shape[0], -1), names, 0, 0).reshape(x.shape)


def _own_part(x: Array, names: Names, axis: int, count: int) -> Array:
    """This device's of so many equal parts along an axis."""
    if not names:
        return x
    size = x.shape[axis] // count
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(names) * size, size, axis)


def _turned(layout: Layout, tall: bool) -> Layout:
    """The layout of matrices with the shorter side first."""
    return Layout(layout.batch, layout.second, layout.first) if tall else layout


def _replicas(mesh: Mesh, layout: Layout) -> Names:
    used = layout.batch + layout.first + layout.second
    return tuple(name for name in mesh.axis_names if name not in used)


def _size(mesh: Mesh, names: Names) -> int:
    return math.prod(mesh.shape[name] for name in names)


def _is_spec(value: Any) -> bool:
    return value is None or isinstance(value, PartitionSpec | NamedSharding)


def _divides(shape: Sequence[int], names: Sequence[Names], mesh: Mesh) -> bool:
    """Whether every axis is a multiple of the devices that share it."""
    return not any(size % _size(mesh, part) for size, part in zip(shape, names, strict=True))


def _axis_names(spec: PartitionSpec, rank: int) -> list[Names]:
    """The mesh axes that each axis of an array lies on."""
    entries = [() if e is None else (e,) if isinstance(e, str) else tuple(e) for e in spec]
    return entries + [()] * (rank - len(entries))
