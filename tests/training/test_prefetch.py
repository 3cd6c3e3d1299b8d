"""Which steps a call covers, and batches made ahead."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.training.prefetch import calls, prefetch, stack_batches


@pytest.mark.parametrize("boundaries", [(), (5,), (6, 10)])
def test_calls_cover_every_step_once_and_stop_at_boundaries(boundaries):
    ranges = list(calls(0, 23, 4, *boundaries))
    assert [step for first, end in ranges for step in range(first, end)] == list(range(23))
    ends = {end for _, end in ranges}
    assert max(end - first for first, end in ranges) <= 4
    assert all(multiple in ends for b in boundaries for multiple in range(b, 23, b))
    for start in ends:  # a run resumed at any boundary makes the same calls
        assert list(calls(start, 23, 4, *boundaries)) == [r for r in ranges if r[0] >= start]


def test_the_next_batch_is_made_while_this_one_is_used():
    made = {first: threading.Event() for first in range(3)}

    def make(first, end):
        made[first].set()
        return first * 10

    for first, end, batch in prefetch(make, calls(0, 3, 1)):
        assert (batch, end) == (first * 10, first + 1)
        assert first == 2 or made[first + 1].wait(timeout=10)


def test_errors_of_the_thread_arrive():
    def make(first, end):
        raise KeyError(first)

    with pytest.raises(KeyError, match="0"):
        next(prefetch(make, calls(0, 2, 1)))
    assert list(prefetch(make, calls(2, 2, 1))) == []


def test_stacking_stays_on_the_host_for_host_batches():
    stacked = stack_batches([{"x": np.ones(2) * i, "y": jnp.ones(1) * i} for i in range(3)])
    assert isinstance(stacked["x"], np.ndarray) and isinstance(stacked["y"], jax.Array)
    np.testing.assert_array_equal(stacked["x"], [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(stacked["y"], [[0], [1], [2]])
