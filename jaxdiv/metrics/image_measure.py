"""The fixed measure of the CIFAR-10 speedrun: everything that a row of its table says about a set of samples.

Frechet distances in the features of pretrained networks, all samples against the training set; improved precision and
recall; the class histogram that the ResNet sees; how near samples lie to the training set, beside how near the test
set lies. The same numbers for the test set are the floor. None of this is FID, which is defined by another network.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.array_cache import cached_arrays, digest
from jaxdiv.metrics.frechet import FeatureStatistics, frechet_distance
from jaxdiv.metrics.histogram import class_histogram_distance
from jaxdiv.metrics.image_embedding import EmbeddedImages, FeaturesFn, embed_images
from jaxdiv.metrics.mobilenet_v2 import load_mobilenet_v2, mobilenet_v2_features
from jaxdiv.metrics.nearest import find_nearest
from jaxdiv.metrics.precision_recall import precision_recall
from jaxdiv.metrics.resnet_cifar import load_resnet_cifar, resnet_cifar_features
from jaxdiv.typing import PyTree

_VERSION = 1  # goes up with any change of what the numbers mean; caches of another version are not read
_CLOSE = 0.05


class _Space(NamedTuple):
    """A pretrained network, and the training set as it sees it."""

    name: str
    features_fn: FeaturesFn
    params: PyTree
    batch_size: int
    keep_features: bool
    train: EmbeddedImages

    def embed(self, images: np.ndarray) -> EmbeddedImages:
        return embed_images(
            self.features_fn, self.params, images, batch_size=self.batch_size, keep_features=self.keep_features
        )

    def distance(self, seen: EmbeddedImages) -> float:
        return frechet_distance(seen.statistics, self.train.statistics)


class _Counts(NamedTuple):
    """How many images the parts that compare pairs take."""

    precision_recall: int
    neighbors: int
    nearest: int


@dataclass(frozen=True, eq=False)
class ImageMeasure:
    """What :func:`make_image_measure` returns: call it with samples."""

    train_images: np.ndarray
    """``[M, H, W, 3]`` uint8."""
    train_labels: np.ndarray
    """``[M]``."""
    num_classes: int
    digest: str
    """First 12 digits of the sha256 of weights, data, counts and version: rows that differ here do not compare."""
    floor: Mapping[str, Any]
    """The same numbers for the test set: what unseen data gets."""
    _resnet: _Space | None
    _mobilenet: _Space | None
    _counts: _Counts
    _test_distances: Mapping[str, np.ndarray]

    def __call__(self, samples: np.ndarray) -> dict[str, Any]:
        """All numbers for generated images.

        Args:
            samples: ``[N, H, W, 3]`` uint8, N > ``num_neighbors``; quantised by ``jaxdiv.data.unscale_images``, which
                rounds and clips as a viewer does.

        Returns:
            A dict that JSON can hold; see :func:`make_image_measure`.

        Raises:
            ValueError: Another shape or dtype, or too few images.
        """
        images = _images("ImageMeasure", "samples", samples, self.train_images.shape[1:])
        if len(images) <= self._counts.neighbors:
            expected = f"more than num_neighbors = {self._counts.neighbors}"
            raise checks.fail("ImageMeasure", "samples", f"has {len(images)} images", expected)
        report, distances = _examine(self, images)
        return report | _closeness(distances, self._test_distances)

    def distances(self, samples: np.ndarray) -> dict[str, float]:
        """The Frechet distances alone, for curves: ``fd_*`` as a call gives them, without the comparison of pairs.

        Args:
            samples: ``[N, H, W, 3]`` uint8.

        Raises:
            ValueError: Another shape or dtype.
        """
        images = _images("ImageMeasure.distances", "samples", samples, self.train_images.shape[1:])
        spaces = [space for space in (self._resnet, self._mobilenet) if space is not None]
        return {f"fd_{space.name}": space.distance(space.embed(images)) for space in spaces}


def _examine(measure: ImageMeasure, images: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Every number but those relative to the test set; and the distances to the training set that these need."""
    counts, report, distances = measure._counts, {}, {}
    near = images[: counts.nearest]
    if (space := measure._resnet) is not None:
        seen, train = space.embed(images), space.train
        common = min(counts.precision_recall, len(images), len(measure.train_images))
        report[f"fd_{space.name}"] = space.distance(seen)
        fidelity = precision_recall(seen.features[:common], train.features[:common], num_neighbors=counts.neighbors)
        histogram = class_histogram_distance(seen.labels, measure.train_labels, num_classes=measure.num_classes)
        report |= fidelity._asdict() | {
            "precision_recall_samples": common,
            "class_histogram_distance": histogram.distance,
            "class_counts": histogram.counts.tolist(),
            "missing_classes": list(histogram.missing_classes),
        }
        distances["nearest_train"] = np.asarray(find_nearest(seen.features[: len(near)], train.features)[0])
    if (space := measure._mobilenet) is not None:
        report[f"fd_{space.name}"] = space.distance(space.embed(images))
    rows, reference = near.reshape(len(near), -1), measure.train_images.reshape(len(measure.train_images), -1)
    # Root mean square over the values of an image: in grey levels, whatever the image's size.
    distances["nearest_train_pixels"] = np.asarray(find_nearest(rows, reference)[0]) / np.sqrt(rows.shape[1])
    report |= {f"{name}_median": float(np.median(values)) for name, values in distances.items()}
    return report | {"nearest_samples": len(near), "num_samples": len(images), "measure": measure.digest}, distances


def _closeness(distances: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Fractions of samples that lie nearer to the training set than all but 5 % of the test images do."""
    return {
        f"{name}_close": float((values < np.quantile(test[name], _CLOSE)).mean()) for name, values in distances.items()
    }


def _images(function: str, argument: str, value: np.ndarray, shape: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    images = np.asarray(value)
    checks.check_shape(function, argument, images, (None, *shape))
    if images.dtype != np.uint8:
        expected = "uint8 pixels; jaxdiv.data.unscale_images makes them"
        raise checks.fail(function, argument, f"has dtype {images.dtype}", expected)
    return images


def _space(
    name: str,
    features_fn: FeaturesFn,
    params: PyTree,
    *,
    batch_size: int,
    keep_features: bool,
    train_images: np.ndarray,
    cache: str | os.PathLike[str] | None,
    key: tuple[object, ...],
) -> _Space:
    """The network with the training set embedded, or read from the cache."""

    def compute() -> dict[str, np.ndarray]:
        seen = embed_images(features_fn, params, train_images, batch_size=batch_size, keep_features=keep_features)
        statistics = {"mean": seen.statistics.mean, "scatter": seen.statistics.scatter}
        return statistics | {"labels": seen.labels, "features": seen.features}

    arrays = cached_arrays(cache, f"train-{name}-{digest(_VERSION, *key)[:24]}", compute)
    statistics = FeatureStatistics(len(train_images), arrays["mean"], arrays["scatter"])
    train = EmbeddedImages(statistics, arrays["features"], arrays["labels"])
    return _Space(name, features_fn, params, batch_size, keep_features, train)


def make_image_measure(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    *,
    resnet_path: str | os.PathLike[str] | None = None,
    mobilenet_path: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    num_precision_recall: int = 10_000,
    num_neighbors: int = 3,
    num_nearest: int = 10_000,
    resnet_batch: int = 1000,
    mobilenet_batch: int = 250,
) -> ImageMeasure:
    """Embed the training set, measure the test set, and return the measure of samples.

    What it reports (those of a network that is not given are left out):

    - ``fd_resnet56`` (the depth is the weights'), ``fd_mobilenet_v2``: Frechet distance of all samples to the training
      set. Biased upwards at small N; compare rows of equal ``num_samples``.
    - ``precision``, ``recall``, ``density``, ``coverage``: in ResNet features, of the first
      ``precision_recall_samples`` of both sets.
    - ``class_counts``, ``class_histogram_distance``, ``missing_classes``: the ResNet's classes of all samples, against
      the training labels.
    - ``nearest_train_median``, ``nearest_train_pixels_median``: distance to the nearest training image of the first
      ``nearest_samples``, in ResNet features and between pixels (root mean square, in grey levels).
      ``nearest_train_close``, ``nearest_train_pixels_close``: the fraction that lies nearer than the 5 % quantile of
      test images. About 0.05 is unseen data; much more is copying.
    - ``num_samples``, and ``measure``: the digest of weights, data and counts.

    For 50,000 samples the networks are 13 and 30 TFLOP (ResNet56, MobileNetV2), their second moments 0.2 TFLOP, and the
    nearest neighbours of 10,000 between pixels 3 TFLOP: all in float32 without reduced precision, some ten seconds on a
    data-centre GPU, hours on one CPU core (the MobileNet is most of that).

    Args:
        train_images: ``[M, 32, 32, 3]`` uint8.
        train_labels: ``[M]`` integers from 0.
        test_images: ``[T, 32, 32, 3]`` uint8, T > ``num_neighbors``.
        resnet_path: Weights for :func:`load_resnet_cifar`.
        mobilenet_path: Weights for :func:`load_mobilenet_v2`.
        cache: Folder for what was computed of the training and the test set, under the digest of all that it depends
            on; None keeps nothing. The device is not part of it: features differ by rounding between devices.
        num_precision_recall: Images of either set for precision and recall, fewer if there are fewer.
        num_neighbors: Their k.
        num_nearest: Samples whose nearest training image is looked up.
        resnet_batch: Images at once through the ResNet.
        mobilenet_batch: Images at once through the MobileNet; about 10 MB of memory each.

    Returns:
        An :class:`ImageMeasure`: ``measure(samples)`` and ``measure.floor``.

    Raises:
        FileNotFoundError: There are no weights at a path.
        ValueError: Neither network is given, the data does not fit, or weights are damaged.

    Source: the distances and fractions are those of :func:`frechet_distance`, :func:`precision_recall` and
    :func:`class_histogram_distance`, the networks those of :func:`resnet_cifar_features` and
    :func:`mobilenet_v2_features`.
    """
    function = "make_image_measure"
    train_images = _images(function, "train_images", train_images)
    test_images = _images(function, "test_images", test_images)
    checks.check_integer(function, "num_neighbors", num_neighbors, 1)
    checks.check_integer(function, "num_precision_recall", num_precision_recall, num_neighbors + 1)
    checks.check_integer(function, "num_nearest", num_nearest, 1)
    checks.check_integer(function, "resnet_batch", resnet_batch, 1)
    checks.check_integer(function, "mobilenet_batch", mobilenet_batch, 1)
    for name, images in (("train_images", train_images), ("test_images", test_images)):
        if len(images) <= num_neighbors:
            expected = f"more than num_neighbors = {num_neighbors}"
            raise checks.fail(function, name, f"has {len(images)} images", expected)
    if resnet_path is None and mobilenet_path is None:
        raise checks.fail(function, "resnet_path and mobilenet_path", "are None", "the weights of one network or both")
    train_labels = np.asarray(checks.integer_array(function, "train_labels", train_labels))
    checks.check_batch(function, "train_labels", train_labels, len(train_images))

    counts = _Counts(num_precision_recall, num_neighbors, num_nearest)
    data_digest = digest(train_images)
    weights = [path if path is None else digest(Path(path)) for path in (resnet_path, mobilenet_path)]
    space = partial(_space, train_images=train_images, cache=cache)
    resnet = mobilenet = None
    num_classes = int(train_labels.max()) + 1
    if resnet_path is not None:
        params = load_resnet_cifar(resnet_path)
        num_classes = params.head_bias.shape[0]
        resnet = space(
            f"resnet{params.depth}",
            resnet_cifar_features,
            params,
            batch_size=resnet_batch,
            keep_features=True,
            key=(weights[0], data_digest),
        )
    if mobilenet_path is not None:
        mobilenet = space(
            "mobilenet_v2",
            mobilenet_v2_features,
            load_mobilenet_v2(mobilenet_path),
            batch_size=mobilenet_batch,
            keep_features=False,
            key=(weights[1], data_digest),
        )
    if train_labels.min() < 0 or train_labels.max() >= num_classes:
        got = f"has labels from {train_labels.min()} to {train_labels.max()}"
        raise checks.fail(function, "train_labels", got, f"labels in [0, {num_classes - 1}]")
    whole = digest(_VERSION, *weights, data_digest, train_labels, test_images, counts)
    unfinished = ImageMeasure(train_images, train_labels, num_classes, whole[:12], {}, resnet, mobilenet, counts, {})

    def compute_floor() -> dict[str, np.ndarray]:
        report, distances = _examine(unfinished, test_images)
        return distances | {"report": np.array(json.dumps(report | _closeness(distances, distances)))}

    arrays = cached_arrays(cache, f"floor-{whole[:24]}", compute_floor)
    floor = json.loads(str(arrays.pop("report")))
    return ImageMeasure(train_images, train_labels, num_classes, whole[:12], floor, resnet, mobilenet, counts, arrays)
