"""Heatmaps of accuracies and class cosines, and the curves of a run."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

plt.switch_backend("Agg")


def save_heatmaps(path: Path, matrices: dict[str, dict[str, np.ndarray]], *, xlabel: str, ylabel: str) -> None:
    """One row of heatmaps per suite and one column per optimizer, all from 0 to 1.

    Args:
        path: the PNG to write.
        matrices: square matrices by suite and optimizer.
        xlabel: of their columns.
        ylabel: of their rows.
    """
    rows, columns = len(matrices), len(next(iter(matrices.values())))
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns + 1, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for row, (suite, by_optimizer) in zip(axes, matrices.items(), strict=True):
        for axis, (name, matrix) in zip(row, by_optimizer.items(), strict=True):
            axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
            axis.set(title=f"{suite}\n{name}", xlabel=xlabel, ylabel=ylabel)
            if len(matrix) <= 5:
                for (i, j), value in np.ndenumerate(matrix):
                    color = "white" if value < 0.6 else "black"
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(axes[0, 0].images[0], ax=axes)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_curves(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Per suite: accuracy on the tasks seen so far, on the first task, and what every learning rate of the grid keeps.

    Args:
        path: the PNG to write.
        results: as ``run`` returns them.
    """
    figure, axes = plt.subplots(len(results), 3, figsize=(15, 4.2 * len(results)), squeeze=False, layout="constrained")
    for row, (suite, rows) in zip(axes, results.items(), strict=True):
        for number, (name, result) in enumerate(rows.items()):
            accuracy, color = np.array(result["accuracy"]), f"C{number}"
            tasks = np.arange(1, accuracy.shape[1] + 1)
            seen = np.stack([accuracy[:, t, : t + 1].mean(1) for t in range(len(tasks))], axis=1)
            for axis, values in ((row[0], seen), (row[1], accuracy[:, :, 0])):
                axis.set_xticks(tasks)
                mean, deviation = values.mean(0), values.std(0, ddof=1)
                axis.plot(tasks, mean, "o-", color=color, label=name)
                axis.fill_between(tasks, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
            grid = result["grid"]
            learned, final = ([point[key] for point in grid] for key in ("learned_accuracy", "final_accuracy"))
            row[2].plot(learned, final, "o-", color=color, label=name, alpha=0.7)
            chosen = [point["rate"] for point in grid].index(result["rate"])
            row[2].plot(learned[chosen], final[chosen], "*", color=color, markersize=16)
        row[0].set(title=f"{suite}: tasks seen so far", xlabel="tasks learned", ylabel="accuracy", ylim=(-0.02, 1.02))
        row[1].set(title=f"{suite}: first task", xlabel="tasks learned", ylabel="accuracy", ylim=(-0.02, 1.02))
        row[2].set(
            title=f"{suite}: the grid (star: chosen), validation",
            xlabel="accuracy on the task just learned",
            ylabel="accuracy on all tasks at the end",
        )
        row[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
