"""Malformed calls: a table of functions, what each argument may be and must not be, and how a call has to fail.

A case is a function with valid arguments, and for each argument what it must not be. A malformed call raises a
ValueError that starts with the function's name and names the argument.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INF, NAN = float("inf"), float("nan")
SEED = 20261124

Case = tuple[Any, dict[str, "Argument"]]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A malformed value; the message may blame another argument where it is a pair that does not fit."""

    value: Any
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Argument:
    """A valid value, and malformed ones."""

    value: Any
    bad: tuple[Bad, ...]


def argument(value, *bad):
    return Argument(value, tuple(b if isinstance(b, Bad) else Bad(b) for b in bad))


def numbers(*shape):
    values = np.random.default_rng(len(shape) + 7 * sum(shape)).uniform(0.2, 0.9, shape)
    return jnp.asarray(values, jnp.float32)


NO_ARRAYS = ("text", b"bytes", ["a", "b"], [[1.0], [1.0, 2.0]], {"a": 1.0}, object(), [1.0, None], {1.0}, len)


def arrays(value, *bad_shapes, optional=False, empty=()):
    """A floating array; `empty` are shapes without entries along the axis, for which the axis may be blamed."""
    value = jnp.asarray(value, jnp.float32)
    dtypes = [jnp.ones(value.shape, d) for d in (jnp.int32, jnp.uint8, jnp.bool_, jnp.complex64)]
    odd = [np.full(value.shape, "a"), np.full(value.shape, None, object), np.ones(value.shape, "datetime64[s]")]
    bad = [*NO_ARRAYS, *dtypes, *odd, jax.random.key(0), 1j, True, 3, *(numbers(*s) for s in bad_shapes)]
    if not optional:
        bad.append(None)
    return argument(value, *bad, *(Bad(numbers(*s), ("axis",)) for s in empty))


def reals(value, *outside, optional=False):
    bad = [NAN, "0.5", True, 1j, [0.5], (0.5,), jnp.float32(0.5), np.array([0.5]), object(), len, *outside]
    return argument(value, *bad, *(() if optional else (None,)))


def integers(value, *outside, optional=False):
    bad = [1.5, 2.0, "2", True, NAN, INF, [1], (2,), jnp.array(2), np.float32(2.0), object(), *outside]
    return argument(value, *bad, *(() if optional else (None,)))


def choices(value, *outside, optional=False):
    bad = ["nonsense", "", 3, 0.5, [value], {"a": 1}, b"biased", len, object(), jnp.zeros(2), *outside]
    return argument(value, *bad, *(() if optional else (None,)))


def axes(rank=2):
    return argument(
        -1, rank, -rank - 1, 99, 1.5, "0", True, None, NAN, (0,), [0], object(), jnp.array(0), np.float32(0)
    )


def masks(shape, *bad_shapes):
    bad = [jnp.ones(shape), jnp.ones(shape, jnp.int32), "text", ["a"], [[True], [True, False]], {"a": 1}, object(), 1j]
    return argument(jnp.ones(shape, bool), *bad, *(jnp.ones(s, bool) for s in bad_shapes))


def keys():
    return argument(
        jax.random.key(0),
        None,
        0,
        "key",
        0.5,
        jnp.zeros(2),
        jnp.zeros(2, jnp.uint32),
        jax.random.key_data(jax.random.key(0)),
        jax.random.split(jax.random.key(0), 2),
        object(),
        [1, 2],
    )


def flags(value=False):
    return argument(value, "yes", None, 2, 0.5, [True], object(), jnp.array(True))


def functions(value, *wrong):
    return argument(value, None, "text", 3.0, numbers(2), object(), *wrong)


def values(arguments):
    return {name: a.value for name, a in arguments.items()}


def complaint(fn, call, blamed):
    """What is wrong with the way that a malformed call fails; None where it fails as it should."""
    shown = {name: repr(call[name])[:60] for name in blamed if name in call}
    try:
        fn(**call)
    except ValueError as error:
        message = str(error)
        named = any(re.search(rf"\b{name}\b", message.partition(": ")[2]) for name in blamed)
        good = message.startswith(f"{fn.__qualname__}: ") and named
        return None if good else f"{shown}: {message[:160]}"
    except Exception as error:
        return f"{shown}: {type(error).__name__}: {str(error)[:160]}"
    return f"{shown}: nothing raised"


def complaints_of_one(case: Case) -> list[str]:
    """What is wrong with the calls of which one argument is malformed."""
    fn, arguments = case
    wrong = [
        complaint(fn, values(arguments) | {bad_name: bad.value}, (bad_name, *bad.also))
        for bad_name, a in arguments.items()
        for bad in a.bad
    ]
    return list(filter(None, wrong))


def complaints_of_two(cases: dict[str, Case], count: int) -> list[str]:
    """The same for a seeded choice of calls with two malformed arguments, of which the message names one."""
    rng = np.random.default_rng(SEED)
    several = [c for c in cases.values() if len(c[1]) > 1]
    wrong = []
    for index in rng.integers(len(several), size=count):
        fn, arguments = several[index]
        chosen = rng.choice(list(arguments), 2, replace=False).tolist()
        bad = {name: arguments[name].bad[rng.integers(len(arguments[name].bad))] for name in chosen}
        if all(isinstance(b.value, jax.Array) for b in bad.values()):
            continue  # shapes that are wrong alone may fit each other
        blamed = {*chosen, *(name for b in bad.values() for name in b.also)}
        call = values(arguments) | {name: b.value for name, b in bad.items()}
        wrong.append(complaint(fn, call, sorted(blamed)))
    return list(filter(None, wrong))
