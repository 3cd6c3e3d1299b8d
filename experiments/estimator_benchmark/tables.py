"""Tables of bias and spread, and their picture."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.estimator_benchmark.cells import Cell
from jaxdiv.information import TASKS

plt.switch_backend("Agg")

Cells = dict[tuple[str, str, int], Cell]
# The second for bounds that a single sample far out can send anywhere.
SUMMARIES: dict[str, Callable[[np.ndarray], np.floating]] = {
    "Root mean squared error": lambda errors: np.sqrt(np.mean(np.square(errors))),
    "Median absolute error": np.median,
}


def bias_and_spread(cell: Cell) -> tuple[float, float]:
    """Mean error and standard deviation of the estimates, in nats.

    >>> bias_and_spread({"values": [1.0, 3.0], "truth": 1.5})
    (0.5, 1.4142135623730951)
    """
    values = np.array(cell["values"], np.float64)
    return float(values.mean() - cell["truth"]), float(values.std(ddof=1))


def family(task: str) -> str:
    """Where a task belongs in the summary."""
    dims = sum(TASKS[task].dims)
    if dims == 2:
        return "one-dimensional"
    if dims == 3:
        return "a curve in the plane"
    kind = task.split("-")[0]
    if kind in ("dense", "sparse"):
        return "normal, 2x2 to 5x5" if dims <= 10 else "normal, 25x25 and 50x50"
    if "student" in task:
        return "Student-t"
    return "mapped normal, 3x3 and 5x5" if dims <= 10 else "mapped normal, 25x25"


def format_tables(cells: Cells, *, tasks: list[str], estimators: list[str], sizes: list[int]) -> str:
    """Markdown: at each size a table of tasks by estimators, then errors by family of tasks, then the time."""
    parts = []
    header = "| " + " | ".join(estimators) + " |"
    for size in sizes:
        lines = [f"N = {size}: bias ± standard deviation, nats", "", f"| task | truth {header}"]
        lines.append("|---" * (len(estimators) + 2) + "|")
        for task in tasks:
            row = [_cell_text(cells.get((estimator, task, size))) for estimator in estimators]
            lines.append(f"| {task} | {TASKS[task].mutual_information:.3f} | " + " | ".join(row) + " |")
        parts.append("\n".join(lines))

    families = list(dict.fromkeys(family(task) for task in tasks))
    for title, summary in SUMMARIES.items():
        lines = [f"{title} over tasks and seeds, nats", "", f"| tasks | N {header}"]
        lines.append("|---" * (len(estimators) + 2) + "|")
        for name in families:
            members = [task for task in tasks if family(task) == name]
            for size in sizes:
                found = [[cells.get((estimator, task, size)) for task in members] for estimator in estimators]
                lines.append(f"| {name} | {size} | " + " | ".join(_error_text(row, summary) for row in found) + " |")
        parts.append("\n".join(lines))

    lines = ["Seconds per estimate, compiled, the median over tasks", "", f"| N {header}"]
    lines.append("|---" * (len(estimators) + 1) + "|")
    for size in sizes:
        row = []
        for estimator in estimators:
            seconds = [cells[estimator, t, size]["seconds"] for t in tasks if (estimator, t, size) in cells]
            row.append(f"{np.median(seconds):.2g}" if seconds else "")
        lines.append(f"| {size} | " + " | ".join(row) + " |")
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell_text(cell: Cell | None) -> str:
    if cell is None:
        return ""
    bias, spread = bias_and_spread(cell)
    return f"{bias:+.3f} ± {spread:.3f}"


def _error_text(members: list[Cell | None], summary: Callable[[np.ndarray], np.floating]) -> str:
    """Empty unless the estimator ran on every task of the family, so that columns stay comparable."""
    errors = [np.array(cell["values"], np.float64) - cell["truth"] for cell in members if cell is not None]
    return f"{summary(np.abs(errors)):.3f}" if len(errors) == len(members) else ""


def save_picture(path: Path, cells: Cells, *, tasks: list[str], estimators: list[str], sizes: list[int]) -> None:
    """One panel per task: estimates against N with their standard deviation, the truth as a line."""
    columns = min(5, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns, 2.6 * rows + 0.6), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes.flat, tasks, strict=False):
        truth = TASKS[task].mutual_information
        axis.axhline(truth, color="0.3", linestyle="--", linewidth=1)
        for number, estimator in enumerate(estimators):
            present = [size for size in sizes if (estimator, task, size) in cells]
            if present:
                shown = np.array([bias_and_spread(cells[estimator, task, size]) for size in present])
                style = {"color": f"C{number % 10}", "marker": "os^vDPX*<>"[number // 10 % 10], "markersize": 3}
                axis.errorbar(present, truth + shown[:, 0], yerr=shown[:, 1], linewidth=1, label=estimator, **style)
        axis.set_xscale("log")
        axis.set_title(task, fontsize=8)
        axis.set_ylim(min(-0.1, -0.1 * truth), 1.6 * truth + 0.2)
        axis.tick_params(labelsize=7)
    for axis in axes.flat[len(tasks) :]:
        axis.set_axis_off()
    figure.supxlabel("samples", fontsize=9)
    figure.supylabel("nats", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
