"""Inputs changed by at most epsilon in every coordinate, so that a prediction errs more: FGSM and PGD."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer
from jaxdiv.typing import Array

PredictFn = Callable[[Array], Array]


def _gradient(predict_fn: PredictFn, x: Array, y: Array) -> Array:
    """Of the summed squared errors, which are functions of one row each."""
    return jax.grad(lambda rows: jnp.sum(jnp.square(predict_fn(rows) - y)))(x)


def fgsm(predict_fn: PredictFn, x: Array, y: Array, *, epsilon: Any) -> Array:
    r"""Fast gradient sign method: x + epsilon sign(d (f(x) - y)^2 / dx).

    For a linear f it is the worst case: |f - y| grows by epsilon ||w||_1.

    Args:
        predict_fn: rows ``[N, d]`` to predictions ``[N]``, each row for itself.
        x: ``[N, d]``.
        y: ``[N]``.
        epsilon: a number of at least 0, maybe traced.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples" (arXiv:1412.6572).

    >>> x = jnp.array([[1.0, -1.0]])
    >>> fgsm(lambda rows: rows @ jnp.array([2.0, -3.0]), x, jnp.zeros(1), epsilon=0.5).tolist()
    [[1.5, -1.5]]
    """
    return x + epsilon * jnp.sign(_gradient(predict_fn, x, y))


def pgd(predict_fn: PredictFn, x: Array, y: Array, *, epsilon: Any, steps: int = 10) -> Array:
    r"""Projected gradient: ``steps`` signed steps of 2.5 epsilon / steps, each put back into the box around x.

    Of all iterates, x among them, every row keeps the one with the largest error.

    Args:
        predict_fn: rows ``[N, d]`` to predictions ``[N]``, each row for itself.
        x: ``[N, d]``.
        y: ``[N]``.
        epsilon: a number of at least 0, maybe traced.
        steps: a positive number.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks" (arXiv:1706.06083); started
    at x rather than at random, so that the result is a function of its arguments.

    >>> x = jnp.array([[1.0, -1.0]])
    >>> pgd(lambda rows: rows @ jnp.array([2.0, -3.0]), x, jnp.zeros(1), epsilon=0.5).tolist()
    [[1.5, -1.5]]
    """
    check_integer("pgd", "steps", steps, 1)

    def errors(rows):
        return jnp.square(predict_fn(rows) - y)

    def step(carry, _):
        rows, worst, most = carry
        moved = rows + 2.5 * epsilon / steps * jnp.sign(_gradient(predict_fn, rows, y))
        rows = jnp.clip(moved, x - epsilon, x + epsilon)
        found = errors(rows)
        worst = jnp.where((found > most)[:, None], rows, worst)
        return (rows, worst, jnp.maximum(found, most)), None

    return jax.lax.scan(step, (x, x, errors(x)), length=steps)[0][1]
