"""The map, the loss Sinkhorn divergence + weight * Monge gap, and the evaluation against exact transport."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from experiments.monge_map.config import COSTS, Config
from experiments.monge_map.shapes import draw
from jaxdiv import training
from jaxdiv.transport import monge_gap, sinkhorn_divergence, sqeuclidean
from jaxdiv.typing import Array, PRNGKey, PyTree

STEPS_PER_CALL = 10
TRAINING, HELD_OUT, REFERENCE = 0, 1, 2  # first number of a draw's seed


def init_map(key: PRNGKey, widths: tuple[int, ...]) -> PyTree:
    """Weights of an MLP from the plane to the plane, with variance 1 / inputs."""
    sizes = [2, *widths, 2]
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    keys = jax.random.split(key, len(shapes))
    return [
        {"weight": jax.random.normal(k, (n, m)) / np.sqrt(n), "bias": jnp.zeros(m)}
        for k, (n, m) in zip(keys, shapes, strict=True)
    ]


def apply_map(params: PyTree, x: Array) -> Array:
    """T(x) for points ``[n, 2]``."""
    for layer in params[:-1]:
        x = jax.nn.gelu(x @ layer["weight"] + layer["bias"])
    return x @ params[-1]["weight"] + params[-1]["bias"]


class Task:
    """What both fits share: the strengths in units of the data, held-out points and the exact transport of these."""

    def __init__(self, config: Config):
        """Draws the held-out points and solves their assignment problem."""
        self.config, self.cost_fn = config, COSTS[config.cost]
        self.x, self.y = draw(config.source, config.target, config.num_samples, seed=(HELD_OUT, config.seed))
        _, self.other_y = draw(config.source, config.target, config.num_samples, seed=(REFERENCE, config.seed))
        self.fit_epsilon = config.fit_epsilon * float(jnp.mean(sqeuclidean(self.y, self.y)))
        self.gap_epsilon = config.gap_epsilon * float(jnp.mean(self.cost_fn(self.x, self.y)))
        cost = np.asarray(self.cost_fn(self.x, self.y))
        self.exact_cost, self.exact_image = exact_cost(cost), self.y[linear_sum_assignment(cost)[1]]
        self._measure = jax.jit(self._measures)

    def divergence(self, mapped: Array, y: Array) -> Array:
        """How far the mapped points are from the target's."""
        iters = self.config.num_iters
        return sinkhorn_divergence(p_samples=mapped, q_samples=y, epsilon=self.fit_epsilon, num_iters=iters)

    def gap(self, x: Array, mapped: Array) -> Array:
        """The Monge gap less its offset epsilon log n."""
        iters = self.config.num_iters
        gap = monge_gap(x, mapped, epsilon=self.gap_epsilon, cost_fn=self.cost_fn, num_iters=iters)
        return gap - self.gap_epsilon * np.log(len(x))

    def _measures(self, params: PyTree) -> tuple[dict[str, Array], Array]:
        mapped = apply_map(params, self.x)
        cost = self.cost_fn(self.x, mapped)
        values = {
            "sinkhorn_divergence": self.divergence(mapped, self.y),
            "transport_cost": jnp.mean(jnp.diagonal(cost)),
            "monge_gap": self.gap(self.x, mapped),
        }
        return values, cost

    def evaluate(self, params: PyTree) -> dict[str, float]:
        """The row of a map in the table: on held-out points, with the gap to the exact coupling beside Sinkhorn's."""
        values, cost = jax.device_get(self._measure(params))
        row = {name: float(value) for name, value in values.items()}
        return row | {"exact_gap": row["transport_cost"] - exact_cost(cost)}

    def reference_rows(self) -> dict[str, dict[str, float]]:
        """What a perfect fit would show: the exact coupling, whose entropic gap is that estimator's bias, and how far
        another sample of the target is from this one.
        """
        floor = float(jax.jit(self.divergence)(self.other_y, self.y))
        bias = float(jax.jit(self.gap)(self.x, self.exact_image))
        exact = {"transport_cost": self.exact_cost, "monge_gap": bias, "exact_gap": 0.0}
        return {"exact transport": exact, "another sample of the target": {"sinkhorn_divergence": floor}}


def exact_cost(cost: np.ndarray) -> float:
    """The least mean cost of a pairing."""
    return float(cost[linear_sum_assignment(cost)].mean())


def fit_map(task: Task, *, gap_weight: float, directory: Path, description: str) -> PyTree:
    """The parameters of a map trained with this weight of the gap; metrics and checkpoints go into ``directory``."""
    config = task.config

    def loss_fn(params: PyTree, batch: tuple[Array, Array], key: PRNGKey) -> tuple[Array, dict[str, Any]]:
        x, y = batch
        mapped = apply_map(params, x)
        metrics = {"sinkhorn_divergence": task.divergence(mapped, y)}
        if gap_weight == 0:  # a gap that is not computed is no gap of 0
            return metrics["sinkhorn_divergence"], metrics
        metrics["monge_gap"] = task.gap(x, mapped)
        return metrics["sinkhorn_divergence"] + gap_weight * metrics["monge_gap"], metrics

    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    step_fn = training.make_train_step(loss_fn, optimizer, decay=0.0, steps_per_call=STEPS_PER_CALL)
    key = jax.random.key(config.seed)
    state = training.create_state(init_map(key, config.widths), optimizer, key)
    fingerprint = dataclasses.asdict(config) | {"gap_weight": gap_weight}
    for name in ("directory", "resume", "evaluations"):
        del fingerprint[name]
    state = training.train(
        step_fn,
        state,
        num_steps=config.steps,
        batch_fn=partial(_batch, config),
        directory=directory,
        config=fingerprint,
        save_every=config.steps,
        log_every=STEPS_PER_CALL,
        eval_every=-(-config.steps // config.evaluations),
        eval_fn=lambda state, step: task.evaluate(state.params),
        steps_per_call=STEPS_PER_CALL,
        resume=config.resume,
        progress=("sinkhorn_divergence", "monge_gap") if gap_weight > 0 else ("sinkhorn_divergence",),
        description=description,
    )
    return state.params


def _batch(config: Config, step: int) -> tuple[np.ndarray, np.ndarray]:
    return draw(config.source, config.target, config.batch_size, seed=(TRAINING, config.seed, step))
