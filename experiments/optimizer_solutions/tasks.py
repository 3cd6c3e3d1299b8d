"""Tasks in sequence over one set of images, as arrays of equal shapes, so that one program learns them all."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.one_step_image.images import Images, load_images
from jaxdiv.checks import check_choice, fail

SUITES = ("class_incremental", "permuted")
CLASSES_PER_TASK = 2
VALIDATION_SHARE = 0.2


class Suite(NamedTuple):
    """Everything that learning and evaluation read: T tasks, N images of d numbers, C classes."""

    images: np.ndarray
    """``[N, d]`` float32, training and test."""
    labels: np.ndarray
    """``[N]``."""
    permutations: np.ndarray
    """``[T, d]``: a task sees ``images[:, permutations[t]]``."""
    classes: np.ndarray
    """``[T, C]``, True for the classes of the task."""
    train_rows: np.ndarray
    """``[T, n]``: which images a task trains on, the first ``train_counts[t]`` of its row; the rest repeats them."""
    train_counts: np.ndarray
    """``[T]``."""
    eval_rows: np.ndarray
    """``[m]``: held-out images of all classes; task t is evaluated on those of its classes."""
    eval_mask: np.ndarray
    """``[m]``, False where eval_rows is filled up."""


def load_suites(
    name: str, *, data: str, data_dir: Path | None, num_tasks: int, seed: int, images: Images | None = None
) -> tuple[Suite, Suite]:
    """The same tasks twice, evaluated on held-out training images (to choose by) and on test images (to report).

    A fifth of the training images, drawn with the seed, is held out of both.

    Args:
        name: "class_incremental": classes (0, 1), then (2, 3), ...; "permuted": all classes, the first task as it is,
            each further one with its pixels in a fixed random order.
        data: the name of the data set.
        data_dir: where it lies.
        num_tasks: T.
        seed: of the permutations and of what is held out.
        images: the data, where it is in memory.
    """
    check_choice("load_suites", "name", name, SUITES)
    images = load_images(data, data_dir=data_dir) if images is None else images
    num_train, num_test = (len(split["label"]) for split in (images.train, images.test))
    pixels = np.concatenate([images.scaled(split).reshape(len(getattr(images, split)["label"]), -1)
                             for split in ("train", "test")])  # fmt: skip
    labels = np.concatenate([images.train["label"], images.test["label"]]).astype(np.int32)
    order = np.random.default_rng([seed, 0]).permutation(num_train).astype(np.int32)
    num_validation = int(VALIDATION_SHARE * num_train)
    validation, train = order[:num_validation], order[num_validation:]
    test = np.arange(num_train, num_train + num_test, dtype=np.int32)

    classes = task_classes(name, num_tasks, images.num_classes)
    rows = [train[classes[task][labels[train]]] for task in range(num_tasks)]
    if any(len(row) == 0 for row in rows):
        raise fail("load_suites", "data", f"{data} has tasks without training images", "images of every class")
    longest = max(num_validation, num_test)

    def suite(held_out: np.ndarray) -> Suite:
        return Suite(
            images=pixels,
            labels=labels,
            permutations=task_permutations(name, num_tasks, pixels.shape[1], seed=seed),
            classes=classes,
            train_rows=np.stack([np.resize(row, len(train)) for row in rows]),
            train_counts=np.array([len(row) for row in rows], np.int32),
            eval_rows=np.resize(held_out, longest),
            eval_mask=np.arange(longest) < len(held_out),
        )

    return suite(validation), suite(test)


def task_classes(name: str, num_tasks: int, num_classes: int) -> np.ndarray:
    """``[T, C]``, True for the classes of each task.

    >>> task_classes("class_incremental", 2, 4).astype(int).tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1]]
    """
    if name == "permuted":
        return np.ones((num_tasks, num_classes), bool)
    return np.arange(num_classes) // CLASSES_PER_TASK == np.arange(num_tasks)[:, None]


def task_permutations(name: str, num_tasks: int, size: int, *, seed: int) -> np.ndarray:
    """``[T, size]``: the identity for the first task, and for every task where the classes are what changes.

    >>> task_permutations("class_incremental", 2, 3, seed=0).tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    same = np.arange(size, dtype=np.int32)
    if name != "permuted":
        return np.tile(same, (num_tasks, 1))
    others = [np.random.default_rng([seed, task]).permutation(same) for task in range(1, num_tasks)]
    return np.stack([same, *others])
