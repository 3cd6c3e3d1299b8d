"""Log-space arithmetic that keeps its relative accuracy and its derivatives.

The first argument is an array, every further one a Python number. Each function carries the derivative that is
accurate, not the one autodiff would make of the formula: jax differentiates ``expm1(x)`` into ``expm1(x) + 1``, which
is 0 in float32 at x = -20. No branch is evaluated where it overflows, so no NaN hides behind a ``where``.
"""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def promote(x: ArrayLike) -> jax.Array:
    """The array in the dtype all of jaxdiv computes in: float64 stays, everything else becomes float32.

    >>> promote(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32, jnp.float32))


def cuda_capability() -> float | None:
    """The compute capability of the NVIDIA GPU that the process computes on, 9.0 for Hopper; None on anything else.

    >>> cuda_capability() is None or jax.default_backend() == "gpu"
    True
    """
    # AMD's are names without a point.
    major, point, minor = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")
    return float(f"{major}.{minor}") if point else None


def is_hopper() -> bool:
    """Whether the process computes on an NVIDIA Hopper GPU, for whose instructions some kernels are written."""
    return cuda_capability() == 9.0


def varying_axes(tree: Any) -> frozenset[Any]:
    """The mesh axes over which an array of the tree varies inside a `jax.shard_map`; none outside of one.

    >>> varying_axes((jnp.zeros(2), 1.0))
    frozenset()
    """

    def of_one(x):
        kind = jax.typeof(x)
        axes = getattr(kind, "manual_axis_type", None)
        return getattr(kind, "vma", frozenset()) if axes is None else axes.varying  # vma until jax 0.10

    return frozenset().union(*map(of_one, jax.tree.leaves(tree)))


def is_local(tree: Any) -> bool:
    """Whether each array of the tree lies on one device, so that a kernel, which nothing partitions, can take it.

    There is one device, or a `jax.shard_map` over all axes of a mesh has left the parts of one. Its ``check_vma=False``
    is needed too, since what a kernel returns says nothing of the axes over which it varies.

    >>> jax.device_count() > 1 or is_local((jnp.zeros(2), None))
    True
    """
    alone = jax.device_count() == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual
    return alone and not varying_axes(tree)


def runs_triton(tree: Any) -> bool:
    """Whether the Pallas kernels for any GPU can take the arrays: `is_local`, and jax compiles them for it.

    Their backend, Triton, needs NVIDIA's Ampere or later (Colab's T4 is earlier), and jax 0.12 announces its removal.
    Without it everything goes by XLA.

    >>> runs_triton(jnp.zeros(2)) and jax.default_backend() == "cpu"
    False
    """
    if jax.default_backend() != "gpu" or not is_local(tree):
        return False
    capability = cuda_capability()
    if capability is not None and capability < 8.0:
        return False
    return importlib.util.find_spec("jax.experimental.pallas.triton") is not None


def _vary(tree: Any, axes: frozenset[Any]) -> Any:
    def one(x):
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, tree)


def vary_alike(tree: Any) -> Any:
    """The arrays, each varying over all the mesh axes that any of them varies over in a `jax.shard_map`.

    Loops and custom derivatives need what they mix to be of one type there. The gradient of an array that was
    replicated is then summed over the axes, as it is by jax's own operations. Outside a `shard_map` nothing changes.

    >>> vary_alike((jnp.zeros(2), 1.0))[1]
    1.0
    """
    return _vary(tree, varying_axes(tree))


def vary_as(tree: Any, like: Any) -> Any:
    """The arrays, varying over the mesh axes that any array of ``like`` varies over, too: what a loop starts from.

    >>> vary_as(jnp.zeros(2), jnp.ones(3)).shape
    (2,)
    """
    return _vary(tree, varying_axes(like))


def with_limit(x: jax.Array, limit: float, fn: Callable[..., jax.Array], *args: float) -> jax.Array:
    """fn(x, *args), and ``limit`` at x = -inf, where the formula itself may be inf - inf; NaN stays NaN.

    >>> float(with_limit(jnp.float32(-jnp.inf), 1.0, lambda x: x * jnp.exp(x) + 1.0))
    1.0
    """
    finite = x != -jnp.inf
    return jnp.where(finite, fn(jnp.where(finite, x, 0.0), *args), limit)


def inf_from(t: jax.Array, end: float, fn: Callable[..., jax.Array], *args: float) -> jax.Array:
    """fn(t, *args) below ``end`` and +inf from there on, the shape of a convex conjugate; NaN stays NaN.

    >>> float(inf_from(jnp.float32(2.0), 1.0, lambda t: t / (1.0 - t)))
    inf
    """
    beyond = t >= end
    return jnp.where(beyond, jnp.inf, fn(jnp.where(beyond, 0.0, t), *args))


def scaled_pair(x: jax.Array, c: float) -> tuple[jax.Array, jax.Array]:
    """The product c x as its rounding and what that lacks, which e^{c x} would lose where c x is large or c no float32.

    Every product whose rounding counts is exact, so a compiler may fuse it with the addition after it.

    >>> high, low = scaled_pair(jnp.float32(3.0), 0.1)
    >>> round((float(high) + float(low)) * 1e10)
    3000000000
    """
    mantissa, exponent = math.frexp(c)
    if mantissa in (0.0, 0.5, -0.5):  # 0 and the powers of two multiply without rounding
        return c * x, jnp.zeros_like(x)
    bits = 11 if x.dtype == jnp.float32 else 25
    c_high = math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)
    bounded = jnp.abs(x) < 1e8  # beyond, every exponential is 0, 1 or inf, and inf - inf is near
    inner = jnp.where(bounded, x, 0.0)
    x_high = jax.lax.reduce_precision(inner, jnp.finfo(x.dtype).nexp, bits)
    product = c_high * x_high
    rest = c_high * (inner - x_high) + (c - c_high) * inner
    high = product + rest
    return jnp.where(bounded, high, c * x), rest - (high - product)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def exp_scaled(x: jax.Array, c: float) -> jax.Array:
    """e^{c x}, right to a few units of rounding whatever the exponent: the rounding of c x is made good.

    >>> float(exp_scaled(jnp.float32(0.5), 0.0))
    1.0
    """
    if c == 0.0:  # exp(0 * inf) would be NaN
        return jnp.where(jnp.isnan(x), x, 1.0)
    high, low = scaled_pair(x, c)
    return jnp.exp(high) * (1.0 + low)


@exp_scaled.defjvp
def _exp_scaled_jvp(c, primals, tangents):
    (x,), (dx,) = primals, tangents
    y = exp_scaled(x, c)
    return y, c * y * dx


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def expm1_scaled(x: jax.Array, c: float = 1.0) -> jax.Array:
    r"""(e^{c x} - 1) / c, and x itself at c = 0; the derivative is e^{c x} to full relative accuracy.

    >>> float(expm1_scaled(jnp.float32(0.5), 0.0))
    0.5
    """
    if abs(c) < 1e-30:
        return x
    high, low = scaled_pair(x, c)
    y = jnp.expm1(high)
    return (y * (1.0 + low) + low) / c


@expm1_scaled.defjvp
def _expm1_scaled_jvp(c, primals, tangents):
    (x,), (dx,) = primals, tangents
    return expm1_scaled(x, c), exp_scaled(x, c) * dx


def log1p(u: jax.Array) -> jax.Array:
    """log(1 + u) to rounding error everywhere; XLA's own log1p loses two digits in float64 for u in (-0.41, -0.29).

    >>> round(float(log1p(jnp.float32(-0.4))), 6)
    -0.510826
    """
    low = u < -0.25
    return jnp.where(low, jnp.log(1.0 + jnp.where(low, u, 0.0)), jnp.log1p(jnp.where(low, 0.0, u)))


def log1p_scaled(t: jax.Array, c: float) -> jax.Array:
    r"""log(1 + c t) / c, and t itself at c = 0: the inverse of `expm1_scaled`; where 1 + c t <= 0, its limit there.

    >>> round(float(log1p_scaled(jnp.float32(2.0), 1.0)), 4)
    1.0986
    """
    return t if abs(c) < 1e-30 else log1p(jnp.maximum(c * t, -1.0)) / c


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def log_mix(x: jax.Array, weight: float, complement: float) -> jax.Array:
    r"""log(complement + weight e^x), the log-ratio of a mixture, accurate relatively near x = 0 where it vanishes.

    Args:
        x: log-ratios, any shape.
        weight: share of e^x, in (0, 1).
        complement: 1 - weight, given because ``1 - weight`` loses the digits of a weight near 1.

    Returns:
        The logarithm, of x's shape and dtype. Its derivative is sigmoid(x + log(weight / complement)).

    >>> round(float(log_mix(jnp.float32(0.0), 0.5, 0.5)), 6)
    0.0
    """
    # 40: beyond it e^x outgrows every admitted complement, and float32 overflows at 88.
    far = jnp.logaddexp(jnp.asarray(math.log(complement), x.dtype), math.log(weight) + jnp.maximum(x, 40.0))
    mid = jnp.minimum(x, 40.0)
    shift = weight * jnp.expm1(mid)
    # Far below 0 the sum of positive shares keeps the digits of a small complement that 1 + shift would lose.
    near = jnp.where(shift < -0.25, jnp.log(complement + weight * jnp.exp(mid)), jnp.log1p(jnp.maximum(shift, -0.25)))
    return jnp.where(x > 40.0, far, near)


@log_mix.defjvp
def _log_mix_jvp(weight, complement, primals, tangents):
    (x,), (dx,) = primals, tangents
    logit = math.log(weight) - math.log(complement)
    return log_mix(x, weight, complement), jax.nn.sigmoid(x + logit) * dx


def _power_slope(x: jax.Array, a: float) -> jax.Array:
    """e^x (e^{(a-1) x} - 1) / (a - 1) without overflow in a factor that the other would have cancelled."""
    if a == 0.0:  # exp(0 * -inf) would be NaN
        return expm1_scaled(x)
    return exp_scaled(x, a) * expm1_scaled(x, 1.0 - a) if a < 1.0 else jnp.exp(x) * expm1_scaled(x, a - 1.0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def power_generator(x: jax.Array, a: float) -> jax.Array:
    r"""(r^a - a r - (1 - a)) / (a (a - 1)) at r = e^x: zero to second order at x = 0, where it is a power series.

    Args:
        x: log-ratios, any shape.
        a: the power; a = 1 is r log r - r + 1 and a = 0 is r - 1 - log r.

    Returns:
        The non-negative value, of x's shape and dtype; at x = -inf it may be NaN.

    >>> round(float(power_generator(jnp.float32(1.0), 1.0)), 6)
    1.0
    """
    radius = 1.0 / max(1.0, abs(a))
    small = jnp.where(jnp.abs(x) < radius, x, 0.0)
    # Coefficients (a^{k-1} - 1) / ((a - 1) k!) = (1 + a + ... + a^{k-2}) / k!; a tail of 11/12! is float32's rounding.
    num_terms = 20 if x.dtype == jnp.float64 else 12
    sums = [sum(a**j for j in range(k - 1)) for k in range(2, num_terms + 1)]
    series = jnp.zeros_like(x)
    for k in range(num_terms, 1, -1):
        series = series * small + sums[k - 2] / math.factorial(k)
    series = series * small * small
    if 0.0 <= a <= 2.0:  # r f' - (r f' - f): no small denominator at a = 1
        closed = _power_slope(x, a) - expm1_scaled(x, a)
    else:
        closed = (expm1_scaled(x, a) - jnp.expm1(x)) / (a - 1.0)
    return jnp.where(jnp.abs(x) < radius, series, closed)


@power_generator.defjvp
def _power_generator_jvp(a, primals, tangents):
    (x,), (dx,) = primals, tangents
    return power_generator(x, a), _power_slope(x, a) * dx


def _lambert_refine(w: jax.Array, log_argument: jax.Array) -> jax.Array:
    """Three steps of Fritsch's fourth-order iteration for w + log|w| = log_argument (Fritsch et al., CACM 1973)."""
    for _ in range(3):
        residual = log_argument - w - jnp.log(jnp.abs(w))
        slope = jnp.where(w == -1.0, 1.0, 1.0 + w)  # the branch point is a fixed point: residual 0
        step = residual / slope
        q = 2.0 * slope + 4.0 / 3.0 * residual
        gap = jnp.where(q == 2.0 * step, 1.0, q - 2.0 * step)
        w = w * (1.0 + step * (q - step) / gap)
    return w


@jax.custom_jvp
def lambert_w0_exp(z: jax.Array) -> jax.Array:
    r"""W_0(e^z), Lambert's principal branch of a logarithm: the w > 0 with w + log w = z, for any real z.

    >>> round(float(lambert_w0_exp(jnp.float32(1.0))), 6)
    1.0
    """
    inner = jnp.maximum(z, -40.0)
    middle = jnp.exp(0.6 * (jnp.minimum(inner, 2.0) - 1.0))
    start = jnp.where(inner > 2.0, inner - jnp.log(jnp.maximum(inner, 2.0)), middle)
    start = jnp.where(inner < -2.0, jnp.exp(jnp.minimum(inner, 0.0)), start)
    return jnp.where(z < -40.0, jnp.exp(z), _lambert_refine(start, inner))


@lambert_w0_exp.defjvp
def _lambert_w0_exp_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    w = lambert_w0_exp(z)
    return w, w / (1.0 + w) * dz


@jax.custom_jvp
def lambert_wm1_exp(z: jax.Array) -> jax.Array:
    r"""W_{-1}(-e^{-z}), Lambert's lower branch: the w <= -1 with w + log(-w) = -z, for z >= 1 (taken as 1 below).

    >>> round(float(lambert_wm1_exp(jnp.float32(1.0))), 6)
    -1.0
    """
    z = jnp.maximum(z, 1.0)
    s = jnp.sqrt(2.0 * (z - 1.0))
    near = -1.0 - s - s * s / 3.0 - s**3 / 36.0
    w = jnp.where(z > 3.0, -z - jnp.log(z), near)
    # Closer than this to the branch point the series is exact and the iteration divides rounding by rounding.
    return jnp.where(s < 1e-3 if z.dtype == jnp.float64 else s < 3e-2, near + s**4 / 270.0, _lambert_refine(w, -z))


@lambert_wm1_exp.defjvp
def _lambert_wm1_exp_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    w = lambert_wm1_exp(z)
    return w, -w / (1.0 + w) * dz
