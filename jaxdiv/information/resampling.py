"""How far an estimate is from chance and from itself: permutation nulls and subsampling intervals of any estimator."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from jaxdiv.checks import check_integer, check_key, check_real, check_shape, fail, floating_array, number_array
from jaxdiv.divergences.two_sample.permutation import summarize
from jaxdiv.information.estimate import Estimate
from jaxdiv.typing import Array, PRNGKey

EstimatorFn = Callable[[Array, Array], Estimate | Array]
"""``(x, y) -> Estimate``, or a scalar, of any number of paired rows."""


class PermutationNull(NamedTuple):
    """An estimate beside what the same estimator says of the same x and y when nothing ties them."""

    value: Array
    """Of the data as given; scalar."""
    p_value: Array
    """(1 + number of null values >= value) / (1 + num_permutations): at most alpha with probability <= alpha."""
    null_mean: Array
    """The estimator's bias at independence; scalar."""
    null: Array
    """Of the data with y permuted, [num_permutations]."""


class SubsamplingInterval(NamedTuple):
    """An interval for the estimator's mean, and what it was made from."""

    value: Array
    """Of all N rows; scalar."""
    lower: Array
    """``value`` less the normal quantile times ``stderr``; scalar."""
    upper: Array
    """``value`` plus the same; scalar."""
    stderr: Array
    """sqrt(B / N); scalar."""
    scaled_variances: Array
    """m s_m^2 of each subset size m, [len(num_subsets)]: alike where variance falls as 1 / m."""
    means: Array
    """Mean estimate at each subset size, [len(num_subsets)]: a drift towards ``value`` is the bias, which no interval
    here contains."""


def permutation_null(
    estimator_fn: EstimatorFn,
    x: Any,
    y: Any,
    *,
    key: PRNGKey,
    num_permutations: int = 200,
    batch_size: int = 8,
) -> PermutationNull:
    r"""What an estimator says of independent data with these margins: a test of dependence, and the bias at zero.

    Permuting the rows of y breaks every tie with x and keeps both margins. If x and y are independent all orders are
    equally likely, so the p-value is exact at every N and for every estimator; nothing is assumed of its bias or law.
    Rows have to be exchangeable: for time series p-values come out too small.

    The data themselves and all permutations go through one vmapped computation, ``batch_size`` at once and the batches
    in sequence: memory is ``batch_size`` times the estimator's. A last batch that is not full is filled up with
    permutations that are not used.

    Args:
        estimator_fn: (x, y) -> `Estimate` or scalar, traced once under `jax.vmap`. Bind a key that it needs.
        x: [N, ...] floating or integer, N >= 2.
        y: [N, ...] floating or integer; labels [N] for instance.
        key: a typed key.
        num_permutations: at least 1; the p-value is never below 1 / (1 + num_permutations).
        batch_size: orders computed at once.

    Returns:
        A `PermutationNull` in the estimator's dtype; NaN as p-value where the value or a null value is NaN. Not meant
        to be differentiated.

    Raises:
        ValueError: wrong shapes, dtypes, key or counts, or an estimator that returns no floating scalar.

    Source: Phipson and Smyth, "Permutation p-values should never be zero", arXiv:1603.05766, section 2.

    >>> def squared_correlation(x, y):
    ...     return jnp.corrcoef(x, y)[0, 1] ** 2
    >>> x = jnp.arange(20.0)
    >>> result = permutation_null(squared_correlation, x, 2 * x, key=jax.random.key(0), num_permutations=99)
    >>> round(float(result.value), 3), round(float(result.p_value), 3), bool(result.null_mean < 0.2)
    (1.0, 0.01, True)
    """
    function = "permutation_null"
    check_estimator(function, estimator_fn)
    check_key(function, key)
    check_integer(function, "num_permutations", num_permutations, 1)
    check_integer(function, "batch_size", batch_size, 1)
    x, y = paired_rows(function, x, y)
    batches = -(-(1 + num_permutations) // batch_size)
    own = jnp.arange(y.shape[0])

    def estimate(numbered):
        index, key = numbered
        order = jnp.where(index == 0, own, jax.random.permutation(key, y.shape[0]))
        return scalar_estimate(function, estimator_fn, x, y[order])

    index = jnp.arange(batches * batch_size).reshape(batches, batch_size)
    keys = jax.random.split(key, (batches, batch_size))
    values = jax.lax.map(jax.vmap(estimate), (index, keys)).reshape(-1)[: 1 + num_permutations]
    test = summarize(values[0], values[1:])
    return PermutationNull(test.statistic, test.p_value, jnp.mean(test.null), test.null)


def subsampling_interval(
    estimator_fn: EstimatorFn,
    x: Any,
    y: Any,
    *,
    key: PRNGKey,
    num_subsets: Sequence[int] = (5, 10, 20),
    num_repeats: int = 10,
    level: float = 0.95,
) -> SubsamplingInterval:
    r"""A confidence interval from estimates of disjoint subsets, by the law that variance falls as B / N.

    For each n in ``num_subsets`` the rows are shuffled and cut into n subsets of m = N // n rows. They are independent
    samples, so the variance s_m^2 among their estimates is unbiased for that at size m; it is averaged over
    ``num_repeats`` shuffles. If (n - 1) s_m^2 / (B / m) follows chi^2 with n - 1 degrees of freedom the likelihood of B
    is greatest at

    .. math:: B = \sum_n (n - 1) \, m s_m^2 \Big/ \sum_n (n - 1),

    and the interval is value +- z sqrt(B / N). Two things to know:

    * It is an interval for the mean of the estimator at N, not for the mutual information: bias is not in it. ``means``
      shows how the estimate moves with the number of rows.
    * It is not the bootstrap. Drawing N rows with replacement repeats rows, which makes distances of exactly zero among
      neighbours and entries far off the diagonal of a Gram matrix that belong to the same point: nearest-neighbour and
      kernel estimates then find dependence that is none. Every subset here consists of different rows.

    Args:
        estimator_fn: (x, y) -> `Estimate` or scalar, traced under `jax.vmap` once per entry of ``num_subsets``, and
            once as it is for all rows. Bind a key that it needs.
        x: [N, ...] floating or integer.
        y: [N, ...] floating or integer; labels [N] for instance.
        key: a typed key.
        num_subsets: integers >= 2; the smallest subset, N // max(num_subsets), must be enough for the estimator and
            have at least 2 rows.
        num_repeats: shuffles per size, in sequence.
        level: of confidence, in (0, 1).

    Returns:
        A `SubsamplingInterval` in the estimator's dtype. Not meant to be differentiated.

    Raises:
        ValueError: wrong shapes, dtypes, key or counts, or an estimator that returns no floating scalar.

    Source: Holmes and Nemenman, "Estimation of mutual information for real-valued data with error bars and controlled
    bias", arXiv:1903.09280; the average over shuffles is added here.

    >>> def mean_product(x, y):
    ...     return jnp.mean(x * y)
    >>> x = jax.random.normal(jax.random.key(0), (2000,))
    >>> interval = subsampling_interval(mean_product, x, x, key=jax.random.key(1))
    >>> bool(abs(interval.stderr / (2 / 2000) ** 0.5 - 1) < 0.25)  # the variance of x^2 is 2
    True
    """
    function = "subsampling_interval"
    check_estimator(function, estimator_fn)
    check_key(function, key)
    check_integer(function, "num_repeats", num_repeats, 1)
    check_real(function, "level", level, 0, 1, open_low=True, open_high=True)
    x, y = paired_rows(function, x, y)
    rows = x.shape[0]
    if not isinstance(num_subsets, Sequence) or not num_subsets:
        raise fail(function, "num_subsets", f"is {num_subsets!r}", "a sequence of integers")
    for count in num_subsets:
        check_integer(function, "num_subsets", count, 2, rows // 2)

    def spread(key, count):
        order = jax.random.permutation(key, rows)[: rows // count * count].reshape(count, -1)
        values = jax.vmap(lambda index: scalar_estimate(function, estimator_fn, x[index], y[index]))(order)
        return jnp.var(values, ddof=1), jnp.mean(values)

    value = scalar_estimate(function, estimator_fn, x, y)
    scaled, means = [], []
    for i, count in enumerate(num_subsets):
        keys = jax.random.split(jax.random.fold_in(key, i), num_repeats)
        variances, averages = jax.lax.map(lambda key, count=count: spread(key, count), keys)
        scaled.append(rows // count * jnp.mean(variances))
        means.append(jnp.mean(averages))
    freedom = jnp.array([count - 1 for count in num_subsets], value.dtype)
    stderr = jnp.sqrt(freedom @ jnp.stack(scaled) / jnp.sum(freedom) / rows)
    half = ndtri(jnp.asarray((1 + level) / 2, value.dtype)) * stderr
    return SubsamplingInterval(value, value - half, value + half, stderr, jnp.stack(scaled), jnp.stack(means))


def check_estimator(function: str, estimator_fn: Any) -> None:
    """The estimator can be called."""
    if not callable(estimator_fn):
        raise fail(function, "estimator_fn", f"is {estimator_fn!r}", "a callable")


def paired_rows(function: str, x: Any, y: Any, *, min_rows: int = 2) -> tuple[Array, Array]:
    """Arrays of floats or integers with the same number of rows, as they came.

    >>> [array.shape for array in paired_rows("f", jnp.zeros((3, 2)), jnp.arange(3))]
    [(3, 2), (3,)]
    """
    arrays = []
    for name, value in (("x", x), ("y", y)):
        array = number_array(function, name, value)
        if array.ndim == 0 or array.shape[0] < min_rows:
            raise fail(function, name, f"has shape {array.shape}", f"at least {min_rows} rows")
        arrays.append(array)
    if arrays[1].shape[0] != arrays[0].shape[0]:
        raise fail(function, "y", f"has {arrays[1].shape[0]} rows", f"the {arrays[0].shape[0]} rows of x")
    return arrays[0], arrays[1]


def scalar_estimate(function: str, estimator_fn: EstimatorFn, x: Array, y: Array) -> Array:
    """The estimator's number, float32 at least."""
    estimate = estimator_fn(x, y)
    value = floating_array(function, "what estimator_fn returns", getattr(estimate, "value", estimate))
    check_shape(function, "what estimator_fn returns", value, ())
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))
