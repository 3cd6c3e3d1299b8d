"""Every method on the digits at equal cycles over several seeds, one process per run, as a table.

    python -m benchmarks.one_step_digits --workers 2 --out runs/digits_comparison

Trains the teachers first, then one student per setting, teacher seed and student seed, each pinned to one core. What is
done already in ``--out`` is not done again, so an interrupted comparison goes on. The images are scikit-learn's, cut as
``jaxdiv.data`` cuts them, so it needs no tensorflow-datasets.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np

# The student sees 4 of 64 latent numbers, a strong head sees the student, and nothing but the divergence pulls.
HARD = {
    "latent_dims": 4, "discriminator_weight": 1.0, "gan_weight": 0.0, "noise_mean": -0.5, "cycles": 1800,
    "learning_rate": 5e-4,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "uni_instruct kl": {"method": "uni_instruct", "divergence": "kl"},
    "sid": {"method": "sid"},
    "sid alpha 1.2": {"method": "sid", "alpha": 1.2},
    "dmd2": {"method": "dmd2"},
    "diff_instruct": {"method": "diff_instruct"},
    "f_distill jensen_shannon": {"method": "f_distill"},
    "dmd": {"method": "dmd"},
} | {
    f"hard {method} {divergence}": {"method": method, "divergence": divergence, "distill": HARD, "pairs": 0}
    for method in ("f_distill", "uni_instruct")
    for divergence in ("reverse_kl", "jensen_shannon", "kl")
}


def digits() -> Any:
    """The embedded images without a tensorflow-datasets directory."""
    from sklearn.datasets import load_digits

    from experiments.one_step_image.images import Images
    from jaxdiv.data import epoch_order

    raw = load_digits()
    images, labels = raw.images.astype(np.uint8)[..., None], raw.target.astype(np.int32)
    order = epoch_order(len(images), seed=0, epoch=0)
    train, test = ({"image": images[rows], "label": labels[rows]} for rows in (order[:1397], order[1397:]))
    return Images(train, test, half_range=8.0, num_classes=10, flip=False)


def work(settings: dict[str, Any], directory: str, teacher: str | None, seed: int) -> None:
    """One run in this process: a teacher where ``teacher`` is None, else a student of it."""
    from experiments.one_step_image.config import Config, StudentConfig, TeacherConfig
    from experiments.one_step_image.run import run

    student = StudentConfig(**{"evaluations": 2, **settings.get("distill", {}), "seed": seed})
    training = TeacherConfig(**settings.get("training", {}))
    rest = {name: value for name, value in settings.items() if name not in ("distill", "training")}
    if teacher is None:
        training = dataclasses.replace(training, seed=seed)
        student = dataclasses.replace(student, cycles=50)
        rest["pairs"] = 0
    config = Config(
        **rest,
        directory=Path(directory),
        teacher=Path(teacher) if teacher else None,
        training=training,
        distill=student,
    )
    start = time.perf_counter()
    rows = run(config, digits())
    record = {"settings": settings, "teacher": teacher, "seed": seed, "seconds": time.perf_counter() - start}
    (Path(directory) / "rows.json").write_text(json.dumps(record | {"rows": rows}))


def run_all(jobs: list[tuple[dict, Path, Path | None, int]], workers: int) -> list[str]:
    """Runs jobs in subprocesses, each on a core of its own; the names of those that failed."""
    failed: list[str] = []
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0))[:workers]:
        cores.put(core)

    def one(job: tuple[dict, Path, Path | None, int]) -> None:
        settings, directory, teacher, seed = job
        if (directory / "rows.json").exists():
            return
        core = cores.get()
        directory.mkdir(parents=True, exist_ok=True)
        arguments = json.dumps([settings | {"resume": True}, str(directory), str(teacher) if teacher else None, seed])
        command = [sys.executable, "-m", "benchmarks.one_step_digits", "--work", arguments]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
        with (directory / "log").open("w") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {core})
            )
        cores.put(core)
        if done.returncode:
            failed.append(directory.name)
        print(f"{directory.name}: {'done' if done.returncode == 0 else f'FAILED, see {directory}/log'}", flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, jobs))
    return failed


def summarize(out: Path) -> str:
    """Mean and standard deviation over runs of each setting, distances as multiples of the same teacher's."""
    found: dict[str, list[dict]] = {}
    for path in sorted(out.glob("student-*/rows.json")):
        name = path.parent.name.removeprefix("student-").rsplit("-t", 1)[0]
        found.setdefault(name, []).append(json.loads(path.read_text()))
    header = "setting runs FD/FD(35) max FD/FD(best) FD precision recall TV missing NN ESS q05 q95 seconds".split()
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    for name, records in found.items():
        student = [next(row for key, row in r["rows"].items() if key.startswith("student")) for r in records]
        base = [r["rows"]["teacher, 35 evaluations"]["frechet_distance"] for r in records]
        best = [r["rows"]["teacher, best count"]["frechet_distance"] for r in records]
        fd = np.array([row["frechet_distance"] for row in student])
        logs = [json.loads((out / f"student-{name}-t{_suffix(r)}" / "last.json").read_text()) for r in records]
        column = {
            key: [row[key] for row in student]
            for key in (
                "precision",
                "recall",
                "class_histogram_distance",
                "missing",
                "median_nearest_neighbor_distance",
            )
        }
        spread = [_spread(fd / base), f"{max(fd / base):.2f}", _spread(fd / best), _spread(fd)]
        spread += [_spread(values) for values in column.values()]
        spread += [_spread([log[key] for log in logs]) for key in ("ess", "q05", "q95")]
        spread += [f"{np.mean([r['seconds'] for r in records]):.0f}"]
        lines.append("| " + " | ".join([name, str(len(records)), *spread]) + " |")
    return "\n".join(lines)


def _suffix(record: dict) -> str:
    return f"{Path(record['teacher']).name.removeprefix('teacher-')}-s{record['seed']}"


def _spread(values: Any) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2g}"


def _last_log(directory: Path) -> None:
    """Mean of the weights' diagnostics over the last quarter of the training."""
    from jaxdiv.training import read_metrics

    records = read_metrics(directory / "student" / "metrics.jsonl", split="train")
    records = records[-len(records) // 4 :]
    quantiles = np.mean([record["log_ratio_quantiles"] for record in records], axis=0)
    ess = float(np.mean([record["ess"] for record in records]))
    (directory / "last.json").write_text(json.dumps({"ess": ess, "q05": quantiles[0], "q95": quantiles[-1]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/digits_comparison"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--teacher-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--student-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--diagonal", action="store_true", help="pair the i-th teacher seed with the i-th student seed")
    parser.add_argument("--only", nargs="+", help="settings whose name begins with one of these words")
    parser.add_argument("--settings", help="JSON of other settings by name, in place of the built-in ones")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        settings, directory, teacher, seed = json.loads(args.work)
        work(settings, directory, teacher, seed)
        _last_log(Path(directory))
        return
    settings = json.loads(args.settings) if args.settings else SETTINGS
    if args.only:
        settings = {name: value for name, value in settings.items() if name.startswith(tuple(args.only))}
    teachers = {seed: args.out / f"teacher-{seed}" for seed in args.teacher_seeds}
    failed = run_all([({}, directory, None, seed) for seed, directory in teachers.items()], args.workers)
    seeds = list(itertools.product(args.teacher_seeds, args.student_seeds))
    if args.diagonal:
        seeds = list(zip(args.teacher_seeds, args.student_seeds, strict=True))
    failed += run_all(
        [
            (value, args.out / f"student-{name}-t{t}-s{s}".replace(" ", "_"), teachers[t], s)
            for name, value in settings.items()
            for t, s in seeds
        ],
        args.workers,
    )
    table = summarize(args.out)
    (args.out / "table.md").write_text(table + "\n")
    print(table)
    if failed:
        raise SystemExit(f"not in the table, since they failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
