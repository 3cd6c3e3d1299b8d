"""Image data sets by name: what they hold, where they lie on disk, and how to open a split."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiv.checks import check_choice

Example = Mapping[str, Any]


class DatasetInfo(NamedTuple):
    """What a data set holds.

    Attributes:
      name: the name ``load_split`` takes.
      version: the version that ``jaxdiv.data.prepare`` writes.
      image_shape: ``(H, W, C)``.
      half_range: the pixel value that becomes 0; images are scaled as ``x / half_range - 1``, so 0 becomes -1 and the
        largest pixel value, ``2 * half_range``, becomes 1.
      label_names: the classes in the order of their labels.
      num_examples: size of each split.
    """

    name: str
    version: str
    image_shape: tuple[int, int, int]
    half_range: float
    label_names: tuple[str, ...]
    num_examples: Mapping[str, int]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)


_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Names and versions of the last three are tensorflow-datasets' own.
DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo("digits", "1.0.0", (8, 8, 1), 8.0, _DIGIT_NAMES, {"train": 1397, "test": 400}),
        DatasetInfo("mnist", "3.0.1", (28, 28, 1), 127.5, _DIGIT_NAMES, {"train": 60000, "test": 10000}),
        DatasetInfo("fashion_mnist", "3.0.1", (28, 28, 1), 127.5, _FASHION_NAMES, {"train": 60000, "test": 10000}),
        DatasetInfo("cifar10", "3.0.2", (32, 32, 3), 127.5, _CIFAR_NAMES, {"train": 50000, "test": 10000}),
    )
}
"""Every data set by name; all but the digits are prepared from their original files."""


def dataset_info(name: str) -> DatasetInfo:
    """What the data set of that name holds.

    >>> dataset_info("digits").image_shape
    (8, 8, 1)

    Raises:
      ValueError: no data set has that name.
    """
    check_choice("dataset_info", "name", name, DATASETS)
    return DATASETS[name]


def default_data_dir() -> Path:
    """The folder of all data sets: ``$JAXDIV_DATA``, else ``jaxdiv`` in the user's cache (``~/.cache``)."""
    if chosen := os.environ.get("JAXDIV_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxdiv"


def load_split(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Sequence[Example]:
    """Open one split for random access: ``source[i] -> {"image": uint8 [H, W, C], "label": int}``.

    The digits are prepared on first use. Nothing is ever downloaded.

    Args:
      name: one of ``DATASETS``.
      split: ``"train"`` or ``"test"``, or a slice of one in tensorflow-datasets' notation, as in ``"train[:1000]"``.
      data_dir: the folder of all data sets; None is ``default_data_dir()``.

    Returns:
      A tensorflow-datasets data source with ``len``, ``[i]`` and ``__getitems__``.

    Raises:
      ValueError: no data set has that name, it has no such split, or its directory is not array_record.
      FileNotFoundError: the data set is not in ``data_dir``.
    """
    info = dataset_info(name)
    check_choice("load_split", "split", split.split("[")[0], info.num_examples)
    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    directory = _find(info, data_dir)

    import tensorflow_datasets as tfds  # half a second that `import jaxdiv.data` need not take

    builder = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"load_split: {name} in {directory} is stored as {file_format.value if file_format else None}; expected "
            f"array_record, which `{_command(info, data_dir)}` writes"
        )
    source = builder.as_data_source(split)
    _decode_one_quietly(source)
    return source


def _find(info: DatasetInfo, data_dir: Path) -> Path:
    """The directory of the newest version there; the digits are prepared if there is none."""
    versions = [path.parent for path in (data_dir / info.name).glob("*.*.*/dataset_info.json")]
    if versions:
        return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
    if info.name != "digits":
        raise FileNotFoundError(
            f"load_split: data set {info.name!r} is not in {data_dir} (looked for {data_dir / info.name}/VERSION/"
            f"dataset_info.json); prepare it with `{_command(info, data_dir)}`"
        )
    from jaxdiv.data import digits

    return digits.prepare_digits(data_dir)


def _decode_one_quietly(source: Sequence[Example]) -> None:
    """Tensorflow-datasets advises a faster image decoder, once, at the first image: not worth a line to our users."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        if len(source):
            source[0]
    finally:
        logging.set_verbosity(verbosity)


def _command(info: DatasetInfo, data_dir: Path) -> str:
    return f"python -m jaxdiv.data.prepare {info.name} --from DIR --data-dir {data_dir}"


def to_arrays(source: Sequence[Example]) -> dict[str, np.ndarray]:
    """Read a whole source into memory: ``{"image": uint8 [N, H, W, C], "label": int32 [N]}``, in the source's order.

    >>> example = {"image": np.zeros((2, 2, 1), np.uint8), "label": 3}
    >>> arrays = to_arrays([example, example])
    >>> arrays["image"].shape, arrays["label"]
    ((2, 2, 2, 1), array([3, 3], dtype=int32))
    """
    first = source[0]
    images = np.empty((len(source), *first["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for i in range(len(source)):
        example = source[i]
        images[i], labels[i] = example["image"], example["label"]
    return {"image": images, "label": labels}


def scale_images(images: np.ndarray, *, half_range: float) -> np.ndarray:
    """Pixels to network range: ``x / half_range - 1`` in float32, which maps ``[0, 2 half_range]`` onto ``[-1, 1]``.

    >>> scale_images(np.array([0, 8, 16], np.uint8), half_range=8.0)
    array([-1.,  0.,  1.], dtype=float32)
    """
    scaled = images.astype(np.float32)
    # In place: a fresh array for each operation costs more than the arithmetic.
    scaled /= half_range
    scaled -= 1
    return scaled


def unscale_images(images: np.ndarray, *, half_range: float) -> np.ndarray:
    """The inverse of ``scale_images``, rounded and clipped to the pixel range, uint8.

    >>> unscale_images(np.array([-1.2, 0.01, 1.0]), half_range=8.0)
    array([ 0,  8, 16], dtype=uint8)
    """
    pixels = np.rint((np.asarray(images, np.float32) + 1) * half_range)
    return np.clip(pixels, 0, 2 * half_range).astype(np.uint8)
