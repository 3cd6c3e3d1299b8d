"""Plans, times of pieces and the alarm."""

import signal
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.speedrun import clock
from experiments.speedrun.clock import (
    Piece,
    Plan,
    Rate,
    add_piece,
    make_plan,
    read_plan,
    time_compilation,
    time_steps,
    total_timing,
)
from jaxdiv.training import Interrupted

RATE = Rate(step=0.25, save=2.0)
PLAN = {"minutes": 2.0, "steps": None, "points": 0, "settings": {"seed": 0}}


def test_a_plan_fills_the_minutes_with_steps_and_a_checkpoint_and_is_kept(tmp_path):
    path = tmp_path / "stage" / "plan.json"
    assert read_plan(path, {"seed": 0}) is None
    plan = make_plan(path, RATE, **PLAN)
    assert plan == Plan(steps=(120 - 2) * 4, seconds_per_step=0.25, save_every=1200, settings={"seed": 0})
    assert read_plan(path, {"seed": 0}) == plan
    # Eleven minutes have three checkpoints: two on the way, one at the end.
    assert make_plan(path, RATE, **PLAN | {"minutes": 11.0}).steps == (660 - 6) * 4


def test_the_steps_of_a_plan_are_a_multiple_of_the_points_or_what_is_asked_for(tmp_path):
    path = tmp_path / "plan.json"
    assert make_plan(path, RATE, **PLAN | {"points": 5}).steps == 470
    assert make_plan(path, RATE, **PLAN | {"points": 5, "steps": 7}).steps == 7
    slow = RATE._replace(step=1e3)
    assert make_plan(path, slow, **PLAN).steps == make_plan(path, slow, **PLAN)[0] == 1
    assert make_plan(path, slow, **PLAN | {"points": 3}).steps == 3


def test_a_plan_for_other_settings_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    make_plan(path, RATE, **PLAN | {"settings": {"seed": 0, "levels": (1, 2), "rate": 1.0}})
    assert read_plan(path, {"seed": 0, "levels": (1, 2), "rate": 1.0}) is not None
    with pytest.raises(ValueError, match="directory .* was begun with other rate, seed; expected the same settings"):
        read_plan(path, {"seed": 1, "levels": (1, 2)})
    for text in ("{", '{"steps": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"directory has a damaged .*plan.json"):
            read_plan(path, {})


def test_times_add_up_and_a_killed_pieces_steps_are_taken_at_the_others_rate(tmp_path):
    path = tmp_path / "pieces.jsonl"
    assert total_timing(path, 30, seconds_per_step=0.5).train_seconds == 15.0  # the only piece was killed
    add_piece(path, steps=10, train_seconds=20.0, compile_seconds=3.0, evaluation_seconds=1.0)
    add_piece(path, steps=30, train_seconds=40.0, compile_seconds=4.0, evaluation_seconds=2.0)
    assert total_timing(path, 60, seconds_per_step=0.5) == (60, 90.0, 7.0, 3.0, 2)


def test_a_line_that_was_cut_off_loses_no_other(tmp_path):
    path = tmp_path / "pieces.jsonl"
    entry = {"steps": 10, "train_seconds": 20.0, "compile_seconds": 3.0, "evaluation_seconds": 1.0}
    add_piece(path, **entry)
    path.write_text(path.read_text() + '{"steps": 5, "tra')
    add_piece(path, **entry)
    assert total_timing(path, 20, seconds_per_step=0.5) == (20, 40.0, 6.0, 2.0, 2)


def test_the_first_call_is_timed_apart_and_so_is_a_checkpoint():
    seen = []

    @jax.jit
    def step_fn(state, batch):
        time.sleep(0.05)  # while it is traced
        return state + batch, {"loss": state}

    def batch(step):
        seen.append(step)
        return jnp.float32(step)

    first, state = time_compilation(step_fn, jnp.float32(0), batch(7))
    assert first > 0.05 and state == 7
    rate = time_steps(step_fn, state, batch)
    assert rate.step < first and 0 < rate.save < 60
    assert seen == [7, *range(clock.TIMED_CALLS)]


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
