"""How good generated samples are: fidelity, variety, class balance and memorisation. Knows no training objective."""

from jaxdiv.metrics.classifier import SmallClassifier, TrainedClassifier, train_classifier
from jaxdiv.metrics.evaluate import Reference, evaluate_samples, make_reference
from jaxdiv.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_from_features
from jaxdiv.metrics.histogram import ClassHistogram, class_histogram_distance
from jaxdiv.metrics.precision_recall import PrecisionRecall, nearest_neighbor_distance, precision_recall

__all__ = [
    "ClassHistogram",
    "FeatureStatistics",
    "PrecisionRecall",
    "Reference",
    "SmallClassifier",
    "TrainedClassifier",
    "class_histogram_distance",
    "evaluate_samples",
    "frechet_distance",
    "frechet_distance_from_features",
    "make_reference",
    "nearest_neighbor_distance",
    "precision_recall",
    "train_classifier",
]
