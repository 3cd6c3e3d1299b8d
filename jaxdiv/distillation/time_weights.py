"""Weights over noise levels: what the gradient at level sigma is multiplied by.

A weight multiplies the *exact* gradient in score space: that of ``D_f(teacher_sigma || student_sigma)`` for the
integral form, that of ``F = E_p[h(r) |Delta|^2]`` for the expanded form. Papers write their losses on denoised images
instead, which hides a power of sigma: a plain difference of denoised images is ``sigma^2`` times a difference of
scores.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiv.typing import Array

TimeWeight = Callable[[Array], Array]
"""``sigma -> weight``, positive, one number per example."""


def uniform(sigma: Array) -> Array:
    """``1``: the divergence itself, averaged over the law of sigma.

    >>> float(uniform(jnp.float32(3.0)))
    1.0
    """
    return jnp.ones_like(sigma)


def epsilon_space(sigma: Array) -> Array:
    """``sigma``: the integral form on noise predictions with weight one (score distillation, VSD).

    >>> float(epsilon_space(jnp.float32(3.0)))
    3.0
    """
    return sigma


def data_space(sigma: Array) -> Array:
    """``sigma^2``: the integral form on denoised images with weight one (Diff-Instruct, DMD, DMD2, f-distill).

    >>> float(data_space(jnp.float32(3.0)))
    9.0
    """
    return sigma**2


def data_space_squared(sigma: Array) -> Array:
    """``sigma^4 / 2``: the expanded form on denoised images with weight one (SiD, SiDA, Uni-Instruct).

    The half is SiD's: its loss is ``sigma^4 / 2`` times the exact integrand.

    >>> float(data_space_squared(jnp.float32(2.0)))
    8.0
    """
    return 0.5 * sigma**4


def de_bruijn(density_fn: Callable[[Array], Array]) -> TimeWeight:
    """``sigma / density(sigma)``: the expanded form then has the gradient of ``D_f`` of the clean distributions.

    ``D_f(p_0 || q_0) = integral sigma E_p[h |Delta|^2] d sigma`` (de Bruijn's identity for f-divergences; Wang et al.,
    Uni-Instruct, arXiv 2505.20755, theorem 3.1), and sampling sigma from ``density`` divides by it.

    Args:
      density_fn: the density of the law that sigma is drawn from.

    >>> float(de_bruijn(lambda sigma: 0.5 + 0.0 * sigma)(jnp.float32(3.0)))
    6.0
    """

    def weight(sigma: Array) -> Array:
        return sigma / density_fn(sigma)

    return weight
