"""Forty tasks whose mutual information is known: what an estimator can be held against.

Distributions and numbers are those of Czyż, Grabowski, Vogt, Beerenwinkel and Marx, "Beyond Normal: On the Evaluation
of Mutual Information Estimators" (arXiv:2306.11078), made anew from their closed forms. Injective maps of x alone and
of y alone leave the mutual information as it is, so most tasks are a normal or a Student-t law seen through such maps.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from jaxdiv.checks import check_integer, check_key
from jaxdiv.typing import Array, PRNGKey

SampleFn = Callable[[PRNGKey, int], tuple[Array, Array]]
MapFn = Callable[[Array], Array]

CORRELATION = 0.75
"""Of the one-dimensional normal tasks."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A law of pairs (x, y) with its mutual information.

    >>> task = TASKS["normal-1x1"]
    >>> x, y = task.sample(jax.random.key(0), 100)
    >>> x.shape, y.shape, round(task.mutual_information, 4)
    ((100, 1), (100, 1), 0.4133)
    """

    name: str
    """Law, maps and dimensions: maps before the law they see, the outermost first."""
    sample_fn: SampleFn
    """What `sample` calls after its checks."""
    mutual_information: float
    """I(x; y) in nats, exact to float64."""
    dims: tuple[int, int]
    """Columns of x and of y."""

    def sample(self, key: PRNGKey, num_samples: int) -> tuple[Array, Array]:
        """Independent pairs x ``[num_samples, dims[0]]``, y ``[num_samples, dims[1]]`` in jax's default float dtype.

        Holds under `jax.vmap` over keys and under `jax.jit` with ``num_samples`` static.

        Args:
            key: a typed key.
            num_samples: rows, at least 1.

        Raises:
            ValueError: no typed key, or no positive integer.
        """
        check_key("Task.sample", key)
        check_integer("Task.sample", "num_samples", num_samples, 1)
        return self.sample_fn(key, num_samples)


def _normal(name: str, covariance: np.ndarray, dim_x: int) -> Task:
    """I = (log det S_x + log det S_y - log det S) / 2."""
    factor = np.linalg.cholesky(covariance)
    parts = (covariance[:dim_x, :dim_x], covariance[dim_x:, dim_x:], covariance)
    log_x, log_y, log_joint = (np.linalg.slogdet(part)[1] for part in parts)

    def sample(key, num):
        joint = jnp.matmul(jax.random.normal(key, (num, len(factor))), factor.T, precision="highest")
        return joint[:, :dim_x], joint[:, dim_x:]

    return Task(name, sample, float(log_x + log_y - log_joint) / 2, (dim_x, len(factor) - dim_x))


def _dense(dim: int) -> Task:
    """All correlations 1/2."""
    return _normal(f"dense-{dim}x{dim}", (np.eye(2 * dim) + 1) / 2, dim)


def _sparse(dim: int) -> Task:
    """x_1 with y_1 and x_2 with y_2 at correlation 0.8, all else independent."""
    covariance = np.eye(2 * dim)
    for i in (0, 1):
        covariance[i, dim + i] = covariance[dim + i, i] = 0.8
    return _normal(f"sparse-{dim}x{dim}", covariance, dim)


def _digamma_of_half(count: int) -> float:
    """psi(count / 2) by psi(t + 1) = psi(t) + 1 / t from psi(1/2) or psi(1)."""
    start = count % 2 or 2
    value = -np.euler_gamma - (2 * math.log(2) if start == 1 else 0.0)
    return value + sum(2.0 / m for m in range(start, count, 2))


def _student(dim: int, df: int) -> Task:
    """Student-t with identity scale: the columns are uncorrelated, and dependent through their common denominator."""

    def term(dims: int) -> float:
        half = (df + dims) / 2
        return half * _digamma_of_half(df + dims) - math.lgamma(half)

    def sample(key, num):
        key_normal, key_denominator = jax.random.split(key)
        chi_squared = jnp.sum(jax.random.normal(key_denominator, (num, df)) ** 2, axis=1, keepdims=True)
        joint = jax.random.normal(key_normal, (num, 2 * dim)) / jnp.sqrt(chi_squared / df)
        return joint[:, :dim], joint[:, dim:]

    return Task(f"student-{dim}x{dim}-df{df}", sample, 2 * term(dim) - term(2 * dim) - term(0), (dim, dim))


def _additive(epsilon: float) -> Task:
    """Y = x + n, x uniform on [0, 1], n uniform on [-epsilon, epsilon]: I = h(y) - log(2 epsilon), y a trapezoid."""

    def sample(key, num):
        key_x, key_noise = jax.random.split(key)
        x = jax.random.uniform(key_x, (num, 1))
        return x, x + jax.random.uniform(key_noise, (num, 1), minval=-epsilon, maxval=epsilon)

    value = 1 / (4 * epsilon) if epsilon > 0.5 else epsilon - math.log(2 * epsilon)
    return Task(f"additive-{epsilon}", sample, value, (1, 1))


def _mapped(name: str, base: Task, map_x: MapFn, map_y: MapFn, dim_x: int | None = None) -> Task:
    """The base task seen through injective maps of its arrays; ``name`` is put before its own."""

    def sample(key, num):
        x, y = base.sample_fn(key, num)
        return map_x(x), map_y(y)

    dims = (base.dims[0] if dim_x is None else dim_x, base.dims[1])
    return Task(f"{name}-{base.name}", sample, base.mutual_information, dims)


def _wiggly_x(x: Array) -> Array:
    return x + 0.4 * jnp.sin(x) + 0.2 * jnp.sin(1.7 * x + 1) + 0.03 * jnp.sin(3.3 * x - 2.5)


def _wiggly_y(y: Array) -> Array:
    return y - 0.4 * jnp.sin(0.4 * y) + 0.17 * jnp.sin(1.3 * y + 3.5) + 0.02 * jnp.sin(4.3 * y - 2.5)


def _half_cube(x: Array) -> Array:
    return x * jnp.sqrt(jnp.abs(x))


def _swissroll(x: Array) -> Array:
    """A normal number's quantile u in (0, 1), as the point of a spiral in the plane at angle 3 pi (1 + 2 u) / 2."""
    angle = 1.5 * jnp.pi * (1 + 2 * ndtr(x))
    return jnp.concatenate([angle * jnp.cos(angle), angle * jnp.sin(angle)], axis=-1) / 21


def _to_mixture(low: float, high: float, weight: float) -> MapFn:
    """The increasing map of N(0, 1) onto weight N(low, 1) + (1 - weight) N(high, 1).

    The quantile lies within [z + low, z + high], and the tail that is small is compared, so that float32 serves.
    """

    def apply(z):
        sign = jnp.where(z > 0, -1.0, 1.0)
        target = ndtr(sign * z)

        def halve(_, bracket):
            left, right = bracket
            middle = (left + right) / 2
            tail = weight * ndtr(sign * (middle - low)) + (1 - weight) * ndtr(sign * (middle - high))
            too_low = sign * (tail - target) < 0
            return jnp.where(too_low, middle, left), jnp.where(too_low, right, middle)

        halvings = jnp.finfo(z.dtype).nmant + 4
        left, right = jax.lax.fori_loop(0, halvings, halve, (z + low, z + high))
        return (left + right) / 2

    return apply


def _spiral(first: int) -> MapFn:
    """Turns columns ``first`` and ``first + 1`` of d by the angle |x|^2 / d, which keeps the norm and so inverts."""

    def apply(x):
        angle = jnp.mean(x**2, axis=-1)
        a, b = x[..., first], x[..., first + 1]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return x.at[..., first].set(cos * a - sin * b).at[..., first + 1].set(sin * a + cos * b)

    return apply


def _build() -> list[Task]:
    normal = _normal("normal-1x1", np.array([[1.0, CORRELATION], [CORRELATION, 1.0]]), 1)
    students = {(dim, df): _student(dim, df) for dim, df in ((1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))}
    sparse = {dim: _sparse(dim) for dim in (2, 3, 5, 25)}
    wide = [sparse[dim] for dim in (3, 5, 25)]
    uniform = [_mapped("normal_cdf", task, ndtr, ndtr) for task in wide]
    return [
        normal,
        _mapped("normal_cdf", normal, ndtr, ndtr),
        _additive(0.1),
        _additive(0.75),
        _mapped("bimodal", normal, _to_mixture(0.0, 5.0, 0.3), _to_mixture(-1.0, 3.0, 0.5)),
        _mapped("wiggly", normal, _wiggly_x, _wiggly_y),
        _mapped("half_cube", normal, _half_cube, _half_cube),
        students[1, 1],
        _mapped("asinh", students[1, 1], jnp.arcsinh, jnp.arcsinh),
        _mapped("swissroll", normal, _swissroll, ndtr, dim_x=2),
        *(_dense(dim) for dim in (2, 3, 5, 25, 50)),
        *sparse.values(),
        *(task for (dim, _), task in students.items() if dim > 1),
        *uniform,
        *(_mapped("half_cube", task, _half_cube, _half_cube) for task in wide),
        *(_mapped("spiral", task, _spiral(0), _spiral(1)) for task in (*wide, *uniform)),
        *(_mapped("asinh", students[key], jnp.arcsinh, jnp.arcsinh) for key in ((2, 1), (3, 2), (5, 2))),
    ]


TASKS: dict[str, Task] = {task.name: task for task in _build()}
"""The forty tasks by name."""
