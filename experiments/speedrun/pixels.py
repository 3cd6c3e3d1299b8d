"""The data set on the device: shuffled, flipped and scaled there, so that no step waits for the host."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.speedrun.config import NUM_CLASSES
from jaxdiv import data
from jaxdiv.checks import fail
from jaxdiv.typing import Array, PRNGKey

HALF_RANGE = 127.5
SIGMA_DATA = 0.5
SHAPE = (32, 32, 3)


class Pixels(NamedTuple):
    """A split: images uint8 ``[N, 32, 32, 3]`` and labels int32 ``[N]``, on the host or on the device."""

    images: Any
    labels: Any


def data_key(seed: int) -> PRNGKey:
    """The key of a run's batches, apart from the keys of its noise."""
    return jax.random.fold_in(jax.random.key(seed), 0x0DA7A)


def load_pixels(data_dir: Path) -> tuple[Pixels, Pixels]:
    """Training and test set of ``data_dir/cifar10``, on the host.

    Raises:
        ValueError: there is no such folder, or its files are damaged.
        FileNotFoundError: one of its files is missing.
    """
    if not (data_dir / "cifar10").is_dir():
        raise fail("load_pixels", "data_dir", f"{data_dir} has no folder cifar10", "one as docs/speedrun.md describes")
    splits = data.read_cifar10(data_dir / "cifar10")
    train, test = (Pixels(splits[name]["image"], splits[name]["label"]) for name in ("train", "test"))
    return train, test


def draw_batch(pixels: Pixels, key: PRNGKey, step: Array, *, batch_size: int) -> tuple[Array, Array]:
    """Batch number ``step``: float32 images in [-1, 1], half of them mirrored, and their labels.

    Each epoch has an order of its own, drawn from ``(key, epoch)``; what does not fill a batch is left out of it.
    """
    num = len(pixels.images)
    if num < batch_size:
        raise fail("draw_batch", "batch_size", f"is {batch_size}", f"at most the {num} images")
    epoch, position = jnp.divmod(step, num // batch_size)
    key_order, key_flip = jax.random.split(key)
    order = jax.random.permutation(jax.random.fold_in(key_order, epoch), num)
    rows = jax.lax.dynamic_slice(order, (position * batch_size,), (batch_size,))
    images = pixels.images[rows].astype(jnp.float32) / HALF_RANGE - 1.0
    flip = jax.random.bernoulli(jax.random.fold_in(key_flip, step), shape=(batch_size, 1, 1, 1))
    return jnp.where(flip, images[:, :, ::-1], images), pixels.labels[rows]


def balanced_labels(start: Array | int, num: int) -> Array:
    """Of samples ``start, start + 1, ...``: 0, 1, ..., 9, 0, 1, ..., the same number of every class."""
    return (start + jnp.arange(num, dtype=jnp.int32)) % NUM_CLASSES
