"""Checks that an estimator of mutual information must pass whatever the data, without knowing the truth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_key, check_shape, fail, number_array
from jaxdiv.information.resampling import EstimatorFn, check_estimator, paired_rows, scalar_estimate
from jaxdiv.typing import Array, PRNGKey


class ConsistencyCheck(NamedTuple):
    """An estimate on altered data, and what it would be if the estimator were consistent with itself."""

    value: Array
    """On the altered data; scalar."""
    expected: Array
    """What ``value`` has to be; scalar."""
    reference: Array
    """On the data before they were altered; scalar. ``value / reference`` is the ratio that the paper plots."""


def independence_check(estimator_fn: EstimatorFn, x: Any, y: Any, *, key: PRNGKey) -> ConsistencyCheck:
    """I(x; y) = 0 when the rows of y are in random order.

    One draw of what `permutation_null` draws many times.

    Args:
        estimator_fn: (x, y) -> `Estimate` or scalar.
        x: [N, ...] floating or integer, N >= 2.
        y: [N, ...] floating or integer.
        key: a typed key, for the order.

    Returns:
        A `ConsistencyCheck` with 0 expected, in the estimator's dtype.

    Raises:
        ValueError: wrong shapes, dtypes or key, or an estimator that returns no floating scalar.

    Source: Song and Ermon, "Understanding the limitations of variational mutual information estimators",
    arXiv:1910.06222, the first of three self-consistency tests.

    >>> def gaussian(x, y):
    ...     return -jnp.log1p(-jnp.corrcoef(x, y)[0, 1] ** 2) / 2
    >>> x = jnp.sin(jnp.arange(100.0))
    >>> check = independence_check(gaussian, x, x + 0.1 * x**2, key=jax.random.key(0))
    >>> bool(check.value < 0.05), float(check.expected), bool(check.reference > 1.0)
    (True, 0.0, True)
    """
    function = "independence_check"
    check_estimator(function, estimator_fn)
    check_key(function, key)
    x, y = paired_rows(function, x, y)
    reference = scalar_estimate(function, estimator_fn, x, y)
    value = scalar_estimate(function, estimator_fn, x, y[jax.random.permutation(key, y.shape[0])])
    return ConsistencyCheck(value, jnp.zeros_like(reference), reference)


def data_processing_check(
    estimator_fn: EstimatorFn, x: Any, y: Any, *, process_fn: Callable[[Array], Array]
) -> ConsistencyCheck:
    """I(x; [y, h(y)]) = I(x; y): what is computed from y adds nothing to it.

    Args:
        estimator_fn: (x, y) -> `Estimate` or scalar.
        x: [N, ...] floating or integer, N >= 2.
        y: [N] or [N, d] floating.
        process_fn: h, of y as [N, d]; returns [N, e] floating.

    Returns:
        A `ConsistencyCheck` that expects the reference, in the estimator's dtype.

    Raises:
        ValueError: wrong shapes or dtypes, a ``process_fn`` that does not give one row per row, or an estimator that
            returns no floating scalar.

    Source: Song and Ermon, arXiv:1910.06222, the second self-consistency test.

    >>> def first_column(x, y):
    ...     return -jnp.log1p(-jnp.corrcoef(x, y[:, 0])[0, 1] ** 2) / 2
    >>> x = jnp.sin(jnp.arange(100.0))
    >>> check = data_processing_check(first_column, x, x + 0.1 * x**2, process_fn=jnp.square)
    >>> bool(check.value == check.expected)
    True
    """
    function = "data_processing_check"
    check_estimator(function, estimator_fn)
    if not callable(process_fn):
        raise fail(function, "process_fn", f"is {process_fn!r}", "a callable")
    x, y = paired_rows(function, x, y)
    y = _columns(function, "y", y)
    more = number_array(function, "what process_fn returns", process_fn(y))
    check_shape(function, "what process_fn returns", more, (y.shape[0], None))
    reference = scalar_estimate(function, estimator_fn, x, y)
    value = scalar_estimate(function, estimator_fn, x, jnp.concatenate([y, more], axis=1))
    return ConsistencyCheck(value, reference, reference)


def additivity_check(estimator_fn: EstimatorFn, x: Any, y: Any, *, key: PRNGKey) -> ConsistencyCheck:
    """I([x, x']; [y, y']) = 2 I(x; y) for an independent copy (x', y') of the pair.

    Two random halves of the rows are each other's copies, so all estimates are of N // 2 rows: the reference is the
    mean over the halves.

    Args:
        estimator_fn: (x, y) -> `Estimate` or scalar.
        x: [N] or [N, d] floating, N >= 4.
        y: [N] or [N, d] floating.
        key: a typed key, for the halves.

    Returns:
        A `ConsistencyCheck` that expects twice the reference, in the estimator's dtype.

    Raises:
        ValueError: wrong shapes, dtypes or key, or an estimator that returns no floating scalar.

    Source: Song and Ermon, arXiv:1910.06222, the third self-consistency test.

    >>> def summed(x, y):
    ...     return jnp.mean(x * y) * x.shape[1]
    >>> check = additivity_check(summed, jnp.arange(8.0), jnp.arange(8.0), key=jax.random.key(0))
    >>> round(float(check.value / check.expected), 4)
    1.0
    """
    function = "additivity_check"
    check_estimator(function, estimator_fn)
    check_key(function, key)
    x, y = paired_rows(function, x, y, min_rows=4)
    x, y = _columns(function, "x", x), _columns(function, "y", y)
    half = x.shape[0] // 2
    order = jax.random.permutation(key, x.shape[0])
    first, second = order[:half], order[half : 2 * half]
    halves = [scalar_estimate(function, estimator_fn, x[rows], y[rows]) for rows in (first, second)]
    reference = (halves[0] + halves[1]) / 2
    pairs = (jnp.concatenate([array[first], array[second]], axis=1) for array in (x, y))
    return ConsistencyCheck(scalar_estimate(function, estimator_fn, *pairs), 2 * reference, reference)


def _columns(function: str, argument: str, array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.ndim > 2:
        raise fail(function, argument, f"is {array.dtype}{array.shape}", "a floating array [N] or [N, d]")
    return array[:, None] if array.ndim == 1 else array
