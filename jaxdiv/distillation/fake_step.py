"""The loss of the fake score network and of the discriminator head, trained together on the student's samples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.diffusion import denoising_loss, edm_weight
from jaxdiv.diffusion.batching import per_example
from jaxdiv.distillation.adversarial import (
    approximate_r1_penalty,
    discriminator_accuracy,
    discriminator_loss,
    r1_penalty,
)
from jaxdiv.distillation.config import Config, Networks
from jaxdiv.distillation.draws import Draws
from jaxdiv.typing import Array, PyTree


class FakeInfo(NamedTuple):
    """Batch means of one fake step; NaN where the method has no discriminator or penalty."""

    denoising_loss: Array
    discriminator_loss: Array
    discriminator_accuracy: Array
    r1_penalty: Array


def fake_loss(
    params: tuple[PyTree, PyTree],
    samples: Array,
    drawn: Draws,
    real: Array | None,
    real_labels: Array | None,
    *,
    teacher: PyTree,
    config: Config,
    networks: Networks,
) -> tuple[Array, FakeInfo]:
    """EDM-weighted denoising loss on the student's samples, plus the weighted discriminator loss and its penalty.

    Differentiated: ``params = (fake, head)``. The samples and the teacher are constants; a head that reads the
    teacher's features leaves the fake score alone, one that reads the fake score's shapes it too.

    Args:
      params: parameters of fake score and head.
      samples: the student's ``[B, ...]``.
      drawn: noises, noise levels and labels.
      real: real samples ``[B, ...]``, or None without a discriminator.
      real_labels: ``[B]`` or None.
      teacher: the teacher's parameters.
      config: the run.
      networks: the callables.

    Returns:
      The scalar loss and ``FakeInfo``.
    """
    method = config.method
    fake, head = params
    samples = jax.lax.stop_gradient(samples)
    losses, features = denoising_loss(
        lambda x, sigma: networks.fake_fn(fake, x, sigma, drawn.labels),
        samples,
        sigma=drawn.sigma,
        noise=drawn.noise,
        weight=edm_weight(drawn.sigma, sigma_data=config.sigma_data),
        has_aux=True,
    )
    denoising = jnp.mean(losses)
    if not method.needs_discriminator:
        nan = jnp.full((), jnp.nan)
        return denoising, FakeInfo(denoising, nan, nan, nan)

    def real_logit_fn(x: Array) -> Array:
        source = (networks.teacher_fn, teacher) if method.feature_source == "teacher" else (networks.fake_fn, fake)
        return networks.head_fn(head, source[0](source[1], x, drawn.sigma, real_labels)[1], drawn.sigma)

    scale = per_example("fake_loss", "sigma", drawn.sigma, samples)
    noised_real = real + scale * drawn.real_noise
    if method.feature_source == "teacher":
        noised_fake = samples + scale * drawn.noise
        features = networks.teacher_fn(teacher, noised_fake, drawn.sigma, drawn.labels)[1]
    fake_logits = networks.head_fn(head, features, drawn.sigma)
    real_logits = real_logit_fn(noised_real)
    discrimination = jnp.mean(discriminator_loss(real_logits, fake_logits))
    loss = denoising + method.discriminator_weight * discrimination

    penalty = jnp.full((), jnp.nan)
    if method.r1_weight > 0:
        if method.r1_scale is None:
            penalty = jnp.mean(r1_penalty(real_logit_fn, noised_real))
        else:
            move = drawn.z  # standard normal, and independent of the real samples and their noise
            penalty = jnp.mean(approximate_r1_penalty(real_logit_fn, noised_real, move, scale=method.r1_scale))
        loss = loss + method.r1_weight * penalty
    accuracy = discriminator_accuracy(real_logits, fake_logits)
    return loss, FakeInfo(denoising, discrimination, accuracy, penalty)
