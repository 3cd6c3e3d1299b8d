"""One cycle of distillation: some steps of the fake score, then one of the student.

Jit ``update`` with ``config`` and ``networks`` bound::

    step = jax.jit(functools.partial(update, config=config, networks=networks), donate_argnums=0)
    state, info = step(state, batch, teacher=teacher_params)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_shape, fail
from jaxdiv.distillation.config import Config, Networks
from jaxdiv.distillation.diagnostics import Diagnostics
from jaxdiv.distillation.draws import draw
from jaxdiv.distillation.fake_step import FakeInfo, fake_loss
from jaxdiv.distillation.ratio import RatioState, init_ratio
from jaxdiv.distillation.student_step import student_loss
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, PRNGKey, PyTree


class State(NamedTuple):
    """All that a cycle changes: save it and nothing is lost."""

    student: PyTree
    student_ema: PyTree
    fake: PyTree
    head: PyTree
    student_optimizer: Any
    fake_optimizer: Any
    ratio: RatioState
    key: PRNGKey
    step: Array
    """int32, cycles done."""


class Batch(NamedTuple):
    """What a cycle takes from outside; None where the method does not ask for it."""

    real: Array | None = None
    """``[num_fake_steps, B, ...]`` real samples for the discriminator."""
    real_labels: Array | None = None
    """``[num_fake_steps, B]`` their labels, where networks are conditional."""
    pair_latents: Array | None = None
    """``[B, ...]`` standard normal latents of the regression term."""
    pair_samples: Array | None = None
    """``[B, ...]`` what the teacher's sampler made of them."""
    pair_labels: Array | None = None
    """``[B]`` their labels, where networks are conditional."""


class Info(NamedTuple):
    """Of one cycle; fake-step numbers are means over its fake steps. NaN where the method has no such term."""

    student_loss: Array
    """The surrogate's value, which says nothing of convergence; see ``diagnostics``."""
    gan_loss: Array
    regression_loss: Array
    fake: FakeInfo
    diagnostics: Diagnostics
    student_grad_norm: Array
    sample_mean: Array
    sample_std: Array
    num_clipped: Array
    """Log-ratios clipped in this cycle."""
    num_skipped_student: Array
    """Student steps skipped since the start because a gradient was not finite."""
    num_skipped_fake: Array
    """The same for fake steps."""


def _skipping(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    # A skipped step's zeros have the gradient's dtype, and Muon's updates float32.
    def update_fn(gradient: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        changes, state = optimizer.update(gradient, state, params)
        return jax.tree.map(lambda change, g: change.astype(g.dtype), changes, gradient), state

    # Never give up and apply a non-finite update: the count in the state tells the user.
    inner = optax.GradientTransformation(optimizer.init, update_fn)
    return optax.apply_if_finite(inner, max_consecutive_errors=2**31 - 1)


def init(config: Config, *, student: PyTree, fake: PyTree, head: PyTree = None, key: PRNGKey) -> State:
    """The state before the first cycle. Parameters are copied: the teacher's may be given twice and the state donated.

    The average of the student is kept in float32 at least.

    Args:
      config: the run.
      student: the student's parameters, usually the teacher's.
      fake: the fake score's parameters, usually the teacher's.
      head: the discriminator head's, None where the method has no discriminator.
      key: typed PRNG key; every draw of the run follows from it and the cycle's number.

    Returns:
      ``State``.

    Raises:
      ValueError: if the method needs a discriminator and there is no head, or the reverse.

    >>> from jaxdiv.distillation.methods import METHODS
    >>> config = Config(METHODS["sid"], (2,), 4, optax.sgd(0.1), optax.sgd(0.1))
    >>> int(init(config, student=jnp.ones(2), fake=jnp.ones(2), key=jax.random.key(0)).step)
    0
    """
    if config.method.needs_discriminator and head is None:
        raise fail("init", "head", "is None", "the parameters of a discriminator head, which this method needs")
    if head is not None and not config.method.needs_discriminator:
        raise fail("init", "head", "is given", "None, since this method has no discriminator")
    ema = jax.tree.map(lambda x: jnp.array(promote(x)), student)
    student, fake, head = jax.tree.map(jnp.array, (student, fake, head))
    return State(
        student=student,
        student_ema=ema,
        fake=fake,
        head=head,
        student_optimizer=_skipping(config.student_optimizer).init(student),
        fake_optimizer=_skipping(config.fake_optimizer).init((fake, head)),
        ratio=init_ratio(config.bins),
        key=jnp.array(key),
        step=jnp.zeros((), jnp.int32),
    )


def update(
    state: State,
    batch: Batch,
    *,
    teacher: PyTree,
    config: Config,
    networks: Networks,
    sharding: jax.sharding.NamedSharding | None = None,
) -> tuple[State, Info]:
    """One cycle: ``num_fake_steps`` updates of fake score and head in a ``lax.scan``, then one of the student.

    Each step differentiates the parameters it updates and no others. A step whose gradient is not finite is skipped and
    counted.

    Args:
      state: from ``init`` or the last ``update``; may be donated.
      batch: real samples and pairs, as the method asks.
      teacher: the teacher's parameters, constant.
      config: the run; static.
      networks: the callables; static.
      sharding: how the examples of a batch lie over devices (its spec names the mesh axis of the batch), for samples
        drawn here. Results do not depend on it but for rounding.

    Returns:
      The next state and ``Info``.

    Raises:
      ValueError: if the batch lacks what the method needs, or a shape is wrong.
    """
    _check_batch(batch, config)
    method = config.method

    def examples(x: Array) -> Array:
        return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)

    index = examples(jnp.arange(config.batch_size))
    key_fake, key_student = jax.random.split(jax.random.fold_in(state.key, state.step))

    def draws(key: PRNGKey, noise_law: Any) -> Any:
        drawn = draw(key, index, sample_shape=config.sample_shape, noise_law=noise_law, num_classes=config.num_classes)
        return jax.tree.map(examples, drawn)

    def fake_step(carry: tuple, inputs: tuple) -> tuple[tuple, FakeInfo]:
        params, optimizer_state = carry
        i, real, real_labels = inputs
        drawn = draws(jax.random.fold_in(key_fake, i), method.fake_noise)
        samples = networks.student_fn(state.student, drawn.z, drawn.labels)
        gradient, info = jax.grad(fake_loss, has_aux=True)(
            params, samples, drawn, real, real_labels, teacher=teacher, config=config, networks=networks
        )
        changes, optimizer_state = _skipping(config.fake_optimizer).update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, changes), optimizer_state), info

    inputs = (jnp.arange(method.num_fake_steps), batch.real, batch.real_labels)
    carry = ((state.fake, state.head), state.fake_optimizer)
    ((fake, head), fake_optimizer), fake_info = jax.lax.scan(fake_step, carry, inputs)

    drawn = draws(key_student, method.student_noise)
    pairs = (batch.pair_latents, batch.pair_samples, batch.pair_labels)
    gradient, aux = jax.grad(student_loss, has_aux=True)(
        state.student, drawn, pairs, state.ratio, state.step,
        frozen=(fake, head, teacher), config=config, networks=networks,
    )  # fmt: skip
    changes, student_optimizer = _skipping(config.student_optimizer).update(
        gradient, state.student_optimizer, state.student
    )
    moves = state.step >= config.student_start
    student = _where(moves, optax.apply_updates(state.student, changes), state.student)
    student_optimizer = _where(moves, student_optimizer, state.student_optimizer)

    t = state.step.astype(jnp.float32)
    decay = jnp.minimum(config.ema_decay, (1 + t) / (10 + t))
    ema = optax.incremental_update(student, state.student_ema, 1 - decay)
    new_state = State(student, ema, fake, head, student_optimizer, fake_optimizer, aux.ratio, state.key, state.step + 1)
    return new_state, Info(
        student_loss=aux.matching,
        gan_loss=aux.gan,
        regression_loss=aux.regression,
        fake=jax.tree.map(jnp.mean, fake_info),
        diagnostics=aux.diagnostics,
        student_grad_norm=optax.tree.norm(gradient),
        sample_mean=aux.sample_mean,
        sample_std=aux.sample_std,
        num_clipped=aux.num_clipped,
        num_skipped_student=student_optimizer.total_notfinite,
        num_skipped_fake=fake_optimizer.total_notfinite,
    )


def _where(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


def _check_batch(batch: Batch, config: Config) -> None:
    method, examples = config.method, (config.batch_size, *config.sample_shape)
    if method.needs_discriminator:
        if batch.real is None:
            raise fail("update", "batch.real", "is None", "real samples, which this method's discriminator needs")
        check_shape("update", "batch.real", batch.real, (method.num_fake_steps, *examples))
        if config.num_classes is not None:
            if batch.real_labels is None:
                raise fail("update", "batch.real_labels", "is None", f"labels, with num_classes={config.num_classes}")
            check_shape("update", "batch.real_labels", batch.real_labels, (method.num_fake_steps, config.batch_size))
    if method.regression_weight > 0:
        if batch.pair_latents is None or batch.pair_samples is None:
            raise fail("update", "batch.pair_latents", "or pair_samples is None", "pairs, for the regression term")
        check_shape("update", "batch.pair_latents", batch.pair_latents, examples)
        check_shape("update", "batch.pair_samples", batch.pair_samples, examples)
        if config.num_classes is not None:
            if batch.pair_labels is None:
                raise fail("update", "batch.pair_labels", "is None", f"labels, with num_classes={config.num_classes}")
            check_shape("update", "batch.pair_labels", batch.pair_labels, (config.batch_size,))
