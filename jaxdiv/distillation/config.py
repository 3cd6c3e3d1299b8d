"""What a distillation run is made of: the method, the callables that stand for networks, the training settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import optax

from jaxdiv.checks import check_choice, check_range, fail
from jaxdiv.distillation.noise_laws import LogNormal, NoiseLaw
from jaxdiv.distillation.objective import Objective
from jaxdiv.distillation.ratio import NoiseBins
from jaxdiv.typing import Array, PyTree


@dataclass(frozen=True)
class Method:
    """A distillation method: its objective, its further terms and its schedule.

    Attributes:
      objective: the four choices.
      gan_weight: weight of the generator loss ``softplus(-l)``, averaged over the batch, beside an objective reduced by
        "mean"; beside a "sum" it counts once for every element of an example, so that it means the same.
      discriminator_weight: weight of the discriminator loss beside the denoising loss of the fake score.
      r1_weight: weight of the gradient penalty on real samples.
      r1_scale: None for the exact penalty, else the perturbation of the one-forward-pass approximation.
      regression_weight: weight of ``|student(z) - x|^2`` (mean over elements) on given pairs; DMD's term, with the
        plain squared error in place of LPIPS, whose pretrained network this library does not ship.
      num_fake_steps: updates of fake score and discriminator for one of the student.
      feature_source: whose features the discriminator's head reads: the frozen "teacher"'s or the trained "fake"'s.
      student_noise: law of sigma in the student step.
      fake_noise: law of sigma in the fake steps, for real and generated samples alike.
    """

    objective: Objective
    gan_weight: float = 0.0
    discriminator_weight: float = 1.0
    r1_weight: float = 0.0
    r1_scale: float | None = None
    regression_weight: float = 0.0
    num_fake_steps: int = 1
    feature_source: Literal["teacher", "fake"] = "fake"
    student_noise: NoiseLaw = LogNormal()
    fake_noise: NoiseLaw = LogNormal()

    def __post_init__(self) -> None:
        for name in ("gan_weight", "discriminator_weight", "r1_weight", "regression_weight"):
            check_range("Method", name, getattr(self, name), 0.0)
        if self.r1_scale is not None:
            check_range("Method", "r1_scale", self.r1_scale, 0.0, open_low=True)
        if self.r1_weight > 0 and not self.needs_discriminator:
            raise fail("Method", "r1_weight", f"is {self.r1_weight}", "0 without a discriminator, whose gradient it is")
        check_range("Method", "num_fake_steps", self.num_fake_steps, 1)
        check_choice("Method", "feature_source", self.feature_source, ("teacher", "fake"))

    @property
    def needs_discriminator(self) -> bool:
        """Whether a density ratio or an adversarial term is asked for."""
        return self.objective.ratio != "one" or self.gan_weight > 0


class Networks(NamedTuple):
    """The callables; parameters are always passed in, so nothing here holds state.

    ``labels`` is ``[B]`` int32 or None. Features are whatever ``head_fn`` reads.
    """

    student_fn: Callable[[PyTree, Array, Array | None], Array]
    """``(params, z, labels) -> x_0``; ``z`` is standard normal, shape of ``x_0``."""
    teacher_fn: Callable[[PyTree, Array, Array, Array | None], tuple[Array, PyTree]]
    """``(params, x_t, sigma, labels) -> (E[x_0 | x_t], features)``."""
    fake_fn: Callable[[PyTree, Array, Array, Array | None], tuple[Array, PyTree]]
    """The same, for the score network that follows the student."""
    head_fn: Callable[[PyTree, PyTree, Array], Array] | None = None
    """``(params, features, sigma) -> logits [B]``, the log of real over generated."""


@dataclass(frozen=True)
class Config:
    """A method and how it is trained; frozen and hashable, so ``jax.jit`` takes it as static.

    Attributes:
      method: what is optimised.
      sample_shape: shape of one sample, for example ``(32, 32, 3)``.
      batch_size: examples of every step, over all devices.
      student_optimizer: optax transformation for the student.
      fake_optimizer: optax transformation for fake score and head together.
      sigma_data: standard deviation of the data, for the denoising weight.
      ema_decay: decay of the student's average per cycle, ramped as ``min(decay, (1 + t)/(10 + t))``.
      num_classes: classes to draw labels from, None for unconditional networks.
      bins: noise bins of the diagnostics and of the ratio normalisation.
      normalize_ratio: whether ``E_p[r] = 1`` is imposed in each noise bin.
      ratio_decay: decay of the bins' running means; 0 is the batch mean alone.
      ratio_limit: log-ratios are clipped to ``[-limit, limit]``, and counted.
      student_start: first cycle in which the student moves.
      gan_start: first cycle in which its adversarial term counts.
    """

    method: Method
    sample_shape: tuple[int, ...]
    batch_size: int
    student_optimizer: optax.GradientTransformation
    fake_optimizer: optax.GradientTransformation
    sigma_data: float = 0.5
    ema_decay: float = 0.999
    num_classes: int | None = None
    bins: NoiseBins = NoiseBins()
    normalize_ratio: bool = True
    ratio_decay: float = 0.9
    ratio_limit: float = 10.0
    student_start: int = 0
    gan_start: int = 0

    def __post_init__(self) -> None:
        if not self.sample_shape or any(size < 1 for size in self.sample_shape):
            raise fail("Config", "sample_shape", f"is {self.sample_shape}", "at least one axis, all positive")
        check_range("Config", "batch_size", self.batch_size, 1)
        check_range("Config", "sigma_data", self.sigma_data, 0.0, open_low=True)
        check_range("Config", "ema_decay", self.ema_decay, 0.0, 1.0, open_high=True)
        if self.num_classes is not None:
            check_range("Config", "num_classes", self.num_classes, 1)
        check_range("Config", "ratio_decay", self.ratio_decay, 0.0, 1.0, open_high=True)
        check_range("Config", "ratio_limit", self.ratio_limit, 0.0, open_low=True)
        check_range("Config", "student_start", self.student_start, 0)
        check_range("Config", "gan_start", self.gan_start, 0)
