"""The published methods, as settings of one loss: what each paper fixes, on one screen.

Learning rates, batch sizes and lengths belong to a task, not to a method; they are not here. GAN weights stand beside a
mean over elements (``Method.gan_weight``). ``student_fn`` starts at ``denoiser(init_sigma z)``: 2.5 in SiD's line, 80
in DMD's, 1 in Diff-Instruct's.
"""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp

from jaxdiv.checks import check_choice, fail
from jaxdiv.distillation.config import Method
from jaxdiv.distillation.noise_laws import KarrasUniform, LogNormal
from jaxdiv.distillation.objective import Objective
from jaxdiv.distillation.time_weights import data_space, data_space_squared, epsilon_space
from jaxdiv.divergences import FDivergence, jensen_shannon, reverse_kl
from jaxdiv.typing import Array, PyTree

_EDM, _SID, _DMD = LogNormal(-1.2, 1.2), KarrasUniform(0.0, 0.8), KarrasUniform(0.02, 0.98)
_IKL = dict(divergence=reverse_kl(), gradient="integral", ratio="one")
_FISHER = dict(divergence=reverse_kl(), gradient="expanded", ratio="one", time_weight=data_space_squared)
_SID_SCALE = dict(sample_weight="l1", reduction="sum")

METHODS: dict[str, Method] = {
    # Luo et al., arXiv 2305.18455: integral of KL(student || teacher).
    "diff_instruct": Method(
        Objective(**_IKL, time_weight=data_space), student_noise=_EDM, fake_noise=_EDM
    ),
    # Wang et al. (ProlificDreamer), arXiv 2305.16213, eq. 9: the same gradient, weighed in noise predictions.
    "vsd": Method(
        Objective(**_IKL, time_weight=epsilon_space), student_noise=_DMD, fake_noise=_DMD
    ),
    # Yin et al., arXiv 2311.18828: per-sample scale, and regression onto pairs of the teacher's ODE.
    "dmd": Method(
        Objective(**_IKL, time_weight=data_space, sample_weight="l1"),
        regression_weight=0.25, student_noise=_DMD, fake_noise=_DMD,
    ),
    # Yin et al., arXiv 2405.14867: five fake steps, an adversarial term in place of the regression.
    "dmd2": Method(
        Objective(**_IKL, time_weight=data_space, sample_weight="l1"),
        gan_weight=3e-3, discriminator_weight=1e-2, num_fake_steps=5, student_noise=_DMD, fake_noise=_DMD,
    ),
    # Luo et al., arXiv 2410.16794: score identity, path term dropped (alpha 1), squared distance.
    "sim": Method(
        Objective(**_FISHER, alpha=1.0, reduction="sum"), student_noise=_SID, fake_noise=_EDM
    ),
    # Zhou et al., arXiv 2404.04057: alpha 1.2 is the published choice, 0.5 the exact Fisher gradient.
    "sid": Method(
        Objective(**_FISHER, alpha=1.2, **_SID_SCALE), student_noise=_SID, fake_noise=_EDM
    ),
    # Zhou et al., arXiv 2410.14919: alpha 1 and an adversarial term on the fake score's encoder. Its released code
    # weighs the matching by 100 and the adversarial term by 0.01 for every element: 1e-4. It also divides that term
    # by each example's scale, and sets its discriminator beside a sum over elements; neither is done here.
    "sida": Method(
        Objective(**_FISHER, alpha=1.0, **_SID_SCALE),
        gan_weight=1e-4, discriminator_weight=1.0, student_noise=_SID, fake_noise=_EDM,
    ),
    # Xu et al., arXiv 2502.15681: any divergence, weight h(r) of a detached, normalised ratio.
    "f_distill": Method(
        Objective(
            jensen_shannon(), "integral", "detached", data_space, sample_weight="l1", weight_scale="batch_mean"
        ),
        gan_weight=1e-3, num_fake_steps=5, feature_source="teacher", student_noise=_DMD, fake_noise=_DMD,
    ),
    # Wang et al., arXiv 2505.20755: any divergence, expanded; here with its exact gradient, the ratio through x_t.
    # With reverse KL the gradient is SiD's at alpha 0.5 and the ratio does not enter.
    "uni_instruct": Method(
        Objective(reverse_kl(), "expanded", "through_x", data_space_squared, **_SID_SCALE),
        gan_weight=1e-4, discriminator_weight=1.0, student_noise=_SID, fake_noise=_EDM,
    ),
}  # fmt: skip
"""Name to settings. ``f_distill`` and ``uni_instruct`` take any smooth divergence through ``method``."""

FREE_DIVERGENCE = ("f_distill", "uni_instruct")


def method(name: str, *, divergence: FDivergence | None = None, alpha: float | None = None) -> Method:
    """The settings of a published method, with the one word that its paper leaves open.

    Args:
      name: a key of ``METHODS``.
      divergence: for "f_distill" and "uni_instruct", ``f`` of ``D_f(teacher || student)``. With reverse KL both need
        no ratio.
      alpha: for the expanded methods, SiD's alpha: 0.5 exact, 1 and 1.2 as published.

    Returns:
      ``Method``; change more with ``dataclasses.replace``.

    Raises:
      ValueError: for an unknown name, a divergence where the method fixes it, alpha for an integral method.

    >>> from jaxdiv.divergences import pearson_chi2
    >>> method("uni_instruct", divergence=pearson_chi2()).objective.divergence.name
    'pearson_chi2'
    """
    check_choice("method", "name", name, METHODS)
    chosen = METHODS[name]
    objective = chosen.objective
    if divergence is not None:
        if name not in FREE_DIVERGENCE and divergence != objective.divergence:
            free = " or ".join(FREE_DIVERGENCE)
            raise fail("method", "divergence", f"is {divergence.name}", f"none with {name}, which fixes it; use {free}")
        objective = replace(objective, divergence=divergence)
    if alpha is not None:
        if objective.gradient != "expanded":
            raise fail("method", "alpha", f"is {alpha}", f"none with {name}, whose gradient is not expanded")
        objective = replace(objective, alpha=alpha)
    return replace(chosen, objective=objective)


def one_step_student(
    denoise_fn: Callable[..., Array], *, init_sigma: float
) -> Callable[[PyTree, Array, Array | None], Array]:
    """``G(z) = D(init_sigma z, init_sigma)``: a denoiser read as a generator; the teacher's weights start the student.

    Args:
      denoise_fn: ``(params, x, sigma, labels) -> x_0``.
      init_sigma: the noise level the generator pretends to see; 2.5 starts from blurry images, 80 from the data's mean.

    Returns:
      ``student_fn(params, z, labels)``.

    >>> import jax.numpy as jnp
    >>> student_fn = one_step_student(lambda params, x, sigma, labels: params * x, init_sigma=2.5)
    >>> student_fn(2.0, jnp.ones((1, 1)), None)
    Array([[5.]], dtype=float32)
    """

    def student_fn(params: PyTree, z: Array, labels: Array | None) -> Array:
        return denoise_fn(params, init_sigma * z, jnp.full(z.shape[:1], init_sigma, z.dtype), labels)

    return student_fn
