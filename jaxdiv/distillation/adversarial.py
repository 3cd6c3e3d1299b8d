"""The discriminator: a classifier of real against generated noised samples, whose logit is the log density ratio.

With as many real as generated examples at the same law of noise levels, the logit that minimises the loss is
``log q_real(x_t) - log p(x_t)`` at each noise level. "Real" is whatever is shown: samples of the teacher give
teacher/student, which is what the divergences are about; images of the data set give data/student, as every published
method does, and let the student leave its teacher behind.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_same_shape
from jaxdiv.typing import Array


def discriminator_loss(real_logits: Array, fake_logits: Array) -> Array:
    """``softplus(-l_real) + softplus(l_fake)`` per example: the logistic loss, least at ``l = log q_real/p``.

    At chance it is ``2 ln 2 = 1.3863``.

    >>> round(float(discriminator_loss(jnp.zeros(1), jnp.zeros(1))[0]), 4)
    1.3863
    """
    check_same_shape("discriminator_loss", real_logits=real_logits, fake_logits=fake_logits)
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def generator_loss(fake_logits: Array) -> Array:
    """``softplus(-l_fake)`` per example, the non-saturating loss (Goodfellow et al., arXiv 1406.2661, section 3).

    >>> round(float(generator_loss(jnp.zeros(1))[0]), 4)
    0.6931
    """
    return jax.nn.softplus(-fake_logits)


def discriminator_accuracy(real_logits: Array, fake_logits: Array) -> Array:
    """Share of real logits above 0 and fake logits below 0; 0.5 is chance, 1 means that the discriminator has won.

    >>> float(discriminator_accuracy(jnp.array([1.0, -1.0]), jnp.array([-1.0, -2.0])))
    0.75
    """
    return 0.5 * (jnp.mean(real_logits > 0) + jnp.mean(fake_logits < 0))


def r1_penalty(logit_fn: Callable[[Array], Array], x: Array) -> Array:
    """``|grad_x l(x)|^2`` per example, summed over the elements of ``x [B, ...]``.

    R1 of Mescheder et al., arXiv 1801.04406, equation 9. Differentiable in what ``logit_fn`` closes over; it costs a
    second backward pass.

    >>> float(r1_penalty(lambda x: 3.0 * x.sum(axis=1), jnp.zeros((1, 4)))[0])
    36.0
    """
    gradient = jax.grad(lambda x: jnp.sum(logit_fn(x)))(x)
    return jnp.sum(jnp.square(gradient), axis=tuple(range(1, x.ndim)))


def approximate_r1_penalty(logit_fn: Callable[[Array], Array], x: Array, move: Array, *, scale: float) -> Array:
    """``(l(x + scale n) - l(x))^2 / scale^2``, ``n = move`` standard normal: R1 in expectation as ``scale -> 0``.

    One more forward pass instead of a second backward one. The perturbation is added to the very sample that ``l``
    sees, noised already.

    >>> move = jax.random.normal(jax.random.key(0), (4096, 1))
    >>> value = approximate_r1_penalty(lambda x: 3.0 * x[:, 0], jnp.zeros((4096, 1)), move, scale=0.1)
    >>> bool(abs(value.mean() - 9.0) < 0.5)
    True
    """
    check_same_shape("approximate_r1_penalty", x=x, move=move)
    return jnp.square(logit_fn(x + scale * move) - logit_fn(x)) / scale**2
