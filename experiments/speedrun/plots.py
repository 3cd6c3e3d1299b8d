"""Pictures of runs: distance against minutes, and samples at each minute."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments.one_step_image.plots import image_grid

plt.switch_backend("Agg")
SHOWN = 20


def save_curves(path: Path, results: list[dict[str, Any]]) -> None:
    """Distance against minutes of the student's training, one line per run, the teacher and the test set as lines.

    Args:
        path: of the picture.
        results: contents of result files.
    """
    names = [name for name in results[0]["rows"]["student"] if name.startswith("fd_")]
    figure, axes = plt.subplots(1, len(names), figsize=(6 * len(names), 4.5), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for result in results:
            points = [(row["minutes"], row[name]) for row in result["curve"]]
            label = f"{result['facts']['change']}, seed {result['facts']['seed']}"
            axis.semilogy(*zip(*points, strict=True), "o-", ms=3, label=label) if points else None
        rows = [(row, values) for row, values in results[0]["rows"].items() if row != "student"]
        for i, (row, values) in enumerate(rows):
            axis.axhline(values[name], color=f"C{9 - i}", linestyle="--", linewidth=1, label=row)
        axis.set(title=name, xlabel="minutes of training", ylabel="Frechet distance")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_strips(path: Path, named_images: dict[str, np.ndarray]) -> None:
    """One row of samples per name: the same latents, minute by minute.

    Args:
        path: of the picture.
        named_images: uint8 ``[N, 32, 32, 3]`` by title; the first 20 are shown.
    """
    figure, axes = plt.subplots(
        len(named_images), 1, figsize=(11, 0.75 * len(named_images)), layout="constrained", squeeze=False
    )
    for axis, (name, images) in zip(axes[:, 0], named_images.items(), strict=True):
        shown = images[:SHOWN].astype(np.float32) / 127.5 - 1
        axis.imshow(image_grid(shown, columns=len(shown)), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=130)
    plt.close(figure)
