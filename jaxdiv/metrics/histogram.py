"""Are all classes generated, and how often: the distance between class histograms."""

from typing import NamedTuple

import numpy as np

from jaxdiv import checks
from jaxdiv.typing import ArrayLike


class ClassHistogram(NamedTuple):
    """What :func:`class_histogram_distance` returns."""

    distance: float
    """Total variation between the two class histograms, in [0, 1]."""
    counts: np.ndarray
    """Samples per class, ``[num_classes]`` int."""
    reference_counts: np.ndarray
    """Reference examples per class, ``[num_classes]`` int."""
    missing_classes: tuple[int, ...]
    """Classes that the reference has and no sample falls into."""


def _labels(function: str, argument: str, value: ArrayLike, num_classes: int) -> np.ndarray:
    """Integer labels ``[N]``, each checked to be a class."""
    labels = np.asarray(value)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.size == 0:
        raise checks.fail(
            function,
            argument,
            f"has shape {labels.shape} and dtype {labels.dtype}",
            "integer labels of shape (any >= 1,)",
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        got = f"has labels from {labels.min()} to {labels.max()}"
        raise checks.fail(function, argument, got, f"labels in [0, {num_classes - 1}]")
    return labels


def class_histogram_distance(
    probabilities_or_labels: ArrayLike, reference_labels: ArrayLike, *, num_classes: int
) -> ClassHistogram:
    r"""Total variation :math:`\frac12 \sum_c |\hat p_c - \hat q_c|` of the class histograms of samples and reference.

    Symmetric. Class probabilities are counted as their most probable class (so logits may be given as well): the
    histogram says which classes a viewer would see, not how unsure the classifier is.

    Args:
        probabilities_or_labels: ``[N, num_classes]`` floating probabilities, or ``[N]`` integer labels, of the samples.
        reference_labels: ``[M]`` integer labels of the reference.
        num_classes: Number of classes.

    Returns:
        A :class:`ClassHistogram`: the distance, both counts, and the classes that are missing among the samples.

    Raises:
        ValueError: Wrong shapes or dtypes, a label that is no class, NaN probabilities.

    >>> result = class_histogram_distance(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), num_classes=3)
    >>> result.distance, result.missing_classes
    (0.5, (2,))
    """
    function = "class_histogram_distance"
    checks.check_range(function, "num_classes", num_classes, 1)
    samples = np.asarray(probabilities_or_labels)
    if samples.ndim == 2:
        checks.check_shape(function, "probabilities_or_labels", samples, (None, num_classes))
        checks.check_floating(function, probabilities_or_labels=samples)
        if np.isnan(samples).any():
            raise checks.fail(function, "probabilities_or_labels", "holds NaN", "probabilities")
        samples = samples.argmax(axis=1)
    samples = _labels(function, "probabilities_or_labels", samples, num_classes)
    reference = _labels(function, "reference_labels", reference_labels, num_classes)
    counts = np.bincount(samples, minlength=num_classes)
    reference_counts = np.bincount(reference, minlength=num_classes)
    distance = 0.5 * float(np.abs(counts / samples.size - reference_counts / reference.size).sum())
    missing = np.flatnonzero((counts == 0) & (reference_counts > 0))
    return ClassHistogram(distance, counts, reference_counts, tuple(int(c) for c in missing))
