"""The one loss of one-step distillation, with its four choices.

Notation: ``p`` is the student's distribution noised to level sigma, ``q`` the teacher's, ``r = q/p``, ``rho = log r``,
``Delta = score_p - score_q = grad_x log(p/q)``, ``s_cond = (x_0 - x_t)/sigma^2`` the score of ``x_t`` given ``x_0``.
The divergence is ``D_f(teacher || student) = E_p[f(q/p)]``, so ``kl()`` is KL(teacher || student), ``reverse_kl()`` is
KL(student || teacher).

*Integral* form (f-distill): the gradient of ``D_f`` at one noise level is ``E[h(r) Delta . dx_t]``, ``h = r^2 f''(r)``.

*Expanded* form (Uni-Instruct): ``D_f`` of the clean distributions is an integral over sigma of ``F = E_p[C
|Delta|^2]``, ``C = h``, and the gradient of ``F`` is that of ``E[-2 C Delta.(s_p - s_cond) + k |Delta|^2]`` with ``k =
C - dC/drho``, every function of ``x`` frozen and the derivative taken through ``x_t`` and ``x_0``. ``C`` and ``k``
depend on ``x_t`` too: with their values detached, a term is missing, which ``grad_x r = -r Delta`` gives back without
differentiating the estimate of the ratio.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_batch, check_choice, check_floating, check_range, check_same_shape, fail
from jaxdiv.diffusion.batching import per_example
from jaxdiv.distillation.time_weights import TimeWeight, uniform
from jaxdiv.divergences import FDivergence
from jaxdiv.typing import Array

GRADIENTS = ("integral", "expanded")
RATIOS = ("one", "through_x", "detached", "detached_repaired")
SAMPLE_WEIGHTS = ("none", "l1")
WEIGHT_SCALES = ("none", "batch_mean")
REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True)
class Objective:
    """The choices that make a distillation method; frozen and hashable, so it can be a static argument.

    Attributes:
      divergence: f of ``D_f(teacher || student)``; smooth (total variation has no weight ``h`` and is refused).
      gradient: "integral" (a weighted score difference) or "expanded" (a weighted score-matching loss).
      ratio: where ``r`` comes from. "one": constant 1. "through_x": the estimate, differentiated through ``x_t``;
        exact. "detached": its value alone; exact for "integral", biased for "expanded". "detached_repaired": its value
        and the missing term; exact for "expanded".
      time_weight: ``sigma -> weight`` on the score-space gradient; see ``jaxdiv.distillation.time_weights``.
      alpha: SiD's alpha, which multiplies ``k`` by ``2 (1 - alpha)``: 0.5 is exact, 1 drops the term (SIM, SiDA),
        1.2 is SiD's published choice. Only for "expanded".
      sample_weight: "l1" divides each example by the frozen ``mean |x_0 - denoised_teacher|`` (DMD, SiD): steadier
        scales, no longer the exact gradient. "none" keeps it exact.
      weight_scale: "batch_mean" divides ``C`` and ``k`` by the frozen batch mean of ``C``, as f-distill does.
      reduction: how an example's elements are combined: "sum" (SiD) or "mean" (DMD2, f-distill; 1/(number of elements)
        of "sum"). Examples are never reduced here.
    """

    divergence: FDivergence
    gradient: Literal["integral", "expanded"] = "integral"
    ratio: Literal["one", "through_x", "detached", "detached_repaired"] = "one"
    time_weight: TimeWeight = uniform
    alpha: float = 0.5
    sample_weight: Literal["none", "l1"] = "none"
    weight_scale: Literal["none", "batch_mean"] = "none"
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if not isinstance(self.divergence, FDivergence):
            raise fail("Objective", "divergence", f"is {self.divergence!r}", "an FDivergence such as kl()")
        if not self.divergence.is_smooth:
            raise fail("Objective", "divergence", f"is {self.divergence.name}", "one with a weight h = r^2 f''(r)")
        check_choice("Objective", "gradient", self.gradient, GRADIENTS)
        check_choice("Objective", "ratio", self.ratio, RATIOS)
        check_choice("Objective", "sample_weight", self.sample_weight, SAMPLE_WEIGHTS)
        check_choice("Objective", "weight_scale", self.weight_scale, WEIGHT_SCALES)
        check_choice("Objective", "reduction", self.reduction, REDUCTIONS)
        check_range("Objective", "alpha", self.alpha)
        if self.gradient == "integral" and self.ratio == "detached_repaired":
            raise fail("Objective", "ratio", "is 'detached_repaired'", "'detached', exact for 'integral'")


class Scores(NamedTuple):
    """What student, teacher and discriminator say about noised samples ``x_t [B, ...]`` at ``sigma [B]``."""

    fake: Array
    """``E_p[x_0 | x_t]`` of the student's distribution, shape of ``x_t``."""
    teacher: Array
    """``E_q[x_0 | x_t]`` of the teacher's."""
    log_ratio: Array | None = None
    """``log q(x_t) - log p(x_t)``, ``[B]``, or None where the objective needs none."""


ScoresFn = Callable[[Array, Array], Scores]


class Coefficients(NamedTuple):
    """``C = h(r)``, ``k = C - C'`` and their derivatives in ``rho``; each ``[B]``."""

    c: Array
    k: Array
    dc: Array
    dk: Array


def coefficients(divergence: FDivergence, log_ratio: Array) -> Coefficients:
    """The coefficients of the expanded gradient, ``C = r^2 f''(r)`` and ``k = C - dC/drho``, with their derivatives.

    Derivatives are forward-mode derivatives of ``divergence.weight``, so every divergence has them.

    >>> from jaxdiv.divergences import kl
    >>> [float(x) for x in coefficients(kl(), jnp.zeros(()))]  # C = r, so k = 0
    [1.0, 0.0, 1.0, 0.0]
    """

    def along(fn: Callable[[Array], Array]) -> Callable[[Array], tuple[Array, Array]]:
        return lambda rho: jax.jvp(fn, (rho,), (jnp.ones_like(rho),))

    def k_fn(rho: Array) -> Array:
        c, dc = along(divergence.weight)(rho)
        return c - dc

    c, dc = along(divergence.weight)(log_ratio)
    k, dk = along(k_fn)(log_ratio)
    return Coefficients(c, k, dc, dk)


class Matching(NamedTuple):
    """A student loss and what it was made of, for diagnostics and further terms."""

    loss: Array
    """``[B]``, float32; its gradient is the objective's, its value is not a divergence."""
    scores: Scores
    """As the networks gave them, in float32; ``log_ratio`` keeps its dependence on ``x_t`` for an adversarial term."""
    log_ratio: Array
    """``[B]``, the ratio that entered (normalised, clipped, or 0 for "one"); frozen."""
    weight: Array
    """``[B]``, the weight ``h`` that entered; frozen."""


def matching_loss(
    objective: Objective,
    x0: Array,
    noise: Array,
    *,
    sigma: Array,
    scores_fn: ScoresFn,
    ratio_transform: Callable[[Array, Array], Array] | None = None,
) -> Matching:
    """Per-example surrogate whose gradient in the student's parameters is the gradient of the chosen divergence.

    Differentiated: the sample path ``x_0`` and ``x_t = x_0 + sigma noise``. Stopped: everything else; the parameters
    behind ``scores_fn`` are constants, so no gradient for them is formed. The expanded form differentiates the two
    score networks in their input, the integral form does not.

    Args:
      objective: the four choices.
      x0: the student's samples ``[B, ...]``, a function of its parameters.
      noise: standard normal, shape of ``x0``.
      sigma: noise levels ``[B]``, positive.
      scores_fn: ``(x_t, sigma) -> Scores``.
      ratio_transform: optional ``(log_ratio, sigma) -> log_ratio``, the normalisation and clipping of the estimate.

    Returns:
      ``Matching`` with a float32 loss per example.

    Raises:
      ValueError: if shapes disagree, or if the objective needs a ratio and ``scores_fn`` gives none.

    Sources: f-distill (Xu et al., arXiv 2502.15681) for the integral form; Uni-Instruct (Wang et al., arXiv
    2505.20755), SiD (Zhou et al., arXiv 2404.04057) and SIM (Luo et al., arXiv 2410.16794) for the expanded one. ``k``
    and the repair term are derived here and checked against quadrature in ``tests/distillation``.

    >>> from jaxdiv.divergences import reverse_kl
    >>> scores = lambda x, sigma: Scores(fake=x / 2, teacher=x / 4)  # student N(0, 1), teacher N(0, 1/3) at sigma = 1
    >>> settings = dict(noise=jnp.zeros((1, 1)), sigma=jnp.ones(1), scores_fn=scores)
    >>> loss = lambda x0: matching_loss(Objective(reverse_kl()), x0, **settings).loss.sum()
    >>> jax.grad(loss)(jnp.ones((1, 1)))  # Delta = x / 4
    Array([[0.25]], dtype=float32)
    """
    check_floating("matching_loss", x0=x0, noise=noise, sigma=sigma)
    check_same_shape("matching_loss", x0=x0, noise=noise)
    check_batch("matching_loss", "sigma", sigma, x0.shape[0])
    x0, noise = _float32(x0), _float32(noise)
    xt = x0 + per_example("matching_loss", "sigma", sigma, x0) * noise

    scores = scores_fn(xt, sigma)
    check_same_shape("matching_loss", x0=x0, fake_score=scores.fake, teacher_score=scores.teacher)
    scores = scores._replace(fake=_float32(scores.fake), teacher=_float32(scores.teacher))
    log_ratio = _entering_ratio(objective, scores, sigma, ratio_transform)
    coefficient = coefficients(objective.divergence, log_ratio)
    if objective.weight_scale == "batch_mean":
        scale = 1 / jax.lax.stop_gradient(jnp.mean(coefficient.c))
        coefficient = jax.tree.map(lambda x: x * scale, coefficient)

    form = _integral if objective.gradient == "integral" else _expanded
    loss = form(objective, coefficient, x0, xt, sigma, scores)
    loss = loss * _sample_weight(objective, x0, scores)
    if objective.reduction == "mean":
        loss = loss / (x0.size // x0.shape[0])
    frozen = jax.lax.stop_gradient((log_ratio, coefficient.c))
    return Matching(loss, scores, *frozen)


def _integral(
    objective: Objective, coefficient: Coefficients, x0: Array, xt: Array, sigma: Array, scores: Scores
) -> Array:
    """``time_weight h Delta . x_t`` with all but ``x_t`` frozen."""
    scale = objective.time_weight(sigma) * coefficient.c / sigma**2
    direction = per_example("matching_loss", "scale", scale, x0) * (scores.fake - scores.teacher)
    return _dot(jax.lax.stop_gradient(direction), xt)


def _expanded(
    objective: Objective, coefficient: Coefficients, x0: Array, xt: Array, sigma: Array, scores: Scores
) -> Array:
    """``time_weight (-2 C Delta.(s_p - s_cond) + k |Delta|^2)``, and the repair of a detached ratio where asked."""
    gap = scores.fake - scores.teacher  # sigma^2 Delta
    alignment = _dot(gap, scores.fake - x0)  # sigma^4 Delta.(s_p - s_cond)
    squared = _dot(gap, gap)  # sigma^4 |Delta|^2
    path = 2 * (1 - objective.alpha)
    weight = objective.time_weight(sigma) / sigma**4
    loss = weight * (-2 * coefficient.c * alignment + path * coefficient.k * squared)
    if objective.ratio == "detached_repaired":
        size = weight * (2 * coefficient.dc * alignment - path * coefficient.dk * squared) / sigma**2
        loss = loss + _dot(jax.lax.stop_gradient(per_example("matching_loss", "size", size, x0) * gap), xt)
    return loss


def _entering_ratio(
    objective: Objective, scores: Scores, sigma: Array, transform: Callable[[Array, Array], Array] | None
) -> Array:
    if objective.ratio == "one":
        return jnp.zeros_like(sigma, dtype=scores.fake.dtype)
    if scores.log_ratio is None:
        raise fail("matching_loss", "scores_fn", "gives no log_ratio", f"one, for ratio={objective.ratio!r}")
    check_batch("matching_loss", "log_ratio", scores.log_ratio, sigma.shape[0])
    log_ratio = _float32(scores.log_ratio)
    if transform is not None:
        log_ratio = transform(log_ratio, sigma)
    return log_ratio if objective.ratio == "through_x" else jax.lax.stop_gradient(log_ratio)


def _sample_weight(objective: Objective, x0: Array, scores: Scores) -> Array | float:
    if objective.sample_weight == "none":
        return 1.0
    distance = jnp.mean(jnp.abs(x0 - scores.teacher), axis=tuple(range(1, x0.ndim)))
    # The floor is SiD's; it acts where student and teacher give the same image.
    return jax.lax.stop_gradient(1 / jnp.maximum(distance, 1e-5))


def _float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _dot(x: Array, y: Array) -> Array:
    return jnp.sum(x * y, axis=tuple(range(1, x.ndim)))
