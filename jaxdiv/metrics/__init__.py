"""How good generated samples are: fidelity, variety, class balance and memorisation. Knows no training objective."""

from jaxdiv.metrics.classifier import SmallClassifier, TrainedClassifier, train_classifier
from jaxdiv.metrics.evaluate import Reference, evaluate_samples, make_reference
from jaxdiv.metrics.frechet import FeatureStatistics, frechet_distance, frechet_distance_from_features
from jaxdiv.metrics.histogram import ClassHistogram, class_histogram_distance
from jaxdiv.metrics.image_embedding import EmbeddedImages, embed_images
from jaxdiv.metrics.image_measure import ImageMeasure, make_image_measure
from jaxdiv.metrics.inception import inception_features
from jaxdiv.metrics.inception_distance import FidResult, fid, inception_statistics, read_fid_reference
from jaxdiv.metrics.inception_pixels import inception_input, resize_tf1, to_uint8
from jaxdiv.metrics.inception_weights import InceptionWeights, convert_inception_state_dict, load_inception
from jaxdiv.metrics.mobilenet_v2 import MobileNetV2, load_mobilenet_v2, mobilenet_v2_features
from jaxdiv.metrics.nearest import find_nearest
from jaxdiv.metrics.precision_recall import PrecisionRecall, nearest_neighbor_distance, precision_recall
from jaxdiv.metrics.resnet_cifar import ResNetCifar, load_resnet_cifar, resnet_cifar_features

__all__ = [
    "ClassHistogram",
    "EmbeddedImages",
    "FeatureStatistics",
    "FidResult",
    "ImageMeasure",
    "InceptionWeights",
    "MobileNetV2",
    "PrecisionRecall",
    "Reference",
    "ResNetCifar",
    "SmallClassifier",
    "TrainedClassifier",
    "class_histogram_distance",
    "convert_inception_state_dict",
    "embed_images",
    "evaluate_samples",
    "fid",
    "find_nearest",
    "frechet_distance",
    "frechet_distance_from_features",
    "inception_features",
    "inception_input",
    "inception_statistics",
    "load_inception",
    "load_mobilenet_v2",
    "load_resnet_cifar",
    "make_image_measure",
    "make_reference",
    "mobilenet_v2_features",
    "nearest_neighbor_distance",
    "precision_recall",
    "read_fid_reference",
    "resize_tf1",
    "resnet_cifar_features",
    "to_uint8",
    "train_classifier",
]
