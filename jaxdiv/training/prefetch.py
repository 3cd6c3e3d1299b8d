"""Batches made one call ahead in a background thread, so that the device never waits for the host's data."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import PyTree


def calls(start: int, stop: int, steps_per_call: int, *boundaries: int) -> Iterator[tuple[int, int]]:
    """The half-open step ranges of the calls from ``start`` to ``stop``.

    A call ends at the next multiple of ``steps_per_call`` or of a boundary, whichever comes first. The ranges depend on
    the step number alone, so a resumed run makes the calls an uninterrupted one makes.

    >>> list(calls(0, 12, 4, 6))
    [(0, 4), (4, 6), (6, 8), (8, 12)]
    """
    while start < stop:
        end = min(stop, *((start // n + 1) * n for n in (steps_per_call, *boundaries)))
        yield start, end
        start = end


def prefetch(
    make: Callable[[int, int], PyTree], ranges: Iterator[tuple[int, int]]
) -> Generator[tuple[int, int, PyTree], None, None]:
    """``(first, end, make(first, end))`` for every range; while the caller uses one, the next is being made."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        pending = None
        for first, end in ranges:
            following = first, end, pool.submit(make, first, end)
            if pending is not None:
                yield pending[0], pending[1], pending[2].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1], pending[2].result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stack_batches(batches: list[PyTree]) -> PyTree:
    """The batches stacked along a new first axis, on the host if they lie there."""
    return jax.tree.map(lambda *x: (jnp if isinstance(x[0], jax.Array) else np).stack(x), *batches)
