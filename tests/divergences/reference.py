"""Every named divergence written straight from its definition in r, in mpmath with 60 digits.

Each entry holds f, f' and f'' as functions of r, nothing gauge-fixed by series, nothing in the log-ratio. The tests
check f' and f'' against ``mpmath.diff`` before they use them.
"""

from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np
from mpmath import mp

from jaxdiv import divergences

mp.dps = 60
log, sqrt, one = mpmath.log, mpmath.sqrt, mpmath.mpf(1)


class Case(NamedTuple):
    make: Callable[[], divergences.FDivergence]
    f: Callable
    slope: Callable
    curve: Callable


def _alpha(a):
    a = mpmath.mpf(a)
    return (
        lambda r: (r**a - a * r - (1 - a)) / (a * (a - 1)),
        lambda r: (r ** (a - 1) - 1) / (a - 1),
        lambda r: r ** (a - 2),
    )


def _js(pi):
    pi = mpmath.mpf(pi)

    def mix(r):
        return pi * r + 1 - pi

    return (
        lambda r: pi * r * log(r) - mix(r) * log(mix(r)),
        lambda r: pi * (log(r) - log(mix(r))),
        lambda r: pi * (1 / r - pi / mix(r)),
    )


def _skew(pi):
    pi = mpmath.mpf(pi)

    def mix(r):
        return pi * r + 1 - pi

    return (
        lambda r: r * log(r / mix(r)) - (1 - pi) * (r - 1),
        lambda r: log(r / mix(r)) + (1 - pi) / mix(r) - (1 - pi),
        lambda r: (1 - pi) ** 2 / (r * mix(r) ** 2),
    )


def reverse(f, slope, curve):
    """f^(r) = r f(1/r) and its derivatives by the chain rule."""
    return (
        lambda r: r * f(1 / r),
        lambda r: f(1 / r) - slope(1 / r) / r,
        lambda r: curve(1 / r) / r**3,
    )


def scale(factor, *functions):
    return tuple(lambda r, g=g: factor * g(r) for g in functions)


KL = (lambda r: r * log(r) - r + 1, lambda r: log(r), lambda r: 1 / r)
REVERSE_KL = (lambda r: r - 1 - log(r), lambda r: 1 - 1 / r, lambda r: 1 / r**2)
SOFTENED = (
    lambda r: (r + 1) * log((r + 1) / (2 * r)) + r - 1,
    lambda r: log((r + 1) / (2 * r)) + 1 - 1 / r,
    lambda r: 1 / (r**2 * (r + 1)),
)
TOTAL_VARIATION = (
    lambda r: abs(r - 1) / 2,
    lambda r: mpmath.sign(r - 1) / 2,
    lambda r: mpmath.mpf(0),
)

CASES = {
    "kl": Case(divergences.kl, *KL),
    "reverse_kl": Case(divergences.reverse_kl, *REVERSE_KL),
    "jensen_shannon": Case(
        divergences.jensen_shannon,
        lambda r: (r * log(r) - (r + 1) * log((r + 1) / 2)) / 2,
        lambda r: (log(2) + log(r) - log(r + 1)) / 2,
        lambda r: 1 / (2 * r * (1 + r)),
    ),
    "jensen_shannon_09": Case(lambda: divergences.jensen_shannon(0.9), *_js(0.9)),
    "jensen_shannon_1e-6": Case(lambda: divergences.jensen_shannon(1e-6), *_js(1e-6)),
    "jensen_shannon_1-2e-27": Case(lambda: divergences.jensen_shannon(1 - 2.0**-27), *_js(1 - 2.0**-27)),
    "jeffreys": Case(
        divergences.jeffreys, lambda r: (r - 1) * log(r), lambda r: log(r) + 1 - 1 / r, lambda r: 1 / r + 1 / r**2
    ),
    "alpha_1": Case(lambda: divergences.alpha(1.0), *KL),
    "alpha_0": Case(lambda: divergences.alpha(0), *REVERSE_KL),
    "alpha_half": Case(lambda: divergences.alpha(0.5), *_alpha(0.5)),
    "alpha_03": Case(lambda: divergences.alpha(0.3), *_alpha(0.3)),
    "alpha_-3": Case(lambda: divergences.alpha(-3.0), *_alpha(-3.0)),
    "alpha_2.5": Case(lambda: divergences.alpha(2.5), *_alpha(2.5)),
    "alpha_1-1e-9": Case(lambda: divergences.alpha(1 - 1e-9), *_alpha(1 - 1e-9)),
    "alpha_1e-12": Case(lambda: divergences.alpha(1e-12), *_alpha(1e-12)),
    "squared_hellinger": Case(
        divergences.squared_hellinger,
        lambda r: (sqrt(r) - 1) ** 2,
        lambda r: 1 - 1 / sqrt(r),
        lambda r: one / 2 / (r * sqrt(r)),
    ),
    "pearson_chi2": Case(
        divergences.pearson_chi2, lambda r: (r - 1) ** 2, lambda r: 2 * (r - 1), lambda r: mpmath.mpf(2)
    ),
    "neyman_chi2": Case(
        divergences.neyman_chi2, lambda r: (r - 1) ** 2 / r, lambda r: 1 - 1 / r**2, lambda r: 2 / r**3
    ),
    "total_variation": Case(divergences.total_variation, *TOTAL_VARIATION),
    "softened_reverse_kl": Case(divergences.softened_reverse_kl, *SOFTENED),
    "softened_reversed": Case(lambda: divergences.softened_reverse_kl().reversed(), *reverse(*SOFTENED)),
    "le_cam": Case(
        divergences.le_cam,
        lambda r: (r - 1) ** 2 / (r + 1),
        lambda r: 1 - 4 / (r + 1) ** 2,
        lambda r: 8 / (r + 1) ** 3,
    ),
    "skew_kl": Case(lambda: divergences.skew_kl(0.3), *_skew(0.3)),
    "skew_kl_097": Case(lambda: divergences.skew_kl(0.97), *_skew(0.97)),
    "skew_kl_1e-6": Case(lambda: divergences.skew_kl(1e-6), *_skew(1e-6)),
    "skew_reversed": Case(lambda: divergences.skew_kl(0.3).reversed(), *reverse(*_skew(0.3))),
    "jensen_shannon_normalized": Case(
        lambda: divergences.jensen_shannon(0.25).normalized(), *scale(mpmath.mpf(16) / 3, *_js(0.25))
    ),
}
SMOOTH = [name for name in CASES if name != "total_variation"]
WITH_CONJUGATE = [name for name in CASES if not name.startswith("skew")]

_series = [s * 10.0**-k for k in (8, 6, 4, 3, 2, 1) for s in (1, -1)] + [
    s * x for x in (0.3, 0.7, 0.97, 1) for s in (1, -1)
]
_wide = [s * x for x in (1.03, 1.7, 2.9, 5.3, 9.1, 15.7, 23.3, 31.9, 39.9, 40.1, 47.3, 60) for s in (1, -1)]
RHO = np.sort(np.array(_series + _wide))
"""Log-ratios of both halves: the series region down to 1e-8 and out to +-60; 0 has tests of its own."""


def exact(array) -> list:
    """Floats as mpmath numbers, digit for digit."""
    return [mpmath.mpf(float(x)) for x in np.asarray(array).ravel()]


def relative_error(got, expected) -> np.ndarray:
    """|got / expected - 1| per element; 0 where both lie beyond the largest or below the smallest normal number.

    Within a factor 16 of the largest number an intermediate may overflow: inf counts as right there too.
    """
    info = np.finfo(got.dtype)
    errors = []
    for g, e in zip(np.asarray(got).ravel().tolist(), expected, strict=True):
        if np.isinf(g) and abs(e) > float(info.max) / 16:
            errors.append(0.0 if (g > 0) == (e > 0) else np.inf)
        elif abs(e) < float(info.tiny):
            errors.append(0.0 if abs(g) <= float(info.tiny) else np.inf)
        else:
            errors.append(float(abs(mpmath.mpf(g) / e - 1)))
    return np.array(errors)
