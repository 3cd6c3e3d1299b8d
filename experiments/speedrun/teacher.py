"""The teacher of a run from scratch, and the fixed one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.one_step_image.models import Denoiser
from experiments.one_step_image.teacher import denoising_loss, load_edm_teacher
from experiments.speedrun.clock import Timing
from experiments.speedrun.config import Config
from experiments.speedrun.optimizers import build_optimizer, trapezoid
from experiments.speedrun.pixels import SHAPE, SIGMA_DATA, Pixels, data_key, draw_batch
from experiments.speedrun.stage import run_stage
from jaxdiv import diffusion, networks, training
from jaxdiv.checks import fail
from jaxdiv.typing import Array, PRNGKey, PyTree


def build_denoiser(config: Config) -> Denoiser:
    """The network of a run from scratch."""
    apply_fn, params = networks.functional(networks.UNet(config.unet, rngs=nnx.Rngs(config.seed)))
    return Denoiser(diffusion.precondition(apply_fn, sigma_data=SIGMA_DATA), params, SIGMA_DATA, SHAPE)


def load_teacher(config: Config) -> tuple[Denoiser, PyTree]:
    """The fixed track's teacher: ``config.teacher``, or the only ``*_teacher.npz`` of ``data_dir/teacher``.

    Raises:
        ValueError: there is no such file or more than one, or it has no classes and the run has, or the reverse.
    """
    path = config.teacher
    if path is None:
        folder = config.data_dir / "teacher"
        found = sorted(folder.glob("*_teacher.npz"))
        if len(found) != 1:
            raise fail("load_teacher", "data_dir", f"has {len(found)} files teacher/*_teacher.npz", "one, or --teacher")
        path = found[0]
    denoiser, params = load_edm_teacher(Path(path), SHAPE)
    if config.conditional != ("map_label" in params):
        has = "has no classes" if config.conditional else "has classes"
        raise fail("load_teacher", "teacher", f"{path} {has}", f"one that fits conditional={config.conditional}")
    return denoiser, params


def train_teacher(config: Config, pixels: Pixels, **stage: Any) -> tuple[Denoiser, PyTree, Timing]:
    """A teacher by EDM's loss: architecture, averaged weights, time.

    The weights are also written in EDM's names, for ``--track teacher --teacher`` of other runs.

    Args:
        config: of the run.
        pixels: the training set on the device.
        stage: what ``run_stage`` wants besides.
    """
    settings, denoiser = config.training, build_denoiser(config)
    optimizer = build_optimizer(
        "adam",
        trapezoid(settings.learning_rate, warmup=settings.warmup, decay_from=settings.decay_from),
        b1=0.9,
        clip_norm=settings.clip_norm,
    )

    def loss_fn(params: PyTree, batch: tuple[Pixels, PRNGKey, Array], key: PRNGKey) -> tuple[Array, dict[str, Array]]:
        split, key_order, step = batch
        images, labels = draw_batch(split, key_order, step, batch_size=settings.batch_size)
        return denoising_loss(denoiser, params, images, key, labels if config.conditional else None), {}

    decay = training.ema_decay(settings.ema_images / settings.batch_size)
    order_key = data_key(config.seed)  # an argument: one compiled program serves every seed
    state, timing = run_stage(
        "teacher",
        make_state=lambda: training.create_state(denoiser.params, optimizer, jax.random.key(config.seed)),
        step_fn=training.make_train_step(loss_fn, optimizer, decay=decay),
        batch_fn=lambda step: (pixels, order_key, np.int32(step)),
        updates_per_step={"optimizer_state": 1},
        minutes=config.stage_minutes["teacher"],
        steps=settings.steps,
        fingerprint=config.fingerprint("teacher"),
        progress=("loss", "skipped"),
        **stage,
    )
    path = stage["directory"] / "teacher_weights" / "speedrun_teacher.npz"
    networks.save_edm_weights(path, state.ema, config.unet, sigma_data=SIGMA_DATA)
    return denoiser, state.ema, timing
