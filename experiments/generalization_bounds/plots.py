"""Pictures: the gap against each measure, rank correlations with intervals, bounds and gaps over n and depth."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from experiments.generalization_bounds.known_tables import Row
from experiments.generalization_bounds.records import GAPS, Network
from experiments.generalization_bounds.tables import Ranking

plt.switch_backend("Agg")
MARKERS = "osD^v<>P*X"


def save_scatter(path: Path, networks: list[Network]) -> None:
    """A panel per measure: colour by width, marker by depth, size by weight decay."""
    names = list(networks[0]["measures"])
    columns = 4
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 2.9 * rows + 0.6), squeeze=False, layout="constrained"
    )
    widths, depths, decays = (list(dict.fromkeys(n[k] for n in networks)) for k in ("width", "depth", "weight_decay"))
    for axis, name in zip(axes.flat, names, strict=False):
        for i, width in enumerate(widths):
            for j, depth in enumerate(depths):
                group = [n for n in networks if (n["width"], n["depth"]) == (width, depth)]
                axis.scatter(
                    [n["measures"][name] for n in group],
                    [n["loss gap"] for n in group],
                    s=[8 + 14 * decays.index(n["weight_decay"]) for n in group],
                    color=f"C{i % 10}",
                    marker=MARKERS[j % len(MARKERS)],
                    alpha=0.6,
                    linewidths=0,
                    label=f"width {width}, depth {depth}",
                )
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        if name == "parameters":
            axis.set_xscale("log")
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    figure.supylabel("test loss - training loss, nats", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(widths), fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_ranking(path: Path, rankings: dict[str, dict[str, Ranking]]) -> None:
    """Bars of Spearman's coefficient with the interval over settings, and beside them the granulated coefficients."""
    names = list(next(iter(rankings.values())))
    places = np.arange(len(names))
    figure, axes = plt.subplots(1, 2, figsize=(14, 0.36 * len(names) + 1.6), sharey=True, layout="constrained")
    for number, gap in enumerate(GAPS):
        values = np.nan_to_num([rankings[gap][name]["spearman"] for name in names])
        ends = np.array([rankings[gap][name]["spearman interval clustered"] for name in names])
        ends = np.where(np.isfinite(ends), ends, values[:, None])  # without an interval no bar of one
        errors = np.maximum([values - ends[:, 0], ends[:, 1] - values], 0.0)
        axes[0].barh(places + 0.4 * number - 0.2, values, 0.38, xerr=errors, label=gap, error_kw={"linewidth": 1})
    axes[0].set(title="Spearman, all networks", yticks=places, yticklabels=names)
    knobs = [knob for knob in rankings[GAPS[0]][names[0]]["granulated"] if knob != "mean"]
    for number, knob in enumerate(knobs):
        values = np.nan_to_num([rankings[GAPS[0]][name]["granulated"][knob] for name in names])
        offset = 0.8 * (number + 0.5) / len(knobs) - 0.4
        axes[1].barh(places + offset, values, 0.75 / len(knobs), label=f"{knob} varies", color=f"C{number + 2}")
    axes[1].set_title("Kendall with the loss gap, one knob at a time")
    for axis in axes:
        axis.axvline(0.0, color="0.3", linewidth=0.8)
        axis.set_xlim(-1.05, 1.05)
        axis.legend(fontsize=7, loc="lower left")
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save_known(path: Path, rows: list[Row]) -> None:
    """Gap and bounds over n for each dimension, over depth for each noise, over layers for the linear networks."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        title = {"mean": "d = {dimension}", "layers": "{noise}", "linear": "linear networks"}[row["problem"]]
        groups.setdefault((row["problem"], title.format(**row)), []).append(row)
    columns = 3
    height = -(-len(groups) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.2 * columns, 3.1 * height), squeeze=False, layout="constrained"
    )
    for axis, ((problem, title), group) in zip(axes.flat, groups.items(), strict=False):
        if problem == "linear":
            for number, row in enumerate(group):
                bounds = list(row["bounds"].values())
                axis.plot(range(len(bounds)), bounds, "o-", color=f"C{number}", label=f"bound, gain {row['gain']}")
                axis.axhline(row["gap"], color=f"C{number}", linestyle="--")
        else:
            x = [row["n" if problem == "mean" else "depth"] for row in group]
            axis.errorbar(
                x, [r["gap"] for r in group], [r["stderr"] for r in group], color="k", marker="o", label="gap"
            )
            for name in group[0]["bounds"]:
                axis.plot(x, [row["bounds"][name] for row in group], ".--", label=f"bound, {name}")
        axis.set_xscale("log" if problem == "mean" else "linear")
        axis.set(
            yscale="log", title=title, xlabel={"mean": "n", "layers": "layers of noise", "linear": "layer"}[problem]
        )
        axis.legend(fontsize=7)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)
