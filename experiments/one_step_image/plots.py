"""The pictures of a run: sample grids and curves."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jaxdiv.distillation import NoiseBins
from jaxdiv.training import read_metrics

plt.switch_backend("Agg")


def image_grid(images: np.ndarray, *, columns: int = 20) -> np.ndarray:
    """``[N, H, W, C]`` in [-1, 1] as one picture ``[rows H, columns W, C]`` in [0, 1]; N is cut to whole rows."""
    rows = len(images) // columns
    height, width, channels = images.shape[1:]
    grid = np.asarray(images[: rows * columns]).reshape(rows, columns, height, width, channels)
    return np.clip((grid.swapaxes(1, 2).reshape(rows * height, columns * width, channels) + 1) / 2, 0, 1)


def save_grids(path: Path, named_images: dict[str, np.ndarray]) -> None:
    """One grid of 100 images per name, uncurated: the first of each set."""
    figure, axes = plt.subplots(len(named_images), 1, figsize=(10, 2.9 * len(named_images)), layout="constrained")
    for axis, (name, images) in zip(np.atleast_1d(axes), named_images.items(), strict=True):
        # A dark grey line between images: digits on black would run into each other.
        grid = image_grid(np.pad(images[:100], ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-0.5))
        axis.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", interpolation="nearest")
        axis.set_title(name)
        axis.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def save_curves(path: Path, student_metrics: Path, *, bins: NoiseBins, references: dict[str, float]) -> None:
    """Frechet distance against cycles with the teacher's as lines, score gap per noise level, discriminator,
    weights.
    """
    train, evaluations = read_metrics(student_metrics, split="train"), read_metrics(student_metrics, split="eval")
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    steps = [record["step"] for record in train]

    axis = axes[0, 0]
    points = [(record["step"], record["frechet_distance"]) for record in evaluations]
    axis.semilogy(*zip(*points, strict=True), "o-", label="student, averaged weights")
    for i, (name, value) in enumerate(references.items()):
        axis.axhline(value, color=f"C{i + 1}", linestyle="--", label=name)
    axis.set(title="Frechet distance in classifier features", xlabel="cycles")
    axis.legend()

    axis = axes[0, 1]
    gap = np.array([record["score_gap"] for record in train])
    counts = np.array([record["score_gap_count"] for record in train])
    edges = np.geomspace(bins.low, bins.high, bins.num + 1)
    for i in range(gap.shape[1]):
        seen = counts[:, i] > 0
        if seen.sum() > 10:
            window = np.ones(10) / 10
            smooth = np.convolve(gap[seen, i], window, mode="valid")
            label = f"sigma {edges[i]:.2g} to {edges[i + 1]:.2g}"
            axis.semilogy(np.array(steps)[seen][9:], smooth, color=plt.cm.viridis(i / gap.shape[1]), label=label)
    axis.set(title="score gap, mean of (sigma Delta)^2, per noise level", xlabel="cycles")
    if axis.lines:
        axis.legend(fontsize=7)

    axis = axes[1, 0]
    axis.plot(steps, [record["fake_loss"] for record in train], label="fake score's denoising loss")
    if "discriminator_loss" in train[0]:
        axis.plot(steps, [record["discriminator_loss"] for record in train], label="discriminator loss, chance 1.386")
        axis.plot(steps, [record["discriminator_accuracy"] for record in train], label="discriminator accuracy")
    axis.set(title="the networks that follow the student", xlabel="cycles")
    axis.legend()

    axis = axes[1, 1]
    quantiles = np.array([record["log_ratio_quantiles"] for record in train])
    axis.fill_between(steps, quantiles[:, 0], quantiles[:, -1], alpha=0.3, label="log-ratio, 5 to 95 %")
    axis.plot(steps, quantiles[:, 2], label="log-ratio, median")
    axis.plot(steps, [record["ess"] for record in train], label="effective sample size of the weights")
    axis.set(title="the density ratio that enters", xlabel="cycles")
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
