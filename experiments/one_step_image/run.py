"""Distils a diffusion teacher into a one-step generator of images.

    python -m experiments.one_step_image.run                       # digits, embedded: about 5 minutes on two CPU cores
    python -m experiments.one_step_image.run --method sid          # another published method
    python -m experiments.one_step_image.run --method f_distill --divergence jensen_shannon
    python -m experiments.one_step_image.run --help                # every setting

Writes teacher, student, metrics, table and pictures into one folder and prints the table. BENCHMARKS.md has the
figures.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.command_line import run_command, say
from experiments.one_step_image.config import Config
from experiments.one_step_image.control import regress
from experiments.one_step_image.evaluation import Judge, fixed_latents, format_table, timed_samples
from experiments.one_step_image.images import Images, load_images
from experiments.one_step_image.models import Denoiser, build_student, chunked, sampler
from experiments.one_step_image.plots import save_curves, save_grids
from experiments.one_step_image.student import Pairs, distil, distillation_config
from experiments.one_step_image.teacher import load_teacher, train_teacher
from jaxdiv.checks import fail
from jaxdiv.distillation import State
from jaxdiv.training import CheckpointError, checkpoint_steps
from jaxdiv.typing import PyTree

PAIR_SEED = 29


def run(config: Config, images: Images | None = None) -> dict[str, dict[str, Any]]:
    """The whole experiment; returns the table's rows and writes everything else into ``config.run_directory``.

    The two trainings are checkpointed. A resumed run goes on inside them and computes anew what is cheap beside them:
    the classifier, the pairs and, at the end, the control and the evaluations.
    """
    directory = config.run_directory
    if not config.resume and any(checkpoint_steps(directory / part / "checkpoints") for part in ("teacher", "student")):
        raise fail("run", "directory", f"{directory} holds an earlier run", "--resume to go on, or another --directory")
    num_devices = jax.device_count()
    for name, size in (("training", config.training.batch_size), ("distill", config.distill.batch_size)):
        if size % num_devices:
            raise fail("run", f"{name}.batch_size", f"is {size}", f"a multiple of the {num_devices} devices")
    started = time.perf_counter()
    images = load_images(config.data, data_dir=config.data_dir) if images is None else images
    directory.mkdir(parents=True, exist_ok=True)

    if config.teacher is None:
        denoiser, teacher = train_teacher(config, images, directory / "teacher")
    else:
        denoiser, teacher = load_teacher(config, images, config.teacher)
    judge = Judge(images, num_steps=config.classifier_steps)
    say(f"classifier: {judge.classifier.accuracy:.2%} of held-out images right")
    z = fixed_latents(config.num_samples, images.shape)
    unlabelled = build_student(denoiser, config.distill)
    student_fn = jax.jit(lambda params, z: unlabelled(params, z, None))
    pairs = make_pairs(config, denoiser, teacher) if config.pairs else None

    def evaluate(state: State, step: int) -> dict[str, Any]:
        row = judge.row(chunked(partial(student_fn, state.student_ema), z))
        return {name: row[name] for name in ("frechet_distance", "precision", "recall", "class_histogram_distance")}

    _, state = distil(config, images, denoiser, teacher, pairs, directory / "student", eval_fn=evaluate)

    rows, pictures = teacher_rows(config.teacher_levels, judge, denoiser, teacher, z)
    standard = f"teacher, {2 * config.teacher_levels[0] - 1} evaluations"
    rows = {"held-out images": judge.heldout_row()} | rows
    if pairs is not None:
        control = regress(config, denoiser, teacher, pairs)
        samples, speed = timed_samples(student_fn, control, z)
        rows["control: regression onto ODE pairs"] = judge.row(samples) | {"nfe": 1, "images_per_second": speed}
    samples, speed = timed_samples(student_fn, state.student_ema, z)
    objective = config.distillation_method.objective
    name = f"student: {config.method}, {objective.divergence.name}"
    rows[name] = judge.row(samples) | {"nfe": 1, "images_per_second": speed}
    pictures = {"data": images.scaled("train")[:100]} | pictures | {f"{name}, 1 evaluation": np.asarray(samples[:100])}

    table = format_table(rows)
    (directory / "table.md").write_text(table + "\n", encoding="utf-8")
    (directory / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    save_grids(directory / "samples.png", pictures)
    library_config = distillation_config(config, images.shape, denoiser.sigma_data)
    references = {name: rows[name]["frechet_distance"] for name in rows if name.startswith(("teacher", "control"))}
    log = directory / "student" / "metrics.jsonl"
    save_curves(directory / "curves.png", log, bins=library_config.bins, references=references)
    print(table)
    distance = rows[name]["frechet_distance"]
    base, best = (rows[row]["frechet_distance"] for row in (standard, "teacher, best count"))
    seconds = time.perf_counter() - started
    print(
        f"\nThe student's distance is {distance / base:.2f} times that of the {standard} and "
        f"{distance / best:.2f} times that of its best count.\n"
        f"Samples, curves and checkpoints are in {directory} ({seconds:.0f} s)."
    )
    return rows


def teacher_rows(
    levels: Sequence[int], judge: Judge, denoiser: Denoiser, teacher: PyTree, z: jax.Array
) -> tuple[dict, dict]:
    """The teacher at its standard count and at the one that has the least distance, with pictures of both."""
    loss = judge.heldout_loss(denoiser, teacher)

    def at(num_levels: int) -> tuple[dict[str, Any], jax.Array]:
        samples, speed = timed_samples(sampler(denoiser, num_levels=num_levels), teacher, z)
        row = judge.row(samples)
        return row | {"nfe": 2 * num_levels - 1, "images_per_second": speed, "heldout_loss": loss}, samples

    tried = [at(num_levels) for num_levels in levels]
    best = min(tried, key=lambda result: result[0]["frechet_distance"])
    standard = f"teacher, {tried[0][0]['nfe']} evaluations"
    rows = {standard: tried[0][0], "teacher, best count": best[0]}
    pictures = {standard: tried[0][1], f"teacher, {best[0]['nfe']} evaluations": best[1]}
    return rows, {name: np.asarray(images[:100]) for name, images in pictures.items()}


def make_pairs(config: Config, denoiser: Denoiser, teacher: PyTree) -> Pairs:
    """Latents and what the teacher's standard sampler makes of them."""
    z = jax.random.normal(jax.random.key(PAIR_SEED + config.distill.seed), (config.pairs, *denoiser.shape))
    samples = chunked(partial(sampler(denoiser, num_levels=config.teacher_levels[0]), teacher), z)
    return Pairs(np.asarray(z), np.asarray(samples))


def main() -> None:
    """The command line."""
    run_command(
        Config,
        run,
        description=__doc__,
        interrupted="--resume goes on from the last checkpoint",
        errors=(ValueError, OSError, CheckpointError),
    )


if __name__ == "__main__":
    main()
