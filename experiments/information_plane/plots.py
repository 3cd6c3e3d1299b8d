"""The planes and the curves over the epochs, in bits."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.information_plane.measure import bottleneck_bound
from experiments.information_plane.tables import Record, curves, in_bits

plt.switch_backend("Agg")


def save_planes(path: Path, records: list[Record], *, layers: tuple[str, ...], panels: dict[str, str], entropy: float):
    """Rows of estimators, columns of activations: a layer's path through the plane, mean over seeds.

    A path starts at its circle and ends at its square; the dashed line is the bound of any T, min(I(X; T), H(Y)).
    Panels of one estimator share their axes, so that tanh and relu can be compared.

    Args:
        path: the PNG to write.
        records: of all snapshots.
        layers: their names.
        panels: title by estimator.
        entropy: H(Y) in nats.
    """
    activations = list(dict.fromkeys(record["activation"] for record in records))
    size = (4.6 * len(activations), 2.9 * len(panels) + 0.5)
    figure, axes = plt.subplots(
        len(panels), len(activations), figsize=size, squeeze=False, sharex="row", sharey="row", layout="constrained"
    )
    for row, (estimator, title) in zip(axes, panels.items(), strict=True):
        for axis, activation in zip(row, activations, strict=True):
            largest = 0.0
            for number, layer in enumerate(layers):
                mean = curves(records, activation, number, estimator)[1].mean(axis=0)
                style = {"color": f"C{number}", "linewidth": 1}
                axis.plot(mean[:, 0], mean[:, 1], ".-", markersize=3, label=layer, **style)
                axis.plot(*mean[0], "o", markersize=5, fillstyle="none", **style)
                axis.plot(*mean[-1], "s", markersize=6, **style)
                largest = max(largest, float(mean[:, 0].max()))
            line = np.linspace(0.0, largest, 200)
            axis.plot(line, bottleneck_bound(line, float(in_bits(entropy))), "k--", linewidth=0.8)
            axis.set_title(f"{activation}: {title}", fontsize=9)
    figure.supxlabel("I(X; T), bits", fontsize=9)
    figure.supylabel("I(T; Y), bits", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(layers), fontsize=8, title="layer: units")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_curves(path: Path, records: list[Record], *, layers: tuple[str, ...], panels: dict[str, str]) -> None:
    """Columns of activations: I(X; T) by epoch for each estimator, then loss and accuracies; bands of one deviation.

    Args:
        path: the PNG to write.
        records: of all snapshots.
        layers: their names.
        panels: title by estimator.
    """
    activations = list(dict.fromkeys(record["activation"] for record in records))
    size = (4.6 * len(activations), 2.4 * (len(panels) + 1) + 0.5)
    figure, axes = plt.subplots(
        len(panels) + 1, len(activations), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    for column, activation in enumerate(activations):
        for axis, (estimator, title) in zip(axes[:, column], panels.items(), strict=False):
            for number, layer in enumerate(layers):
                epochs, values = curves(records, activation, number, estimator)
                _band(axis, epochs, values[:, :, 0], color=f"C{number}", label=layer)
            axis.set_title(f"{activation}: {title}", fontsize=9)
            axis.set_ylabel("I(X; T), bits", fontsize=8)
        last = axes[-1, column]
        for number, name in enumerate(("train_accuracy", "test_accuracy", "loss")):
            epochs, values = _training(records, activation, name)
            _band(last, epochs, values, color=f"{0.25 * number}", label=name.replace("_", " "))
        last.set_title(f"{activation}: training", fontsize=9)
        last.set_xscale("symlog", linthresh=1.0)
        last.set_xlabel("epoch", fontsize=8)
    axes[0, 0].legend(fontsize=7, title="layer: units", title_fontsize=7)
    axes[-1, 0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _training(records: list[Record], activation: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = [record for record in records if record["activation"] == activation]
    seeds = sorted({record["seed"] for record in chosen})
    epochs = sorted({record["epoch"] for record in chosen})
    held = {(record["seed"], record["epoch"]): record[name] for record in chosen}
    return np.array(epochs), np.array([[held[seed, epoch] for epoch in epochs] for seed in seeds])


def _band(axis, epochs: np.ndarray, values: np.ndarray, *, color: str, label: str) -> None:
    mean = values.mean(axis=0)
    deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros_like(mean)  # the tables' deviation
    axis.plot(epochs, mean, ".-", color=color, label=label, linewidth=1, markersize=3)
    axis.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
