"""One run through all tasks in one program, mapped over learning rates and seeds."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.optimizer_solutions.measures import class_cosines, mean_ranks
from experiments.optimizer_solutions.network import apply_network, hidden_kernels, init_network
from experiments.optimizer_solutions.optimizers import build_optimizer
from experiments.optimizer_solutions.tasks import Suite
from jaxdiv.typing import Array, PRNGKey, PyTree


class Evaluation(NamedTuple):
    """What a network does on each task's held-out images."""

    accuracy: Array
    """``[T]``, among all classes; a run that has diverged is right nowhere."""
    own_accuracy: Array
    """``[T]``, among the classes of the task."""
    loss: Array
    """``[T]``, cross-entropy in nats over all classes."""
    cosines: Array
    """``[C, C]``: see `class_cosines`, of all held-out images as each task sees them, mean over the tasks where
    it is a number."""


class Outcome(NamedTuple):
    """One run. T tasks in rows, in the order in which they were learned."""

    accuracy: Array
    """``[T, T]``: after task t on task s; also the next two."""
    own_accuracy: Array
    loss: Array
    cosines: Array
    """``[C, C]`` at the end."""
    weight_ranks: Array
    """``[2]``: effective and stable rank of the hidden matrices at the end, mean over layers."""
    change_ranks: Array
    """``[2]``, of what they have moved since their initialisation."""
    update_ranks: Array
    """``[2]``, of the last update of each task, mean over tasks."""


def evaluate(params: PyTree, suite: Suite) -> Evaluation:
    """On the suite's held-out images."""
    images, labels = suite.images[suite.eval_rows], suite.labels[suite.eval_rows]

    def on_task(task: tuple[Array, Array]) -> Evaluation:
        permutation, classes = task
        logits, features = apply_network(params, images[:, permutation])
        weights = jnp.where(suite.eval_mask & classes[labels], 1.0, 0.0)
        finite = jnp.all(jnp.isfinite(logits), axis=1)

        def mean(values: Array) -> Array:
            return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), 1.0)

        own_logits = jnp.where(classes, logits, -jnp.inf)
        return Evaluation(
            mean(finite & (jnp.argmax(logits, axis=1) == labels)),
            mean(finite & (jnp.argmax(own_logits, axis=1) == labels)),
            mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)),
            class_cosines(features, labels, suite.eval_mask, num_classes=len(classes)),
        )

    found = jax.lax.map(on_task, (suite.permutations, suite.classes))
    return found._replace(cosines=jnp.nanmean(found.cosines, axis=0))


def learn(
    suite: Suite,
    rate: Array,
    key: PRNGKey,
    *,
    build_fn: Callable[[Array], optax.GradientTransformation],
    widths: Sequence[int],
    steps: int,
    batch_size: int,
) -> Outcome:
    """All tasks one after another; the optimizer's state goes on from one to the next, as nobody tells it of them."""
    optimizer = build_fn(rate)
    init_key, batch_key = jax.random.split(key)
    num_tasks, num_classes = suite.classes.shape
    start = init_network(init_key, inputs=suite.images.shape[1], widths=widths, outputs=num_classes)

    def loss_fn(params: PyTree, x: Array, y: Array) -> Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(apply_network(params, x)[0], y))

    def on_task(carry: tuple[PyTree, PyTree], task: Array) -> tuple[tuple[PyTree, PyTree], Any]:
        def step(carry: tuple[PyTree, PyTree, PyTree], number: Array) -> tuple[tuple[PyTree, PyTree, PyTree], None]:
            params, state, _ = carry
            step_key = jax.random.fold_in(batch_key, task * steps + number)
            rows = suite.train_rows[task, jax.random.randint(step_key, (batch_size,), 0, suite.train_counts[task])]
            x = suite.images[rows][:, suite.permutations[task]]
            updates, state = optimizer.update(jax.grad(loss_fn)(params, x, suite.labels[rows]), state, params)
            return (optax.apply_updates(params, updates), state, updates), None

        params, state = carry
        zeros = jax.tree.map(jnp.zeros_like, params)
        (params, state, updates), _ = jax.lax.scan(step, (params, state, zeros), jnp.arange(steps))
        return (params, state), (evaluate(params, suite), mean_ranks(hidden_kernels(updates)))

    (params, _), (evaluations, update_ranks) = jax.lax.scan(
        on_task, (start, optimizer.init(start)), jnp.arange(num_tasks)
    )
    changes = jax.tree.map(jnp.subtract, params, start)
    return Outcome(
        evaluations.accuracy,
        evaluations.own_accuracy,
        evaluations.loss,
        evaluations.cosines[-1],
        mean_ranks(hidden_kernels(params)),
        mean_ranks(hidden_kernels(changes)),
        jnp.mean(update_ranks, axis=0),
    )


def make_learner(
    name: str, *, widths: Sequence[int], steps: int, batch_size: int, weight_decay: float
) -> Callable[[Suite, Array, Array], Outcome]:
    """``(suite, rates [B], keys [B]) -> Outcome`` with a leading B, compiled once for all suites of one shape."""
    build_fn = partial(build_optimizer, name, weight_decay=weight_decay)
    one = partial(learn, build_fn=build_fn, widths=widths, steps=steps, batch_size=batch_size)
    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
