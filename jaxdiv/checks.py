"""Argument checks. Each raises ``ValueError`` that names the function, the argument, what came and what was expected.

They look at shapes, dtypes and Python values, never at traced numbers, so they cost nothing under ``jit``.
"""

import dataclasses
import numbers
import reprlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

_Record = TypeVar("_Record")


def fail(function: str, argument: str, got: object, expected: str) -> ValueError:
    """The one wording of every argument error; the caller raises what this returns.

    >>> fail("karras_noise_levels", "num_levels", "is 0", "at least 1")
    ValueError('karras_noise_levels: num_levels is 0; expected at least 1')
    """
    return ValueError(f"{function}: {argument} {got}; expected {expected}")


def check_floating(function: str, **arrays: Any) -> None:
    """Every argument has a real floating dtype (bfloat16 and float16 included)."""
    for name, value in arrays.items():
        dtype = jnp.result_type(value)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise fail(function, name, f"has dtype {dtype}", "a floating dtype")


def _shape(function: str, argument: str, value: Any) -> tuple[int, ...]:
    """The shape, also of lists of numbers; ragged ones have none."""
    try:
        return np.shape(value)
    except ValueError as error:
        raise fail(function, argument, f"is {reprlib.repr(value)}", "an array") from error


def check_shape(function: str, argument: str, value: Any, expected: Sequence[int | None]) -> None:
    """The shape equals ``expected``, where ``None`` stands for any size."""
    shape = _shape(function, argument, value)
    same_rank = len(shape) == len(expected)
    if not same_rank or any(e is not None and s != e for s, e in zip(shape, expected, strict=False)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise fail(function, argument, f"has shape {shape}", f"shape ({wanted})")


def check_same_shape(function: str, **arrays: Any) -> None:
    """All arguments have the shape of the first: nothing broadcasts by accident."""
    shapes = {name: _shape(function, name, value) for name, value in arrays.items()}
    first, *others = shapes
    for name in others:
        if shapes[name] != shapes[first]:
            raise fail(function, name, f"has shape {shapes[name]}", f"{first}'s shape {shapes[first]}")


def check_batch(function: str, argument: str, value: Any, batch: int) -> None:
    """The argument is one number per example: shape ``(batch,)``."""
    check_shape(function, argument, value, (batch,))


def check_choice(function: str, argument: str, value: Any, choices: Collection[Any]) -> None:
    """The value is one of ``choices``; what has no hash, such as an array, is none of them."""
    try:
        hash(value)
        found = value in choices
    except TypeError:
        found = False
    if not found:
        raise fail(function, argument, f"is {value!r}", "one of " + ", ".join(repr(c) for c in choices))


def check_range(
    function: str,
    argument: str,
    value: float,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """A Python number lies in an interval, closed unless said otherwise; NaN lies in none."""
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left = "(" if open_low or low == -np.inf else "["
        right = ")" if open_high or high == np.inf else "]"
        raise fail(function, argument, f"is {value}", f"a number in {left}{low}, {high}{right}")


def _array(function: str, argument: str, value: Any, expected: str) -> jax.Array:
    """What jax makes of the value; numpy would read a string as a dtype or an array of characters."""
    try:
        if any(isinstance(leaf, str | bytes) for leaf in jax.tree.leaves(value)):
            raise TypeError("a string")
        return jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise fail(function, argument, f"is {reprlib.repr(value)}", expected) from error


def floating_array(function: str, argument: str, value: Any) -> jax.Array:
    """The argument as a jax array of a real floating dtype (bfloat16 and float16 included).

    Lists of numbers become arrays; None, strings, ragged lists and what else no array can hold are refused by name.

    >>> floating_array("f", "x", [0.5, 1.0]).shape
    (2,)
    """
    array = _array(function, argument, value, "an array of floating-point numbers")
    check_floating(function, **{argument: array})
    return array


def integer_array(function: str, argument: str, value: Any) -> jax.Array:
    """The argument as a jax array of integers, such as labels.

    >>> integer_array("f", "labels", [0, 3]).shape
    (2,)
    """
    array = _array(function, argument, value, "an array of integers")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise fail(function, argument, f"has dtype {array.dtype}", "an integer dtype")
    return array


def number_array(function: str, argument: str, value: Any) -> jax.Array:
    """The argument as a jax array of a real floating dtype or of integers.

    >>> number_array("f", "x", [0, 3]).dtype.name, number_array("f", "x", [0.5]).dtype.name
    ('int32', 'float32')
    """
    array = _array(function, argument, value, "an array of numbers")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        check_floating(function, **{argument: array})
    return array


def mask_array(function: str, argument: str, value: Any, shape: Sequence[int]) -> jax.Array:
    """The argument as an array of booleans of the given shape: a mask never broadcasts."""
    array = _array(function, argument, value, "an array of booleans")
    if array.dtype != jnp.bool_:
        raise fail(function, argument, f"has dtype {array.dtype}", "dtype bool")
    check_shape(function, argument, array, shape)
    return array


def check_axis(function: str, argument: str, axis: Any, shape: Sequence[int]) -> int:
    """The axis, counted from the front, of an array of this shape that has entries along it."""
    integer = isinstance(axis, numbers.Integral) and not isinstance(axis, bool | np.bool_)
    if not integer or not -len(shape) <= int(axis) < len(shape):
        raise fail(function, argument, f"is {axis!r}", f"an axis of an array of shape {tuple(shape)}")
    if shape[int(axis)] == 0:
        raise fail(function, argument, f"is {axis!r}, empty in shape {tuple(shape)}", "an axis with entries")
    return int(axis) % len(shape)


def check_instance(function: str, argument: str, value: Any, kind: type) -> None:
    """The value is of a type, such as the `FDivergence` that its name alone cannot stand for."""
    if not isinstance(value, kind):
        raise fail(function, argument, f"is {reprlib.repr(value)}", f"a {kind.__name__}")


def register_checked(data_fields: Sequence[str]) -> Callable[[type[_Record]], type[_Record]]:
    """Makes a frozen dataclass, whose ``__post_init__`` checks its fields, a pytree with the named ones as leaves.

    jax rebuilds pytrees with whatever a transformation puts into a leaf: that passes by the checks.
    """

    def register(cls: type[_Record]) -> type[_Record]:
        fields = [field.name for field in dataclasses.fields(cast(Any, cls))]
        meta_fields = [name for name in fields if name not in data_fields]

        def flatten_with_keys(record):
            leaves = [(jax.tree_util.GetAttrKey(name), getattr(record, name)) for name in data_fields]
            return leaves, tuple(getattr(record, name) for name in meta_fields)

        def unflatten(meta, leaves):
            record = object.__new__(cls)
            for name, value in zip((*meta_fields, *data_fields), (*meta, *leaves), strict=True):
                object.__setattr__(record, name, value)
            return record

        jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
        return cls

    return register


def check_integer(function: str, argument: str, value: Any, low: float = -np.inf, high: float = np.inf) -> None:
    """A Python (or numpy) integer, not a boolean, lies in a closed interval."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool | np.bool_):
        raise fail(function, argument, f"is {reprlib.repr(value)}", "an integer")
    check_range(function, argument, value, low, high)


def check_real(
    function: str,
    argument: str,
    value: Any,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """A real Python (or numpy) number, no array and no boolean, lies in an interval as `check_range` has it."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        raise fail(function, argument, f"is {reprlib.repr(value)}", "a real Python number")
    check_range(function, argument, value, low, high, open_low=open_low, open_high=open_high)


def check_flag(function: str, argument: str, value: Any) -> None:
    """The value is True or False; an array or a number would be taken for one of them."""
    if not isinstance(value, bool | np.bool_):
        raise fail(function, argument, f"is {reprlib.repr(value)}", "True or False")


def check_scalar(
    function: str, argument: str, value: Any, low: float = -np.inf, high: float = np.inf, *, open_high: bool = False
) -> None:
    """A real Python number in an interval, or a scalar array of a floating dtype, whose value is not looked at.

    For settings that `optax.inject_hyperparams` replaces by arrays.
    """
    if isinstance(value, jax.Array | np.ndarray):
        check_shape(function, argument, value, ())
        check_floating(function, **{argument: value})
    else:
        check_real(function, argument, value, low, high, open_high=open_high)


def check_key(function: str, key: Any) -> None:
    """The key is one typed key, as `jax.random.key` makes it.

    >>> check_key("f", jax.random.key(0))
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise fail(function, "key", f"is {reprlib.repr(key)}", "a typed key, as jax.random.key makes it")
    check_shape(function, "key", key, ())
