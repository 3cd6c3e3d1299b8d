"""The loop: what it calls, writes, resumes and survives."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.training import CheckpointError, Interrupted, checkpoint_steps, read_metrics, train


@jax.jit
def step_fn(state, batch):
    state = {"x": state["x"] * 0.5 + batch, "key": state["key"]}
    return state, {"loss": state["x"]}


@jax.jit
def scanned(state, batches):
    return jax.lax.scan(step_fn, state, batches)


def batch_fn(step):
    return np.float32(step + 1)


def start():
    return {"x": jnp.float32(0.0), "key": jax.random.key(0)}


def run(num_steps, directory=None, **kwargs):
    settings = {
        "step_fn": step_fn,
        "state": start(),
        "batch_fn": batch_fn,
        "save_every": 4,
        "log_every": 2,
        "progress": None,
    }
    return train(num_steps=num_steps, directory=directory, **{**settings, **kwargs})


def expected(num_steps):
    values = [0.0]
    for step in range(num_steps):
        values.append(np.float32(values[-1] * 0.5 + batch_fn(step)))
    return values


def rows(directory, split="train"):
    return [(r["step"], r["loss"]) for r in read_metrics(directory / "metrics.jsonl", split=split)]


def test_runs_every_step_once_and_writes(tmp_path):
    values = expected(10)
    assert run(10)["x"] == values[10]
    assert run(10, tmp_path)["x"] == values[10]
    assert rows(tmp_path) == [(s, values[s]) for s in (2, 4, 6, 8, 10)]
    assert checkpoint_steps(tmp_path / "checkpoints") == [8, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_goes_on_where_it_stopped(tmp_path):
    values = expected(13)
    run(6, tmp_path, log_every=3)
    asked = []
    state = run(13, tmp_path, log_every=3, batch_fn=lambda step: asked.append(step) or batch_fn(step))
    assert asked == list(range(6, 13)) and state["x"] == values[13]
    assert rows(tmp_path) == [(s, values[s]) for s in (3, 6, 9, 12, 13)]
    assert run(13, tmp_path, batch_fn=None)["x"] == values[13]  # finished: nothing is computed


@pytest.mark.parametrize("num_per_call", [3, 4, 100])
def test_steps_per_call_changes_neither_numbers_nor_records(tmp_path, num_per_call):
    run(11, tmp_path / "one")
    evaluations = []
    state = run(
        11,
        tmp_path / "many",
        step_fn=scanned,
        steps_per_call=num_per_call,
        eval_every=5,
        eval_fn=lambda state, step: evaluations.append(step) or {"loss": state["x"]},
    )
    values = expected(11)
    assert state["x"] == values[11] and rows(tmp_path / "many") == rows(tmp_path / "one")
    assert evaluations == [5, 10]
    assert rows(tmp_path / "many", "eval") == [(5, values[5]), (10, values[10])]


def test_error_in_a_step_leaves_the_last_checkpoint(tmp_path):
    def failing(step):
        if step == 6:
            raise RuntimeError("disk of the data set is gone")
        return batch_fn(step)

    with pytest.raises(RuntimeError, match="disk of the data set is gone"):
        run(10, tmp_path, batch_fn=failing)
    assert checkpoint_steps(tmp_path / "checkpoints") == [4]
    assert run(10, tmp_path)["x"] == expected(10)[10]
    assert [step for step, _ in rows(tmp_path)] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGALRM, 142)])
def test_a_signal_saves_and_exits_at_the_step_boundary(tmp_path, capfd, number, code):
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    handlers = [signal.getsignal(one) for one in watched]

    def interrupting(state, batch):
        if batch == 6:
            os.kill(os.getpid(), number)
        return step_fn(state, batch)

    with pytest.raises(Interrupted) as interrupted:
        run(10, tmp_path, step_fn=interrupting)
    assert interrupted.value.code == code and interrupted.value.step == 6
    assert isinstance(interrupted.value, SystemExit)
    assert checkpoint_steps(tmp_path / "checkpoints") == [4, 6]
    assert [signal.getsignal(one) for one in watched] == handlers
    assert f"stopped at step 6, saved in {tmp_path}" in capfd.readouterr().err
    assert run(10, tmp_path)["x"] == expected(10)[10]
    assert [step for step, _ in rows(tmp_path)] == [2, 4, 6, 8, 10]


def test_a_signal_without_a_directory_says_that_nothing_is_saved(capfd):
    with pytest.raises(Interrupted):
        run(3, eval_every=3, eval_fn=lambda *_: os.kill(os.getpid(), signal.SIGTERM) or {})
    assert "stopped at step 3, nothing saved" in capfd.readouterr().err


def test_a_second_ctrl_c_aborts_at_once(tmp_path):
    def impatient(state, batch):
        os.kill(os.getpid(), signal.SIGINT)
        return step_fn(state, batch)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(10, tmp_path, step_fn=lambda *arguments: impatient(*arguments) and impatient(*arguments))
    assert checkpoint_steps(tmp_path / "checkpoints") == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_runs_in_a_thread_without_handlers():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(3)))
    thread.start()
    thread.join()
    assert results[0]["x"] == expected(3)[3]


def test_non_finite_metrics_are_recorded_and_named(tmp_path, capfd):
    run(6, tmp_path, batch_fn=lambda step: np.float32(np.nan if step == 3 else 1.0))
    assert np.isnan([loss for _, loss in rows(tmp_path)]).tolist() == [False, True, True]
    assert "not finite among the recorded metrics: loss 2x" in capfd.readouterr().err


def test_bar_shows_the_numbers_that_matter(capfd):
    run(4, progress=("loss",), description="teacher")
    shown = capfd.readouterr().err
    assert "teacher: 100%" in shown and f"loss={expected(4)[4]:.4g}" in shown and "step/s" in shown


def test_tensorboard(tmp_path):
    run(4, tmp_path, tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.read_bytes().count(b"train/loss") == 2


def test_batches_are_placed_in_the_background():
    threads = []
    run(3, place_fn=lambda batch: threads.append(threading.current_thread()) or jnp.asarray(batch))
    assert len(threads) == 3 and threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_every": 0}, "save_every is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"steps_per_call": 0}, "steps_per_call is 0"),
        ({"eval_every": 3}, "one without the other"),
        ({"progress": ("accuracy",)}, "progress is 'accuracy'; expected one of 'loss'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        run(4, **arguments)


def test_a_run_that_does_not_fit_its_directory_touches_nothing(tmp_path):
    run(8, tmp_path, config={"lr": 0.1})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"config.lr: stored 0.1, asked 0.2"):
        run(10, tmp_path, config={"lr": 0.2})
    with pytest.raises(ValueError, match="holds checkpoints"):
        run(10, tmp_path, config={"lr": 0.1}, resume=False)
    with pytest.raises(ValueError, match="num_steps is 6"):
        run(6, tmp_path, config={"lr": 0.1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_damaged_newest_checkpoint_costs_only_its_steps(tmp_path, capfd):
    run(8, tmp_path)
    (tmp_path / "checkpoints" / "step_00000008" / "MANIFEST.json").write_text("{}")
    assert run(10, tmp_path)["x"] == expected(10)[10]
    assert "step_00000008" in capfd.readouterr().err
    assert [step for step, _ in rows(tmp_path)] == [2, 4, 6, 8, 10]
    for step in (8, 10):
        (tmp_path / "checkpoints" / f"step_{step:08d}" / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        run(12, tmp_path)


def test_a_state_of_python_numbers_and_numpy_arrays_goes_on(tmp_path):
    """After one jitted step its leaves are jax's, which is what is stored."""

    @jax.jit
    def count(state, batch):
        return {"n": state["n"] + 1, "w": state["w"] - 0.1 * batch}, {"loss": jnp.sum(state["w"])}

    def go(num_steps, directory):
        state = {"n": 0, "w": np.ones(2)}
        return train(count, state, num_steps=num_steps, batch_fn=np.float32, directory=directory, progress=None)

    go(2, tmp_path)
    resumed, whole = go(4, tmp_path), go(4, None)
    assert resumed["n"] == 4
    np.testing.assert_array_equal(resumed["w"], whole["w"])


def test_metrics_may_not_take_the_records_own_names(tmp_path):
    def step(state, batch):
        return state, {"loss": jnp.float32(0.0), "step": jnp.float32(0.0)}

    with pytest.raises(ValueError, match="metrics has .'step'.; expected other names"):
        train(step, {"x": 0.0}, num_steps=1, batch_fn=batch_fn, directory=tmp_path, log_every=1, progress=None)
