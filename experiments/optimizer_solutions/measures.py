"""What is looked at: accuracy matrices in numbers, ranks of matrices, likeness of class means."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import fail
from jaxdiv.optimizers import effective_rank, stable_rank
from jaxdiv.typing import Array


def sequence_measures(accuracy: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of accuracy matrices ``[..., T, T]``, entry (t, s) after task t on task s, each ``[...]``.

    - ``learned_accuracy``: mean of (t, t), on the task just learned;
    - ``final_accuracy``: mean of the last row;
    - ``earlier_accuracy``: the same without the last task;
    - ``forgetting``: mean over earlier tasks of the best accuracy before the last task, less the last (Chaudhry et al.,
      Riemannian walk for incremental learning, 2018, arXiv 1801.10112);
    - ``backward_transfer``: mean over earlier tasks of the last accuracy less that at (s, s) (Lopez-Paz and Ranzato,
      Gradient episodic memory, 2017, arXiv 1706.08840).

    >>> {k: float(v) for k, v in sequence_measures(np.array([[1.0, 0.5], [0.25, 0.75]])).items()}["forgetting"]
    0.75
    """
    accuracy = np.asarray(accuracy, np.float64)
    if accuracy.ndim < 2 or accuracy.shape[-1] != accuracy.shape[-2] or accuracy.shape[-1] < 2:
        raise fail("sequence_measures", "accuracy", f"has shape {accuracy.shape}", "(..., T, T) with T at least 2")
    learned, last = np.diagonal(accuracy, axis1=-2, axis2=-1), accuracy[..., -1, :]
    return {
        "learned_accuracy": learned.mean(-1),
        "final_accuracy": last.mean(-1),
        "earlier_accuracy": last[..., :-1].mean(-1),
        "forgetting": (accuracy[..., :-1, :-1].max(-2) - last[..., :-1]).mean(-1),
        "backward_transfer": (last - learned)[..., :-1].mean(-1),
    }


def mean_ranks(matrices: list[Array]) -> Array:
    """``[2]``: effective and stable rank, each the mean over the matrices."""
    return jnp.stack([jnp.mean(jnp.stack([rank(x) for x in matrices])) for rank in (effective_rank, stable_rank)])


def class_cosines(features: Array, labels: Array, mask: Array, *, num_classes: int) -> Array:
    """``[C, C]``: cosines between the mean representations of classes; NaN for a class that has no direction.

    That is one without examples, or one whose mean is 0: relu units may all be dead, for a class or for every one.

    Args:
        features: ``[m, width]``.
        labels: ``[m]``.
        mask: ``[m]``, True for the examples that count.
        num_classes: C.

    >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    >>> round(float(class_cosines(x, jnp.array([0, 0, 1]), jnp.ones(3, bool), num_classes=2)[0, 1]), 4)
    0.7071
    """
    members = jax.nn.one_hot(labels, num_classes, axis=0) * mask
    means = members @ features / jnp.maximum(members.sum(1, keepdims=True), 1.0)
    norms = jnp.linalg.norm(means, axis=1, keepdims=True)
    units = means / jnp.where(norms > 0.0, norms, jnp.nan)
    return units @ units.T


def mean_off_diagonal(matrix: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The mean of ``[..., C, C]`` over pairs of different classes among those marked in ``[C]``, where it is a number.

    >>> float(mean_off_diagonal(np.array([[1.0, 0.5], [0.5, 1.0]]), np.ones(2, bool)))
    0.5
    """
    pairs = np.outer(classes, classes) & ~np.eye(len(classes), dtype=bool)
    return finite_mean(np.asarray(matrix)[..., pairs], axis=-1)


def finite_mean(values: Any, *, axis: int) -> np.ndarray:
    """The mean of what is finite, NaN where nothing is."""
    values = np.asarray(values, np.float64)
    kept = np.isfinite(values)
    total, count = np.where(kept, values, 0.0).sum(axis), kept.sum(axis)
    return np.divide(total, count, out=np.full(np.shape(count), np.nan), where=count > 0)


def mean_and_deviation(values: np.ndarray) -> dict[str, Any]:
    """Over the "runs" in which the measure is finite, the deviation with n - 1; NaN where these are too few.

    >>> mean_and_deviation(np.array([1.0, 3.0, np.nan]))
    {'mean': 2.0, 'std': 1.4142135623730951, 'runs': 2}
    """
    kept = np.asarray(values)[np.isfinite(values)]
    return {
        "mean": float(np.mean(kept)) if len(kept) else float("nan"),
        "std": float(np.std(kept, ddof=1)) if len(kept) > 1 else float("nan"),
        "runs": len(kept),
    }
