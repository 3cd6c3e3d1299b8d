import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxdiv.optimizers import orthogonalize
from jaxdiv.optimizers.symmetric import _find_tiles, gram_product, multiply, symmetric_polynomial, symmetric_product
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles, choose_tiles, lower_tiles
from tests.optimizers.oracles import matrix

# (batch, n, depth, tiles): exact and ragged sizes, tall and wide tiles; interpreted.
PROBLEMS = (
    (2, 32, 32, TritonTiles(16, 16, 16)),
    (2, 64, 48, TritonTiles(16, 32, 16)),
    (1, 64, 32, TritonTiles(32, 16, 32)),
    (3, 50, 70, TritonTiles(16, 16, 16)),
    (1, 40, 19, TritonTiles(16, 32, 16)),
    (2, 33, 16, TritonTiles(32, 16, 16)),
    (1, 5, 3, TritonTiles(16, 16, 16)),
)


def stack(batch, n, m, seed=0):
    return np.stack([matrix((n, m), seed=seed + i)[0] for i in range(batch)]).astype(np.float32) / float(np.sqrt(m))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: "x".join(map(str, p[:3])) + f"-{p[3].rows}x{p[3].columns}")
def test_kernels_compute_the_full_product(problem):
    batch, n, depth, tiles = problem
    x = stack(batch, n, depth)
    gram = np.matmul(x.astype(np.float64), x.swapaxes(1, 2))

    @jax.jit
    def both(x, a):
        return gram_product(x, kernels=tiles), symmetric_polynomial(a, a=3.9, b=-6.3, c=2.6, kernels=tiles)

    got, polynomial = both(x, gram.astype(np.float32))
    np.testing.assert_allclose(got, gram, atol=1e-5)
    np.testing.assert_array_equal(got, got.mT)  # what is above the diagonal is a copy
    expected = 3.9 * np.eye(n) - 6.3 * gram + 2.6 * gram @ gram
    np.testing.assert_allclose(polynomial, expected, atol=2e-5 * np.abs(gram).max() ** 2)
    np.testing.assert_array_equal(polynomial, polynomial.mT)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_accumulates_in_float32(dtype):
    x = jnp.asarray(stack(1, 32, 256), dtype)
    exact = np.matmul(np.asarray(x, np.float64), np.asarray(x, np.float64).swapaxes(1, 2))
    for kernels in ("xla", TritonTiles(16, 16, 32)):
        got = gram_product(x, kernels=kernels)
        assert got.dtype == dtype
        # One rounding of the result, none of partial sums.
        np.testing.assert_allclose(np.asarray(got, np.float64), exact, rtol=float(jnp.finfo(dtype).eps), atol=2e-6)


def test_the_diagonal_is_added_before_the_result_is_rounded():
    """Twice rounded it costs half of a step's precision: it is the largest part of the polynomial."""
    gram = jnp.asarray(gram_product(stack(2, 48, 96)), jnp.bfloat16)
    wide = np.asarray(gram, np.float64)
    exact = 3.4445 * np.eye(48) - 4.775 * wide + 2.0315 * wide @ wide
    got = symmetric_polynomial(gram, a=3.4445, b=-4.775, c=2.0315, kernels=TritonTiles(16, 32, 16))
    error = np.abs(np.asarray(got, np.float64) - exact)
    np.testing.assert_array_less(error, 2.0**-8 * np.abs(exact) + 1e-5)


def test_products_of_commuting_matrices():
    a = np.asarray(gram_product(stack(2, 20, 30)))
    exact = (a @ a) @ a + 0.5 * a
    for kernels in ("xla", TritonTiles(16, 16, 16)):
        product = jax.jit(functools.partial(symmetric_product, kernels=kernels), static_argnames="beta")
        got = product(a @ a, a, beta=0.5, addend=a)
        np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(product(a, a), a @ a, rtol=1e-4, atol=1e-4)


def test_a_cubic_step_needs_no_product():
    a = jnp.asarray(gram_product(stack(1, 8, 8)))
    jaxpr = str(jax.make_jaxpr(lambda a: symmetric_polynomial(a, b=2.0, c=0.0))(a))
    assert "dot_general" not in jaxpr
    np.testing.assert_allclose(symmetric_polynomial(a, b=2.0, c=0.0), 2.0 * a)


def test_the_product_that_ends_a_step():
    x, y, e = stack(2, 6, 5), stack(2, 5, 7, seed=3), stack(2, 6, 7, seed=6)
    np.testing.assert_allclose(multiply(x, y), x @ y, atol=1e-6)
    np.testing.assert_allclose(multiply(x, y, alpha=2.0, beta=-3.0, addend=e), 2 * x @ y - 3 * e, atol=1e-5)


@pytest.mark.parametrize("method", ["standard", "gram"])
def test_orthogonalize_reaches_the_kernels(method):
    tiles = TritonTiles(16, 16, 16)
    x = jnp.asarray(stack(4, 20, 48).reshape(2, 2, 20, 48))
    fns = [functools.partial(orthogonalize, dtype="float32", method=method, kernels=k) for k in ("xla", tiles)]
    assert "pallas_call" in str(jax.make_jaxpr(fns[1])(x)) and "pallas_call" not in str(jax.make_jaxpr(fns[0])(x))
    full, half = (jax.jit(fn)(x) for fn in fns)
    # The Gram form rounds R^2, whose small singular values later steps multiply by a hundred.
    tolerance = 1e-5 if method == "standard" else 1e-4
    np.testing.assert_allclose(half, full, atol=tolerance)
    np.testing.assert_allclose(jax.jit(jax.vmap(fns[1]))(x), full, atol=tolerance)


def test_kernels_are_differentiated_as_the_product_is():
    tiles = TritonTiles(16, 16, 16)
    x = jnp.asarray(stack(2, 12, 20))

    def loss(x, kernels):
        gram = gram_product(x, kernels=kernels)
        return jnp.sum(jnp.sin(symmetric_polynomial(gram, b=-2.0, c=0.7, kernels=kernels)))

    full, half = (jax.jit(jax.grad(functools.partial(loss, kernels=k)))(x) for k in ("xla", tiles))
    np.testing.assert_allclose(half, full, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "rows", "columns"), [(256, 128, 128), (768, 128, 256), (768, 256, 128), (2048, 128, 128), (50, 16, 32)]
)
def test_tiles_and_their_mirror_images_cover_everything_once(n, rows, columns):
    block = max(rows, columns)
    size = -(-n // block) * block
    written = np.zeros((size, size), int)
    for i, j in lower_tiles(n, rows, columns):
        row, column = i * rows, j * columns
        written[row : row + rows, column : column + columns] += 1
        if row // block > column // block:
            written[column : column + columns, row : row + rows] += 1
    assert (written[:n, :n] == 1).all()


def test_kernels_do_about_half_of_the_work():
    shares = {n: len(lower_tiles(n, 128, 128)) / (n // 128) ** 2 for n in (768, 2048)}
    assert shares == {768: 21 / 36, 2048: 136 / 256}
    assert len(lower_tiles(2048, 256, 128)) == 72


def test_the_kernel_for_hopper_lowers_for_the_sizes_that_matter():
    """What runs only on a GPU is at least built: pipeline, layouts, copies."""
    from jaxdiv.optimizers.symmetric_mosaic import mosaic_product

    x = jax.ShapeDtypeStruct((2, 768, 768), jnp.bfloat16)
    tiles = MosaicTiles()

    def polynomial(a):
        return mosaic_product(a, a, alpha=2.0, beta=-1.0, addend=a, diagonal=3.0, tiles=tiles, num_programs=132)

    lowered = jax.jit(polynomial).trace(x).lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in lowered


def test_without_a_gpu_auto_is_xla():
    x = jnp.asarray(stack(1, 256, 256), jnp.bfloat16)
    for kernels in ("auto", "xla"):
        jaxpr = str(jax.make_jaxpr(functools.partial(gram_product, kernels=kernels))(x))
        assert "pallas_call" not in jaxpr
    for shape in ((48, 768, 768), (24, 768, 3072), (96, 2048, 2048), (72, 2048, 5632), (1, 100, 100)):
        assert isinstance(choose_tiles(*shape), TritonTiles | MosaicTiles | None)
    assert choose_tiles(1, 100, 100) is None


class Hopper:
    compute_capability = "9.0"


@pytest.mark.parametrize(("count", "outside"), [(1, True), (8, False)])
def test_auto_takes_a_kernel_for_arrays_of_one_device(monkeypatch, count, outside):
    """XLA cannot split a kernel; inside shard_map nothing is left to split, however many GPUs there are."""
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: count)
    monkeypatch.setattr(jax, "devices", lambda: [Hopper()])
    found = []

    def note(x):
        found.append(_find_tiles(x, "auto") is not None)
        assert _find_tiles(x, "xla") is None and _find_tiles(x.astype(jnp.float32), "auto") is None
        return x

    x = jax.ShapeDtypeStruct((96, 2048, 2048), jnp.bfloat16)
    jax.eval_shape(note, x)
    over = functools.partial(jax.shard_map, note, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    jax.eval_shape(over(check_vma=False), x)
    jax.eval_shape(over(check_vma=False, axis_names={"data"}), x)
    jax.eval_shape(over(), x)
    assert found == [outside, True, outside, False], "an axis left to the partitioner may split; check_vma wants axes"


def test_the_kernel_for_hopper_lowers_inside_shard_map():
    from jaxdiv.optimizers.symmetric_mosaic import mosaic_product

    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    run = functools.partial(mosaic_product, tiles=MosaicTiles(64, 128, 64, 6), num_programs=132)
    local = jax.shard_map(
        lambda x: run(x, x), mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False
    )  # as Muon's is
    traced = jax.jit(local).trace(jax.ShapeDtypeStruct((2, 1024, 1024), jnp.bfloat16))
    assert "mosaic_gpu" in traced.lower(lowering_platforms=("cuda",)).as_text()
