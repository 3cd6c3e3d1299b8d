"""Image data sets as batches by (seed, step), read from tensorflow-datasets directories without TensorFlow."""

from jaxdiv.data.pipeline import Batch, BatchSource, epoch_order, load_batches
from jaxdiv.data.sources import (
    DATASETS,
    DatasetInfo,
    dataset_info,
    default_data_dir,
    load_split,
    scale_images,
    to_arrays,
    unscale_images,
)

__all__ = [
    "DATASETS",
    "Batch",
    "BatchSource",
    "DatasetInfo",
    "dataset_info",
    "default_data_dir",
    "epoch_order",
    "load_batches",
    "load_split",
    "scale_images",
    "to_arrays",
    "unscale_images",
]
