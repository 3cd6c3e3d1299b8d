"""What `divergence_accuracy` measures against: f-divergences between logits and their gradients, to 10 digits or more.

Each record is written from its definition as f, f' and f - r f' in (x, r) = (log r, r). The same formulas run in mpmath
(50 digits) and in numpy's extended precision (64 bits of mantissa, exponents to 4932), which does large vocabularies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np

from jaxdiv import divergences as dv

mpmath.mp.dps = 50
FLOAT32_MAX = 3.4028234663852886e38
EXTENDED = np.finfo(np.longdouble).eps < 1e-18
"""Whether numpy's longdouble is wider than float64 on this machine; where it is not, mpmath does every row."""


class Definition(NamedTuple):
    """A record and its definition: f, f' and k = f - r f', each as ``(m, x, r)``, m the module of log and sqrt."""

    make: Callable[[], dv.FDivergence]
    f: Callable
    link: Callable
    score: Callable


def _alpha(a: float) -> Definition:
    def power(m, x, b):
        return m.exp(b * x)

    def exact(m):  # a and what is made of it, in the precision of m: 1 - a is no float for most a
        return mpmath.mpf(a) if m is mpmath else np.longdouble(a)

    return Definition(
        lambda: dv.alpha(a),
        lambda m, x, r: (power(m, x, exact(m)) - exact(m) * r - (1 - exact(m))) / (exact(m) * (exact(m) - 1)),
        lambda m, x, r: (power(m, x, exact(m) - 1) - 1) / (exact(m) - 1),
        lambda m, x, r: (1 - power(m, x, exact(m))) / exact(m),
    )


def _mixture(pi: float, js: bool) -> Definition:
    def parts(m, r):
        share = mpmath.mpf(pi) if m is mpmath else np.longdouble(pi)
        return share, 1 - share, share * r + 1 - share

    def f(m, x, r):
        share, co, mix = parts(m, r)
        return share * r * x - mix * m.log(mix) if js else r * (x - m.log(mix)) - co * (r - 1)

    def link(m, x, r):
        share, co, mix = parts(m, r)
        return share * (x - m.log(mix)) if js else x - m.log(mix) + co / mix - co

    def score(m, x, r):
        _, co, mix = parts(m, r)
        return -co * m.log(mix) if js else co * (1 - r / mix)

    return Definition(lambda: dv.jensen_shannon(pi) if js else dv.skew_kl(pi), f, link, score)


def _reversed(d: Definition) -> Definition:
    return Definition(
        lambda: d.make().reversed(),
        lambda m, x, r: r * d.f(m, -x, 1 / r),
        lambda m, x, r: d.score(m, -x, 1 / r),
        lambda m, x, r: d.link(m, -x, 1 / r),
    )


def _sign(m, x):
    return mpmath.sign(x) if m is mpmath else np.sign(x)


_SOFTENED = Definition(
    dv.softened_reverse_kl,
    lambda m, x, r: (r + 1) * (m.log((r + 1) / 2) - x) + r - 1,
    lambda m, x, r: m.log((r + 1) / 2) - x + 1 - 1 / r,
    lambda m, x, r: m.log((1 + 1 / r) / 2),
)
DEFINITIONS = {
    "kl": Definition(dv.kl, lambda m, x, r: r * x - r + 1, lambda m, x, r: x, lambda m, x, r: 1 - r),
    "reverse_kl": Definition(dv.reverse_kl, lambda m, x, r: r - 1 - x, lambda m, x, r: 1 - 1 / r, lambda m, x, r: -x),
    "jensen_shannon": _mixture(0.5, True),
    "jensen_shannon(0.9)": _mixture(0.9, True),
    "jeffreys": Definition(
        dv.jeffreys, lambda m, x, r: (r - 1) * x, lambda m, x, r: x + 1 - 1 / r, lambda m, x, r: 1 - r - x
    ),
    "alpha(0.3)": _alpha(0.3),
    "alpha(1.7)": _alpha(1.7),
    "alpha(-0.6)": _alpha(-0.6),
    "squared_hellinger": Definition(
        dv.squared_hellinger,
        lambda m, x, r: (m.sqrt(r) - 1) ** 2,
        lambda m, x, r: 1 - 1 / m.sqrt(r),
        lambda m, x, r: 1 - m.sqrt(r),
    ),
    "pearson_chi2": Definition(
        dv.pearson_chi2, lambda m, x, r: (r - 1) ** 2, lambda m, x, r: 2 * (r - 1), lambda m, x, r: 1 - r * r
    ),
    "neyman_chi2": Definition(
        dv.neyman_chi2,
        lambda m, x, r: (r - 1) ** 2 / r,
        lambda m, x, r: 1 - 1 / (r * r),
        lambda m, x, r: 2 / r - 2,
    ),
    "total_variation": Definition(
        dv.total_variation,
        lambda m, x, r: abs(r - 1) / 2,
        lambda m, x, r: _sign(m, x) / 2,
        lambda m, x, r: -_sign(m, x) / 2,
    ),
    "softened_reverse_kl": _SOFTENED,
    "le_cam": Definition(
        dv.le_cam,
        lambda m, x, r: (r - 1) ** 2 / (r + 1),
        lambda m, x, r: 1 - 4 / (r + 1) ** 2,
        lambda m, x, r: 1 - 4 / (1 + 1 / r) ** 2,
    ),
    "skew_kl(0.3)": _mixture(0.3, False),
    "reversed(softened_reverse_kl)": _reversed(_SOFTENED),
    "reversed(skew_kl(0.3))": _reversed(_mixture(0.3, False)),
}


class Truth(NamedTuple):
    """Of one row: value (inf where it exceeds float32's range), and gradients, None where they are not scored."""

    value: float
    grad_p: np.ndarray | None
    grad_q: np.ndarray | None


def _combine(m: Any, p, q, x, has_p, has_q, formulas: Definition, limits: tuple[float, float], sums: Callable) -> Truth:
    """Value and gradients from probabilities and log-ratios in the numbers of m; the arrays hold objects or floats."""
    at_zero, dual_at_zero = limits
    if (at_zero == np.inf and (has_q & ~has_p).any()) or (dual_at_zero == np.inf and (has_p & ~has_q).any()):
        return Truth(np.inf, None, None)
    both, only_p, only_q = has_p & has_q, has_p & ~has_q, has_q & ~has_p
    x, pb, qb = x[both], p[both], q[both]
    r = pb / qb
    zero = 0 * p
    link, score, cost = zero.copy(), zero.copy(), zero.copy()
    if m is mpmath:
        evaluate = [np.array([fn(m, *v) for v in zip(x, r, strict=True)], dtype=object) for fn in formulas[1:]]
    else:
        evaluate = [fn(m, x, r) for fn in formulas[1:]]
    cost[both], link[both], score[both] = qb * evaluate[0], evaluate[1], evaluate[2]
    number = mpmath.mpf if m is mpmath else np.longdouble
    if only_q.any():
        cost[only_q], score[only_q] = q[only_q] * number(at_zero), number(at_zero)
    if only_p.any():
        cost[only_p], link[only_p] = p[only_p] * number(dual_at_zero), number(dual_at_zero)
    value = sums(cost)
    if not value < FLOAT32_MAX:
        return Truth(np.inf, None, None)
    gradients = []
    for mass, k in ((p, link), (q, score)):
        top = max(range(len(mass)), key=lambda i: mass[i])
        moved = np.where(mass == 0, zero, k - k[top])
        g = mass * (moved - sums(mass * moved))
        scored = 1e-35 < max(abs(g)) < 0.99 * FLOAT32_MAX
        gradients.append(g if scored else None)
    return Truth(value, *gradients)


def _mpmath_softmax(logits: np.ndarray) -> tuple[list, Any]:
    top = max(logits)
    weights = [
        mpmath.exp(mpmath.mpf(float(v)) - mpmath.mpf(float(top))) if v > -np.inf else mpmath.mpf(0) for v in logits
    ]
    return weights, mpmath.fsum(weights)


def _limits(name: str) -> tuple[float, float]:
    """f(0) and its mirror image, which the record holds to float64: far below what is scored."""
    d = DEFINITIONS[name].make()
    return d.at_zero, d.dual_at_zero


def mpmath_row(names: list[str], a: np.ndarray, b: np.ndarray) -> dict[str, Truth]:
    """All records for one pair of logit vectors, with 50 digits."""
    has_p, has_q = a > -np.inf, b > -np.inf
    (wp, sp), (wq, sq) = _mpmath_softmax(a), _mpmath_softmax(b)
    shift = mpmath.log(sp / sq) + mpmath.mpf(float(max(a))) - mpmath.mpf(float(max(b)))
    p, q = np.array([w / sp for w in wp], dtype=object), np.array([w / sq for w in wq], dtype=object)
    x = [
        mpmath.mpf(float(u)) - mpmath.mpf(float(v)) - shift if here else mpmath.mpf(0)
        for u, v, here in zip(a, b, has_p & has_q, strict=True)
    ]
    x = np.array(x, dtype=object)
    return {n: _combine(mpmath, p, q, x, has_p, has_q, DEFINITIONS[n], _limits(n), mpmath.fsum) for n in names}


def extended_row(names: list[str], a: np.ndarray, b: np.ndarray) -> dict[str, Truth]:
    """The same in numpy's extended precision; a row whose gradient is too small for it goes to mpmath."""
    has_p, has_q = a > -np.inf, b > -np.inf
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    ea, eb = np.exp(a - a.max()), np.exp(b - b.max())
    p, q = ea / ea.sum(), eb / eb.sum()
    with np.errstate(invalid="ignore", over="ignore"):
        x = np.where(has_p & has_q, a - b - (a.max() - b.max()) - np.log(ea.sum() / eb.sum()), 0)
        out = {n: _combine(np, p, q, x, has_p, has_q, DEFINITIONS[n], _limits(n), np.sum) for n in names}
    small = [n for n, t in out.items() if any(g is not None and abs(g).max() < 1e-9 for g in t[1:])]
    return out | (mpmath_row(small, a, b) if small else {})


def truths(names: list[str], a: np.ndarray, b: np.ndarray) -> list[dict[str, Truth]]:
    """All records for every row: mpmath up to 64 classes, extended precision beyond."""
    row = mpmath_row if a.shape[1] <= 64 or not EXTENDED else extended_row
    return [row(names, u, v) for u, v in zip(a.astype(np.float64), b.astype(np.float64), strict=True)]


def disagreement(names: list[str], a: np.ndarray, b: np.ndarray) -> float:
    """The largest relative difference of the two oracles on these rows, values and gradients (max-norm)."""
    worst = 0.0
    for u, v in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        one, other = extended_row(names, u, v), mpmath_row(names, u, v)
        for name in names:
            worst = max(worst, relative_error(one[name].value, other[name].value))
            for g, h in zip(one[name][1:], other[name][1:], strict=True):
                if g is not None and h is not None:
                    worst = max(worst, gradient_error(g, h))
    return worst


def relative_error(got: Any, truth: Any) -> float:
    """|got / truth - 1|; 0 for equal infinities, inf for one infinity or a NaN."""
    if np.isinf(float(truth)) or not np.isfinite(float(got)):
        return 0.0 if float(got) == float(truth) else np.inf
    got = float(got) if isinstance(truth, mpmath.mpf) else got  # numpy's numbers and mpmath's do not mix
    return float(abs(got - truth) / abs(truth)) if truth != 0 else float(got != 0) * np.inf


def gradient_error(got: Any, truth: np.ndarray) -> float:
    """Largest difference over largest entry of the truth; NaN counts as inf."""
    got = np.asarray(got)
    got = got if got.dtype == object else got.astype(np.float64 if truth.dtype == object else np.longdouble)
    difference = np.abs(got.astype(truth.dtype) - truth)
    error = float(max(difference) / max(abs(truth)))
    return error if np.isfinite(error) else np.inf
