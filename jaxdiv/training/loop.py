"""The loop around a jitted training step: data ahead, metrics behind, checkpoints, resumption and signals.

The step itself belongs to the experiment. Everything here is a function of the step number, so a run that was killed
and resumed computes the same numbers as one that was not.
"""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxdiv.checks import check_choice, check_range, fail
from jaxdiv.training.checkpoint import checkpoint_steps, restore_checkpoint, save_checkpoint
from jaxdiv.training.interrupts import Interrupted, SignalWatch
from jaxdiv.training.logging import MetricsWriter
from jaxdiv.typing import PyTree

Metrics = dict[str, Any]
StepFn = Callable[[PyTree, PyTree], tuple[PyTree, Metrics]]


def train(
    step_fn: StepFn,
    state: PyTree,
    *,
    num_steps: int,
    batch_fn: Callable[[int], PyTree],
    directory: str | Path | None = None,
    config: dict[str, Any] | None = None,
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
        Interrupted: SIGTERM or Ctrl-C came; the state is saved. It is a ``SystemExit`` with code 143 or 130.
        CheckpointError: a checkpoint could not be written, or none of those there is intact.
        ValueError: an argument is out of range, or the checkpoint does not fit state or config.
    """
    for name, value in (("save_every", save_every), ("log_every", log_every), ("steps_per_call", steps_per_call)):
        check_range("train", name, value, 1)
    if (eval_every is None) != (eval_fn is None):
        raise fail("train", "eval_fn and eval_every", "come one without the other", "both or none")
    start, writer = 0, None
    if directory is not None:
        checkpoints = Path(directory) / "checkpoints"
        if checkpoint_steps(checkpoints):
            if not resume:
                raise fail("train", "directory", f"{directory} holds checkpoints", "an empty one when resume is False")
            start, state, _, _ = restore_checkpoint(checkpoints, state, config=config)
            if progress is not None:
                print(f"{description}: resumed at step {start} from {checkpoints}", file=sys.stderr)
        board = Path(directory) / "tensorboard" if tensorboard else None
        writer = MetricsWriter(Path(directory) / "metrics.jsonl", tensorboard=board, resume_step=start)
    if start > num_steps:
        raise fail("train", "num_steps", f"is {num_steps}", f"at least the checkpoint's {start}")

    def save(step: int, state: PyTree) -> None:
        if writer is not None:
            writer.sync()
            save_checkpoint(checkpoints, step, state, config=config, keep=keep)

    def ready_batch(first: int) -> PyTree:
        batch = _batch(batch_fn, first, ends(first) - first, stack=steps_per_call > 1)
        return batch if place_fn is None else place_fn(batch)

    def ends(first: int) -> int:
        return min((first // n + 1) * n for n in (steps_per_call, save_every, eval_every or num_steps, num_steps))

    report = _Report(writer, Counter(), log_every, num_steps, steps_per_call > 1, progress or ())
    bar = tqdm(
        total=num_steps,
        initial=start,
        desc=description,
        unit="step",
        disable=progress is None,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        dynamic_ncols=True,
    )
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    behind: tuple[int, Metrics] | None = None  # metrics of the call before, read while the device does the next
    try:
        with SignalWatch() as watch:
            step, stop = start, None
            upcoming = pool.submit(ready_batch, start) if start < num_steps else None
            while step < num_steps and stop is None:
                batch, end = upcoming.result(), ends(step)
                state, metrics = step_fn(state, batch)
                if end < num_steps:
                    upcoming = pool.submit(ready_batch, end)
                if behind is not None:
                    report(*behind, bar)
                behind, done, step = (step, metrics), end - step, end
                stop = watch.received
                evaluating = eval_every is not None and step % eval_every == 0
                saving = step % save_every == 0 or step == num_steps or stop is not None
                if evaluating or saving:  # a checkpoint promises that every record up to it is written
                    report(*behind, bar)
                    behind = None
                if evaluating:
                    report.evaluation(step, eval_fn(state, step))
                if saving:
                    save(step, state)
                bar.update(done)
            if watch.received is not None:
                where = "nothing saved: no directory was given" if writer is None else f"saved in {checkpoints}"
                name = signal.Signals(watch.received).name
                tqdm.write(f"{description}: {name}, stopped at step {step}, {where}", sys.stderr)
                raise Interrupted(watch.received, step)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        bar.close()
        if writer is not None:
            writer.close()
        report.summary(description)
    return state


class _Report(NamedTuple):
    """Turns the metrics of a call into records, the bar's numbers and a count of non-finite values."""

    writer: MetricsWriter | None
    non_finite: Counter
    log_every: int
    num_steps: int
    stacked: bool
    shown: Sequence[str]

    def __call__(self, first: int, metrics: Metrics, bar: tqdm) -> None:
        host = jax.device_get(metrics)  # waits for this call; the next one is already running
        length = len(next(iter(host.values()))) if self.stacked and host else 1
        for i in range(length):
            step = first + i + 1
            if step % self.log_every == 0 or step == self.num_steps:
                for name in self.shown:
                    check_choice("train", "progress", name, host)
                row = {name: value[i] if self.stacked else value for name, value in host.items()}
                self._record(step, row, "train")
                bar.set_postfix({name: f"{float(row[name]):.4g}" for name in self.shown}, refresh=False)

    def evaluation(self, step: int, metrics: Metrics) -> None:
        """The record of one evaluation."""
        self._record(step, jax.device_get(metrics), "eval")

    def summary(self, description: str) -> None:
        """Says on stderr which logged metrics were not finite, and how often."""
        if self.non_finite:
            counts = ", ".join(f"{name} {count}x" for name, count in sorted(self.non_finite.items()))
            print(f"{description}: non-finite values among the logged metrics: {counts}", file=sys.stderr)

    def _record(self, step: int, row: Metrics, split: str) -> None:
        self.non_finite.update(name for name, value in row.items() if not np.all(np.isfinite(value)))
        if self.writer is not None:
            self.writer.write(step, row, split=split)


def _batch(batch_fn: Callable[[int], PyTree], first: int, count: int, *, stack: bool) -> PyTree:
    if not stack:
        return batch_fn(first)
    batches = [batch_fn(step) for step in range(first, first + count)]
    return jax.tree.map(lambda *x: (jnp if isinstance(x[0], jax.Array) else np).stack(x), *batches)
