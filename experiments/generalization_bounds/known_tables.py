"""The closed-form part as a whole: which problems, their rows, and the tables."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.known_gaps import dropout_layers, gaussian_layers, mean_classifier
from experiments.generalization_bounds.linear_networks import draw_maps, linear_network

DIMENSIONS, SIZES = (2, 10, 100), (5, 10, 30, 100, 300, 1000)
DEPTH = 4
LAYERED = {"dimension": 4, "num_samples": 5, "distance": 1.0, "depth": DEPTH}
NOISES = {
    "dropout 0.5": (dropout_layers, {"probability": 0.5}),
    "dropout 0.9": (dropout_layers, {"probability": 0.9}),
    "normal noise 1": (gaussian_layers, {"scale": 1.0}),
    "normal noise 2": (gaussian_layers, {"scale": 2.0}),
    "normal noise 4": (gaussian_layers, {"scale": 4.0}),
}
GAINS, LINEAR_WIDTHS, LINEAR_SAMPLES = (0.5, 1.0, 2.0), (8, 8, 8, 8, 2), 10
Row = dict[str, Any]


def known_rows(config: Config) -> Iterator[Row]:
    """All problems, one row for each pair of a gap and the bounds on it, in the order of the tables.

    Not compiled as a whole: each has another n, and compiling takes longer than running.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 2)
    trials = config.trials
    for dimension in DIMENSIONS:
        for size in SIZES:
            found = mean_classifier(key, dimension=dimension, num_samples=size, distance=1.0, trials=trials)
            yield {"problem": "mean", "dimension": dimension, "n": size} | as_row(found)
    for name, (layers, settings) in NOISES.items():
        found = layers(key, trials=trials, **LAYERED, **settings)
        for depth in range(DEPTH + 1):
            yield {"problem": "layers", "noise": name, "depth": depth} | as_row(
                jax.tree.map(lambda leaf, depth=depth: leaf[depth], found)
            )
    for gain in GAINS:
        maps = draw_maps(key, widths=LINEAR_WIDTHS, gain=gain)
        found = linear_network(key, maps, num_samples=LINEAR_SAMPLES, trials=trials)
        row = {"problem": "linear", "gain": gain, "gap": float(found.gap), "stderr": 0.0}
        yield row | {"bounds": {f"layer {i}": float(b) for i, b in enumerate(found.bounds["layers"])}}


def as_row(found: Any) -> Row:
    """A `Known` of scalars as numbers."""
    bounds = {name: float(bound) for name, bound in found.bounds.items()}
    return {"gap": float(found.gap), "stderr": float(found.stderr), "bounds": bounds}


def violations(rows: list[Row]) -> list[Row]:
    """Rows whose gap, less three standard errors, is above one of its bounds: there should be none."""
    return [row for row in rows if row["gap"] - 3.0 * row["stderr"] > min(row["bounds"].values())]


def format_known(rows: list[Row]) -> str:
    """Markdown: the mean's classifier over d and n, layers of noise over depth, linear networks over gain."""
    parts = []
    for problem, names, title in (
        (
            "mean",
            ("dimension", "n"),
            "The classifier sign(W . z), W the mean of n samples at distance 1 from the origin",
        ),
        (
            "layers",
            ("noise", "depth"),
            f"The same behind layers of noise, d = {LAYERED['dimension']}, n = {LAYERED['num_samples']}",
        ),
        (
            "linear",
            ("gain",),
            f"Linear networks of widths {LINEAR_WIDTHS}, n = {LINEAR_SAMPLES}: Wasserstein bound by layer",
        ),
    ):
        chosen = [row for row in rows if row["problem"] == problem]
        bounds = list(chosen[0]["bounds"])
        header = [*names, "gap", "± error", *bounds, f"{bounds[-1]} / gap"]
        lines = [
            title,
            "",
            "| " + " | ".join(header) + " |",
            "|---" * len(names) + "|--:" * (len(header) - len(names)) + "|",
        ]
        for row in chosen:
            values = [f"{row['bounds'][name]:.4f}" for name in bounds]
            cells = [*(str(row[name]) for name in names), f"{row['gap']:.5f}", f"{row['stderr']:.1g}", *values]
            lines.append("| " + " | ".join([*cells, ratio_text(row, bounds[-1])]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def ratio_text(row: Row, bound: str) -> str:
    """Bound over gap; empty where the gap is not told from 0 by three standard errors.

    >>> ratio_text({"gap": 0.01, "stderr": 0.001, "bounds": {"input": 0.25}}, "input")
    '25'
    """
    if not abs(row["gap"]) > 3.0 * row["stderr"] or not np.isfinite(row["gap"]):
        return ""
    return f"{row['bounds'][bound] / row['gap']:.3g}"
