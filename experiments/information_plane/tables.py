"""Records of snapshots, and the tables that are made of them."""

import math
from typing import Any

import numpy as np

Record = dict[str, Any]
"""One seed's network at one snapshot: activation, seed, epoch, loss, accuracies, and ``information``: for each layer
the pairs [I(X; T), I(T; Y)] in nats by estimator."""


def in_bits(nats: Any) -> np.ndarray:
    """Nats in bits.

    >>> float(in_bits(math.log(8)).round(6))
    3.0
    """
    return np.asarray(nats, np.float64) / math.log(2.0)


def curves(records: list[Record], activation: str, layer: int, estimator: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs ``[E]`` and values ``[seeds, E, 2]`` in bits of I(X; T) and I(T; Y), where the estimator was computed."""
    chosen = [r for r in records if r["activation"] == activation and estimator in r["information"][layer]]
    seeds = sorted({record["seed"] for record in chosen})
    epochs = sorted({record["epoch"] for record in chosen})
    held = {(record["seed"], record["epoch"]): record["information"][layer][estimator] for record in chosen}
    values = np.array([[held[seed, epoch] for epoch in epochs] for seed in seeds])
    return np.array(epochs), in_bits(values.reshape(len(seeds), len(epochs), 2))


def compression(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest value over the epochs and the last, ``[seeds]`` each, of ``[seeds, E]``; their difference is it.

    >>> [a.tolist() for a in compression(np.array([[1.0, 5.0, 2.0]]))]
    [[5.0], [2.0]]
    """
    return values.max(axis=1), values[:, -1]


def mean_and_deviation(values: np.ndarray) -> str:
    """``mean ± standard deviation`` over seeds, of one seed only the value.

    >>> mean_and_deviation(np.array([1.0, 3.0])), mean_and_deviation(np.array([1.0]))
    ('2.00 ± 1.41', '1.00')
    """
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def format_tables(records: list[Record], *, layers: tuple[str, ...], estimators: dict[str, str]) -> str:
    """Markdown: the networks; what each layer lost of its largest I(X; T); I(X; T) and I(T; Y) at the end. In bits."""
    activations = list(dict.fromkeys(record["activation"] for record in records))
    last = max(record["epoch"] for record in records)
    networks = []
    for activation in activations:
        ends = [r for r in records if r["activation"] == activation and r["epoch"] == last]
        columns = [np.array([r[name] for r in ends]) for name in ("loss", "train_accuracy", "test_accuracy")]
        networks.append([activation, str(last), *(f"{c.mean():.3f} (least {c.min():.3f})" for c in columns)])
    header = ["network", "epochs", "loss, nats", "accuracy, trained on", "accuracy, held out"]
    parts = [_table(header, networks)]

    lost, kept, about = [], [], []
    of_x = [name for name in estimators if name != "kde"]  # which has the upper bound's I(X; T)
    followed = [name for name in of_x if len(curves(records, activations[0], 0, name)[0]) > 1]
    for activation in activations:
        for number, layer in enumerate(layers):
            found = {name: curves(records, activation, number, name)[1] for name in estimators}
            start = [activation, layer]
            peaks = {name: compression(found[name][:, :, 0]) for name in followed}
            lost.append(start + [f"{a.mean():.2f}, {mean_and_deviation(a - b)}" for a, b in peaks.values()])
            kept.append(start + [mean_and_deviation(found[name][:, -1, 0]) for name in of_x])
            about.append(start + [mean_and_deviation(v[:, -1, 1]) for v in found.values()])
    for title, names, rows in (
        ("I(X; T) in bits: largest over the epochs, and what is lost of it at the end", followed, lost),
        ("I(X; T) at the end, bits", of_x, kept),
        ("I(T; Y) at the end, bits", estimators, about),
    ):
        parts.append(f"{title}\n\n" + _table(["network", "layer: units", *names], rows))
    return "\n\n".join(parts)
