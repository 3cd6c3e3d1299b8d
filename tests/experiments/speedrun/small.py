"""A run on few random images with a small network and a small measure, in this process or in another."""

from pathlib import Path

import numpy as np

from experiments.speedrun.config import Config, NetworkConfig, StudentConfig, TeacherConfig
from experiments.speedrun.pixels import Pixels
from jaxdiv.metrics import ImageMeasure, make_image_measure
from tests.metrics.network_oracles import random_resnet
from tests.metrics.test_image_measure import smooth_images

TRAIN, TEST = 60, 40


def small_config(directory: Path, *, training: dict | None = None, student: dict | None = None, **changes) -> Config:
    """From scratch, as by default but for its size."""
    sizes = {"track": "scratch", "num_samples": 24, "curve_samples": 12, "sample_batch": 12, "curve_points": 2}
    return Config(
        directory=directory,
        network=NetworkConfig(channels=8, channel_mult=(1,), num_blocks=1),
        training=TeacherConfig(**{"batch_size": 8, "steps": 6, **(training or {})}),
        student=StudentConfig(**{"batch_size": 4, "steps": 6, **(student or {})}),
        **sizes | {"teacher_levels": (2, 3), "cache": None} | changes,
    )


def small_splits() -> tuple[Pixels, Pixels]:
    """Training and test set."""
    sizes = (TRAIN, 0), (TEST, 1)
    train, test = (Pixels(smooth_images(num, seed), np.arange(num, dtype=np.int32) % 10) for num, seed in sizes)
    return train, test


def small_measure(folder: Path, splits: tuple[Pixels, Pixels]) -> ImageMeasure:
    """A random ResNet of depth 8 in place of the two pretrained networks."""
    path = folder / "resnet.npz"
    np.savez(path, **random_resnet(np.random.default_rng(0), width=4))
    train, test = splits
    return make_image_measure(train.images, train.labels, test.images, resnet_path=path, resnet_batch=32)
