"""Batches that are a pure function of (seed, step): the same after a restart and for any number of processes.

Position ``step * batch_size + row`` of the endless stream of examples belongs to ``row`` of the global batch ``step``.
The stream is one permutation of the data set after another, each drawn from ``(seed, epoch)``; a batch may end one
epoch and begin the next. Process ``i`` of ``n`` gets rows ``i * local .. (i + 1) * local`` with
``local = batch_size / n``. Nothing is carried from step to step, so resuming needs the step alone.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiv.checks import check_range, check_shape, fail
from jaxdiv.data import sources
from jaxdiv.data.order import FLIP_STREAM, epoch_order, random_words

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
"""``{"image": float32 [B, H, W, C], "label": int32 [B]}``."""


class BatchSource:
    """Shuffled, scaled batches of one split by step: ``{"image": float32 [B, H, W, C], "label": int32 [B]}``.

    Args:
      data: ``{"image": uint8 [N, H, W, C], "label": [N]}`` in memory (see ``to_arrays``), or a random-access source as
        ``load_split`` returns it, which stays on disk. Both give the same batches.
      half_range: images become ``x / half_range - 1``, see ``DatasetInfo``.
      batch_size: size of the global batch, over all processes.
      seed: non-negative; fixes the order and the flips.
      flip: mirror each image left to right with probability 1/2, drawn from ``(seed, step, row)``.
      process_index: this process, ``0 <= process_index < process_count``.
      process_count: number of processes that share the global batch; divides ``batch_size``.

    Raises:
      ValueError: an argument is out of its range, the data are empty or of unequal lengths.

    >>> arrays = {"image": np.zeros((6, 2, 2, 1), np.uint8), "label": np.arange(6)}
    >>> batches = BatchSource(arrays, half_range=8.0, batch_size=3, seed=0)
    >>> sorted(np.concatenate([batches.at(0)["label"], batches.at(1)["label"]]).tolist())
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        data: Mapping[str, np.ndarray] | Sequence[sources.Example],
        *,
        half_range: float,
        batch_size: int,
        seed: int,
        flip: bool = False,
        process_index: int = 0,
        process_count: int = 1,
    ):
        check_range("BatchSource", "half_range", half_range, 0, open_low=True)
        check_range("BatchSource", "batch_size", batch_size, 1)
        check_range("BatchSource", "seed", seed, 0)
        check_range("BatchSource", "process_count", process_count, 1)
        check_range("BatchSource", "process_index", process_index, 0, process_count - 1)
        if batch_size % process_count:
            raise fail("BatchSource", "batch_size", f"is {batch_size}", f"a multiple of process_count {process_count}")
        self._in_memory = isinstance(data, Mapping)
        if self._in_memory:
            check_shape("BatchSource", "data['image']", data["image"], (None, None, None, None))
            check_shape("BatchSource", "data['label']", data["label"], (len(data["image"]),))
        self.num_examples = len(data["image"]) if self._in_memory else len(data)
        check_range("BatchSource", "number of examples", self.num_examples, 1)
        self.batch_size = batch_size
        self.local_batch_size = batch_size // process_count
        self._data = data
        self._half_range = half_range
        self._seed = seed
        self._flip = flip
        self._process_index = process_index
        self._process_count = process_count
        # Two, since a batch can span two epochs and prefetching threads run ahead of each other.
        self._order = functools.lru_cache(maxsize=2)(
            lambda epoch: epoch_order(self.num_examples, seed=self._seed, epoch=epoch)
        )

    def at(self, step: int) -> Batch:
        """This process's rows of the global batch ``step``."""
        check_range("BatchSource.at", "step", step, 0)
        if self._in_memory:
            return {name: rows[0] for name, rows in self._gather(step, 1).items()}
        return self.dataset()[step]

    def stacked(self, step: int, num_steps: int) -> Batch:
        """Batches ``step .. step + num_steps`` along a new leading axis, for a scanned cycle."""
        check_range("BatchSource.stacked", "step", step, 0)
        check_range("BatchSource.stacked", "num_steps", num_steps, 1)
        if self._in_memory:
            return self._gather(step, num_steps)
        batches = [self.dataset()[step + i] for i in range(num_steps)]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def dataset(self) -> "grain.MapDataset[Batch]":
        """The same batches as an endless grain data set, ``dataset()[step]``, for what does not fit in memory."""
        import grain  # as long as jax's own import, and needed only for data on disk

        # Batches of the local size, every process_count-th of which is this process's: k = step * count + index.
        batches = grain.MapDataset.range(2**48).map(self._example).batch(self.local_batch_size)
        return batches.map_with_index(self._finish)[self._process_index :: self._process_count]

    def iterator(
        self, *, start_step: int = 0, num_threads: int = 4, prefetch: int = 64
    ) -> "grain.DatasetIterator[Batch]":
        """A grain iterator from ``start_step`` on that reads ahead in threads; it has ``get_state`` and ``set_state``.

        Args:
          start_step: the first batch it yields.
          num_threads: threads that read and decode.
          prefetch: number of batches read ahead at most.
        """
        check_range("BatchSource.iterator", "start_step", start_step, 0)
        import grain

        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        iterator = iter(self.dataset().to_iter_dataset(options))
        grain.experimental.set_next_index(iterator, start_step)
        return iterator

    def _gather(self, step: int, num_steps: int) -> Batch:
        """What ``dataset`` gives, without a Python call per example: leading axes ``[num_steps, local batch]``."""
        steps = np.arange(step, step + num_steps)[:, None]
        row = self._process_index * self.local_batch_size + np.arange(self.local_batch_size)
        positions = steps * self.batch_size + row
        epochs, offsets = np.divmod(positions, self.num_examples)
        records = np.empty_like(positions)
        for epoch in range(int(epochs[0, 0]), int(epochs[-1, -1]) + 1):
            inside = epochs == epoch
            records[inside] = self._order(epoch)[offsets[inside]]
        images = self._data["image"][records]
        if self._flip:
            for i in range(num_steps):
                self._flip_rows(images[i], step + i, self._process_index)
        images = sources.scale_images(images, half_range=self._half_range)
        return {"image": images, "label": self._data["label"][records].astype(np.int32)}

    def _example(self, position: int) -> dict[str, Any]:
        epoch, offset = divmod(position, self.num_examples)
        record = int(self._order(epoch)[offset])
        if self._in_memory:
            return {"image": self._data["image"][record], "label": np.int32(self._data["label"][record])}
        example = self._data[record]
        return {"image": example["image"], "label": np.int32(example["label"])}

    def _finish(self, index: int, batch: Batch) -> Batch:
        step, process = divmod(index, self._process_count)
        if self._flip:
            self._flip_rows(batch["image"], step, process)
        return {"image": sources.scale_images(batch["image"], half_range=self._half_range), "label": batch["label"]}

    def _flip_rows(self, images: np.ndarray, step: int, process: int) -> None:
        """Mirror the rows whose bit is set, in place; the bits are those of the global batch, whoever holds the row."""
        bits = random_words(self._seed, FLIP_STREAM, step, self.batch_size) >> np.uint64(63)
        mine = bits[process * self.local_batch_size : (process + 1) * self.local_batch_size].astype(bool)
        images[mine] = images[mine, :, ::-1]


def load_batches(
    name: str,
    split: str = "train",
    *,
    batch_size: int,
    seed: int,
    data_dir: str | os.PathLike[str] | None = None,
    in_memory: bool = True,
    flip: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchSource:
    """Open a split by name and batch it; the other arguments are those of ``load_split`` and ``BatchSource``.

    Args:
      name: the data set, one of ``DATASETS``.
      split: as in ``load_split``.
      batch_size: size of the global batch.
      seed: fixes the order and the flips.
      data_dir: the folder of all data sets; None is ``default_data_dir()``.
      in_memory: read the whole split first; False leaves it on disk and reads each batch through grain.
      flip: mirror images at random.
      process_index: this process.
      process_count: number of processes.
    """
    source = sources.load_split(name, split, data_dir=data_dir)
    return BatchSource(
        sources.to_arrays(source) if in_memory else source,
        half_range=sources.dataset_info(name).half_range,
        batch_size=batch_size,
        seed=seed,
        flip=flip,
        process_index=process_index,
        process_count=process_count,
    )
