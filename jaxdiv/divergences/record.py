"""The `FDivergence` record: one convex generator f, written in the log-ratio, with everything a method needs of it."""

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiv.checks import fail, number_array
from jaxdiv.numerics import promote


@dataclasses.dataclass(frozen=True)
class Formula:
    """A function of the log-ratio with its parameters bound: equal when function and parameters are, unlike a lambda.

    Calling it computes in float32 (float64 for float64 input) and returns that dtype: bfloat16, float16 and integers
    are converted first.

    >>> Formula(jnp.power, (2.0,)) == Formula(jnp.power, (2.0,))
    True
    """

    fn: Callable[..., jax.Array]
    args: tuple[Any, ...] = ()

    def __call__(self, x: ArrayLike) -> jax.Array:
        """The function's values at ``x``, elementwise: ``x``'s shape, float32 or float64."""
        return self.fn(promote(x), *self.args)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class FDivergence:
    r"""The f-divergence D_f(p || q) = E_q[f(r)], r = p/q, as functions of the log-ratio rho = log p - log q.

    The gauge is f(1) = f'(1) = 0. All functions are elementwise and work on arrays of any shape in float32 (float64 for
    float64 input). A sum over categories takes q * phi(rho) where p <= q and p * phi_dual(-rho) where p > q, because
    q f(p/q) = p f^(q/p): no factor then exceeds 1. Mass where p = 0 costs q * at_zero, where q = 0 it costs
    p * dual_at_zero. The record is frozen, hashable, equal by content and a static pytree: it can be a static argument
    of `jax.jit` or sit inside a state.

    Attributes:
        name: how the divergence was made, such as "alpha(0.5)".
        phi: f(e^rho), for rho <= 0 only.
        phi_dual: f^(e^rho) with f^(r) = r f(1/r), for rho <= 0 only.
        at_zero: f(0), maybe inf.
        dual_at_zero: f^(0) = lim f(r)/r = lim f'(r) for r to infinity, maybe inf.
        link: f'(r), increasing, on the whole line.
        weight: r^2 f''(r) >= 0, on the whole line; twice differentiable; 0 almost everywhere for total variation.
        score: f(r) - r f'(r) = -f*(f'(r)), decreasing, on the whole line.
        conjugate: f*(t) = sup over r >= 0 of (r t - f(r)): +inf above dual_at_zero, -at_zero below link_at_zero. Raises
            ValueError where no closed form is known (skew_kl).
        link_at_zero: lim f'(r) for r to 0, maybe -inf.
        score_at_infinity: lim of score for r to infinity, maybe -inf.
        curvature: f''(1); None where f has a kink there.
        score_drop: score(rho) - at_zero, for rho <= 0 only, to relative accuracy as rho falls, where the difference
            itself would lose every digit; None where at_zero is infinite or no form is known. Gradients between
            concentrated distributions stand on it.
        partner: makes the record of f^ in closed form; None builds it from this one.

    >>> from jaxdiv.divergences import kl
    >>> divergence = kl()
    >>> round(float(divergence.value(jnp.log(2.0))), 4), float(divergence.link(1.0)), divergence.reversed().name
    (0.3863, 1.0, 'reverse_kl')
    """

    name: str
    phi: Callable[[ArrayLike], jax.Array]
    phi_dual: Callable[[ArrayLike], jax.Array]
    at_zero: float
    dual_at_zero: float
    link: Callable[[ArrayLike], jax.Array]
    weight: Callable[[ArrayLike], jax.Array]
    score: Callable[[ArrayLike], jax.Array]
    conjugate: Callable[[ArrayLike], jax.Array]
    link_at_zero: float
    score_at_infinity: float
    curvature: float | None
    score_drop: Callable[[ArrayLike], jax.Array] | None = None
    partner: Callable[[], "FDivergence"] | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def is_smooth(self) -> bool:
        """Whether f is twice differentiable (False for total variation), as weights and score differences need."""
        return self.curvature is not None

    @property
    def has_barrier(self) -> bool:
        """Whether f'(r) falls to -inf as r goes to 0, so that a link-based preference loss never lets p vanish."""
        return self.link_at_zero == -jnp.inf

    def value(self, rho: ArrayLike) -> jax.Array:
        r"""f(e^rho) on the whole line: phi(rho) where rho <= 0 and e^rho phi_dual(-rho) above.

        Args:
            rho: log-ratios log p - log q, any shape.

        Returns:
            The generator's values >= 0, of rho's shape, float32 or float64; its expectation under q is D_f(p || q).

        Raises:
            ValueError: rho is no array of floating-point numbers or integers.
        """
        rho = promote(number_array("FDivergence.value", "rho", rho))
        low, high = jnp.where(rho <= 0, rho, 0.0), jnp.where(rho <= 0, 0.0, rho)
        return jnp.where(rho <= 0, self.phi(low), jnp.exp(high) * self.phi_dual(-high))

    def reversed(self) -> "FDivergence":
        r"""The record of f^(r) = r f(1/r): D_f^(p || q) = D_f(q || p). Reversing twice gives this record back."""
        partner = swap(self) if self.partner is None else self.partner()
        return dataclasses.replace(partner, partner=functools.partial(_same, self))

    def normalized(self) -> "FDivergence":
        r"""The record of f / f''(1), which agrees with KL to second order: coefficients carry over between divergences.

        Raises:
            ValueError: f has a kink at r = 1 (total variation).
        """
        if self.curvature is None:
            raise fail("normalized", "divergence", f"is {self.name}, which has no f''(1)", "one with is_smooth")
        return self if self.curvature == 1.0 else _scale(self, 1.0 / self.curvature)


def _same(divergence: FDivergence) -> FDivergence:
    return divergence


def real_parameter(function: str, argument: str, value: object) -> float:
    """A parameter as a Python float: it is part of the record's identity, so it can be no array."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise fail(function, argument, f"is {value!r}", "a real Python number")
    return float(value)


def no_conjugate(t: jax.Array, name: str) -> jax.Array:
    """The conjugate of a divergence that has none in closed form: raises `ValueError`."""
    raise fail("conjugate", "divergence", f"is {name}", "one whose convex conjugate has a closed form")


def _swapped_weight(x: jax.Array, weight: Callable[[ArrayLike], jax.Array]) -> jax.Array:
    w = weight(-x)  # where it underflows to 0, e^x may be inf
    return jnp.exp(jnp.where(w == 0.0, 0.0, x)) * w


def _mirrored(x: jax.Array, fn: Callable[[ArrayLike], jax.Array]) -> jax.Array:
    return fn(-x)


def swap(d: FDivergence) -> FDivergence:
    """f^ of a record without a named partner: f^'(r) = score(1/r), score^(r) = f'(1/r), h^(r) = r h(1/r)."""
    name = f"reversed({d.name})"
    return FDivergence(
        name=name,
        phi=d.phi_dual,
        phi_dual=d.phi,
        at_zero=d.dual_at_zero,
        dual_at_zero=d.at_zero,
        link=Formula(_mirrored, (d.score,)),
        weight=Formula(_swapped_weight, (d.weight,)),
        score=Formula(_mirrored, (d.link,)),
        conjugate=Formula(no_conjugate, (name,)),
        link_at_zero=d.score_at_infinity,
        score_at_infinity=d.link_at_zero,
        curvature=d.curvature,
    )


def _times(x: jax.Array, fn: Callable[[ArrayLike], jax.Array], factor: float) -> jax.Array:
    return factor * fn(x)


def _scaled_conjugate(t: jax.Array, conjugate: Callable[[ArrayLike], jax.Array], factor: float) -> jax.Array:
    return factor * conjugate(t / factor)


def _reversed_and_scaled(d: FDivergence, factor: float) -> FDivergence:
    return _scale(d.reversed(), factor)


def _scale(d: FDivergence, factor: float) -> FDivergence:
    """The record of factor * f, where factor is 1 / f''(1)."""
    return FDivergence(
        name=f"normalized({d.name})",
        phi=Formula(_times, (d.phi, factor)),
        phi_dual=Formula(_times, (d.phi_dual, factor)),
        at_zero=factor * d.at_zero,
        dual_at_zero=factor * d.dual_at_zero,
        link=Formula(_times, (d.link, factor)),
        weight=Formula(_times, (d.weight, factor)),
        score=Formula(_times, (d.score, factor)),
        conjugate=Formula(_scaled_conjugate, (d.conjugate, factor)),
        link_at_zero=factor * d.link_at_zero,
        score_at_infinity=factor * d.score_at_infinity,
        curvature=1.0,
        score_drop=None if d.score_drop is None else Formula(_times, (d.score_drop, factor)),
        partner=functools.partial(_reversed_and_scaled, d, factor),
    )
