"""The diffusion teacher: trained on the data with EDM's loss, or loaded."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.one_step_image.config import Config, TeacherConfig
from experiments.one_step_image.images import Images
from experiments.one_step_image.models import Denoiser, build_denoiser
from jaxdiv import diffusion, networks, training
from jaxdiv.checks import fail
from jaxdiv.typing import Array, PRNGKey, PyTree

STEPS_PER_CALL = 50


def denoising_loss(
    denoiser: Denoiser, params: PyTree, images: Array, key: PRNGKey, labels: Array | None = None
) -> Array:
    """EDM's weighted loss of a batch, mean over examples and pixels, with noise levels and noise from ``key``."""
    key_sigma, key_noise = jax.random.split(key)
    sigma = diffusion.sample_log_normal(key_sigma, images.shape[:1])
    losses = diffusion.denoising_loss(
        lambda x, sigma: denoiser.denoise_fn(params, x, sigma, labels),
        images,
        sigma=sigma,
        noise=jax.random.normal(key_noise, images.shape),
        weight=diffusion.edm_weight(sigma, sigma_data=denoiser.sigma_data),
    )
    return jnp.mean(losses)


def teacher_optimizer(config: TeacherConfig) -> optax.GradientTransformation:
    """Adam with warm-up and 1/sqrt decay, gradients clipped to norm 5."""

    def rate(step: Array) -> Array:
        warm = jnp.minimum(1.0, (step + 1) / 300)
        return config.learning_rate * warm / jnp.sqrt(jnp.maximum(1.0, 2 * step / max(config.steps, 1)))

    return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate, b1=0.9, b2=0.99))


def train_teacher(config: Config, images: Images, directory: Path | None, **loop: Any) -> tuple[Denoiser, PyTree]:
    """Trains a teacher and returns its architecture and its averaged weights."""
    settings = config.training
    denoiser = build_denoiser(config, images.shape, images.sigma_data, seed=settings.seed)
    optimizer = teacher_optimizer(settings)
    batches = images.batches(batch_size=settings.batch_size, seed=settings.seed)

    def loss_fn(params: PyTree, batch: Array, key: PRNGKey) -> tuple[Array, dict[str, Array]]:
        return denoising_loss(denoiser, params, batch, key), {}

    mesh = training.data_mesh()
    step_fn = training.make_train_step(loss_fn, optimizer, decay=settings.ema_decay, steps_per_call=STEPS_PER_CALL)
    state = training.create_state(denoiser.params, optimizer, jax.random.key(settings.seed))
    state = training.train(
        step_fn,
        training.replicate(state, mesh),
        num_steps=settings.steps,
        batch_fn=lambda step: batches.at(step)["image"],
        place_fn=lambda batch: training.shard_batch(batch, mesh, axis=1),
        directory=directory,
        config=config.teacher_fingerprint(),
        save_every=config.save_every,
        steps_per_call=STEPS_PER_CALL,
        log_every=STEPS_PER_CALL,
        progress=("loss", "skipped"),
        description="teacher",
        tensorboard=config.tensorboard,
        **loop,
    )
    return denoiser, state.ema


def load_teacher(config: Config, images: Images, path: Path) -> tuple[Denoiser, PyTree]:
    """A teacher from the folder of an earlier run, or from an EDM-format file and the ``config.json`` beside it.

    Raises:
      ValueError: the folder holds neither, another data set's teacher or architecture, or one that is not trained yet.
      CheckpointError: its checkpoints are damaged.
    """
    files = sorted(path.glob("*_teacher.npz"))
    if files:
        return load_edm_teacher(files[0], images.shape)
    checkpoints = path / "teacher" / "checkpoints"
    if not training.checkpoint_steps(checkpoints):
        raise fail("load_teacher", "teacher", f"{path} holds none", "teacher/checkpoints of a run, or NAME_teacher.npz")
    denoiser = build_denoiser(config, images.shape, images.sigma_data, seed=config.training.seed)
    optimizer = teacher_optimizer(config.training)
    template = training.create_state(denoiser.params, optimizer, jax.random.key(config.training.seed))
    restored = training.restore_checkpoint(checkpoints, template)
    trained_on, steps = restored.config["data"], restored.config["training"]["steps"]
    if trained_on != config.data:
        raise fail("load_teacher", "teacher", f"{path} was trained on {trained_on}", f"one trained on {config.data}")
    if restored.step < steps:
        raise fail("load_teacher", "teacher", f"{path} is at step {restored.step}", f"all {steps}; finish it first")
    return denoiser, restored.state.ema


def load_edm_teacher(path: Path, shape: tuple[int, int, int]) -> tuple[Denoiser, PyTree]:
    """A teacher from weights in EDM's names and the ``config.json`` beside them, for images of that shape.

    Raises:
      ValueError: it makes other images, or the weights do not fit the settings.
      FileNotFoundError: a file is missing.
    """
    model_config, params = networks.load_edm_weights(path)
    makes = (model_config.image_size, model_config.image_size, model_config.channels)
    if makes != shape:
        raise fail("load_teacher", "teacher", f"{path} makes images of {makes}", f"the data's {shape}")
    # Shapes alone: no parameters are drawn only to be replaced.
    apply_fn, _ = networks.functional(nnx.eval_shape(lambda: networks.UNet(model_config, rngs=nnx.Rngs(0))))
    settings = json.loads((path.parent / "config.json").read_text())
    sigma_data = settings["EDMPrecond"].get("sigma_data", 0.5)  # EDM's default
    return Denoiser(diffusion.precondition(apply_fn, sigma_data=sigma_data), params, sigma_data, shape), params
