"""The picture of a run: maps as arrows and the curves of their fits."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jaxdiv.training import read_metrics

plt.switch_backend("Agg")


def save_picture(
    path: Path, x: np.ndarray, y: np.ndarray, mapped: dict[str, np.ndarray], metrics: dict[str, Path], exact_cost: float
) -> None:
    """Source, target and image with 100 arrows per map; below, divergence, gap and cost against steps.

    Args:
        path: the PNG to write.
        x: source points ``[n, 2]``.
        y: target points ``[n, 2]``.
        mapped: images ``[n, 2]`` of three maps, by name.
        metrics: metrics file of each fitted map.
        exact_cost: the least transport cost, a line among the curves.
    """
    figure, axes = plt.subplots(2, 3, figsize=(15, 9), layout="constrained")
    for axis, (name, image) in zip(axes[0], mapped.items(), strict=True):
        axis.scatter(*y.T, s=4, color="0.8", label="target")
        axis.scatter(*x.T, s=4, color="C0", label="source")
        axis.scatter(*image.T, s=4, color="C3", label="mapped")
        for start, end in zip(x[:100], image[:100], strict=True):
            axis.plot(*np.stack([start, end]).T, color="0.4", linewidth=0.5)
        axis.set(title=name, aspect="equal")
        axis.legend(loc="lower right", fontsize=7)
    names = {
        "sinkhorn_divergence": "Sinkhorn divergence to the target",
        "exact_gap": "Monge gap, exact",
        "transport_cost": "transport cost",
    }
    for axis, (key, title) in zip(axes[1], names.items(), strict=True):
        for name, file in metrics.items():
            records = read_metrics(file, split="eval")
            axis.plot([r["step"] for r in records], [r[key] for r in records], "o-", label=name)
        axis.set(title=title, xlabel="steps")
        if key == "transport_cost":
            axis.axhline(exact_cost, color="0.4", linestyle="--", label="exact transport")
        else:
            axis.set_yscale("symlog", linthresh=1e-3)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
