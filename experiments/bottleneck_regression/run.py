"""Information bottlenecks for regression: CS-IB (arXiv:2404.17951) beside VIB, NIB, squared NIB, HSIC and plain MSE.

    python -m experiments.bottleneck_regression.run                # diabetes, about two minutes on one CPU core
    python -m experiments.bottleneck_regression.run --data bike_hour --data-dir DIR --max-rows 6000 --steps 600
    python -m experiments.bottleneck_regression.run --help         # every setting

A line of JSON is written for every finished cell (a method on a set, all betas and seeds), so that an interrupted run
goes on with --resume. At the end tables and a picture are written beside it and the tables are printed. Validation rows
choose epochs, betas and the weights between them; test rows are measured once, after that.
"""

import dataclasses
import json
import time

from tqdm import tqdm

from experiments.bottleneck_regression.cells import Cells, read_cells, train_and_measure
from experiments.bottleneck_regression.config import Config
from experiments.bottleneck_regression.data import read_table
from experiments.bottleneck_regression.methods import METHODS
from experiments.bottleneck_regression.plots import save_picture
from experiments.bottleneck_regression.splits import stack_splits
from experiments.bottleneck_regression.tables import format_tables
from experiments.command_line import run_command
from experiments.json_lines import drop_torn_line
from jaxdiv.checks import fail


def run(config: Config) -> Cells:
    """All cells by set and method; also writes them, tables and picture into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    file = directory / "cells.jsonl"
    if file.exists() and not config.resume:
        raise fail("run", "directory", f"{directory} holds an earlier run", "--resume to go on, or another --directory")
    seeds = range(config.seed, config.seed + config.num_seeds)
    splits = {
        name: stack_splits(read_table(name, config.data_dir), seeds=seeds, max_rows=config.max_rows)
        for name in config.data
    }
    directory.mkdir(parents=True, exist_ok=True)
    finished = read_cells(file, config)
    drop_torn_line(file)
    wanted = [(data, method) for data in config.data for method in config.methods]
    with file.open("a", encoding="utf-8") as lines, tqdm(total=len(wanted), unit="cell", dynamic_ncols=True) as bar:
        for data, method in wanted:
            if (data, method) not in finished:

                def progress(epoch: int, epochs: int, loss: float, name: str = f"{METHODS[method].label}, {data}"):
                    if epoch % max(1, epochs // 20) == 0:
                        bar.set_description(f"{name}, epoch {epoch} of {epochs}, validation loss {loss:.3f}")

                cell = train_and_measure(config, data, method, splits[data], progress)
                finished[data, method] = cell
                lines.write(json.dumps(cell) + "\n")
                lines.flush()
            bar.update()

    cells = {name: finished[name] for name in wanted}
    tables = format_tables(cells, config)
    (directory / "table.md").write_text(tables + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    save_picture(directory / "curves.png", cells, config)
    print(tables)
    print(f"\nTables, cells and picture are in {directory} ({time.perf_counter() - started:.0f} s).")
    return cells


def main() -> None:
    """The command line."""
    run_command(Config, run, description=__doc__, interrupted="--resume goes on after the last finished cell")


if __name__ == "__main__":
    main()
