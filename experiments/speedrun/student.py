"""The student: cycles of ``jaxdiv.distillation`` with data, augmentation and draws on the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.one_step_image.models import Denoiser, build_head, distillation_networks
from experiments.one_step_image.student import digest, flat_metrics
from experiments.speedrun.clock import Timing
from experiments.speedrun.config import NUM_CLASSES, Config, StudentConfig
from experiments.speedrun.optimizers import build_optimizer, trapezoid
from experiments.speedrun.pixels import Pixels, data_key, draw_batch
from experiments.speedrun.stage import run_stage
from jaxdiv import distillation, training
from jaxdiv.distillation import Batch, State
from jaxdiv.typing import Array, PRNGKey, PyTree

StudentFn = Callable[[PyTree, Array, Array | None], Array]


def build_student(denoiser: Denoiser, settings: StudentConfig) -> StudentFn:
    """``(params, z, labels) -> images``; with frozen convolutions no gradient of theirs is formed."""
    student_fn = distillation.one_step_student(denoiser.denoise_fn, init_sigma=settings.init_sigma)
    if not settings.frozen_convolutions:
        return student_fn

    def frozen(params: PyTree, z: Array, labels: Array | None) -> Array:
        stopped = jax.tree.map(lambda p: jax.lax.stop_gradient(p) if p.ndim == 4 else p, params)
        return student_fn(stopped, z, labels)

    return frozen


def distillation_config(config: Config, denoiser: Denoiser) -> distillation.Config:
    """The library's configuration of this run."""
    settings = config.student

    def optimizer(name: str, factor: float) -> Any:
        rate = factor * settings.learning_rate
        rate_fn = trapezoid(rate, warmup=settings.warmup, decay_from=settings.decay_from)
        return build_optimizer(name, rate_fn, b1=settings.adam_b1, clip_norm=settings.clip_norm)

    return distillation.Config(
        method=config.distillation_method,
        sample_shape=denoiser.shape,
        batch_size=settings.batch_size,
        student_optimizer=optimizer(settings.optimizer, 1.0),
        fake_optimizer=optimizer(settings.fake_optimizer, settings.fake_rate_factor),
        sigma_data=denoiser.sigma_data,
        ema_decay=training.ema_decay(settings.ema_images / settings.batch_size),
        num_classes=NUM_CLASSES if config.conditional else None,
    )


def distil(
    config: Config, pixels: Pixels, denoiser: Denoiser, teacher: PyTree, **stage: Any
) -> tuple[StudentFn, State, Timing]:
    """The student's function, the final state (its ``student_ema`` is the result) and the time.

    Args:
        config: of the run.
        pixels: the training set on the device; not looked at by a method without a discriminator.
        denoiser: the architecture of all three networks.
        teacher: its weights, from which student and fake score start.
        stage: what ``run_stage`` wants besides.
    """
    settings, method = config.student, config.distillation_method
    library_config = distillation_config(config, denoiser)
    head_fn = head = None
    if method.needs_discriminator:
        head_fn, head = build_head(denoiser, seed=config.seed, layers=settings.gan_layers)
    networks = distillation_networks(denoiser, head_fn, build_student(denoiser, settings))
    update = partial(distillation.update, config=library_config, networks=networks)

    def real(split: Pixels, key: PRNGKey, cycle: Array) -> Batch:
        if not method.needs_discriminator:
            return Batch()
        steps = cycle * method.num_fake_steps + jnp.arange(method.num_fake_steps)
        draw = partial(draw_batch, split, key, batch_size=settings.batch_size)
        images, labels = jax.lax.map(draw, steps)
        return Batch(real=images, real_labels=labels if config.conditional else None)

    @partial(jax.jit, donate_argnums=0)
    def cycle(state: State, batch: tuple[Pixels, PRNGKey, PyTree]) -> tuple[State, dict[str, Array]]:
        split, key, teacher = batch
        state, info = update(state, real(split, key, state.step), teacher=teacher)
        return state, flat_metrics(info, method)

    order_key = data_key(config.seed)  # an argument: one compiled program serves every seed
    state, timing = run_stage(
        "student",
        make_state=lambda: distillation.init(
            library_config, student=teacher, fake=teacher, head=head, key=jax.random.key(config.seed)
        ),
        step_fn=cycle,
        batch_fn=lambda step: (pixels, order_key, teacher),
        updates_per_step={"student_optimizer": 1, "fake_optimizer": method.num_fake_steps},
        minutes=config.stage_minutes["student"],
        steps=settings.steps,
        fingerprint=config.fingerprint("student") | {"teacher_digest": digest(teacher)},
        progress=("gap", "discriminator_accuracy", "skipped") if method.needs_discriminator else ("gap", "skipped"),
        **stage,
    )
    return networks.student_fn, state, timing
