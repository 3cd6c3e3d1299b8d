"""Training a critic, and reporting what it shows on samples that neither trained nor selected it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_instance, check_integer, check_key, fail
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.bounds import Objective
from jaxdiv.information.contrastive import info_nce
from jaxdiv.information.critics import Critic, separable_critic
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array, PRNGKey


class CriticFit(NamedTuple):
    """A held-out estimate and the critics behind it; every member but the estimate's value has the rotations first."""

    estimate: Estimate
    params: Any
    """Of the step that validated best. They expect (x - x_mean) / x_scale, and y likewise."""
    x_mean: Array
    x_scale: Array
    y_mean: Array
    y_scale: Array


_ADAM = optax.adam(1e-3)


def fit_critic(
    x: Any,
    y: Any,
    *,
    key: PRNGKey,
    bound: Callable[[Any], Estimate] = info_nce,
    objective: Callable[[Any], Estimate] | Objective | None = None,
    critic: Critic | None = None,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2000,
    batch_size: int = 256,
    eval_batch_size: int = 512,
    num_folds: int = 5,
    num_rotations: int | None = None,
    eval_every: int = 100,
    patience: int | None = None,
) -> CriticFit:
    r"""Trains a critic on one part of the samples, stops by a second, and reports a bound on a third.

    The rows are shuffled into num_folds parts: the first reports, the second validates, the rest trains. Of all
    evaluations, one every eval_every steps, the parameters that validated best are kept, and only these meet the
    reporting part. So neither overfitting nor the choice of the step can lift the value: a lower bound stays one. (The
    best value of the reporting part itself, or the last one in training, would not be.) This is repeated with the parts
    moved on by one, num_rotations times side by side. As often as there are folds, every row reports once, and the
    standard error is that of all N samples.

    Inputs are brought to mean 0 and standard deviation 1 by the rows that train, which changes no mutual information.
    A batch has no row twice, so that off its diagonal no pair is one of the joint distribution.

    Args:
        x: floating ``[N, d_x]`` or ``[N]``.
        y: floating ``[N, d_y]`` or ``[N]``.
        key: typed PRNG key, for the split, the parameters and the batches.
        bound: what is reported: scores -> `Estimate`, such as `info_nce` or ``functools.partial(smile, clip=3.0)``;
            what the critic returns is passed on as it is.
        objective: what is maximised in training, a function like ``bound`` or an `Objective` such as `mine`; None for
            ``bound``. A function selects the step, too; with an `Objective` that is done by ``bound``.
        critic: None for `separable_critic`.
        optimizer: an optax transformation; None for Adam at 1e-3.
        num_steps: a multiple of eval_every.
        batch_size: rows of a training batch, at most the rows that train (then all of them).
        eval_batch_size: most rows of a batch in evaluation, where the value is the mean over batches of equal size and
            up to a batch's number of rows less one may be left out. It sets InfoNCE's ceiling.
        num_folds: at least 3.
        num_rotations: R, from 1 to num_folds; None for num_folds.
        eval_every: steps between evaluations.
        patience: stop after this many evaluations without a better one; None to run all steps.

    Returns:
        A `CriticFit`. Its estimate has the bound's kind and ceiling, a value in the dtype of the inputs (float32 at
        least), and a standard error from the bound's terms, as if the critic were given. In ``info``: ``local``, the
        terms of all rows that reported, in the order of the split; ``training_curve`` and ``validation_curve``
        ``[R, E]``, E = num_steps / eval_every, of the objective (training: the mean over the steps since the last
        evaluation) with NaN after an early stop; ``best_step`` int32 ``[R]``; ``rotation_values`` ``[R]``. NaN or
        infinity among the samples makes the value NaN. Compiled once per shape and setting: pass the same bound and
        optimizer objects again to use that. Nothing is to be differentiated.

    Raises:
        ValueError: wrong shapes, types or counts, fewer than 2 rows a part, a bound that returns no `Estimate`.

    Source: the parts and rotations are cross-fitting; what to report is left open by Belghazi et al.
    (arXiv:1801.04062) and Poole et al. (arXiv:1905.06922).

    >>> x = jax.random.normal(jax.random.key(0), (200,))
    >>> fit = fit_critic(x, x, key=jax.random.key(1), num_steps=100, batch_size=32)
    >>> fit.estimate.kind, bool(1.0 < fit.estimate.value < fit.estimate.ceiling)
    ('lower bound', True)
    """
    function = "fit_critic"
    x, y = paired_samples(function, x=x, y=y)
    check_key(function, key)
    critic = separable_critic() if critic is None else critic
    optimizer = _ADAM if optimizer is None else optimizer
    objective = bound if objective is None else objective
    check_instance(function, "critic", critic, Critic)
    check_instance(function, "optimizer", optimizer, optax.GradientTransformation)
    for name, value in (("bound", bound), ("objective", objective)):
        if not callable(value) and not (name == "objective" and isinstance(value, Objective)):
            raise fail(function, name, f"is {value!r}", "a function of scores")
    check_integer(function, "num_folds", num_folds, 3)
    num_rotations = num_folds if num_rotations is None else num_rotations
    check_integer(function, "num_rotations", num_rotations, 1, num_folds)
    check_integer(function, "batch_size", batch_size, 2)
    check_integer(function, "eval_batch_size", eval_batch_size, 2)
    check_integer(function, "eval_every", eval_every, 1)
    check_integer(function, "num_steps", num_steps, 1)
    if patience is not None:
        check_integer(function, "patience", patience, 1)
    if num_steps % eval_every:
        raise fail(function, "num_steps", f"is {num_steps}", f"a multiple of eval_every = {eval_every}")
    fold = x.shape[0] // num_folds
    if fold < 2:
        raise fail(function, "num_folds", f"is {num_folds}", f"at most half of the {x.shape[0]} rows of x")
    num_evals = num_steps // eval_every
    num_batches = -(-fold // eval_batch_size)
    eval_shape = (num_batches, fold // num_batches)
    return _fit(
        key,
        x,
        y,
        bound=bound,
        objective=objective,
        critic=critic,
        optimizer=optimizer,
        batch_size=min(batch_size, x.shape[0] - 2 * fold),
        num_folds=num_folds,
        num_rotations=num_rotations,
        eval_every=eval_every,
        num_evals=num_evals,
        eval_shape=eval_shape,
        patience=num_evals if patience is None else patience,
    )


def _check_estimate(argument: str, estimate: Any) -> Estimate:
    if not isinstance(estimate, Estimate):
        raise fail(
            "fit_critic", argument, f"returns a {type(estimate).__name__}", "a function that returns an Estimate"
        )
    return estimate


class _Progress(NamedTuple):
    """What the training loop carries: the run, the best of it, and the curves."""

    count: Array
    params: Any
    optimizer_state: Any
    objective_state: Any
    best_params: Any
    best_value: Array
    best_count: Array
    training_curve: Array
    validation_curve: Array


@functools.partial(
    jax.jit,
    static_argnames=(
        "bound",
        "objective",
        "critic",
        "optimizer",
        "batch_size",
        "num_folds",
        "num_rotations",
        "eval_every",
        "num_evals",
        "eval_shape",
        "patience",
    ),
)
def _fit(
    key: PRNGKey,
    x: Array,
    y: Array,
    *,
    bound: Callable[[Any], Estimate],
    objective: Callable[[Any], Estimate] | Objective,
    critic: Critic,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    num_folds: int,
    num_rotations: int,
    eval_every: int,
    num_evals: int,
    eval_shape: tuple[int, int],
    patience: int,
) -> CriticFit:
    num_rows, dtype = x.shape[0], x.dtype
    fold = num_rows // num_folds
    num_train = num_rows - 2 * fold
    split_key, key = jax.random.split(key)
    shuffled = jax.random.permutation(split_key, num_rows)
    if isinstance(objective, Objective):
        update, selector = objective.update, bound
        initial_state = objective.init()
    else:
        update, selector = (lambda state, scores, fn=objective: (state, fn(scores))), objective
        initial_state = ()

    def rotation(index: Array) -> tuple[Any, ...]:
        order = jnp.roll(shuffled, -index * fold)
        init_key, batch_key = jax.random.split(jax.random.fold_in(key, index))
        train = order[2 * fold :]

        def scaling(data: Array) -> tuple[Array, Array]:
            scale = jnp.std(data[train], axis=0)
            return jnp.mean(data[train], axis=0), jnp.where(scale > 0.0, scale, 1.0)

        x_mean, x_scale = scaling(x)
        y_mean, y_scale = scaling(y)
        u, v = (x - x_mean) / x_scale, (y - y_mean) / y_scale

        def evaluate(params: Any, rows: Array, function: Callable[[Any], Estimate]) -> Estimate:
            batches = rows[: eval_shape[0] * eval_shape[1]].reshape(eval_shape)
            name = "bound" if function is bound else "objective"
            return jax.lax.map(lambda r: _check_estimate(name, function(critic.apply(params, u[r], v[r]))), batches)

        def loss(params: Any, state: Any, rows: Array) -> tuple[Array, tuple[Any, Array]]:
            state, estimate = update(state, critic.apply(params, u[rows], v[rows]))
            value = _check_estimate("objective", estimate).value
            return -value, (state, value)

        def train_round(p: _Progress) -> _Progress:
            round_rows = train[jax.random.permutation(jax.random.fold_in(batch_key, p.count), num_train)]

            def step(carry: tuple[Any, Any, Any], number: Array) -> tuple[tuple[Any, Any, Any], Array]:
                params, optimizer_state, state = carry
                rows = round_rows[(number * batch_size + jnp.arange(batch_size)) % num_train]
                slope, (state, value) = jax.grad(loss, has_aux=True)(params, state, rows)
                updates, optimizer_state = optimizer.update(slope, optimizer_state, params)
                return (optax.apply_updates(params, updates), optimizer_state, state), value

            start = (p.params, p.optimizer_state, p.objective_state)
            (params, optimizer_state, state), values = jax.lax.scan(step, start, jnp.arange(eval_every))
            value = jnp.mean(evaluate(params, order[fold : 2 * fold], selector).value)
            better = value > p.best_value
            return _Progress(
                p.count + 1,
                params,
                optimizer_state,
                state,
                jax.tree.map(lambda new, old: jnp.where(better, new, old), params, p.best_params),
                jnp.where(better, value, p.best_value),
                jnp.where(better, p.count + 1, p.best_count),
                p.training_curve.at[p.count].set(jnp.mean(values)),
                p.validation_curve.at[p.count].set(value),
            )

        def unfinished(p: _Progress) -> Array:
            return (p.count < num_evals) & (p.count - p.best_count < patience)

        params = critic.init(init_key, x.shape[1], y.shape[1])
        zero, blank = jnp.zeros((), jnp.int32), jnp.full(num_evals, jnp.nan, dtype)
        lowest = jnp.asarray(-jnp.inf, dtype)
        start = _Progress(zero, params, optimizer.init(params), initial_state, params, lowest, zero, blank, blank)
        end = jax.lax.while_loop(unfinished, train_round, start)
        held_out = evaluate(end.best_params, order[:fold], bound)
        curves = (end.training_curve, end.validation_curve, end.best_count * eval_every)
        return held_out, end.best_params, (x_mean, x_scale, y_mean, y_scale), curves

    held_out, params, scalings, curves = jax.vmap(rotation)(jnp.arange(num_rotations))
    usable = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    values = jnp.where(usable, jnp.mean(held_out.value, axis=1), jnp.nan)
    local = held_out.info.get("local")
    estimate = make_estimate(
        jnp.mean(values),
        kind=held_out.kind,
        local=None if local is None else jnp.where(usable, local.reshape(-1), jnp.nan),
        ceiling=held_out.ceiling[0, 0],
        training_curve=curves[0],
        validation_curve=curves[1],
        best_step=curves[2],
        rotation_values=values,
    )
    return CriticFit(estimate, params, *scalings)
