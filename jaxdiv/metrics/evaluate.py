"""One row of the results table: every metric of a set of generated images against one reference, in one call."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.classifier import TrainedClassifier
from jaxdiv.metrics.frechet import FeatureStatistics, frechet_distance
from jaxdiv.metrics.histogram import class_histogram_distance
from jaxdiv.metrics.precision_recall import nearest_neighbor_distance, precision_recall
from jaxdiv.typing import Array, ArrayLike, PyTree

_BATCH = 256


class Reference(NamedTuple):
    """What samples are compared with; :func:`make_reference` builds it once for many evaluations."""

    images: Array
    """``[M, H, W, C]`` float32."""
    labels: np.ndarray
    """``[M]`` int."""
    features: Array
    """``[M, D]`` float32, of the classifier."""
    statistics: FeatureStatistics
    """Of those features."""
    pixel_statistics: FeatureStatistics | None
    """Of the flattened images, or None where the Frechet distance in pixels was not asked for."""
    num_classes: int
    """Number of classes that the classifier tells apart."""


@partial(jax.jit, static_argnames=("features_fn", "logits_fn"))
def _embed(
    params: PyTree,
    images: Array,
    features_fn: Callable[[PyTree, Array], Array],
    logits_fn: Callable[[PyTree, Array], Array],
) -> tuple[Array, Array]:
    """Features and logits of all images, a bounded batch at a time."""

    def one(image: Array) -> tuple[Array, Array]:
        return features_fn(params, image[None])[0], logits_fn(params, image[None])[0]

    return jax.lax.map(one, images, batch_size=_BATCH)


def _images(function: str, argument: str, value: ArrayLike) -> Array:
    images = jnp.asarray(value)
    checks.check_shape(function, argument, images, (None, None, None, None))
    checks.check_floating(function, **{argument: images})
    if not bool(jnp.isfinite(images).all()):
        raise checks.fail(function, argument, "holds NaN or infinity", "finite pixels")
    return images.astype(jnp.float32)


def _statistics(vectors: Array) -> FeatureStatistics:
    """Statistics of the flattened rows."""
    rows = np.asarray(vectors).reshape(vectors.shape[0], -1)
    return FeatureStatistics.empty(rows.shape[1]).update(rows)


def make_reference(
    images: ArrayLike, labels: ArrayLike, *, classifier: TrainedClassifier, with_pixels: bool = False
) -> Reference:
    """Features and statistics of the reference images, computed once.

    Args:
        images: ``[M, H, W, C]`` floating, usually the training images.
        labels: ``[M]`` integers.
        classifier: Whose penultimate features are compared.
        with_pixels: Also measure the Frechet distance between raw pixels, a second feature space that no classifier
            chose. Costs eigendecompositions of a ``[H W C, H W C]`` matrix at every evaluation: nothing for 8x8
            images, many seconds for 32x32x3.

    Returns:
        A :class:`Reference`.

    Raises:
        ValueError: Wrong shapes, NaN or infinite pixels.
    """
    images, labels = _images("make_reference", "images", images), np.asarray(labels)
    checks.check_batch("make_reference", "labels", labels, images.shape[0])
    features, logits = _embed(classifier.params, images, classifier.features_fn, classifier.logits_fn)
    pixel_statistics = _statistics(images) if with_pixels else None
    return Reference(images, labels, features, _statistics(features), pixel_statistics, logits.shape[1])


def evaluate_samples(
    samples: ArrayLike, *, reference: Reference, classifier: TrainedClassifier, num_neighbors: int = 3
) -> dict[str, float | int | list[int]]:
    """All metrics of generated images against a reference.

    Samples are first clipped to the reference's range of pixel values, as a viewer would; ``clipped_fraction`` says how
    many pixels that moved. The Frechet distance uses all samples. Precision, recall, density and coverage use the first
    ``min(N, M)`` of both sets, as they are comparable at equal counts only. All are in the classifier's features except
    the nearest-neighbour distance, which is between pixels.

    Args:
        samples: ``[N, H, W, C]`` floating, N > num_neighbors; in the reference's scale.
        reference: From :func:`make_reference` with the same classifier.
        classifier: Gives features and predicted classes.
        num_neighbors: k of precision and recall.

    Returns:
        A dict that JSON can hold: ``frechet_distance``, ``pixel_frechet_distance`` (where the reference is prepared for
        it), ``precision``, ``recall``, ``density``, ``coverage``,
        ``class_histogram_distance``, ``missing_classes`` (a list), ``median_nearest_neighbor_distance``,
        ``clipped_fraction``, ``num_samples``.

    Raises:
        ValueError: Wrong shapes, too few samples, NaN or infinite pixels.
    """
    samples = _images("evaluate_samples", "samples", samples)
    checks.check_shape("evaluate_samples", "samples", samples, (None, *reference.images.shape[1:]))
    if samples.shape[0] <= num_neighbors:
        raise checks.fail(
            "evaluate_samples",
            "samples",
            f"has {samples.shape[0]} images",
            f"more than num_neighbors = {num_neighbors}",
        )
    clipped = jnp.clip(samples, reference.images.min(), reference.images.max())
    features, logits = _embed(classifier.params, clipped, classifier.features_fn, classifier.logits_fn)
    common = min(samples.shape[0], reference.images.shape[0])
    neighbors = precision_recall(features[:common], reference.features[:common], num_neighbors=num_neighbors)
    histogram = class_histogram_distance(logits, reference.labels, num_classes=reference.num_classes)
    row = {"frechet_distance": frechet_distance(_statistics(features), reference.statistics)}
    if reference.pixel_statistics is not None:
        row["pixel_frechet_distance"] = frechet_distance(_statistics(clipped), reference.pixel_statistics)
    return row | {
        **neighbors._asdict(),
        "class_histogram_distance": histogram.distance,
        "missing_classes": list(histogram.missing_classes),
        "median_nearest_neighbor_distance": float(jnp.median(nearest_neighbor_distance(clipped, reference.images))),
        "clipped_fraction": float((clipped != samples).mean()),
        "num_samples": samples.shape[0],
    }
