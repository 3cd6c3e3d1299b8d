import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdiv.optimizers import SCHEDULES, orthogonalize
from tests.optimizers.oracles import SPECTRA, iterate, matrix, relative_error, scalar_map, sigma_range

SHAPES = ((256, 256), (256, 1024))
# (schedule, shape, spectrum): bounds of the first percentile and the largest singular value and of the relative error
# to the polar factor, in float32 and bfloat16.
BOUNDS = {
    ("you", (256, 1024), "gauss"): ((0.975, 1.035, 0.018), (0.965, 1.04, 0.023)),
    ("you", (256, 256), "gauss"): ((0.35, 1.147, 0.11), (0.35, 1.149, 0.11)),
    ("you", (256, 256), "power"): ((0.975, 1.147, 0.087), (0.97, 1.149, 0.09)),
    ("you", (256, 1024), "log_uniform"): ((0.01, 1.147, 0.57), (0.0, 1.15, 0.57)),
    ("jordan", (256, 1024), "gauss"): ((0.68, 1.14, 0.155), (0.675, 1.145, 0.16)),
    ("polar_express", (256, 1024), "gauss"): ((0.855, 1.143, 0.096), (0.85, 1.147, 0.105)),
    ("polar_express", (256, 256), "log_uniform"): ((0.02, 1.143, 0.505), (0.0, 1.147, 0.515)),
    ("polar_express_8", (256, 256), "power"): ((0.999, 1.001, 1e-3), (0.99, 1.01, 0.025)),
    ("aol", (256, 1024), "gauss"): ((0.94, 1.052, 0.035), (0.935, 1.06, 0.041)),
    # The steepest schedule: in bfloat16 it overshoots, more so with a I inside the product.
    ("cans", (256, 1024), "gauss"): ((0.88, 1.121, 0.082), (0.8, 1.9, 0.15)),
    ("deepseek_v4", (256, 256), "log_uniform"): ((0.999, 1.003, 1e-3), (0.5, 1.01, 0.48)),
    ("cubic", (256, 256), "power"): ((0.35, 1.302, 0.402), (0.345, 1.305, 0.402)),
}


@pytest.fixture(scope="module")
def stacks():
    """For each shape the three spectra in one batch, and their polar factors."""
    return {s: tuple(np.stack(z) for z in zip(*(matrix(s, k) for k in SPECTRA), strict=True)) for s in SHAPES}


@pytest.fixture(scope="module")
def results(stacks):
    """(schedule, shape, dtype) -> stack; each computed once."""
    done = {}
    for name, shape in sorted({key[:2] for key in BOUNDS}):
        for dtype in ("float32", "bfloat16"):
            fn = jax.jit(lambda x, name=name, dtype=dtype: orthogonalize(x, schedule=name, dtype=dtype))
            done[name, shape, dtype] = np.asarray(fn(stacks[shape][0].astype(np.float32)))
    return done


@pytest.mark.parametrize("key", list(BOUNDS), ids=lambda k: f"{k[0]}-{k[1][1]}-{k[2]}")
def test_singular_values_lie_where_the_schedule_puts_them(key, stacks, results):
    name, shape, spectrum = key
    which = list(SPECTRA).index(spectrum)
    for dtype, (low, high, error) in zip(("float32", "bfloat16"), BOUNDS[key], strict=True):
        y = results[name, shape, dtype][which]
        first, largest = sigma_range(y)
        assert low <= first and largest <= high, (dtype, first, largest)
        assert relative_error(y, stacks[shape][1][which]) <= error, dtype
        if dtype == "float32":
            assert first < low + 0.1 and largest > high - 0.02, (first, largest)  # the bounds are close


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_float32_steps_are_those_of_the_textbook(name):
    schedule = SCHEDULES[name]
    for shape in ((24, 24), (16, 40), (40, 16), (1, 7), (5, 1)):
        x = matrix(shape, seed=3)[0]
        got = orthogonalize(x.astype(np.float32), schedule=name, dtype=jnp.float32)
        assert got.dtype == jnp.float32
        tolerance = 1e-5
        if 1 in shape:  # sigma is 1 up to rounding, which the steps multiply by their slope there
            tolerance += 3e-7 * abs(np.diff(scalar_map(schedule, np.array([1.0 - 1e-6, 1.0 + 1e-6]))).item()) / 2e-6
        np.testing.assert_allclose(got, iterate(x.astype(np.float32), schedule), atol=tolerance, err_msg=str(shape))


def test_float64_steps_are_those_of_the_textbook():
    with jax.enable_x64(True):
        for name, schedule in SCHEDULES.items():
            x = matrix((12, 20), seed=4)[0]
            got = orthogonalize(x, schedule=name, dtype="float64")
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, iterate(x, schedule), atol=1e-11, err_msg=name)


def test_long_schedules_reach_the_polar_factor_itself():
    with jax.enable_x64(True):
        x, polar = matrix((12, 20), seed=4)
        np.testing.assert_allclose(orthogonalize(x, schedule="polar_express_8", dtype="float64"), polar, atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("input_dtype", ["bfloat16", "float32"])
def test_no_scale_between_1e_minus_12_and_1e12_changes_the_result(dtype, input_dtype):
    x = jnp.asarray(matrix((12, 20))[0], input_dtype)
    # Powers of two: the product is exact, and so is everything after it.
    scales = 2.0 ** np.array([-126, -40, -20, 0, 20, 40, 100])
    fn = jax.jit(jax.vmap(lambda s: orthogonalize(s * x, dtype=dtype)))
    y = np.asarray(fn(jnp.asarray(scales, input_dtype)), np.float32)
    np.testing.assert_array_equal(y[1:], np.broadcast_to(y[3], y[1:].shape))
    others = np.asarray(fn(jnp.asarray([1e-12, 1e-6, 1e6, 1e12], input_dtype)), np.float32)
    tolerance = 2e-5 if dtype == input_dtype == "float32" else 0.1
    np.testing.assert_allclose(others, np.broadcast_to(y[3], others.shape), atol=tolerance)
    assert np.linalg.svd(others, compute_uv=False).max() < 1.05


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_zeros_stay_zeros_and_empty_rows_do_no_harm(name):
    x = np.zeros((3, 4, 6), np.float32)
    x[1, 0, 0] = -3.0  # one entry
    x[2, :2] = matrix((2, 6))[0]  # two rows of four
    y = np.asarray(orthogonalize(x, schedule=name, dtype="float32"))
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(y[0], 0.0)
    assert y[1, 0, 0] < -0.6 and np.count_nonzero(y[1]) == 1
    np.testing.assert_array_equal(y[2, 2:], 0.0)
    assert np.linalg.matrix_rank(y[2]) == 2
    gradient = jax.grad(lambda x: jnp.sum(orthogonalize(x, schedule=name, dtype="float32")))(jnp.asarray(x))
    assert jnp.isfinite(gradient).all() and jnp.any(gradient[1:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rank_one_keeps_its_direction_and_size(dtype):
    """A singular value of 1, up to the rounding to 16 bits: where steep schedules diverge."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(32, 24, 1)) * rng.normal(size=(32, 1, 40))).astype(np.float32)
    for name in SCHEDULES:
        y = np.asarray(jax.jit(lambda x, name=name: orthogonalize(x, schedule=name, dtype=dtype))(x))
        along = np.sum(x * y, axis=(1, 2)) / np.linalg.norm(x, axis=(1, 2))
        assert 0.65 < along.min() and along.max() < 1.2, name


def test_a_nan_is_seen():
    x = jnp.ones((2, 3, 4)).at[0, 1, 1].set(jnp.nan)
    y = orthogonalize(x)
    assert jnp.isnan(y[0]).all() and jnp.isfinite(y[1]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_batch_is_its_matrices(dtype):
    x = np.stack([matrix((12, 20), "power", seed)[0] for seed in range(3)]).astype(np.float32)[:, None]
    fn = jax.jit(lambda x: orthogonalize(x, dtype=dtype))
    batched = fn(x)
    looped = np.stack([[fn(m) for m in row] for row in x])
    mapped = jax.vmap(jax.vmap(fn))(x)
    tolerance = 2e-6 if dtype == "float32" else 5e-2
    np.testing.assert_allclose(batched, looped, atol=tolerance)
    np.testing.assert_allclose(mapped, looped, atol=tolerance)
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("d")
    sharded = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec))(x)
    np.testing.assert_allclose(sharded, batched, atol=tolerance)


def test_a_transposed_matrix_has_the_transposed_factor():
    x = jnp.asarray(matrix((12, 20))[0], jnp.float32)
    np.testing.assert_array_equal(orthogonalize(x.T), orthogonalize(x).T)
    square = x[:, :12]
    np.testing.assert_allclose(orthogonalize(square.T), orthogonalize(square).T, atol=3e-2)


@pytest.mark.parametrize("method", ["standard", "gram"])
def test_rotations_of_both_sides_pass_through(method):
    with jax.enable_x64(True):
        q, _ = np.linalg.qr(matrix((8, 8), seed=5)[0])
        r, _ = np.linalg.qr(matrix((20, 20), seed=6)[0])
        for name, schedule in SCHEDULES.items():
            if schedule.rescale == "aol":
                continue  # the rescaling depends on the basis
            x = matrix((8, 20), seed=7)[0]
            options = {"schedule": name, "dtype": "float64", "method": method}
            np.testing.assert_allclose(
                orthogonalize(q @ x @ r, **options), q @ orthogonalize(x, **options) @ r, atol=1e-10, err_msg=name
            )


def test_the_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        x, direction = matrix((4, 7), seed=8)[0], matrix((4, 7), seed=9)[0]
        weight = matrix((4, 7), seed=10)[0]
        for name in ("you", "aol", "cubic"):
            fn = jax.jit(lambda x, name=name: jnp.sum(weight * orthogonalize(x, schedule=name, dtype="float64")))
            slope = float(jnp.sum(jax.grad(fn)(x) * direction))
            h = 1e-5
            numeric = float(fn(x + h * direction) - fn(x - h * direction)) / (2 * h)
            np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_dtype_is_that_of_the_input():
    for dtype in ("bfloat16", "float16", "float32"):
        assert orthogonalize(jnp.ones((2, 3), dtype), dtype="float32").dtype == dtype
    assert orthogonalize([[1.0, 2.0]]).shape == (1, 2)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("x", {"x": jnp.ones(3)}),
        ("x", {"x": jnp.ones((2, 0))}),
        ("x", {"x": jnp.ones((2, 2), jnp.int32)}),
        ("x", {"x": "text"}),
        ("x", {"x": None}),
        ("schedule", {"schedule": "fast"}),
        ("schedule", {"schedule": None}),
        ("dtype", {"dtype": "int8"}),
        ("dtype", {"dtype": "half a float"}),
        ("dtype", {"dtype": 7}),
        ("dtype", {"dtype": [1]}),
        ("method", {"method": "svd"}),
        ("method", {"method": None}),
        ("kernels", {"kernels": "cuda"}),
        ("kernels", {"kernels": None}),
        ("kernels", {"kernels": (128, 128)}),
    ],
    ids=str,
)
def test_malformed_calls_are_refused(argument, options):
    options = {"x": jnp.ones((2, 4))} | options
    with pytest.raises(ValueError, match=f"^orthogonalize: {argument} "):
        orthogonalize(options.pop("x"), **options)
