"""Products of matrices that are symmetric, of which half need not be computed, and the product after them."""

import jax.numpy as jnp

from jaxdiv.numerics import promote
from jaxdiv.typing import Array


def gram_product(x: Array) -> Array:
    """``x x^T`` of ``[..., n, m]``: ``[..., n, n]`` in x's dtype, accumulated in float32 at least."""
    return multiply(x, x.mT)


def symmetric_polynomial(gram: Array, *, b: float, c: float) -> Array:
    """``b A + c A^2`` of symmetric ``[..., n, n]``, in its dtype; without a product where c is 0."""
    if c == 0.0:
        return (b * promote(gram)).astype(gram.dtype)
    return multiply(gram, gram, alpha=c, beta=b, addend=gram)


def multiply(x: Array, y: Array, *, alpha: float = 1.0, beta: float = 0.0, addend: Array | None = None) -> Array:
    """``alpha x y + beta addend`` in x's dtype: a product rounded once, then a sum in float32 at least."""
    # "highest" concerns float32 only: an accelerator's fast float32 has ten bits.
    product = jnp.matmul(x, y, precision="highest")
    if addend is None and alpha == 1.0:
        return product
    total = alpha * promote(product)
    return (total if addend is None else total + beta * promote(addend)).astype(x.dtype)
