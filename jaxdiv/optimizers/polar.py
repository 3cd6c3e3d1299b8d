"""The polar factor of matrices by Newton-Schulz iterations: what Muon steps along."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxdiv.checks import check_choice, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers.gram import almost_orthogonal, check_gram_form, gram_form_fits, gram_steps
from jaxdiv.optimizers.schedules import Schedule, find_schedule
from jaxdiv.optimizers.symmetric import Kernels, check_kernels, gram_product, multiply, symmetric_polynomial
from jaxdiv.typing import Array, ArrayLike

_DTYPES = ("bfloat16", "float16", "float32", "float64")


def orthogonalize(
    x: ArrayLike,
    *,
    schedule: str | Schedule = "you",
    dtype: DTypeLike = jnp.bfloat16,
    method: str = "standard",
    kernels: Kernels = "auto",
) -> Array:
    r"""The polar factor ``U V^T`` of ``x = U diag(sigma) V^T``, up to what the schedule does to each singular value.

    With ``A = X X^T`` on the shorter side, each step is ``X <- a X + (b A + c A^2) X``: every singular value follows
    the scalar map of `Schedule`, singular vectors stay. All matrices of a batch go through the same batched products.

    ``x`` is scaled in float32 (float64 where it is), by its largest entry first, so that a factor between 1e-12 and
    1e12 changes nothing and a matrix of zeros stays one; then it is cast to ``dtype`` for the steps. Singular values
    below about 1e-3 of the Frobenius norm stay small, whatever the schedule, when the steps are in bfloat16.

    Args:
        x: ``[..., m, n]``, any real floating dtype.
        schedule: a name of `SCHEDULES` or a `Schedule`.
        dtype: of the iterates: bfloat16, float16, float32 or float64. Products accumulate in float32 at least; float32
            products are full ones, not the ten bits of a GPU's fast path.
        method: "standard" iterates on X. "gram" iterates on Gram matrices, with two thirds of the operations where one
            side is four times the other; it needs a side more than 1.5 times the other, and float32, float64, or
            float16 with the "you" schedule: with less it loses singular values to rounding. "auto" is "gram" where
            that holds, and "standard" elsewhere.
        kernels: of the products X X^T and b A + c A^2, whose results are symmetric. "xla" computes all of them;
            `TritonTiles` or `MosaicTiles` compute the tiles on and below the diagonal, on an NVIDIA GPU in 16 bits;
            "auto" takes what has been measured to be the fastest for the shape, and XLA's for arrays that may be split
            over several GPUs (inside ``jax.shard_map``, as `muon` has it on a mesh, they are not).

    Returns:
        ``[..., m, n]`` in x's dtype. Differentiable, through the steps.

    Raises:
        ValueError: for anything else.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); Bjorck and Bowie, An
    iterative algorithm for computing the best estimate of an orthogonal matrix (SIAM J. Numer. Anal. 8, 1971).

    >>> x = jnp.array([[3.0, 0.0], [0.0, -4.0]])
    >>> [[round(float(v), 2) for v in row] for row in orthogonalize(x, schedule="polar_express_8", dtype=jnp.float32)]
    [[1.0, 0.0], [0.0, -1.0]]
    """
    x = floating_array("orthogonalize", "x", x)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise fail("orthogonalize", "x", f"has shape {x.shape}", "shape (..., m, n) with entries")
    schedule = find_schedule("orthogonalize", schedule)
    dtype = _iteration_dtype(dtype)
    check_choice("orthogonalize", "method", method, ("standard", "gram", "auto"))
    check_kernels("orthogonalize", kernels)
    tall = x.shape[-2] > x.shape[-1]
    y = _normalized(x.mT if tall else x, schedule.safety).astype(dtype)
    if method == "gram":
        check_gram_form("orthogonalize", x.shape, dtype, schedule)
    gram = method != "standard" and gram_form_fits(x.shape, dtype, schedule)
    y = (gram_steps if gram else _standard)(y, schedule, kernels).astype(x.dtype)
    return y.mT if tall else y


def _iteration_dtype(dtype: DTypeLike) -> jnp.dtype:
    try:
        name: Any = jnp.dtype(dtype).name
    except TypeError:
        name = dtype
    check_choice("orthogonalize", "dtype", name, _DTYPES)
    return jnp.dtype(name)


def _normalized(x: Array, safety: float) -> Array:
    """X over safety times its Frobenius norm; by way of its largest entry, so that no square leaves the range."""
    x = promote(x)
    top = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    x = x / jnp.where(top == 0.0, 1.0, top)
    squares = jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)
    return x / (safety * jnp.sqrt(jnp.where(squares == 0.0, 1.0, squares)))  # the root of 0 has no derivative


def _standard(x: Array, schedule: Schedule, kernels: Kernels) -> Array:
    for step, (a, b, c) in enumerate(schedule.coefficients):
        gram = gram_product(x, kernels=kernels)
        if step == 0 and schedule.rescale == "aol":
            x, gram = almost_orthogonal(x, gram)
        # a X within the product: a sum after it would read and write X once more.
        x = multiply(symmetric_polynomial(gram, a=a, b=b, c=c, kernels=kernels), x)
    return x
