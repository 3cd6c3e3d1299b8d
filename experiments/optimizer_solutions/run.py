"""What do optimizers leave behind? Tasks in sequence, after Pascanu et al. (arXiv 2507.12224).

    python -m experiments.optimizer_solutions.run              # embedded digits, under 3 minutes on two CPU cores
    python -m experiments.optimizer_solutions.run --data mnist --data-dir DIR --steps 500
    python -m experiments.optimizer_solutions.run --help       # every setting

Each optimizer's learning rate is the one that learns each task best when it comes, judged on held-out training images
by seeds of their own; what is kept of earlier tasks plays no part. Writes table, numbers and pictures into one folder
and prints the table. Nothing is resumed, as a run takes minutes.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.command_line import run_command
from experiments.one_step_image.images import Images, load_images
from experiments.optimizer_solutions.config import Config
from experiments.optimizer_solutions.learn import Outcome, make_learner
from experiments.optimizer_solutions.measures import (
    finite_mean,
    mean_and_deviation,
    mean_off_diagonal,
    sequence_measures,
)
from experiments.optimizer_solutions.optimizers import rate_grid
from experiments.optimizer_solutions.plots import save_curves, save_heatmaps
from experiments.optimizer_solutions.tasks import Suite, load_suites
from jaxdiv.checks import fail

COLUMNS = {
    "learned_accuracy": "learned",
    "final_accuracy": "final",
    "earlier_accuracy": "final, earlier tasks",
    "final_own_accuracy": "final, among the task's classes",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "weight_effective_rank": "effective rank of weights",
    "weight_stable_rank": "stable rank of weights",
    "change_effective_rank": "effective rank of their change",
    "change_stable_rank": "stable rank of their change",
    "update_effective_rank": "effective rank of updates",
    "update_stable_rank": "stable rank of updates",
    "class_cosine": "cross-class cosine",
}
COMPARED = ("earlier_accuracy", "final_own_accuracy", "class_cosine")
TOLERANCE = 0.01
RESULTS = "results.json"


def run(config: Config, images: Images | None = None) -> dict[str, dict[str, Any]]:
    """Everything, by suite and optimizer; also writes it into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    if (directory / RESULTS).exists() and not config.overwrite:
        raise fail("run", "directory", f"{directory} holds an earlier run", "--overwrite, or another --directory")
    images = load_images(config.data, data_dir=config.data_dir) if images is None else images
    tasks = {"data": config.data, "data_dir": config.data_dir, "num_tasks": config.num_tasks, "seed": config.seed}
    suites = {name: load_suites(name, images=images, **tasks) for name in config.suites}
    directory.mkdir(parents=True, exist_ok=True)

    results: dict[str, dict[str, Any]] = {name: {} for name in config.suites}
    with tqdm(total=2 * len(suites) * len(config.optimizers), unit="batch of runs", dynamic_ncols=True) as bar:
        for optimizer in config.optimizers:
            learner = make_learner(
                optimizer, widths=config.widths, steps=config.steps, batch_size=config.batch_size,
                weight_decay=config.weight_decay,
            )  # fmt: skip
            for suite, (validation, test) in suites.items():
                bar.set_description(f"{optimizer}, {suite}")
                results[suite][optimizer] = study(config, optimizer, learner, validation, test, bar)

    table = "\n\n".join(f"{suite}:\n\n{format_table(rows)}" for suite, rows in results.items())
    findings = describe(results)
    (directory / "table.md").write_text(f"{table}\n\n{findings}\n", encoding="utf-8")
    (directory / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    for key, xlabel, ylabel in (("accuracy", "on task", "after task"), ("cosines", "class", "class")):
        means = {s: {name: finite_mean(row[key], axis=0) for name, row in rows.items()} for s, rows in results.items()}
        save_heatmaps(directory / f"{key}.png", means, xlabel=xlabel, ylabel=ylabel)
    save_curves(directory / "curves.png", results)
    print(f"{table}\n\n{findings}\n")
    print(f"Table, numbers and pictures are in {directory} ({time.perf_counter() - started:.0f} s).")
    return results


def study(
    config: Config,
    optimizer: str,
    learner: Callable[[Suite, Any, Any], Outcome],
    validation: Suite,
    test: Suite,
    bar: tqdm,
) -> dict[str, Any]:
    """Chooses the learning rate on one suite and reports on the other."""
    tuning_key, report_key = jax.random.split(jax.random.key(config.seed))
    rates = rate_grid(optimizer, config.num_rates)
    keys = jax.random.split(tuning_key, config.tuning_seeds)
    repeated = np.repeat(rates, config.tuning_seeds).astype(np.float32)
    tuned = jax.device_get(learner(validation, repeated, keys[np.tile(np.arange(len(keys)), len(rates))]))
    bar.update()
    grid = tuning_grid(rates, tuned)
    best = choose(grid)
    reported = np.full(config.seeds, rates[best], np.float32)
    outcome = jax.device_get(learner(test, reported, jax.random.split(report_key, config.seeds)))
    bar.update()
    measures = {name: mean_and_deviation(values) for name, values in all_measures(outcome, test).items()}
    return {
        "rate": grid[best]["rate"],
        "at_edge": best in (0, len(rates) - 1),
        "measures": measures,
        "grid": grid,
        "accuracy": outcome.accuracy.tolist(),
        "cosines": outcome.cosines.tolist(),
    }


def tuning_grid(rates: np.ndarray, tuned: Outcome) -> list[dict[str, float]]:
    """What each rate did, mean over its seeds; the runs are in the order of the rates."""
    measures = sequence_measures(tuned.accuracy)
    losses = np.diagonal(tuned.loss, axis1=1, axis2=2).mean(1)
    values = {name: measures[name] for name in ("learned_accuracy", "final_accuracy")}
    values["final_own_accuracy"] = sequence_measures(tuned.own_accuracy)["final_accuracy"]
    values["learned_loss"] = np.where(np.isfinite(losses), losses, np.finfo(np.float32).max).astype(np.float64)
    means = {name: value.reshape(len(rates), -1).mean(1) for name, value in values.items()}
    return [{"rate": float(rate)} | {k: float(v[i]) for k, v in means.items()} for i, rate in enumerate(rates)]


def choose(grid: list[dict[str, float]]) -> int:
    """The rate with the best accuracy on the task just learned; among equals, with the least loss on it.

    >>> row = {"rate": 1.0, "learned_accuracy": 0.9, "learned_loss": 0.2, "final_accuracy": 0.0}
    >>> choose([row, row | {"learned_loss": 0.1}, row | {"learned_accuracy": 0.8, "final_accuracy": 1.0}])
    1
    """
    return min(range(len(grid)), key=lambda i: (-grid[i]["learned_accuracy"], grid[i]["learned_loss"]))


def all_measures(outcome: Outcome, suite: Suite) -> dict[str, np.ndarray]:
    """Every column of the table, one number per run."""
    ranks = {"weight": outcome.weight_ranks, "change": outcome.change_ranks, "update": outcome.update_ranks}
    return {
        **sequence_measures(outcome.accuracy),
        "final_own_accuracy": sequence_measures(outcome.own_accuracy)["final_accuracy"],
        **{f"{of}_effective_rank": values[:, 0] for of, values in ranks.items()},
        **{f"{of}_stable_rank": values[:, 1] for of, values in ranks.items()},
        "class_cosine": mean_off_diagonal(outcome.cosines, suite.classes.any(0)),
    }


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table with a row per optimizer, mean and standard deviation over the runs that have the measure."""
    titles = ["optimizer", "rate", *COLUMNS.values()]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "--:|" * (len(titles) - 1)]
    for name, row in rows.items():
        cells = [name, f"{row['rate']:.2g}" + (" (edge of the grid)" if row["at_edge"] else "")]
        for column in COLUMNS:
            mean, std, runs = (row["measures"][column][key] for key in ("mean", "std", "runs"))
            digits = 1 if "rank" in column else 3
            of = "" if runs == len(row["accuracy"]) else f" ({runs} of {len(row['accuracy'])} runs)"
            cells.append(f"{mean:.{digits}f} ± {std:.{digits}f}{of}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe(results: dict[str, dict[str, Any]]) -> str:
    """One paragraph of what was found, beside what the paper says."""
    parts = [
        "The paper reports that on class-incremental MNIST Adam ends near 0 accuracy on earlier pairs of classes where "
        "Shampoo keeps some, and that Shampoo's representations of different classes are less alike."
    ]
    for suite, rows in results.items():
        kept = ranked(rows, "earlier_accuracy", "{:.3f}", descending=True)
        cosines = ranked(rows, "class_cosine", "{:.3f}", descending=False)
        parts.append(f"Here, {suite}: accuracy on earlier tasks at the end, most first: {kept};")
        parts.append(f"cross-class cosine, least first: {cosines}.")
        for name in ("shampoo", "muon"):
            if name in rows and "adamw" in rows:
                of = [compare(rows, name, "adamw", key) for key in COMPARED]
                parts.append(
                    f"Against adamw, {name}'s accuracy on earlier tasks is {of[0]}, its accuracy on all tasks among "
                    f"each one's own classes {of[1]}, its cosine {of[2]}."
                )
        ranges = [f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in equal_ranges(rows).items()]
        parts.append(
            f"The rate matters as well: rates that learn each task within {TOLERANCE} of the best end, over all tasks, "
            f"among each one's own classes and on held-out training images, at {', '.join(ranges)}; where "
            "these overlap, an order may be the rate's as much as the optimizer's."
        )
    edges = [f"{name} ({suite})" for suite, rows in results.items() for name, row in rows.items() if row["at_edge"]]
    if edges:
        parts.append(f"The chosen rate is at the edge of its grid for {', '.join(edges)}.")
    lost = [
        f"{COLUMNS[column]} of {name} ({suite})"
        for suite, rows in results.items()
        for name, row in rows.items()
        for column, found in row["measures"].items()
        if found["runs"] < len(row["accuracy"])
    ]
    if lost:
        parts.append(f"Runs whose hidden units are all dead, or that diverged, have no {', no '.join(lost)}.")
    parts.append("Differences below two standard errors over the seeds are called unclear.")
    return " ".join(parts)


def equal_ranges(rows: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """By optimizer, the range of final accuracy among own classes of the rates nearly as good at the task at hand."""
    ranges = {}
    for name, row in rows.items():
        best = max(point["learned_accuracy"] for point in row["grid"])
        final = [p["final_own_accuracy"] for p in row["grid"] if p["learned_accuracy"] >= best - TOLERANCE]
        ranges[name] = (min(final), max(final))
    return ranges


def ranked(rows: dict[str, Any], key: str, form: str, *, descending: bool) -> str:
    """Names with a measure's means, in their order; behind them those that have none."""
    means = {name: row["measures"][key]["mean"] for name, row in rows.items()}
    names = sorted(means, key=lambda name: (np.isnan(means[name]), -means[name] if descending else means[name]))
    return ", ".join(f"{name} {form.format(means[name])}" for name in names)


def compare(rows: dict[str, Any], name: str, other: str, key: str) -> str:
    """Whether higher, lower or unclear, with the difference of the means and its standard error."""
    a, b = (rows[x]["measures"][key] for x in (name, other))
    variances = [found["std"] ** 2 / max(found["runs"], 1) for found in (a, b)]
    difference, error = a["mean"] - b["mean"], np.sqrt(sum(variances))
    word = "unclear" if not abs(difference) > 2 * error else "higher" if difference > 0 else "lower"
    return f"{word} ({difference:+.3f}, standard error {error:.3f})"


def main() -> None:
    """The command line."""
    run_command(Config, run, description=__doc__, interrupted="nothing is written before the end")


if __name__ == "__main__":
    main()
