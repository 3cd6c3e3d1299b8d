"""Which estimator of mutual information for which data? All of them on tasks with known answers (arXiv:2306.11078).

    python -m experiments.estimator_benchmark.run                  # seven tasks, about two minutes on two CPU cores
    python -m experiments.estimator_benchmark.run --full           # forty tasks, ten seeds, up to 10,000 samples: a GPU
    python -m experiments.estimator_benchmark.run --help           # every setting

A line of JSON is written for every finished cell (an estimator, a task, a number of samples), so that an interrupted
run goes on with --resume, also with more tasks or estimators. At the end tables and a picture are written beside it and
the tables are printed.
"""

import dataclasses
import itertools
import json
import time
from typing import Any

from tqdm import tqdm

from experiments.command_line import run_command
from experiments.estimator_benchmark.cells import Runner, in_scope, name_of, read_cells
from experiments.estimator_benchmark.config import Config
from experiments.estimator_benchmark.estimators import ESTIMATORS
from experiments.estimator_benchmark.tables import Cells, format_tables, save_picture
from experiments.json_lines import drop_torn_line
from jaxdiv.checks import fail


def run(config: Config) -> Cells:
    """All cells by estimator, task and size; also writes them, tables and picture into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    file = directory / "cells.jsonl"
    if file.exists() and not config.resume:
        raise fail("run", "directory", f"{directory} holds an earlier run", "--resume to go on, or another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    tasks, estimators, sizes = (
        list(chosen) for chosen in (config.chosen_tasks, config.chosen_estimators, config.chosen_sizes)
    )
    runner = Runner(seed=config.seed, num_seeds=config.seeds, critic_steps=config.critic_steps)
    finished = read_cells(file, runner.settings | {"largest": sizes[-1]})
    drop_torn_line(file)
    wanted = [
        (estimator, task, size)
        for task, size, estimator in itertools.product(tasks, sizes, estimators)
        if in_scope(estimator, task)
    ]
    missing = [name for name in wanted if name not in finished]
    refused: list[str] = []
    with file.open("a", encoding="utf-8") as lines, tqdm(missing, unit="cell", dynamic_ncols=True) as bar:
        for estimator, task, size in bar:
            bar.set_description(f"{estimator}, {task}, N = {size}")
            try:
                cell = runner.cell(estimator, task, size, sizes[-1])
            except ValueError as error:  # too few samples for so many dimensions, say: the other cells are worth a run
                refused.append(f"- left out: {estimator} on {task} at N = {size}: {error}")
                continue
            finished[name_of(cell)] = cell
            lines.write(json.dumps(cell) + "\n")
            lines.flush()

    cells = {name: finished[name] for name in wanted if name in finished}
    shown: dict[str, Any] = {"tasks": tasks, "estimators": estimators, "sizes": sizes}
    tables = format_tables(cells, **shown)
    legend = "\n".join([*(f"- {name}: {ESTIMATORS[name].what}" for name in estimators), *refused])
    (directory / "table.md").write_text(f"{tables}\n\n{legend}\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    save_picture(directory / "estimates.png", cells, **shown)
    print("\n\n".join([tables, *refused]))
    print(f"\nTables, cells and picture are in {directory} ({time.perf_counter() - started:.0f} s).")
    return cells


def main() -> None:
    """The command line."""
    run_command(Config, run, description=__doc__, interrupted="--resume goes on after the last finished cell")


if __name__ == "__main__":
    main()
