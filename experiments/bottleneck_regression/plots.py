"""The picture of a run: error against compression and against the size of an attack."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.bottleneck_regression.cells import Cells
from experiments.bottleneck_regression.config import Config
from experiments.bottleneck_regression.methods import METHODS
from experiments.bottleneck_regression.tables import MEASURES, ratios_of

plt.switch_backend("Agg")

STYLES = {name: {"color": f"C{number}", "marker": "os^vDPX"[number]} for number, name in enumerate(METHODS)}


def save_picture(path: Path, cells: Cells, config: Config) -> None:
    """A row for each set: RMSE against r by both measures, then under FGSM and PGD. Means over splits of the test."""
    figure, axes = plt.subplots(
        len(config.data), 4, figsize=(17, 3.6 * len(config.data) + 0.5), squeeze=False, layout="constrained"
    )
    for row, data in zip(axes, config.data, strict=True):
        for axis, label in zip(row[:2], MEASURES.values(), strict=True):
            axis.set(title=data, xlabel=f"compression r by {label}", ylabel="test RMSE, standard units")
        for axis, attack in zip(row[2:], ("FGSM", "PGD"), strict=True):
            axis.set(title=f"{data}, {attack}", xlabel="epsilon, standard deviations", ylabel="test RMSE")
        for method in config.methods:
            if (data, method) not in cells:
                continue
            cell = cells[data, method]
            style = {"label": METHODS[method].label, "markersize": 4, "linewidth": 1, **STYLES[method]}
            error = np.array(cell["test"]["rmse"]).mean(axis=1)
            for axis, measure in zip(row[:2], MEASURES, strict=True):
                if len(cell["betas"]) == 1:
                    axis.axhline(error[0], color=STYLES[method]["color"], linestyle="--", linewidth=1)
                else:
                    axis.plot(ratios_of(cell, measure).mean(axis=1), error, **style)
            for axis, attack in zip(row[2:], ("fgsm", "pgd"), strict=True):
                axis.plot(config.epsilons, np.array(cell["attacks"][attack]).mean(axis=1), **style)
    handles, labels = axes[0, 2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
