"""The table: teacher, control and student by the same measures against the same images."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.one_step_image.images import Images
from experiments.one_step_image.models import Denoiser, chunked
from experiments.one_step_image.teacher import denoising_loss
from jaxdiv import metrics
from jaxdiv.typing import Array, PyTree

COLUMNS = {
    "nfe": "NFE",
    "frechet_distance": "FD",
    "precision": "precision",
    "recall": "recall",
    "class_histogram_distance": "class TV",
    "missing": "missing",
    "median_nearest_neighbor_distance": "NN dist",
    "heldout_loss": "held-out loss",
    "images_per_second": "images/s",
}
CLASSIFIER_SEED, SAMPLE_SEED, LOSS_SEED = 0, 17, 23


class Judge:
    """A classifier trained on the data, and the reference statistics of the training images in its features."""

    def __init__(self, images: Images, *, num_steps: int):
        """Trains the classifier for ``num_steps`` steps."""
        self._train, self._test = images.scaled("train"), images.scaled("test")
        self.classifier = metrics.train_classifier(
            self._train, images.train["label"], heldout_images=self._test, heldout_labels=images.test["label"],
            num_classes=images.num_classes, key=jax.random.key(CLASSIFIER_SEED), num_steps=num_steps,
        )  # fmt: skip
        self.reference = metrics.make_reference(self._train, images.train["label"], classifier=self.classifier)

    def row(self, samples: Array) -> dict[str, Any]:
        """All measures of a set of images."""
        row = metrics.evaluate_samples(samples, reference=self.reference, classifier=self.classifier)
        return row | {"missing": len(row["missing_classes"])}

    def heldout_row(self) -> dict[str, Any]:
        """The held-out images themselves: what few but real images score."""
        return self.row(self._test)

    def heldout_loss(self, denoiser: Denoiser, params: PyTree) -> float:
        """EDM's loss on the held-out images, 16 fixed draws of noise each (fewer where there are thousands)."""
        images = jnp.asarray(self._test[:2000])
        loss = jax.jit(partial(denoising_loss, denoiser))
        keys = jax.random.split(jax.random.key(LOSS_SEED), 16 if len(images) <= 500 else 2)
        return float(np.mean([loss(params, images, key) for key in keys]))


def fixed_latents(num: int, shape: tuple[int, ...]) -> Array:
    """The latents of every evaluation: all rows of the table see the same noise."""
    return jax.random.normal(jax.random.key(SAMPLE_SEED), (num, *shape))


def timed_samples(sample_fn: Callable[[PyTree, Array], Array], params: PyTree, z: Array) -> tuple[Array, float]:
    """Samples and images per second, compilation apart."""
    size = min(1000, len(z))
    for count in {size, len(z) % size} - {0}:
        jax.block_until_ready(sample_fn(params, z[:count]))
    start = time.perf_counter()
    samples = jax.block_until_ready(chunked(partial(sample_fn, params), z, size=size))
    return samples, len(z) / (time.perf_counter() - start)


def format_table(rows: dict[str, dict[str, Any]], columns: dict[str, str] = COLUMNS) -> str:
    """The rows as a Markdown table, which also reads well on a terminal; ``columns`` has titles by key."""
    widths = {key: max(len(title), 8) for key, title in columns.items()}
    first = max(len(name) for name in rows)
    lines = ["| " + " | ".join([" " * first, *(f"{columns[key]:>{width}}" for key, width in widths.items())]) + " |"]
    lines.append("|" + "|".join(["-" * (first + 2), *("-" * (width + 1) + ":" for width in widths.values())]) + "|")
    for name, row in rows.items():
        cells = [f"{_cell(row.get(key)):>{width}}" for key, width in widths.items()]
        lines.append("| " + " | ".join([f"{name:<{first}}", *cells]) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"
