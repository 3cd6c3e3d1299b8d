"""One stage of a run: compile, plan, train in the shared loop, account for the time."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.speedrun.clock import (
    Piece,
    StepFn,
    Timing,
    add_piece,
    make_plan,
    read_plan,
    time_compilation,
    time_steps,
    total_timing,
)
from experiments.speedrun.optimizers import with_total_steps
from jaxdiv import training
from jaxdiv.training import Interrupted
from jaxdiv.typing import PyTree

COMPILE_SECONDS = 150


def run_stage(
    name: str,
    *,
    make_state: Callable[[], PyTree],
    step_fn: StepFn,
    batch_fn: Callable[[int], Any],
    updates_per_step: dict[str, int],
    minutes: float,
    steps: int | None,
    directory: Path,
    fingerprint: dict[str, Any],
    piece: Piece,
    say: Callable[[str], None],
    curve_points: int = 0,
    evaluate: Callable[[PyTree, int], dict[str, Any]] | None = None,
    progress: tuple[str, ...] = ("loss",),
) -> tuple[PyTree, Timing]:
    """Trains for the planned number of steps, from the newest checkpoint if there is one.

    Args:
        name: of the stage, its folder and its bar.
        make_state: the state before step 0; called twice, since timing uses one up.
        step_fn: jitted and compiled once, here.
        batch_fn: what a step takes besides the state; the same shapes each time.
        updates_per_step: for each field of the state that holds an optimizer's state, its updates in a step.
        minutes: of training, from which the number of steps follows once the step was timed.
        steps: the number itself, in place of the minutes.
        directory: of the run.
        fingerprint: what a resumed stage must share with its start.
        piece: the limit of this process.
        say: prints a line.
        curve_points: evaluations on the way, evenly spaced; the last is at the end where the minutes set the steps.
        evaluate: ``(state, step) -> a row``; its time is not training time.
        progress: metrics beside the bar.

    Returns:
        The final state, and what all of its pieces took.
    """
    folder = directory / name
    plan_path, pieces_path = folder / "plan.json", folder / "pieces.jsonl"
    done_before = training.newest_intact_step(folder / "checkpoints") or 0  # what a damaged one had done is done again
    points = curve_points if evaluate is not None else 0
    settings = fingerprint | {"minutes": minutes, "steps": steps, "curve_points": points}
    compile_seconds, plan = 0.0, read_plan(plan_path, settings)
    if plan is None or done_before < plan.steps:
        piece.need(COMPILE_SECONDS, f"the {name}'s compilation", say)
        compile_seconds, used = time_compilation(step_fn, make_state(), batch_fn(0))
        if plan is None:
            rate = time_steps(step_fn, used, batch_fn)
            plan = make_plan(plan_path, rate, minutes=minutes, steps=steps, points=points, settings=settings)
        del used
        to_go = plan.steps - done_before
        pace = f"{1e3 * plan.seconds_per_step:.1f} ms each, {to_go * plan.seconds_per_step / 60:.1f} minutes"
        say(f"{name}: compiled in {compile_seconds:.0f} s; {to_go} of {plan.steps} steps to go, {pace}")
    state = make_state()
    for field, updates in updates_per_step.items():
        state = state._replace(**{field: with_total_steps(getattr(state, field), plan.steps * updates)})
    timing = partial(total_timing, pieces_path, seconds_per_step=plan.seconds_per_step)
    seconds_before = timing(done_before).train_seconds
    evaluation_seconds = 0.0

    def train_seconds() -> float:
        return time.perf_counter() - started - evaluation_seconds

    def timed_evaluation(state: PyTree, step: int) -> dict[str, Any]:
        nonlocal evaluation_seconds
        jax.block_until_ready(state)
        minute = (seconds_before + train_seconds()) / 60
        start = time.perf_counter()
        row = {"minutes": minute} | evaluate(state, step)
        evaluation_seconds += time.perf_counter() - start
        return row

    def account(step: int) -> None:
        if step > done_before:
            add_piece(
                pieces_path, steps=step - done_before, train_seconds=train_seconds(), compile_seconds=compile_seconds,
                evaluation_seconds=evaluation_seconds,
            )  # fmt: skip

    started = time.perf_counter()
    try:
        with piece.alarm():
            state = training.train(
                step_fn,
                state,
                num_steps=plan.steps,
                batch_fn=batch_fn,
                directory=folder,
                config=settings,
                save_every=plan.save_every,
                log_every=max(plan.steps // 400, 1),
                eval_every=-(-plan.steps // points) if points else None,
                eval_fn=timed_evaluation if points else None,
                progress=progress,
                description=name,
            )
    except Interrupted as interrupted:
        account(interrupted.step)
        raise
    jax.block_until_ready(state)
    account(plan.steps)
    return state, timing(plan.steps)
