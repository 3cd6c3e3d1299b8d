"""CIFAR-10 to a one-step generator in a fixed number of minutes on one accelerator.

    python -m experiments.speedrun.run --data-dir DATA                       # 12 minutes from the fixed teacher
    python -m experiments.speedrun.run --data-dir DATA --track scratch       # 26 minutes, teacher and student
    python -m experiments.speedrun.run --data-dir DATA --method sid --alpha 1.2 --minutes 4
    python -m experiments.speedrun.run --data-dir DATA --piece-minutes 9 --resume     # again and again until status 0
    python -m experiments.speedrun.record runs/speedrun/*                    # the table

DATA holds cifar10/, weights/ and, for the fixed track, teacher/; docs/speedrun.md says what is in them. The minutes are
those of training; compilation, sampling and the measure are timed apart and printed.
"""

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.command_line import run_command, say
from experiments.one_step_image.evaluation import format_table
from experiments.speedrun.clock import Piece, Timing
from experiments.speedrun.config import Config
from experiments.speedrun.judge import (
    GRID,
    grid_path,
    make_curve,
    make_fid,
    make_measure,
    make_sampler,
    student_row,
    teacher_rows,
)
from experiments.speedrun.pixels import Pixels, load_pixels
from experiments.speedrun.plots import save_curves, save_strips
from experiments.speedrun.record import RESULTS, distance_columns, run_facts
from experiments.speedrun.student import build_student, distil
from experiments.speedrun.teacher import load_teacher, train_teacher
from jaxdiv.checks import fail
from jaxdiv.metrics import ImageMeasure
from jaxdiv.networks import count_flops
from jaxdiv.training import CheckpointError, checkpoint_steps, read_metrics

STUDENT_SECONDS, TEACHER_SECONDS = 90, 330
FIRST = {"nfe": "NFE", "num_samples": "samples"}
LAST = {
    "precision": "precision",
    "recall": "recall",
    "class_histogram_distance": "class TV",
    "missing": "missing",
    "nearest_train_close": "close (features)",
    "nearest_train_pixels_close": "close (pixels)",
}


def run(
    config: Config, splits: tuple[Pixels, Pixels] | None = None, measure: ImageMeasure | None = None
) -> dict[str, Any]:
    """The whole run; returns what ``results.json`` holds and writes everything into ``config.run_directory``.

    Args:
        config: of the run.
        splits: training and test set, in place of those of ``data_dir``.
        measure: in place of the fixed one.

    Raises:
        Interrupted: the piece is over, or a signal came: what there is is saved.
    """
    directory = config.run_directory
    _prepare(config, directory)
    piece = Piece(config.piece_minutes)
    started = time.perf_counter()
    train, test = load_pixels(config.data_dir) if splits is None else splits
    measure = make_measure(config, train, test) if measure is None else measure
    distances = {title: measure.floor[name] for name, title in distance_columns(measure.floor).items()}
    say("floor, the test set: " + ", ".join(f"{title} {value:.3f}" for title, value in distances.items()))
    setup_seconds = time.perf_counter() - started
    pixels = jax.device_put(train)
    stage = {"directory": directory, "piece": piece, "say": say}

    timings: dict[str, Timing] = {}
    if config.track == "scratch":
        denoiser, teacher, timings["teacher"] = train_teacher(config, pixels, **stage)
    else:
        denoiser, teacher = load_teacher(config)
    sample = make_sampler(config, build_student(denoiser, config.student))
    points = config.curve_points if config.curve_points is not None else round(config.stage_minutes["student"])
    _, state, timings["student"] = distil(
        config, pixels, denoiser, teacher, curve_points=points,
        evaluate=make_curve(config, measure, sample, directory / "samples"), **stage,
    )  # fmt: skip

    piece.need(STUDENT_SECONDS, "the student's measure", say)
    row, images = student_row(config, measure, sample, state.student_ema, make_fid(config, train))
    results = {
        "finished": not config.teacher_levels,
        "facts": run_facts(config),
        "settings": json.loads(json.dumps(dataclasses.asdict(config), default=str)),
        "minutes": sum(timing.train_seconds for timing in timings.values()) / 60,
        "setup_seconds": setup_seconds,
        "stages": {name: _stage_facts(config, name, timing) for name, timing in timings.items()},
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(teacher)),
        "rows": {"test set": measure.floor, "student": row},
        "curve": [_point(record) for record in read_metrics(directory / "student" / "metrics.jsonl", split="eval")],
    }
    pictures = {"data": train.images[:GRID], "student": images}
    _write(directory, results, pictures)  # now, since the teacher's rows take minutes
    if config.teacher_levels:
        piece.need(TEACHER_SECONDS, "the teacher's rows", say)
        started = time.perf_counter()
        rows, grids = teacher_rows(config, measure, denoiser, teacher)
        results["teacher_seconds"] = time.perf_counter() - started
        results["finished"] = True
        results["rows"] = {"test set": measure.floor, **rows, "student": row}
        _write(directory, results, pictures | grids)
    return results


def report(results: dict[str, Any]) -> str:
    """The table, the times and what the rules ask of the student, as printed at the end of a run."""
    rows = {name: row | {"missing": len(row["missing_classes"])} for name, row in results["rows"].items()}
    student, distances = rows["student"], distance_columns(rows["student"])
    lines = [format_table(rows, FIRST | distances | LAST), ""]
    for name, stage in results["stages"].items():
        lines.append(
            f"{name}: {stage['steps']} steps in {stage['train_seconds'] / 60:.2f} minutes, "
            f"{stage['images_per_second']:,.0f} images/s; compiled in {stage['compile_seconds']:.0f} s, "
            f"evaluated for {stage['evaluation_seconds']:.0f} s, {stage['pieces']} pieces"
        )
    lines += [
        f"{name} of the student: {value:.3f}" for name, value in student.items() if name.startswith(("FID", "FD-"))
    ]
    lines.append(f"sampled in {student['sample_seconds']:.1f} s, measured in {student['measure_seconds']:.1f} s")
    if peak := results["facts"]["peak_gib"]:  # a CPU does not say
        lines.append(f"peak memory of the device {peak:.1f} GiB")
    for name, row in rows.items():
        if name.startswith("teacher"):
            ratios = ", ".join(f"{title} {student[key] / row[key]:.2f}" for key, title in distances.items())
            kept = ", ".join(f"{key} {student[key] / row[key]:.2f}" for key in ("precision", "recall") if row[key] > 0)
            lines.append(f"student over {name}: {ratios}; {kept}")
    return "\n".join(lines)


def _stage_facts(config: Config, name: str, timing: Timing) -> dict[str, Any]:
    batch = (config.training if name == "teacher" else config.student).batch_size
    facts = timing._asdict() | {"images_per_second": timing.steps * batch / timing.train_seconds}
    if name == "teacher":  # a forward pass, and a backward pass of twice its operations
        forward = count_flops(config.unet)
        facts["model_tflop_per_second"] = 3 * forward * facts["images_per_second"] / 1e12
    return facts


def _point(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("step", "minutes", *distance_columns(record))}


def _prepare(config: Config, directory: Path) -> None:
    """Refuses a folder with an earlier run unless it is to be resumed, and clears what an aborted one left."""
    stages = [directory / stage for stage in config.stage_minutes]
    if not config.resume:
        if any(checkpoint_steps(stage / "checkpoints") for stage in stages):
            got = f"{directory} holds an earlier run"
            raise fail("run", "directory", got, "--resume to go on, or another --directory")
        for folder in (*stages, directory / "samples"):
            shutil.rmtree(folder, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)


def _write(directory: Path, results: dict[str, Any], pictures: dict[str, np.ndarray]) -> None:
    (directory / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (directory / "table.md").write_text(report(results) + "\n", encoding="utf-8")
    save_curves(directory / "curve.png", [results])
    points = {
        f"{point['minutes']:.1f} minutes": np.load(path)
        for point in results["curve"]
        if (path := grid_path(directory / "samples", point["step"])).exists()
    }
    save_strips(directory / "samples.png", points | pictures)


def use_compilation_cache(folder: Path | None) -> None:
    """Keeps compiled programs in ``folder/compiled`` unless a cache is set: pieces then run the same program."""
    if folder is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def run_and_report(config: Config) -> None:
    """What the command does."""
    use_compilation_cache(config.cache)
    print(report(run(config)))


def main() -> None:
    """The command line."""
    run_command(
        Config,
        run_and_report,
        description=__doc__,
        interrupted="--resume goes on from the last checkpoint",
        errors=(ValueError, OSError, CheckpointError),
    )


if __name__ == "__main__":
    main()
