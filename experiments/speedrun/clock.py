"""Time: how many steps fit into a stage's minutes, how long they took, and when a process must stop."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.json_lines import read_json_lines
from jaxdiv.training import Interrupted
from jaxdiv.typing import PyTree

TIMED_CALLS = 8


class Plan(NamedTuple):
    """Fixed when a stage starts; after that everything is a function of the step."""

    steps: int
    seconds_per_step: float
    """As timed before the start."""


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


def time_steps(step_fn: Callable[..., Any], state: PyTree, batch: Callable[[int], Any]) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and of each later one. The state is used up."""
    start = time.perf_counter()
    state, metrics = step_fn(state, batch(0))
    jax.block_until_ready(metrics)
    compiled = time.perf_counter()
    for step in range(1, TIMED_CALLS + 1):
        state, metrics = step_fn(state, batch(step))
    jax.block_until_ready((state, metrics))
    return compiled - start, (time.perf_counter() - compiled) / TIMED_CALLS


def read_plan(path: Path) -> Plan | None:
    """The plan of an earlier piece, if there was one."""
    return Plan(**json.loads(path.read_text())) if path.exists() else None


def make_plan(path: Path, *, seconds_per_step: float, minutes: float, steps: int | None) -> Plan:
    """A new plan, kept for later pieces: ``steps``, or as many as fit into the minutes."""
    plan = Plan(steps or max(int(60 * minutes / seconds_per_step), 1), seconds_per_step)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(json.dumps(plan._asdict()) + "\n")
    unfinished.replace(path)
    return plan


def add_piece(path: Path, **entry: float) -> None:
    """Appends what one piece of a stage took."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def total_timing(path: Path, steps: int) -> Timing:
    """Of the first ``steps`` steps, from what the pieces wrote."""
    entries = read_json_lines(path)
    timed = sum(entry["steps"] for entry in entries)
    rate = sum(entry["train_seconds"] for entry in entries) / max(timed, 1)
    return Timing(
        steps,
        rate * steps,
        sum(entry["compile_seconds"] for entry in entries),
        sum(entry["evaluation_seconds"] for entry in entries),
        len(entries),
    )
