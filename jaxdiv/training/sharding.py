"""Data parallelism in three functions: a mesh, a replicated state, a batch split over the mesh.

A step jitted on such arguments runs on every device of the mesh; XLA adds the reductions of the gradients.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiv.checks import check_range, fail
from jaxdiv.typing import PyTree


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with the one axis "data" over the first ``num_devices`` devices (all of them by default).

    Raises:
        ValueError: there are not that many devices.

    >>> dict(data_mesh(1).shape)
    {'data': 1}
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    check_range("data_mesh", "num_devices", count, 1, len(devices))
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Every leaf whole on every device of the mesh; typed keys and numbers included."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(tree: PyTree, mesh: Mesh, *, axis: int = 0) -> PyTree:
    """Every leaf split along ``axis`` over the mesh's "data" axis.

    Args:
        tree: this process's examples as host arrays; with several processes each gives its own part, in process order.
        mesh: what ``data_mesh`` made.
        axis: the batch axis; 1 for batches stacked over the steps of one call.

    Raises:
        ValueError: a leaf has no such axis, or its size over all processes is not a multiple of the mesh's size.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))

    def place(path: tuple, leaf: np.ndarray) -> jax.Array:
        leaf, name = np.asarray(leaf), "tree" + jax.tree_util.keystr(path)
        if leaf.ndim <= axis:
            raise fail("shard_batch", name, f"has shape {leaf.shape}", f"an axis {axis}")
        size = leaf.shape[axis] * jax.process_count()
        if size % mesh.size:
            raise fail("shard_batch", name, f"has {size} examples on axis {axis}", f"a multiple of {mesh.size} devices")
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree_util.tree_map_with_path(place, tree)
