"""The picture of a run: losses against steps, and the singular values that each optimizer leaves."""

from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments.language_model.learner import bits
from experiments.language_model.optimizers import hidden_matrices
from jaxdiv.training import read_metrics
from jaxdiv.typing import PyTree

plt.switch_backend("Agg")


def save_curves(path: Path, metrics: dict[str, Path], spectra: dict[str, np.ndarray]) -> None:
    """Training and validation bits per byte against steps, gradient norms, and spectra.

    Args:
        path: the PNG to write.
        metrics: metrics file of each optimizer's training.
        spectra: what ``mean_spectrum`` gives, by optimizer, and that of the start.
    """
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    for color, (name, file) in enumerate(metrics.items()):
        train, evaluations = read_metrics(file, split="train"), read_metrics(file, split="eval")
        steps = [record["step"] for record in train]
        axes[0].plot(steps, bits(np.array([r["loss"] for r in train])), f"C{color}", alpha=0.4, label=f"{name}, batch")
        points = [(record["step"], record["bits_per_byte"]) for record in evaluations]
        if points:
            axes[0].plot(*zip(*points, strict=True), f"C{color}o-", label=f"{name}, validation")
        axes[1].semilogy(steps, [record["gradient_norm"] for record in train], f"C{color}", label=name)
    for name, values in spectra.items():
        style = {"color": "0.6", "linestyle": "--"} if name == "start" else {"color": f"C{list(metrics).index(name)}"}
        axes[2].semilogy(np.arange(1, len(values) + 1), values, label=name, **style)
    axes[0].set(title="bits per byte", xlabel="steps")
    axes[1].set(title="gradient norm before clipping", xlabel="steps")
    axes[2].set(title="singular values of the hidden matrices over the largest", xlabel="index")
    for axis in axes:
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def mean_spectrum(params: PyTree) -> np.ndarray:
    """Singular values over the largest, averaged over all hidden matrices of the commonest short side."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(hidden_matrices(params)), strict=True)
    spectra: dict[int, list[Any]] = {}
    for leaf, chosen in pairs:
        if chosen:
            values = np.linalg.svd(np.asarray(leaf, np.float32), compute_uv=False).reshape(-1, min(leaf.shape[-2:]))
            spectra.setdefault(values.shape[1], []).extend(values / np.maximum(values[:, :1], 1e-30))
    return np.mean(max(spectra.values(), key=len), axis=0)
