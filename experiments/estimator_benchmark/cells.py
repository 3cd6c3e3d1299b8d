"""One cell of the benchmark: an estimator, a task and a number of samples; and the file of finished cells."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.estimator_benchmark.estimators import ESTIMATORS
from experiments.json_lines import read_json_lines
from jaxdiv.information import TASKS
from jaxdiv.typing import Array

Cell = dict[str, Any]
SETTINGS = ("seed", "num_seeds", "critic_steps")


class Runner:
    """Computes cells, with one compilation for all tasks of the same shape."""

    def __init__(self, *, seed: int, num_seeds: int, critic_steps: int):
        """The settings that every cell carries with it."""
        self.settings = {"seed": seed, "num_seeds": num_seeds, "critic_steps": critic_steps}
        self.keys = jax.random.split(jax.random.key(seed), (2, num_seeds))
        self.compiled: dict[Any, Callable[..., Any]] = {}

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one runner lives as long as its program
    def samples(self, task: str, num_samples: int) -> tuple[Array, Array]:
        """Arrays [num_seeds, N, d] of a task; the same keys for all tasks, so maps of one law share its points."""
        draw = jax.jit(jax.vmap(lambda key: TASKS[task].sample(key, num_samples)))
        return draw(self.keys[0])

    def estimate(self, estimator: str, x: Array, y: Array) -> tuple[np.ndarray, float]:
        """Values [num_seeds] in nats and the seconds that each took, without compilation."""
        arguments = (self.keys[1], x, y)
        shape = (estimator, x.shape, y.shape)
        if shape not in self.compiled:
            estimate_fn = ESTIMATORS[estimator].make(self.settings["critic_steps"])
            at_once = len(x) if ESTIMATORS[estimator].trained else 1  # small networks side by side cost little more

            def run(*arguments):
                return jax.lax.map(lambda seed: jnp.asarray(estimate_fn(*seed).value), arguments, batch_size=at_once)

            self.compiled[shape] = jax.jit(run).lower(*arguments).compile()
        started = time.perf_counter()
        values = np.asarray(self.compiled[shape](*arguments))
        return values, (time.perf_counter() - started) / len(values)

    def cell(self, estimator: str, task: str, num_samples: int, largest: int) -> Cell:
        """What the file keeps of a cell."""
        x, y = (array[:, :num_samples] for array in self.samples(task, largest))
        values, seconds = self.estimate(estimator, x, y)
        return {
            "estimator": estimator,
            "task": task,
            "num_samples": num_samples,
            "largest": largest,
            **self.settings,
            "truth": TASKS[task].mutual_information,
            "values": [float(value) for value in values],
            "seconds": seconds,
        }


def in_scope(estimator: str, task: str) -> bool:
    """The estimator is meant for so many dimensions."""
    return sum(TASKS[task].dims) <= ESTIMATORS[estimator].max_dims


def name_of(cell: Cell) -> tuple[str, str, int]:
    """What tells a cell from the others of a run."""
    return cell["estimator"], cell["task"], cell["num_samples"]


def read_cells(path: Path, settings: dict[str, Any]) -> dict[tuple[str, str, int], Cell]:
    """Finished cells that were made with these settings; not a last line that an interruption cut off."""
    cells = read_json_lines(path)
    return {name_of(cell): cell for cell in cells if all(cell[name] == value for name, value in settings.items())}
