"""Plans, times of pieces and the alarm."""

import signal
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.speedrun.clock import (
    TIMED_CALLS,
    Piece,
    Plan,
    add_piece,
    make_plan,
    read_plan,
    time_steps,
    total_timing,
)
from jaxdiv.training import Interrupted


def test_a_plan_fills_the_minutes_or_takes_the_steps_and_is_kept(tmp_path):
    path = tmp_path / "stage" / "plan.json"
    assert read_plan(path) is None
    assert make_plan(path, seconds_per_step=0.25, minutes=2.0, steps=None) == Plan(480, 0.25)
    assert read_plan(path) == Plan(480, 0.25)
    assert make_plan(path, seconds_per_step=0.25, minutes=2.0, steps=7).steps == 7
    assert make_plan(path, seconds_per_step=1e3, minutes=2.0, steps=None).steps == 1


def test_times_add_up_and_a_killed_pieces_steps_are_taken_at_the_others_rate(tmp_path):
    path = tmp_path / "pieces.jsonl"
    assert total_timing(path, 0).train_seconds == 0.0
    add_piece(path, steps=10, train_seconds=20.0, compile_seconds=3.0, evaluation_seconds=1.0)
    add_piece(path, steps=30, train_seconds=40.0, compile_seconds=4.0, evaluation_seconds=2.0)
    total = total_timing(path, 60)
    assert total == (60, 90.0, 7.0, 3.0, 2)


def test_the_first_call_is_timed_apart():
    seen = []

    @jax.jit
    def step_fn(state, batch):
        time.sleep(0.05)  # while it is traced
        return state + batch, {"loss": state}

    def batch(step):
        seen.append(step)
        return jnp.float32(step)

    first, later = time_steps(step_fn, jnp.float32(0), batch)
    assert first > 0.05 and later < first
    assert seen == list(range(TIMED_CALLS + 1))


def test_without_a_limit_nothing_rings():
    with Piece(None).alarm():
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    Piece(None).need(1e9, "anything", print)


def test_the_alarm_is_set_for_what_is_left_and_taken_back():
    handler = signal.getsignal(signal.SIGALRM)
    with Piece(2.0).alarm():
        assert 115 < signal.getitimer(signal.ITIMER_REAL)[0] <= 120
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is handler


def test_an_early_alarm_waits_for_the_loop():
    with Piece(1e-6).alarm():
        time.sleep(0.1)  # rang, and the process lives
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.5


def test_what_does_not_fit_ends_the_piece():
    said = []
    with pytest.raises(Interrupted) as interrupted:
        Piece(1.0).need(100, "the measure", said.append)
    assert interrupted.value.code == 142
    assert said == ["the piece ends before the measure, which takes about 100 s"]
    Piece(10.0).need(100, "the measure", said.append)
