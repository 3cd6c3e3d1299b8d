"""Time: how many steps fit into a stage's minutes, how long they took, and when a process must stop."""

import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.json_lines import read_json_lines, replace_text, write_json_lines
from jaxdiv.checks import fail
from jaxdiv.training import Interrupted, save_checkpoint
from jaxdiv.typing import PyTree

TIMED_CALLS, TIMED_SECONDS = 8, 10.0
SAVE_SECONDS = 300.0

StepFn = Callable[[PyTree, PyTree], tuple[PyTree, dict[str, Any]]]


class Plan(NamedTuple):
    """Fixed when a stage starts; after that everything is a function of the step."""

    steps: int
    seconds_per_step: float
    """As timed before the start."""
    save_every: int
    """Steps between checkpoints."""
    settings: dict[str, Any]
    """What the plan was made for."""


class Rate(NamedTuple):
    """What the compiled step and a checkpoint take, in seconds, measured on a copy of the state."""

    step: float
    save: float


class Timing(NamedTuple):
    """What a stage took, over all of its pieces."""

    steps: int
    train_seconds: float
    """Of all steps, saving and loading included; steps of a piece that was killed are counted at the others' rate."""
    compile_seconds: float
    evaluation_seconds: float
    pieces: int


class Piece:
    """This process: its start and, with a limit, the moment at which it must stop."""

    def __init__(self, minutes: float | None):
        """Starts the clock; None is no limit."""
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """An alarm at the deadline, which the training loop takes as a request to save and stop."""
        if self._deadline is None:
            yield
            return
        # Before the loop watches for signals, while it loads a checkpoint, the alarm comes again a little later.
        before = signal.signal(signal.SIGALRM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 0.5))
        signal.setitimer(signal.ITIMER_REAL, max(self._deadline - time.monotonic(), 1e-3))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    def need(self, seconds: float, what: str, say: Callable[[str], None]) -> None:
        """Ends the piece now if less time is left than ``what`` takes."""
        if self._deadline is not None and self._deadline - time.monotonic() < seconds:
            say(f"the piece ends before {what}, which takes about {seconds:.0f} s")
            raise Interrupted(signal.SIGALRM, 0)


def time_compilation(step_fn: StepFn, state: PyTree, batch: PyTree) -> tuple[float, PyTree]:
    """Seconds of the first call, and the state after it."""
    start = time.perf_counter()
    state, metrics = step_fn(state, batch)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - start, state


def time_steps(step_fn: StepFn, state: PyTree, batch_fn: Callable[[int], PyTree]) -> Rate:
    """Times steps and a checkpoint; the state is used up."""
    start, done = time.perf_counter(), 0
    # Long enough for a card to settle at the clock that its power allows; waited for now and then, as in training.
    while done < TIMED_CALLS or (time.perf_counter() - start < TIMED_SECONDS and done < 50 * TIMED_CALLS):
        for _ in range(TIMED_CALLS):
            state, _ = step_fn(state, batch_fn(done))
            done += 1
        jax.block_until_ready(state)
    stepped = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, 0, state, config={})
    return Rate((stepped - start) / done, time.perf_counter() - stepped)


def read_plan(path: Path, settings: dict[str, Any]) -> Plan | None:
    """The plan of an earlier piece, if there was one.

    Raises:
        ValueError: it was made for other settings, or the file is damaged.
    """
    if not path.exists():
        return None
    try:
        plan = Plan(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise fail("run", "directory", f"has a damaged {path}: {error}", "a plan as the run wrote it") from error
    asked = json.loads(json.dumps(settings))
    different = sorted(name for name in plan.settings | asked if plan.settings.get(name) != asked.get(name))
    if different:
        raise fail(
            "run", "directory", f"{path.parent} was begun with other {', '.join(different)}", "the same settings"
        )
    return plan


def make_plan(
    path: Path, rate: Rate, *, minutes: float, steps: int | None, points: int, settings: dict[str, Any]
) -> Plan:
    """A new plan, kept for later pieces: ``steps``, or as many as fit into the minutes together with their checkpoints.

    Args:
        path: of the plan.
        rate: of the compiled step.
        minutes: of the stage.
        steps: their number, in place of the minutes.
        points: of the curve; the number of steps that the minutes give is a multiple of it, so that the last is at the
            end.
        settings: what must be the same in later pieces.
    """
    save_every = max(int(SAVE_SECONDS / rate.step), 1)
    if steps is None:
        saves = 60 * minutes // SAVE_SECONDS + 1
        fit = max(int((60 * minutes - saves * rate.save) / rate.step), 1)
        steps = max(fit - fit % points, points) if points else fit
    plan = Plan(steps, rate.step, save_every, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(plan._asdict()) + "\n")
    return plan


def add_piece(path: Path, **entry: float) -> None:
    """Adds what one piece of a stage took."""
    write_json_lines(path, [*read_json_lines(path), entry])


def total_timing(path: Path, steps: int, *, seconds_per_step: float) -> Timing:
    """Of the first ``steps`` steps, from what the pieces wrote.

    Steps that no piece accounts for, because it was killed, count at the others' rate, or at ``seconds_per_step``.
    """
    entries = read_json_lines(path)
    timed = sum(entry["steps"] for entry in entries)
    rate = sum(entry["train_seconds"] for entry in entries) / timed if timed else seconds_per_step
    return Timing(
        steps,
        rate * steps,
        sum(entry["compile_seconds"] for entry in entries),
        sum(entry["evaluation_seconds"] for entry in entries),
        len(entries),
    )
