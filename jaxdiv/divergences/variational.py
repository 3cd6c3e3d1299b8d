"""Lower bounds on divergences and mutual information from a critic's scores at samples, tight at the true log-ratio.

D_f(p || q) >= E_p[T] - E_q[f*(T)] for every function T, with equality at T = f'(p/q) (Fenchel-Young). Written through
the link, T = f'(e^v), the conjugate is f*(T) = -score(v): then v may be any real number, no output activation is to be
chosen, records without a closed conjugate work too, and the best v is log p - log q whatever the divergence.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, fail, floating_array
from jaxdiv.divergences.generators import kl
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


def sample_pair(function: str, **arrays: ArrayLike) -> tuple[Array, Array]:
    """Two floating arrays ``[..., N]`` and ``[..., M]`` with equal batch dimensions, neither empty, promoted."""
    (first, p), (second, q) = ((name, promote(floating_array(function, name, x))) for name, x in arrays.items())
    for name, x in ((first, p), (second, q)):
        if x.ndim == 0 or x.shape[-1] == 0:
            raise fail(function, name, f"has shape {x.shape}", "shape [..., N] with N >= 1 samples")
    if q.shape[:-1] != p.shape[:-1]:
        raise fail(function, second, f"has shape {q.shape}", f"the batch axes of {first}, which has shape {p.shape}")
    return p, q


def fenchel_bound(
    divergence: FDivergence, *, p_scores: ArrayLike, q_scores: ArrayLike, critic: str = "log_ratio"
) -> Array:
    r"""The Fenchel dual E_p[T] - E_q[f*(T)] <= D_f(p || q), from a critic's scores at samples of p and of q.

    Args:
        divergence: any record; for critic="dual" one whose conjugate has a closed form.
        p_scores: floating ``[..., N]``, the critic at samples from p.
        q_scores: floating ``[..., M]``, the critic at samples from q; N and M may differ.
        critic: "log_ratio": the scores are v, any real numbers, and T = f'(e^v); best is v = log p - log q. "dual": the
            scores are T itself, best at f'(p/q); where T leaves the domain of f* the bound is -inf.

    Returns:
        One number per batch row ``[...]``, float32 (float64 where an input is): an unbiased estimate of a lower bound,
        differentiable in both arrays. Beyond the range of the dtype it is -inf, never NaN.

    Raises:
        ValueError: a wrong type or choice, empty or integer scores, different batch dimensions, no closed conjugate.

    Source: Nguyen, Wainwright, Jordan, "Estimating divergence functionals and the likelihood ratio by convex risk
    minimization" (arXiv:0809.0853), lemma 1; Nowozin, Cseke, Tomioka, "f-GAN" (arXiv:1606.00709), equation 4.

    >>> from jaxdiv.divergences import pearson_chi2
    >>> log_r = jnp.log(jnp.array([1.5, 0.5]))  # p = (3/4, 1/4) against q = (1/2, 1/2): chi^2 = 1/4
    >>> p_scores, q_scores = log_r[jnp.array([0, 0, 0, 1])], log_r
    >>> round(float(fenchel_bound(pearson_chi2(), p_scores=p_scores, q_scores=q_scores)), 6)
    0.25
    """
    function = "fenchel_bound"
    check_instance(function, "divergence", divergence, FDivergence)
    check_choice(function, "critic", critic, ("log_ratio", "dual"))
    p, q = sample_pair(function, p_scores=p_scores, q_scores=q_scores)
    if critic == "dual":
        gain, cost = jnp.mean(p, axis=-1), jnp.mean(divergence.conjugate(q), axis=-1)
    else:
        gain, cost = jnp.mean(divergence.link(p), axis=-1), -jnp.mean(divergence.score(q), axis=-1)
    beyond = jnp.isinf(gain) & (gain == cost)  # then -inf is a bound, whatever the truth is
    return jnp.where(beyond, -jnp.inf, gain - jnp.where(beyond, 0.0, cost))


def nwj_bound(*, p_scores: ArrayLike, q_scores: ArrayLike) -> Array:
    r"""The bound of Nguyen, Wainwright and Jordan, E_p[v] - E_q[e^v] + 1 <= KL(p || q): `fenchel_bound` of `kl`.

    The scores are log-ratios, best at v = log p - log q; the papers' critic is 1 + v. Unbiased, unlike
    `donsker_varadhan_bound`, and never above it, but its variance grows with e^KL.

    Args:
        p_scores: floating ``[..., N]``, the critic at samples from p.
        q_scores: floating ``[..., M]``, the critic at samples from q.

    Returns:
        One number per batch row ``[...]``, float32 (float64 where an input is), differentiable in both arrays.

    Raises:
        ValueError: empty or integer scores, or different batch dimensions.

    Source: Nguyen, Wainwright, Jordan (arXiv:0809.0853); Poole et al., "On variational bounds of mutual information"
    (arXiv:1905.06922), equation 6.

    >>> round(float(nwj_bound(p_scores=jnp.array([1.0]), q_scores=jnp.array([0.0, 0.0]))), 6)
    1.0
    """
    function = "nwj_bound"
    p, q = sample_pair(function, p_scores=p_scores, q_scores=q_scores)
    return fenchel_bound(kl(), p_scores=p, q_scores=q)


def donsker_varadhan_bound(*, p_scores: ArrayLike, q_scores: ArrayLike) -> Array:
    r"""The bound of Donsker and Varadhan, E_p[v] - log E_q[e^v] <= KL(p || q).

    It is tight at v = log p - log q + any constant. The logarithm of a sample mean is biased low, so this estimate
    is biased up, by about Var_q(e^v) / (2 M E_q[e^v]^2): it may exceed the divergence. So is its gradient, which
    MINE corrects by a moving average of E_q[e^v].

    Args:
        p_scores: floating ``[..., N]``, the critic at samples from p.
        q_scores: floating ``[..., M]``, the critic at samples from q.

    Returns:
        One number per batch row ``[...]``, float32 (float64 where an input is), differentiable in both arrays.

    Raises:
        ValueError: empty or integer scores, or different batch dimensions.

    Source: Donsker and Varadhan, 1983; Belghazi et al., "MINE: mutual information neural estimation"
    (arXiv:1801.04062), equation 5.

    >>> round(float(donsker_varadhan_bound(p_scores=jnp.array([1.0]), q_scores=jnp.log(jnp.array([1.0, 3.0])))), 6)
    0.306853
    """
    p, q = sample_pair("donsker_varadhan_bound", p_scores=p_scores, q_scores=q_scores)
    return jnp.mean(p, axis=-1) - jax.nn.logsumexp(q, axis=-1) + jnp.log(jnp.asarray(q.shape[-1], q.dtype))


def info_nce_bound(scores: ArrayLike) -> Array:
    r"""InfoNCE, mean_i [v_ii - log mean_j e^{v_ij}] <= I(X; Y), from the critic's scores of all pairs in a batch.

    Pairs (x_i, y_i) come from the joint distribution; y_j for j != i stands for a sample from the marginal. The value
    is at most log N whatever the scores, so N samples cannot show more information than that. Its expectation bounds
    from below for any critic; best is v = log p(y | x) up to a function of x.

    Args:
        scores: floating ``[..., N, N]``, the critic at (x_i, y_j) in row i and column j; transpose to contrast over x.

    Returns:
        One number per batch ``[...]``, float32 (float64 for float64), differentiable.

    Raises:
        ValueError: scores is no floating array of square matrices with N >= 1.

    Source: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding" (arXiv:1807.03748),
    section 2.3; Poole et al. (arXiv:1905.06922), equation 10.

    >>> round(float(info_nce_bound(100.0 * jnp.eye(4))), 6)  # log 4
    1.386294
    """
    function = "info_nce_bound"
    v = promote(floating_array(function, "scores", scores))
    if v.ndim < 2 or v.shape[-1] != v.shape[-2] or v.shape[-1] == 0:
        raise fail(function, "scores", f"has shape {v.shape}", "shape [..., N, N] with N >= 1")
    chosen = jax.nn.log_softmax(v, axis=-1)
    return jnp.mean(jnp.diagonal(chosen, axis1=-2, axis2=-1), axis=-1) + jnp.log(jnp.asarray(v.shape[-1], v.dtype))


class FGanLosses(NamedTuple):
    """What critic and generator of an f-GAN minimise, per batch row."""

    critic: Array
    """Minus the Fenchel bound."""
    generator: Array
    """The part of the bound that the generator moves, or its non-saturating stand-in."""


def f_gan_losses(
    divergence: FDivergence, *, p_scores: ArrayLike, q_scores: ArrayLike, generator: str = "saturating"
) -> FGanLosses:
    r"""The losses of an f-GAN for D_f(p || q), p the data and q the generator.

    The critic's output v is a log-ratio. It minimises -E_p[f'(e^v)] - E_q[score(v)], so that v tends to log p - log
    q. The generator minimises what is left of the bound, E_q[-f*(T)] = E_q[score(v)]: "saturating". Nowozin et al.
    propose to maximise E_q[T] instead, E_q[-f'(e^v)]: "non_saturating", whose fixed point is the same but which
    descends no bound.

    Args:
        divergence: any record.
        p_scores: floating ``[..., N]``, the critic at data.
        q_scores: floating ``[..., M]``, the critic at the generator's samples. The generator's gradient runs through
            them; differentiate each loss in its own parameters.
        generator: "saturating" or "non_saturating".

    Returns:
        Two numbers per batch row ``[...]``, float32 (float64 where an input is).

    Raises:
        ValueError: a wrong type or choice, empty or integer scores, or different batch dimensions.

    Source: Nowozin, Cseke, Tomioka, "f-GAN" (arXiv:1606.00709), equation 6 and section 3.2.

    >>> from jaxdiv.divergences import kl
    >>> losses = f_gan_losses(kl(), p_scores=jnp.array([1.0]), q_scores=jnp.array([0.0]))
    >>> float(losses.critic), abs(float(losses.generator))
    (-1.0, 0.0)
    """
    function = "f_gan_losses"
    check_instance(function, "divergence", divergence, FDivergence)
    check_choice(function, "generator", generator, ("saturating", "non_saturating"))
    p, q = sample_pair(function, p_scores=p_scores, q_scores=q_scores)
    critic = -fenchel_bound(divergence, p_scores=p, q_scores=q)
    fooled = divergence.score(q) if generator == "saturating" else -divergence.link(q)
    return FGanLosses(critic, jnp.mean(fooled, axis=-1))
