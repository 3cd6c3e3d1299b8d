"""The loop around a jitted training step: data ahead, metrics behind, checkpoints, resumption and signals.

The step itself belongs to the experiment. Everything here is a function of the step number, so a run that was killed
and resumed computes the same numbers as one that was not.
"""

import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_range, fail
from jaxdiv.training.checkpoint import checkpoint_steps, restore_checkpoint, save_checkpoint
from jaxdiv.training.interrupts import Interrupted, SignalWatch
from jaxdiv.training.logging import MetricsWriter
from jaxdiv.training.prefetch import calls, prefetch, stack_batches
from jaxdiv.training.report import Report
from jaxdiv.typing import PyTree

Config = dict[str, Any]
Metrics = dict[str, Any]
StepFn = Callable[[PyTree, PyTree], tuple[PyTree, Metrics]]


def train(
    step_fn: StepFn,
    state: PyTree,
    *,
    num_steps: int,
    batch_fn: Callable[[int], PyTree],
    directory: str | Path | None = None,
    config: Config | None = None,
    save_every: int = 1000,
    keep: int = 2,
    log_every: int = 100,
    eval_every: int | None = None,
    eval_fn: Callable[[PyTree, int], Metrics] | None = None,
    steps_per_call: int = 1,
    place_fn: Callable[[PyTree], PyTree] | None = None,
    resume: bool = True,
    progress: Sequence[str] | None = ("loss",),
    description: str = "train",
    tensorboard: bool = False,
) -> PyTree:
    """Runs ``step_fn`` until ``num_steps`` steps are done, from the newest checkpoint of ``directory`` if there is one.

    The checkpoints lie in ``directory/checkpoints``, the metrics in ``directory/metrics.jsonl``, one record of split
    "train" for every multiple of ``log_every`` (and the last step), one of split "eval" per evaluation.

    Args:
        step_fn: jitted ``(state, batch) -> (state, metrics)``; it may donate the state. With ``steps_per_call = n > 1``
            it gets n batches stacked along a new first axis, does n steps, and every metric has a first axis of n.
            Fewer than n arrive where a save, an evaluation or the end comes first.
        state: the state before step 0; also the template (structure, shardings) of what is restored.
        num_steps: total number of steps, those of earlier runs included.
        batch_fn: the batch of a step, a pure function of the step number from 0; called in a background thread.
        directory: the run's folder; without it nothing is written.
        config: what must be the same for a resumed run; differences are an error that names them.
        save_every: steps between checkpoints; the last step is always saved.
        keep: checkpoints that stay, at least 2.
        log_every: steps between records.
        eval_every: steps between calls of ``eval_fn``; None for none.
        eval_fn: ``(state, step) -> metrics``, with ``step`` the number of steps done.
        steps_per_call: steps per call of ``step_fn``; above 1 it takes the dispatch cost off small networks.
        place_fn: puts a (stacked) batch onto devices, in the background thread; ``shard_batch`` for instance.
        resume: False asks for a new run and refuses a directory that holds checkpoints.
        progress: metrics shown next to the steps per second; None shows no bar.
        description: the bar's label.
        tensorboard: also write event files into ``directory/tensorboard``.

    Returns:
        The state after ``num_steps`` steps.

    Raises:
        Interrupted: SIGTERM, Ctrl-C or an alarm came; the state is saved. It is a ``SystemExit`` with code 143, 130 or
            142.
        CheckpointError: a checkpoint could not be written, or none of those there is intact.
        ValueError: an argument is out of range, or the checkpoint does not fit state or config.
    """
    for name, value in (("save_every", save_every), ("log_every", log_every), ("steps_per_call", steps_per_call)):
        check_range("train", name, value, 1)
    if (eval_every is None) != (eval_fn is None):
        raise fail("train", "eval_fn and eval_every", "come one without the other", "both or none")
    state = jax.tree.map(_array, state)
    start, state = _resume(directory, state, config, resume)
    check_range("train", "num_steps", num_steps, start)
    writer = None
    if directory is not None:
        board = Path(directory) / "tensorboard" if tensorboard else None
        writer = MetricsWriter(Path(directory) / "metrics.jsonl", tensorboard=board, resume_step=start)
    report = Report(writer, description=description, start=start, num_steps=num_steps, shown=progress)
    if start:
        report.say(f"resumed at step {start} from {directory}")
    stacked = steps_per_call > 1

    def make_batch(first: int, end: int) -> PyTree:
        batch = stack_batches([batch_fn(step) for step in range(first, end)]) if stacked else batch_fn(first)
        return batch if place_fn is None else place_fn(batch)

    def record(first: int, end: int, metrics: Metrics) -> None:
        host = jax.device_get(metrics)  # waits for that call only; the device is already at the next
        for step in range(first + 1, end + 1):
            if step % log_every == 0 or step == num_steps:
                row = {name: value[step - first - 1] for name, value in host.items()} if stacked else host
                report.train(step, row)

    ranges = calls(start, num_steps, steps_per_call, save_every, *([eval_every] if eval_every else []))
    behind: tuple[int, int, Metrics] | None = None
    step = start
    try:
        with SignalWatch() as watch, closing(prefetch(make_batch, ranges)) as batches:
            for first, step, batch in batches:
                state, metrics = step_fn(state, batch)
                if behind is not None:
                    record(*behind)
                behind = first, step, metrics
                stopping = watch.received is not None
                evaluating = eval_every is not None and step % eval_every == 0
                saving = step % save_every == 0 or step == num_steps or stopping
                if evaluating or saving:  # a checkpoint promises that every record up to it is written
                    record(*behind)
                    behind = None
                if evaluating and eval_fn is not None:
                    report.evaluation(step, eval_fn(state, step))
                if saving and directory is not None:
                    report.sync()
                    save_checkpoint(_checkpoints(directory), step, state, config=config, keep=keep)
                report.advance(step - first)
                if stopping:
                    break
            if watch.received is not None:
                where = "nothing saved, no directory was given" if directory is None else f"saved in {directory}"
                report.say(f"{signal.Signals(watch.received).name}: stopped at step {step}, {where}")
                raise Interrupted(watch.received, step)
    finally:
        report.close()
    return state


def _checkpoints(directory: str | Path) -> Path:
    return Path(directory) / "checkpoints"


def _resume(directory: str | Path | None, state: PyTree, config: Config | None, resume: bool) -> tuple[int, PyTree]:
    if directory is None or not checkpoint_steps(_checkpoints(directory)):
        return 0, state
    if not resume:
        raise fail("train", "directory", f"{directory} holds checkpoints", "one without when resume is False")
    restored = restore_checkpoint(_checkpoints(directory), state, config=config)
    return restored.step, restored.state


def _array(leaf: Any) -> jax.Array:
    """What a jitted step would return of the leaf: on the device, in JAX's dtype."""
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
