"""The student's training: cycles of ``jaxdiv.distillation`` in the shared loop."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.one_step_image.config import Config
from experiments.one_step_image.images import Images
from experiments.one_step_image.models import Denoiser, build_head, build_student, distillation_networks
from jaxdiv import data, distillation, training
from jaxdiv.distillation import Batch, Info, Method, State
from jaxdiv.typing import Array, PyTree

CYCLES_PER_CALL = 50


class Pairs(NamedTuple):
    """What the teacher's sampler made of standard normal latents; both ``[N, H, W, C]``."""

    latents: np.ndarray
    samples: np.ndarray

    def rows(self, *, batch_size: int, seed: int) -> data.BatchSource:
        """Shuffled row numbers by step, as the labels of batches of empty images."""
        empty = {"image": np.zeros((len(self.samples), 1, 1, 1), np.uint8), "label": np.arange(len(self.samples))}
        return data.BatchSource(empty, half_range=1.0, batch_size=batch_size, seed=seed)


def flat_metrics(info: Info, method: Method) -> dict[str, Array]:
    """One cycle's information under the names that logs and plots use."""
    diagnostics = info.diagnostics
    count = diagnostics.score_gap_count
    score_gap = jnp.where(count > 0, diagnostics.score_gap, 0.0)  # NaN says empty, and so does the count beside it
    metrics = {
        "student_loss": info.student_loss,
        "fake_loss": info.fake.denoising_loss,
        "score_gap": score_gap,
        "score_gap_count": count,
        "ess": diagnostics.effective_sample_size,
        "log_ratio_quantiles": diagnostics.log_ratio_quantiles,
        "student_grad_norm": info.student_grad_norm,
        "sample_mean": info.sample_mean,
        "sample_std": info.sample_std,
        "clipped": info.num_clipped,
        "skipped": info.num_skipped_student + info.num_skipped_fake,
        # One number for the bar: the score gap over all noise levels, which falls as fake and teacher come to agree.
        "gap": jnp.sum(score_gap * count) / jnp.sum(count),
    }
    if method.needs_discriminator:
        metrics["gan_loss"] = info.gan_loss
        metrics["discriminator_loss"] = info.fake.discriminator_loss
        metrics["discriminator_accuracy"] = info.fake.discriminator_accuracy
    if method.regression_weight > 0:
        metrics["regression_loss"] = info.regression_loss
    return metrics


def linear_adam(rate: float, *, steps: int, b1: float, clip_norm: float) -> optax.GradientTransformation:
    """Adam with its rate falling linearly to 0, gradients clipped by their global norm."""
    schedule = optax.linear_schedule(rate, 0.0, steps)
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule, b1=b1, b2=0.99))


def distillation_config(config: Config, images_shape: tuple[int, ...], sigma_data: float) -> distillation.Config:
    """The library's configuration of this run."""
    settings, method = config.distill, config.distillation_method
    return distillation.Config(
        method=method,
        sample_shape=images_shape,
        batch_size=settings.batch_size,
        student_optimizer=linear_adam(
            config.learning_rate, steps=settings.cycles, b1=config.adam_b1, clip_norm=settings.clip_norm
        ),
        fake_optimizer=linear_adam(
            settings.fake_rate_factor * config.learning_rate,
            steps=settings.cycles * method.num_fake_steps,
            b1=config.adam_b1,
            clip_norm=settings.clip_norm,
        ),
        sigma_data=sigma_data,
        ema_decay=settings.ema_decay,
    )


def distil(
    config: Config,
    images: Images,
    denoiser: Denoiser,
    teacher: PyTree,
    pairs: Pairs | None,
    directory: Path | None,
    *,
    eval_fn: Callable[[PyTree, int], dict[str, Any]] | None = None,
    **loop: Any,
) -> tuple[Callable[[PyTree, Array, Array | None], Array], State]:
    """Distils the teacher; returns the student's function and the final state, whose ``student_ema`` is the result."""
    settings, method = config.distill, config.distillation_method
    library_config = distillation_config(config, images.shape, denoiser.sigma_data)
    head_fn, head = build_head(denoiser, seed=settings.seed) if method.needs_discriminator else (None, None)
    networks = distillation_networks(denoiser, head_fn, build_student(denoiser, settings))
    mesh = training.data_mesh()
    teacher = training.replicate(teacher, mesh)
    update = partial(
        distillation.update,
        config=library_config,
        networks=networks,
        sharding=NamedSharding(mesh, PartitionSpec("data")) if mesh.size > 1 else None,
    )

    @partial(jax.jit, donate_argnums=0)
    def cycles(state: State, inputs: tuple[Array, Batch], teacher: PyTree) -> tuple[State, dict[str, Array]]:
        def one(state: State, numbered: tuple[Array, Batch]) -> tuple[State, dict[str, Array]]:
            state, info = update(state, numbered[1], teacher=teacher)
            return state, flat_metrics(info, method)

        return jax.lax.scan(one, state, inputs)  # the cycles' numbers give the length where a method needs no data

    state = distillation.init(
        library_config, student=teacher, fake=teacher, head=head, key=jax.random.key(settings.seed)
    )
    state = training.train(
        lambda state, inputs: cycles(state, inputs, teacher),
        training.replicate(state, mesh),
        num_steps=settings.cycles,
        batch_fn=_batch_fn(config, images, pairs),
        place_fn=lambda inputs: _place(inputs, mesh),
        directory=directory,
        config=config.student_fingerprint() | {"teacher": digest(teacher)},
        save_every=config.save_every,
        steps_per_call=CYCLES_PER_CALL,
        log_every=10,
        eval_every=max(settings.cycles // settings.evaluations, 1) if eval_fn else None,
        eval_fn=eval_fn,
        progress=("gap", "discriminator_accuracy", "skipped") if method.needs_discriminator else ("gap", "skipped"),
        description="student",
        tensorboard=config.tensorboard,
        **loop,
    )
    return networks.student_fn, state


def digest(params: PyTree) -> str:
    """A short hash of the values: a student goes on with the very teacher that it began with.

    >>> zeros = digest({"w": jnp.zeros(2)})
    >>> digest({"w": np.zeros(2)}) == zeros, digest({"w": np.ones(2)}) == zeros
    (True, False)
    """
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        sha.update(np.asarray(leaf, np.float32).tobytes())
    return sha.hexdigest()[:16]


def _place(inputs: tuple[Array, Batch], mesh: jax.sharding.Mesh) -> tuple[Array, Batch]:
    """Axes are (cycle, fake step, example) for real samples and (cycle, example) for pairs."""
    numbers, batch = inputs
    axes = Batch(real=2, real_labels=2, pair_latents=1, pair_samples=1)
    placed = [
        None if leaf is None else training.shard_batch(leaf, mesh, axis=axis)
        for leaf, axis in zip(batch, axes, strict=True)
    ]
    return training.replicate(numbers, mesh), Batch(*placed)


def _batch_fn(config: Config, images: Images, pairs: Pairs | None) -> Callable[[int], tuple[np.int32, Batch]]:
    """A cycle's number and its batch, a function of the number alone."""
    settings, method = config.distill, config.distillation_method
    count, order = method.num_fake_steps, {"batch_size": settings.batch_size, "seed": settings.seed}
    shows_data = method.needs_discriminator and settings.real == "data"
    shows_teacher = method.needs_discriminator and settings.real == "teacher"
    real_source = images.batches(**order) if shows_data else None
    rows = pairs.rows(**order) if pairs is not None else None
    chosen_rows, given = cast(Any, rows), cast(Pairs, pairs)  # both are there whenever the method asks for pairs

    def batch_fn(cycle: int) -> tuple[np.int32, Batch]:
        real = latents = samples = None
        if real_source is not None:
            real = real_source.stacked(cycle * count, count)["image"]
        elif shows_teacher:
            real = given.samples[chosen_rows.stacked(cycle * count, count)["label"]]
        if method.regression_weight > 0:
            chosen = chosen_rows.at(cycle)["label"]
            latents, samples = given.latents[chosen], given.samples[chosen]
        return np.int32(cycle), Batch(real=real, pair_latents=latents, pair_samples=samples)

    return batch_fn
