"""What runs only on a GPU: the kernels of symmetric products, and a step of Muon with them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.numerics import is_hopper
from jaxdiv.optimizers import MatrixAxes, MosaicTiles, TritonTiles, muon
from jaxdiv.optimizers.symmetric import gram_product, symmetric_polynomial, symmetric_product
from jaxdiv.optimizers.symmetric_tiles import choose_tiles

pytestmark = [
    pytest.mark.accelerator,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="the kernels are compiled for NVIDIA GPUs"),
]

TRITON = (TritonTiles(), TritonTiles(128, 256, 64, 8, 3), TritonTiles(64, 64, 32, 4, 3))
MOSAIC = (MosaicTiles(), MosaicTiles(64, 128, 64, 6))
SHAPES = ((3, 256, 256), (2, 768, 3072), (2, 1024, 1024))
CASES = [(shape, tiles) for shape in SHAPES for tiles in TRITON + MOSAIC] + [((2, 300, 200), TRITON[0])]


def check_kernel(tiles):
    if isinstance(tiles, MosaicTiles) and not is_hopper():
        pytest.skip("warpgroup products are Hopper's")


def stack(shape, dtype, seed=0):
    """Spectral norms near 1, as the iteration has them."""
    x = np.random.default_rng(seed).standard_normal(shape) / (np.sqrt(shape[1]) + np.sqrt(shape[2]))
    return jnp.asarray(x, dtype)


def same(got, exact, dtype):
    """Rounded once, in ``dtype``; sums of thousands of products in float32."""
    assert got.dtype == dtype
    got, largest, eps = np.asarray(got, np.float64), np.abs(exact).max(), float(jnp.finfo(dtype).eps)
    assert np.abs(got - exact).max() < eps * largest
    assert np.abs(got - got.swapaxes(1, 2)).max() < eps * largest


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("shape", "tiles"), CASES, ids=str)
def test_kernels_are_float64_products_rounded_once(shape, tiles, dtype):
    check_kernel(tiles)
    x = stack(shape, dtype)
    wide = np.asarray(x, np.float64)
    gram = jax.jit(functools.partial(gram_product, kernels=tiles))(x)
    same(gram, wide @ wide.swapaxes(1, 2), dtype)
    a = np.asarray(gram, np.float64)
    polynomial = jax.jit(functools.partial(symmetric_polynomial, a=3.9, b=-6.3029, c=2.6377, kernels=tiles))(gram)
    same(polynomial, 3.9 * np.eye(shape[1]) - 6.3029 * a + 2.6377 * a @ a, dtype)
    product = jax.jit(functools.partial(symmetric_product, beta=0.5, kernels=tiles))(gram, gram, addend=gram)
    same(product, a @ a + 0.5 * a, dtype)


@pytest.mark.parametrize("tiles", [TRITON[0], MOSAIC[1], "auto"], ids=str)
def test_a_step_of_muon_is_the_one_with_the_products_of_xla(tiles):
    check_kernel(tiles)
    # Eight of a shape: what "auto" takes the kernel for.
    shapes = {"square": (8, 1024, 1024), "wide": (8, 1024, 2048), "tall": (8, 2048, 1024)}
    if tiles == "auto" and is_hopper():
        assert all(isinstance(choose_tiles(*sorted(shape)), MosaicTiles) for shape in shapes.values())
    params = {name: stack(shape, "float32") for name, shape in shapes.items()}
    gradient = {name: stack(shape, "float32", seed=1) for name, shape in shapes.items()}

    def step(kernels, dtype):
        optimizer = muon(
            1.0, routes=MatrixAxes(1, 2, batch=0), weight_decay=0.0, scale="original", kernels=kernels, dtype=dtype
        )
        return jax.jit(optimizer.update)(gradient, optimizer.init(params), params)[0]

    got, full, exact = step(tiles, "bfloat16"), step("xla", "bfloat16"), step("xla", "float32")
    for name in params:
        g, f, e = (np.asarray(tree[name], np.float64) for tree in (got, full, exact))
        assert np.isfinite(g).all()
        rounding = np.linalg.norm(f - e) / np.linalg.norm(e)
        # Kernels round where XLA does: what bfloat16 costs is what it costs there.
        assert np.linalg.norm(g - e) / np.linalg.norm(e) < 1.2 * rounding + 1e-3
        assert np.linalg.norm(g - f) / np.linalg.norm(f) < 2.0 * rounding + 1e-3
