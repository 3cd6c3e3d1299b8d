"""The data of the experiment in memory: images, labels and what follows from them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiv import data


class Images(NamedTuple):
    """Both splits as uint8 ``[N, H, W, C]`` with labels, and their scaling."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    half_range: float
    num_classes: int
    flip: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(H, W, C)``."""
        return self.train["image"].shape[1:]

    def scaled(self, split: str) -> np.ndarray:
        """All images of "train" or "test", float32 in [-1, 1]."""
        return data.scale_images(getattr(self, split)["image"], half_range=self.half_range)

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the training pixels, which the preconditioning assumes."""
        return float(self.scaled("train").std(dtype=np.float64))

    def batches(self, *, batch_size: int, seed: int) -> data.BatchSource:
        """Shuffled training batches by step."""
        return data.BatchSource(
            self.train, half_range=self.half_range, batch_size=batch_size, seed=seed, flip=self.flip
        )


def load_images(name: str, *, data_dir: Path | None) -> Images:
    """Both splits of a data set by name."""
    info = data.dataset_info(name)
    train, test = (data.to_arrays(data.load_split(name, split, data_dir=data_dir)) for split in ("train", "test"))
    return Images(train, test, info.half_range, info.num_classes, flip=name == "cifar10")
