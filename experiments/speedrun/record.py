"""The record table: one line per set of settings, from the result files of its runs.

python -m experiments.speedrun.record runs/speedrun/*            # a Markdown table, seeds of equal settings together
python -m experiments.speedrun.record RUN ... --figure curve.png # distance against minutes of training
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

from experiments.speedrun.config import Config

RESULTS = "results.json"
FIRST = {name: name for name in ("date", "commit", "change", "track", "data", "minutes", "seeds")}
LAST = {
    "precision": "precision",
    "recall": "recall",
    "missing": "missing classes",
    "nearest_train_close": "close to training",
}


def distance_columns(row: dict[str, Any]) -> dict[str, str]:
    """Titles of a row's Frechet distances by key: ``fd_resnet56`` is FD-resnet56."""
    return {name: name.replace("fd_", "FD-") for name in row if name.startswith("fd_")}


def run_facts(config: Config) -> dict[str, Any]:
    """What a record says of a run besides its numbers."""
    device = jax.devices()[0]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": _commit(),
        "jax": jax.__version__,
        "device": device.device_kind,
        "track": config.track,
        "change": config.change or f"{config.method}, {config.distillation_method.objective.divergence.name}",
        "data": "data-free" if config.is_data_free else "real data",
        "seed": config.seed,
        "settings_hash": config.settings_hash,
        "peak_gib": (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30,
    }


def record_lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line for runs that differ in their seed alone: means over seeds, and the deviation where there are several.

    Args:
        results: contents of result files.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for result in results:
        key = tuple(result["facts"][name] for name in ("settings_hash", "commit", "device"))
        groups.setdefault(key, []).append(result)
    return [_line(runs) for runs in groups.values()]


def format_records(lines: list[dict[str, Any]]) -> str:
    """A Markdown table, least distance first."""
    distances = distance_columns(lines[0])
    columns = FIRST | distances | LAST
    ordered = sorted(lines, key=lambda line: line[next(iter(distances))][0])
    rows = [list(columns.values()), ["---"] * len(columns)]
    rows += [[_cell(line[name]) for name in columns] for line in ordered]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def read_results(folders: list[Path]) -> list[dict[str, Any]]:
    """The result files of the folders that have one."""
    return [json.loads((folder / RESULTS).read_text()) for folder in folders if (folder / RESULTS).exists()]


def _line(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [run["rows"]["student"] | {"minutes": run["minutes"]} for run in runs]
    facts = runs[0]["facts"]
    line = {name: facts[name] for name in ("date", "commit", "change", "track", "data")}
    line["seeds"] = len(runs)
    line["missing"] = max(len(row["missing_classes"]) for row in rows)
    for name in ("minutes", *distance_columns(rows[0]), "precision", "recall", "nearest_train_close"):
        values = [row[name] for row in rows]
        line[name] = (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
    return line


def _cell(value: Any) -> str:
    if not isinstance(value, tuple | list):
        return str(value)
    mean, deviation = value
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _commit() -> str:
    """Of the checkout; where the code travels without its history, what JAXDIV_COMMIT says."""
    if named := os.environ.get("JAXDIV_COMMIT"):
        return named
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--figure", type=Path, help="also draw distance against minutes")
    arguments = parser.parse_args(argv)
    results = read_results(arguments.folders)
    if not results:
        parser.error(f"none of the {len(arguments.folders)} folders holds {RESULTS}")
    print(format_records(record_lines(results)))
    if arguments.figure:
        from experiments.speedrun.plots import save_curves  # here, since a table needs no pictures

        save_curves(arguments.figure, results)


if __name__ == "__main__":
    main()
