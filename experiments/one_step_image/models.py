"""Teacher, fake score and student share one architecture; here it becomes the callables that the mathematics takes."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.one_step_image.config import Config, StudentConfig
from jaxdiv import diffusion, networks
from jaxdiv.distillation import Networks, one_step_student
from jaxdiv.typing import Array, PyTree


class Denoiser(NamedTuple):
    """A network under EDM's preconditioning."""

    denoise_fn: Callable[..., Any]
    """``(params, x, sigma, labels=None, **kwargs) -> E[x_0 | x]``."""
    params: PyTree
    """Freshly initialised."""
    sigma_data: float
    shape: tuple[int, int, int]


def build_denoiser(config: Config, shape: tuple[int, int, int], sigma_data: float, *, seed: int) -> Denoiser:
    """The architecture that the configuration names, for images of that shape."""
    size, _, channels = shape
    rngs = nnx.Rngs(seed)
    if config.network == "mlp" or (config.network == "auto" and size <= 8):
        model = networks.MLPDenoiser(networks.MLPConfig(image_size=size, channels=channels), rngs=rngs)
    elif size == 8:
        model = networks.UNet(networks.small_8x8(channels=channels), rngs=rngs)
    else:
        # 28x28 halves twice to 7x7, as 32x32 does to 8x8.
        unet = networks.UNetConfig(
            image_size=size, channels=channels, model_channels=config.channels, channel_mult=(1, 2, 2), num_blocks=2,
            attn_resolutions=(size // 2,),
        )  # fmt: skip
        model = networks.UNet(unet, rngs=rngs)
    apply_fn, params = networks.functional(model)
    return Denoiser(diffusion.precondition(apply_fn, sigma_data=sigma_data), params, sigma_data, shape)


def build_head(
    denoiser: Denoiser, *, seed: int, layers: Sequence[int] | None = None
) -> tuple[Callable[[PyTree, PyTree, Array], Array], PyTree]:
    """A discriminator head on the network's features (of a U-Net: on the chosen maps, or all), and its parameters."""
    image, sigma = jnp.zeros((1, *denoiser.shape)), jnp.ones(1)
    _, features = jax.eval_shape(partial(denoiser.denoise_fn, with_features=True), denoiser.params, image, sigma)
    shapes = networks.feature_shapes(features)
    rngs = nnx.Rngs(seed)
    if all(len(shape) == 1 for shape in shapes):
        # The middle and the last hidden state: all of them are more parameters and no better on digits.
        head = networks.MLPHead(shapes, layers=(len(shapes) // 2 - 1, -1), rngs=rngs)
    else:
        head = networks.ConvHead(shapes, layers=layers, rngs=rngs)
    apply_fn, params = networks.functional(head)
    return (lambda params, features, sigma: apply_fn(params, features, jnp.log(sigma) / 4)), params


def build_student(denoiser: Denoiser, settings: StudentConfig) -> Callable[[PyTree, Array, Array | None], Array]:
    """``(params, z, labels) -> images``: the denoiser read at one noise level, on all of the latent or a part of it."""
    student_fn = one_step_student(denoiser.denoise_fn, init_sigma=settings.init_sigma)
    if settings.latent_dims is None:
        return student_fn
    kept = (jnp.arange(math.prod(denoiser.shape)) < settings.latent_dims).reshape(denoiser.shape)
    return lambda params, z, labels: student_fn(params, jnp.where(kept, z, 0), labels)


def distillation_networks(denoiser: Denoiser, head_fn: Callable | None, student_fn: Callable) -> Networks:
    """The callables of ``jaxdiv.distillation``: teacher and fake score are the denoiser, with features for a head."""
    with_features = head_fn is not None

    def score_fn(params: PyTree, x: Array, sigma: Array, labels: Array | None) -> tuple[Array, PyTree]:
        if with_features:
            return denoiser.denoise_fn(params, x, sigma, labels, with_features=True)
        return denoiser.denoise_fn(params, x, sigma, labels), ()

    return Networks(student_fn, score_fn, score_fn, head_fn)


def chunked(fn: Callable[[Array], Array], inputs: Array, *, size: int = 1000) -> Array:
    """``fn`` over slices of the inputs, so that memory does not grow with their number."""
    return jnp.concatenate([fn(inputs[i : i + size]) for i in range(0, len(inputs), size)])


def sampler(denoiser: Denoiser, *, num_levels: int) -> Callable[[PyTree, Array], Array]:
    """Jitted ``(params, z) -> images`` by EDM's deterministic sampler at ``2 num_levels - 1`` evaluations."""
    levels = diffusion.karras_noise_levels(num_levels)

    @jax.jit
    def sample(params: PyTree, z: Array) -> Array:
        return diffusion.heun_sample(partial(denoiser.denoise_fn, params), z, sigmas=levels)

    return sample
