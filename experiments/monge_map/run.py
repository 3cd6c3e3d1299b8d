"""Fits a transport map by a Sinkhorn divergence and the Monge gap (Uscidda and Cuturi, arXiv 2302.04953).

    python -m experiments.monge_map.run                            # moons to an S, about 90 seconds on two CPU cores
    python -m experiments.monge_map.run --cost l1 --target ring
    python -m experiments.monge_map.run --help                     # every setting

The map is fitted twice, with and without the gap, and compared with exact transport on held-out points. Writes metrics,
table and picture into one folder and prints the table.
"""

import dataclasses
import json
import time
from typing import Any

import numpy as np

from experiments.command_line import run_command
from experiments.monge_map.config import Config
from experiments.monge_map.fit import Task, apply_map, fit_map
from experiments.monge_map.plots import save_picture
from jaxdiv.checks import fail
from jaxdiv.training import CheckpointError, checkpoint_steps

COLUMNS = {
    "sinkhorn_divergence": "Sinkhorn divergence to the target",
    "transport_cost": "transport cost",
    "monge_gap": "Monge gap, less epsilon log n",
    "exact_gap": "exact Monge gap",
}


def run(config: Config) -> dict[str, dict[str, Any]]:
    """Both fits; returns the table's rows and writes everything else into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    weights = {"without the gap": 0.0, "with the gap": config.gap_weight}
    folders = {name: directory / name.replace(" ", "_") for name in weights}
    if not config.resume and any(checkpoint_steps(folder / "checkpoints") for folder in folders.values()):
        raise fail("run", "directory", f"{directory} holds an earlier run", "--resume to go on, or another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    task = Task(config)
    rows, mapped = {}, {}
    for name, weight in weights.items():
        params = fit_map(task, gap_weight=weight, directory=folders[name], description=name)
        rows[name] = task.evaluate(params)
        mapped[name] = np.asarray(apply_map(params, task.x))
    rows |= task.reference_rows()
    mapped["exact transport"] = task.exact_image

    table = format_table(rows)
    (directory / "table.md").write_text(table + "\n", encoding="utf-8")
    (directory / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    metrics = {name: folder / "metrics.jsonl" for name, folder in folders.items()}
    save_picture(directory / "maps.png", task.x, task.y, mapped, metrics, task.exact_cost)
    print(table)
    excess = [rows[name]["transport_cost"] / task.exact_cost for name in weights]
    print(
        f"\nThe map's cost is {excess[0]:.2f} times that of exact transport without the gap, {excess[1]:.2f} with it.\n"
        f"Picture, metrics and checkpoints are in {directory} ({time.perf_counter() - started:.0f} s)."
    )
    return rows


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table; what a row does not have is left empty."""
    lines = ["| map | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[column]:.4f}" if column in row else "" for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
