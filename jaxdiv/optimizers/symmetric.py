"""Products of matrices that are symmetric, of which half need not be computed, and the product after them."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxdiv.checks import fail
from jaxdiv.numerics import is_hopper, is_local, promote
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles, choose_tiles
from jaxdiv.typing import Array

Kernels = str | TritonTiles | MosaicTiles


def check_kernels(function: str, kernels: Kernels) -> None:
    """The switch between XLA's product and the kernels is one of the values it has."""
    if not isinstance(kernels, TritonTiles | MosaicTiles) and kernels not in ("auto", "xla"):
        raise fail(function, "kernels", f"is {kernels!r}", "'auto', 'xla', TritonTiles or MosaicTiles")


def gram_product(x: Array, *, kernels: Kernels = "auto") -> Array:
    """``x x^T`` of ``[..., n, m]``: ``[..., n, n]`` in x's dtype, accumulated in float32 at least.

    Args:
        x: any floating dtype.
        kernels: "xla" computes the full product. `TritonTiles` or `MosaicTiles` compute the tiles on and below the
            diagonal on an NVIDIA GPU, in 16 bits. "auto" takes the faster of the two where it has been measured: on a
            single GPU, or inside a ``jax.shard_map`` over all axes of a mesh.

    >>> gram_product(jnp.array([[1.0, 2.0]])).tolist()
    [[5.0]]
    """
    tiles = _find_tiles(x, kernels)
    return multiply(x, x.mT) if tiles is None else _lower(x, x, None, 1.0, 0.0, 0.0, tiles)


def symmetric_product(
    x: Array, y: Array, *, beta: float = 0.0, addend: Array | None = None, kernels: Kernels = "auto"
) -> Array:
    """``x y + beta addend`` of symmetric ``[..., n, n]`` that commute, so that the product is symmetric too.

    Args:
        x: any floating dtype, which is the result's.
        y: of the same shape and dtype.
        beta: a number.
        addend: symmetric, or None.
        kernels: as `gram_product` has it.

    >>> symmetric_product(jnp.array([[2.0]]), jnp.array([[3.0]])).tolist()
    [[6.0]]
    """
    tiles = _find_tiles(x, kernels)
    return multiply(x, y, beta=beta, addend=addend) if tiles is None else _lower(x, y, addend, 1.0, beta, 0.0, tiles)


def symmetric_polynomial(gram: Array, *, b: float, c: float, a: float = 0.0, kernels: Kernels = "auto") -> Array:
    """``a I + b A + c A^2`` of symmetric ``[..., n, n]``, in its dtype; without a product where c is 0.

    Args:
        gram: A. A kernel reads all of it and relies on its symmetry.
        b: a number.
        c: a number.
        a: a number.
        kernels: as `gram_product` has it.

    >>> symmetric_polynomial(jnp.array([[2.0]]), b=1.0, c=0.5, a=3.0).tolist()
    [[7.0]]
    """
    tiles = None if c == 0.0 else _find_tiles(gram, kernels)
    if tiles is not None:
        return _lower(gram, gram, gram, c, b, a, tiles)
    total = b * promote(gram)
    if c != 0.0:
        total = c * promote(multiply(gram, gram)) + total
    return (total + a * jnp.eye(gram.shape[-1], dtype=total.dtype)).astype(gram.dtype)


def multiply(x: Array, y: Array, *, alpha: float = 1.0, beta: float = 0.0, addend: Array | None = None) -> Array:
    """``alpha x y + beta addend`` in x's dtype: a product rounded once, then a sum in float32 at least."""
    # "highest" concerns float32 only: an accelerator's fast float32 has ten bits.
    product = jnp.matmul(x, y, precision="highest")
    if addend is None and alpha == 1.0:
        return product
    total = alpha * promote(product)
    return (total if addend is None else total + beta * promote(addend)).astype(x.dtype)


def _find_tiles(x: Array, kernels: Kernels) -> TritonTiles | MosaicTiles | None:
    """The kernel for this array, or None for XLA's product."""
    if kernels != "auto":
        return None if isinstance(kernels, str) else kernels
    # Offsets have 32 bits.
    if jax.default_backend() != "gpu" or not is_local(x) or x.dtype.itemsize != 2 or x.size >= 2**31:
        return None
    return choose_tiles(math.prod(x.shape[:-2]), *x.shape[-2:]) if is_hopper() else None


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def _lower(
    x: Array,
    y: Array,
    addend: Array | None,
    alpha: float,
    beta: float,
    diagonal: float,
    tiles: TritonTiles | MosaicTiles,
) -> Array:
    """``alpha x y^T + beta addend + diagonal I``, symmetric, by a kernel that computes half of it."""
    flat = [z if z is None else z.reshape(-1, *z.shape[-2:]) for z in (x, y, addend)]
    if isinstance(tiles, MosaicTiles):
        from jaxdiv.optimizers.symmetric_mosaic import mosaic_product

        num_programs = jax.devices()[0].core_count
        run = functools.partial(mosaic_product, tiles=tiles, num_programs=num_programs)
    else:
        from jaxdiv.optimizers.symmetric_triton import triton_product

        run = functools.partial(triton_product, tiles=tiles, interpret=jax.default_backend() == "cpu")
    total = run(flat[0], flat[1], alpha=alpha, beta=beta, addend=flat[2], diagonal=diagonal)
    return total.reshape(*x.shape[:-1], x.shape[-2])


@_lower.defjvp
def _lower_jvp(alpha, beta, diagonal, tiles, primals, tangents):
    x, y, addend = primals
    dx, dy, da = tangents
    slope = multiply(dx, y.mT, alpha=alpha) + multiply(x, dy.mT, alpha=alpha, beta=beta, addend=da)
    return _lower(x, y, addend, alpha, beta, diagonal, tiles), slope
