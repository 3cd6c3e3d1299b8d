"""How arrays of images become a tensorflow-datasets directory in array_record form, TensorFlow never imported.

This module imports tensorflow-datasets when it loads, so the rest of ``jaxdiv.data`` imports it inside functions.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxdiv.checks import check_shape

FILE_FORMAT = "array_record"


def image_features(shape: tuple[int, int, int], label_names: tuple[str, ...]) -> tfds.features.FeaturesDict:
    """The record of every image data set here: ``image`` (uint8 ``[H, W, C]``, stored as PNG) and ``label``."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(label_names)),
        }
    )


def records(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(key, record)`` for images uint8 ``[N, H, W, C]`` and labels ``[N]``, keyed by position.

    tensorflow-datasets would hand a bare array to TensorFlow to encode; a PIL image it encodes itself.
    """
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        yield index, {"image": Image.fromarray(pixels), "label": int(label)}


class ArrayBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of named splits that are already arrays in memory.

    Args:
      name: name of the data set, the first folder below ``data_dir``.
      version: its version, the second folder.
      splits: images uint8 ``[N, H, W, C]`` and labels ``[N]`` of each split.
      label_names: the classes in the order of their labels.
      description: one line for the directory's ``dataset_info.json``.
      data_dir: where the data set's folder is made.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
        label_names: tuple[str, ...],
        description: str,
        data_dir: str | os.PathLike[str],
    ):
        for split, (images, labels) in splits.items():
            check_shape("ArrayBuilder", f"splits[{split!r}] images", images, (None, None, None, None))
            check_shape("ArrayBuilder", f"splits[{split!r}] labels", labels, (len(images),))
        # The base class reads name and VERSION while it initialises.
        self.name = name
        self.VERSION = tfds.core.Version(version)
        self._splits = splits
        self._label_names = label_names
        self._description = description
        super().__init__(data_dir=data_dir, file_format=FILE_FORMAT)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = next(iter(self._splits.values()))[0].shape[1:]
        features = image_features(shape, self._label_names)
        return tfds.core.DatasetInfo(
            builder=self, description=self._description, features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        return {split: records(*arrays) for split, arrays in self._splits.items()}

    def _generate_examples(self) -> Iterator[Any]:
        raise RuntimeError("never called: _split_generators gives the generators of all splits")


def publish(make_builder: Callable[[Path], tfds.core.GeneratorBasedBuilder], data_dir: str | os.PathLike[str]) -> Path:
    """Prepare a builder in a scratch folder and move the finished directory to ``data_dir/name/version`` in one step.

    A reader therefore sees a whole data set or none, and of several processes that prepare at once the first to finish
    wins while the others drop their equal copies. A directory that is already there is left as it is.

    Args:
      make_builder: given a folder, returns the builder that writes below it.
      data_dir: the folder of all data sets.

    Returns:
      The data set's directory.
    """
    data_dir = Path(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    # A scratch folder in data_dir itself, since a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".preparing-") as scratch:
        builder = make_builder(Path(scratch))
        tfds.disable_progress_bar()
        # It would announce a download to the scratch folder; neither is what the user sees happen.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format=FILE_FORMAT)
        target = data_dir / builder.name / str(builder.version)
        target.parent.mkdir(exist_ok=True)
        try:
            os.rename(builder.data_dir, target)
        except OSError:
            if not (target / "dataset_info.json").is_file():
                raise
    return target
