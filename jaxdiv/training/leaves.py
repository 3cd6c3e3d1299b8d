"""One leaf of a training state: what a checkpoint records of it, and how it comes back onto its device.

Arrays go to the array store. Python numbers and strings live in the manifest, where JSON keeps them exactly. Typed PRNG
keys are stored as their words and the name of their generator.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import fail
from jaxdiv.typing import PyTree


def flatten(tree: PyTree) -> tuple[list[str], list[Any], Any]:
    """The tree's leaf paths as readable text, its leaves, and its structure."""
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in with_paths], [leaf for _, leaf in with_paths], treedef


def describe(path: str, leaf: Any) -> dict[str, Any]:
    """The record of one leaf (an array, its ``jax.ShapeDtypeStruct``, or a Python value), as JSON values.

    Raises:
        ValueError: the leaf is none of those.
    """
    if _is_python_value(leaf):
        return {"path": path, "kind": type(leaf).__name__}
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return {"path": path, "kind": "key", "dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        if leaf.dtype != np.dtype(object):
            return {"path": path, "kind": "array", "dtype": leaf.dtype.name, "shape": list(leaf.shape)}
    raise fail("checkpoint", f"state{path}", f"is a {type(leaf).__name__}", "an array, a key or a Python number")


def to_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """The leaf's numbers on the host; a key gives its words. Every shard must be readable from this process."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def extras(leaf: Any) -> dict[str, Any]:
    """What is needed to rebuild the leaf but does not have to fit the template: value, generator, weak type."""
    if _is_python_value(leaf):
        return {"value": leaf}
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return {"impl": str(jax.random.key_impl(leaf))}
    return {"weak": bool(getattr(leaf, "weak_type", False))}


def empty(record: dict[str, Any], extra: dict[str, Any]) -> np.ndarray:
    """The array of a record whose shape has a zero."""
    if record["kind"] == "key":
        words = jax.random.key_data(jax.random.key(0, impl=extra["impl"]))
        return np.zeros((*record["shape"], *words.shape), words.dtype)
    return np.zeros(record["shape"], np.dtype(record["dtype"]))


def rebuild(extra: dict[str, Any], data: np.ndarray | None, like: Any) -> Any:
    """The stored leaf in the form and on the sharding of the template's leaf ``like``.

    A template array that jax is free to move (uncommitted) gives one it is free to move.
    """
    if data is None:
        return extra["value"]
    if isinstance(like, np.generic):
        return data[()]
    if isinstance(like, np.ndarray):
        return data
    if "impl" in extra:
        value = jax.random.wrap_key_data(jnp.array(data), impl=extra["impl"])
    elif extra["weak"]:
        value = jnp.full(data.shape, data.dtype.type(0).item()).at[...].set(data)  # a Python number makes it weak
    else:
        value = data
    pinned = like.sharding if isinstance(like, jax.ShapeDtypeStruct) or like.committed else None
    return jnp.array(value) if pinned is None else jax.device_put(value, pinned)


def _is_python_value(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | str) and not isinstance(leaf, np.generic)  # np.float64 is a float
