"""f-divergences between logits in mpmath (60 digits), straight from the sums over classes, with derivatives."""

import functools

import mpmath
import numpy as np

from tests.divergences.reference import CASES, reverse


def softmax(logits):
    """Probabilities as mpmath numbers; 0 at -inf."""
    weights = [mpmath.exp(mpmath.mpf(v)) if v != -mpmath.inf else mpmath.mpf(0) for v in logits]
    return [w / mpmath.fsum(weights) for w in weights]


@functools.cache
def limits(case):
    """f(0) and its mirror image by the formulas at r = 2^-(2^60); which of them are infinite, the record says."""
    make, *functions = CASES[case]
    record, tiny = make(), mpmath.mpf(2) ** -(2**60)
    pairs = ((record.at_zero, functions[0]), (record.dual_at_zero, reverse(*functions)[0]))
    return tuple(fn(tiny) if limit < np.inf else mpmath.inf for limit, fn in pairs)


def value_and_gradients(case, a, b, temperature=1):
    """D_f(p || q) and its gradients for lists of numbers; (inf, None, None) where it is infinite."""
    _, f, slope, curve = CASES[case]
    mirrored, mirrored_slope, _ = reverse(f, slope, curve)
    at_zero, dual_at_zero = limits(case)
    a, b = ([mpmath.mpf(v) / temperature for v in row] for row in (a, b))
    p, q = softmax(a), softmax(b)
    cost, links, scores = [], [], []
    for pi, qi in zip(p, q, strict=True):
        if pi == 0 and qi == 0:
            terms = (0, 0, 0)
        elif pi == 0:
            terms = (qi * at_zero, 0, qi * at_zero) if at_zero < mpmath.inf else (mpmath.inf, 0, 0)
        elif qi == 0:
            terms = (pi * dual_at_zero, pi * dual_at_zero, 0) if dual_at_zero < mpmath.inf else (mpmath.inf, 0, 0)
        else:
            # dD/dq = f^'(q/p): the slope of the mirror image, not f - r f'
            terms = (qi * f(pi / qi), pi * slope(pi / qi), qi * mirrored_slope(qi / pi))
        for store, term in zip((cost, links, scores), terms, strict=True):
            store.append(mpmath.mpf(term))
    value = mpmath.fsum(cost)
    if value == mpmath.inf:
        return value, None, None
    grad_p = [(g - pi * mpmath.fsum(links)) / temperature for g, pi in zip(links, p, strict=True)]
    grad_q = [(k - qi * mpmath.fsum(scores)) / temperature for k, qi in zip(scores, q, strict=True)]
    return value, grad_p, grad_q


def hessian(case, a, b):
    """Second derivatives for the concatenated logits, by central differences of the gradient with step 1e-20."""
    step, size = mpmath.mpf(10) ** -20, len(a)
    rows = []
    for i in range(2 * size):
        if [*a, *b][i] == -mpmath.inf:
            rows.append([0.0] * (2 * size))
            continue
        ends = []
        for sign in (1, -1):
            x = [mpmath.mpf(v) for v in [*a, *b]]
            x[i] += sign * step
            _, grad_p, grad_q = value_and_gradients(case, x[:size], x[size:])
            ends.append(grad_p + grad_q)
        rows.append([float((u - v) / (2 * step)) for u, v in zip(*ends, strict=True)])
    return np.array(rows)


def floats(row):
    """A row of numpy or jax numbers as Python floats, digit for digit."""
    return [float(v) for v in np.asarray(row, np.float64)]
