"""The student's loss: matching, plus the adversarial and regression terms where the method has them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.distillation.adversarial import generator_loss
from jaxdiv.distillation.config import Config, Networks
from jaxdiv.distillation.diagnostics import Diagnostics, diagnose
from jaxdiv.distillation.draws import Draws
from jaxdiv.distillation.objective import Scores, matching_loss
from jaxdiv.distillation.ratio import RatioState, clip_ratio, normalize_ratio, update_ratio
from jaxdiv.typing import Array, PyTree


class StudentInfo(NamedTuple):
    """Terms of the loss (unweighted batch means, NaN where absent), the next ratio state and the diagnostics."""

    matching: Array
    gan: Array
    regression: Array
    ratio: RatioState
    num_clipped: Array
    diagnostics: Diagnostics
    sample_mean: Array
    sample_std: Array


def student_loss(
    student: PyTree,
    drawn: Draws,
    pairs: tuple[Array | None, Array | None, Array | None],
    ratio: RatioState,
    step: Array,
    *,
    frozen: tuple[PyTree, PyTree, PyTree],
    config: Config,
    networks: Networks,
) -> tuple[Array, StudentInfo]:
    """Batch mean of the matching loss, plus ``gan_weight softplus(-l)`` and ``regression_weight |student(z) - x|^2``.

    Where the objective adds elements up, the adversarial term counts once for each of them, as it does in SiDA.

    Differentiated: ``student``, through the samples. ``frozen = (fake, head, teacher)`` are constants, so no gradient
    of theirs is formed.

    Args:
      student: the student's parameters.
      drawn: latents, noises, noise levels and labels.
      pairs: latents, samples and labels of the regression term, or Nones.
      ratio: state of the ratio's normalisation.
      step: the cycle's number, for the start of the adversarial term.
      frozen: parameters of fake score, head and teacher.
      config: the run.
      networks: the callables.

    Returns:
      The scalar loss and ``StudentInfo``.
    """
    method = config.method
    fake, head, teacher = frozen

    def scores_fn(xt: Array, sigma: Array) -> Scores:
        fake_denoised, fake_features = networks.fake_fn(fake, xt, sigma, drawn.labels)
        teacher_denoised, teacher_features = networks.teacher_fn(teacher, xt, sigma, drawn.labels)
        if not method.needs_discriminator:
            return Scores(fake_denoised, teacher_denoised)
        features = teacher_features if method.feature_source == "teacher" else fake_features
        return Scores(fake_denoised, teacher_denoised, networks.head_fn(head, features, sigma))

    def next_ratio(log_ratio: Array, sigma: Array) -> RatioState:
        return update_ratio(ratio, log_ratio, sigma, bins=config.bins, decay=config.ratio_decay)

    def normalized(log_ratio: Array, sigma: Array) -> Array:
        if not config.normalize_ratio:
            return log_ratio
        return normalize_ratio(next_ratio(log_ratio, sigma), log_ratio, sigma, bins=config.bins)

    x0 = networks.student_fn(student, drawn.z, drawn.labels)
    matching = matching_loss(
        method.objective,
        x0,
        drawn.noise,
        sigma=drawn.sigma,
        scores_fn=scores_fn,
        ratio_transform=lambda log_ratio, sigma: clip_ratio(normalized(log_ratio, sigma), limit=config.ratio_limit)[0],
    )
    loss = value = jnp.mean(matching.loss)

    gan, num_clipped, new_ratio = jnp.full((), jnp.nan), jnp.zeros((), jnp.int32), ratio
    if method.needs_discriminator:
        logits = matching.scores.log_ratio
        new_ratio = next_ratio(logits, drawn.sigma)
        num_clipped = clip_ratio(normalized(logits, drawn.sigma), limit=config.ratio_limit)[1]
        gan = jnp.mean(generator_loss(logits))
        if method.gan_weight > 0:
            # Beside a sum over elements once for each of them: the terms' proportion is that of the means.
            count = math.prod(x0.shape[1:]) if method.objective.reduction == "sum" else 1
            loss = loss + jnp.where(step >= config.gan_start, count * method.gan_weight, 0.0) * gan

    regression = jnp.full((), jnp.nan)
    if method.regression_weight > 0:
        latents, targets, labels = pairs
        regression = jnp.mean(jnp.square(networks.student_fn(student, latents, labels) - targets))
        loss = loss + method.regression_weight * regression

    return loss, StudentInfo(
        matching=value,
        gan=gan,
        regression=regression,
        ratio=jax.tree.map(jax.lax.stop_gradient, new_ratio),
        num_clipped=num_clipped,
        diagnostics=diagnose(matching, drawn.sigma, bins=config.bins),
        sample_mean=jnp.mean(x0),
        sample_std=jnp.std(x0),
    )
