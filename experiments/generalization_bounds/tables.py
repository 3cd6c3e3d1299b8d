"""What ranks the gap: the tables of the networks."""

from collections import defaultdict
from typing import Any

import numpy as np

from experiments.generalization_bounds.ranking import (
    bootstrap_weights,
    granulated_deviation,
    granulated_kendall,
    interval,
    partial_spearman,
    rank_correlations,
)
from experiments.generalization_bounds.records import GAPS, Network, is_saturated, knobs_of

Ranking = dict[str, Any]


def rank_measures(networks: list[Network], gap: str, *, resamples: int, seed: int) -> dict[str, Ranking]:
    """By measure: both rank correlations with intervals, and the granulated coefficient by knob.

    Networks that differ in training set and seed only are not independent in what the measures can be judged by: beside
    the bootstrap of networks, "clustered" draws whole settings of depth, width and weight decay. One setting alone does
    not vary and has no such interval: NaN.
    """
    y = [network[gap] for network in networks]
    settings = [(network["depth"], network["width"], network["weight_decay"]) for network in networks]
    weights = {
        "": bootstrap_weights(range(len(networks)), resamples=resamples, seed=seed),
        " clustered": bootstrap_weights(settings, resamples=resamples, seed=seed),
    }
    if len(set(settings)) == 1:
        weights[" clustered"] = weights[" clustered"][:0]
    found = {}
    for name in networks[0]["measures"]:
        x = [network["measures"][name] for network in networks]
        row: Ranking = {statistic: float(value) for statistic, value in rank_correlations(x, y).items()}
        for kind, drawn in weights.items():
            for statistic, values in rank_correlations(x, y, drawn).items():
                row[f"{statistic} interval{kind}"] = interval(values)
        row["spearman given loss"] = partial_spearman(x, y, [network["train loss"] for network in networks])
        found[name] = row | {"granulated": granulated_kendall(x, y, [knobs_of(network) for network in networks])}
    return found


def format_ranking(rankings: dict[str, Ranking], gap: str, knobs_per_network: list[dict[str, Any]]) -> str:
    """Markdown: a row per measure, and one of what chance gives in the columns of single knobs."""
    knobs = list(next(iter(rankings.values()))["granulated"])
    header = [
        "measure",
        "Spearman",
        "95 %",
        "95 %, settings",
        "given training loss",
        "Kendall",
        "95 %",
        *(f"one knob: {k}" for k in knobs),
    ]
    lines = [
        f"Rank correlation with the {gap}",
        "",
        "| " + " | ".join(header) + " |",
        "|---" + "|--:" * (len(header) - 1) + "|",
    ]
    for name, row in rankings.items():
        cells = [name, _number(row["spearman"]), _interval(row["spearman interval"])]
        cells += [_interval(row["spearman interval clustered"]), _number(row["spearman given loss"])]
        cells.append(_number(row["kendall"]))
        cells += [_interval(row["kendall interval"]), *(_number(row["granulated"][k]) for k in knobs)]
        lines.append("| " + " | ".join(cells) + " |")
    chance = granulated_deviation(knobs_per_network)
    cells = [f"± {chance[k]:.2f}" if np.isfinite(chance.get(k, np.nan)) else "" for k in knobs]
    lines.append("| " + " | ".join(["no relation, if groups were independent", "", "", "", "", "", "", *cells]) + " |")
    return "\n".join(lines)


def format_layers(networks: list[Network]) -> str:
    """Markdown: information per layer and how it ranks the loss gap among networks of one depth."""
    header = [
        "depth",
        "layer",
        "lower",
        "ceiling",
        "saturated",
        "upper",
        "parameters",
        "Spearman, lower",
        "Spearman, upper",
    ]
    about = "I(X; Z_l | Y, E), E the noise before layer l, and I(phi_l; S) in nats by layer, means over networks"
    lines = [about, ""]
    lines += ["| " + " | ".join(header) + " |", "|---" * 2 + "|--:" * (len(header) - 2) + "|"]
    for depth, group in _grouped(networks, "depth").items():
        gap = [network["loss gap"] for network in group]
        layers = {
            name: np.array([network["layers"][name] for network in group])
            for name in ("lower", "ceiling", "upper", "parameters")
        }
        saturated = np.array([is_saturated(network["layers"]) for network in group])
        for layer in range(depth):
            cells = [str(depth), str(layer + 1), f"{layers['lower'][:, layer].mean():.2f}"]
            cells += [f"{layers['ceiling'][:, layer].mean():.2f}", f"{saturated[:, layer].mean():.0%}"]
            cells += [f"{layers[name][:, layer].mean():.2f}" for name in ("upper", "parameters")]
            for name in ("lower", "upper"):
                cells.append(_number(float(rank_correlations(layers[name][:, layer], gap)["spearman"])))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_settings(networks: list[Network]) -> str:
    """Markdown: losses and gaps by width and weight decay, and how often the first layer's term is at its ceiling."""
    header = ["width", "weight decay", "training loss", "test loss", "loss gap", "training error", "test error"]
    header += ["error gap", "saturated, first layer", "saturated, last layer"]
    lines = ["Means over depths, training sets and seeds; loss in nats", "", "| " + " | ".join(header) + " |"]
    lines.append("|--:" * len(header) + "|")
    for width, same_width in _grouped(networks, "width").items():
        for decay, group in _grouped(same_width, "weight_decay").items():
            names = ("train loss", "test loss", "loss gap", "train error", "test error", "error gap")
            cells = [
                str(width),
                str(decay),
                *(f"{np.mean([network[name] for network in group]):.3f}" for name in names),
            ]
            saturated = [is_saturated(network["layers"]) for network in group]
            cells += [f"{np.mean([row[place] for row in saturated]):.0%}" for place in (0, -1)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def format_networks(networks: list[Network], rankings: dict[str, dict[str, Ranking]]) -> str:
    """All tables of the networks."""
    ranked = [format_ranking(rankings[gap], gap, [knobs_of(n) for n in networks]) for gap in GAPS]
    return "\n\n".join([format_settings(networks), *ranked, format_layers(networks)])


def _grouped(networks: list[Network], knob: str) -> dict[Any, list[Network]]:
    groups = defaultdict(list)
    for network in networks:
        groups[network[knob]].append(network)
    return dict(groups)


def _number(value: float) -> str:
    return f"{value:+.2f}" if np.isfinite(value) else ""


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}" if np.isfinite(ends).all() else ""
