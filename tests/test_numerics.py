import functools
import importlib.util
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from jaxdiv import numerics
from jaxdiv.divergences.two_sample.pairs import squared_distances
from tests.divergences.reference import RHO, exact, relative_error

DTYPES = [np.float32, np.float64]


def units(got, expected) -> np.ndarray:
    got = np.asarray(got)
    return relative_error(got, expected) / np.finfo(got.dtype).eps


@pytest.mark.parametrize(
    "value, dtype",
    [(1, "float32"), (1.0, "float32"), (jnp.bfloat16(1), "float32"), (jnp.float16(1), "float32"), (True, "float32")],
)
def test_promote(value, dtype):
    assert numerics.promote(value).dtype == dtype


def test_promote_keeps_float64(x64):
    assert numerics.promote(np.ones(2)).dtype == "float64"
    assert numerics.promote(np.ones(2, np.float32)).dtype == "float32"


@pytest.mark.parametrize(
    "capability, runs", [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True), ("gfx942", True)]
)
def test_triton_needs_ampere(capability, runs, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert numerics.runs_triton(jnp.zeros(2)) == runs


def test_kernels_take_arrays_of_one_device(monkeypatch):
    """One device, or all axes of a mesh split by a shard_map that does not ask what varies over them."""
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    found = []

    def note(x):
        found.append(numerics.is_local((x, None)))
        return x

    x = jnp.zeros((2, 2))
    over = functools.partial(
        jax.shard_map, note, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data")
    )
    for count in (1, 8):
        monkeypatch.setattr(jax, "device_count", lambda count=count: count)
        note(x)
        jax.eval_shape(over(check_vma=False), x)
        jax.eval_shape(over(check_vma=False, axis_names={"data"}), x)
        jax.eval_shape(over(), x)
    assert found == [True, True, True, False, False, True, False, False]


def test_triton_may_be_gone(monkeypatch):
    """A jax without that backend leaves the work to XLA."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert numerics.runs_triton(jnp.zeros(2))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not numerics.runs_triton(jnp.zeros(2))
    data = jnp.arange(6.0).reshape(3, 2)
    assert squared_distances(data, data, "direct")[0, 2] == 32.0  # no kernel, though there seems to be a GPU


def test_with_limit_has_a_finite_gradient():
    """The formula is never evaluated at -inf, so neither value nor gradient is NaN there."""

    def f(x):
        return numerics.with_limit(x, 1.0, lambda v: v * jnp.exp(v) + 1.0)

    x = jnp.array([-jnp.inf, 0.0])
    np.testing.assert_array_equal(f(x), [1.0, 1.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(f))(x), [0.0, 1.0])
    assert np.isnan(f(jnp.nan))


def test_inf_from():
    def f(t):
        return numerics.inf_from(t, 1.0, lambda v: -jnp.log1p(-v))

    np.testing.assert_array_equal(f(jnp.array([0.0, 1.0, 2.0])), [0.0, np.inf, np.inf])
    np.testing.assert_array_equal(jax.vmap(jax.grad(f))(jnp.array([0.0, 2.0])), [1.0, 0.0])
    assert np.isnan(f(jnp.nan))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1.0, -1.0, 0.5, 1e-9, 0.0, 1e-40])
def test_expm1_scaled(c, dtype, x64):
    x = RHO.astype(dtype)
    truth = [mpmath.expm1(mpmath.mpf(c) * v) / mpmath.mpf(c) if c else v for v in exact(x)]
    slope = [mpmath.exp(mpmath.mpf(c) * v) for v in exact(x)]
    got, tangent = jax.jvp(lambda v: numerics.expm1_scaled(v, c), (x,), (np.ones_like(x),))
    assert got.dtype == tangent.dtype == dtype
    assert (units(got, truth) <= 4 + np.abs(x) * abs(c)).all()
    assert (units(tangent, slope) <= 4 + np.abs(x) * abs(c)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [1.0, -0.5, 2.5, 0.0])
def test_log1p_scaled_inverts_expm1_scaled(c, dtype, x64):
    x = np.linspace(-1.5, 1.5, 31).astype(dtype)
    back = numerics.log1p_scaled(numerics.expm1_scaled(jnp.asarray(x), c), c)
    np.testing.assert_allclose(back, x, rtol=200 * np.finfo(dtype).eps, atol=0)


def test_log1p_scaled_stops_at_its_limit():
    np.testing.assert_array_equal(numerics.log1p_scaled(jnp.array([-1.0, -5.0]), 1.0), [-np.inf, -np.inf])
    np.testing.assert_array_equal(numerics.log1p_scaled(jnp.array([2.0, 5.0]), -0.5), [np.inf, np.inf])


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p(dtype, x64):
    u = np.concatenate([np.linspace(-0.9, 3.0, 300), [-1e-8, 1e-8, -0.25, 1e30]]).astype(dtype)
    u = u[u != 0]
    assert units(numerics.log1p(u), [mpmath.log(1 + v) for v in exact(u)]).max() < 4
    np.testing.assert_array_equal(numerics.log1p(jnp.array([-1.0, 0.0])), [-np.inf, 0.0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.5, 0.1, 0.9, 1e-9, 1 - 2.0**-30])
def test_log_mix(weight, dtype, x64):
    x = RHO.astype(dtype)
    w, c = mpmath.mpf(weight), 1 - mpmath.mpf(weight)
    got, tangent = jax.jvp(lambda v: numerics.log_mix(v, weight, 1 - weight), (x,), (np.ones_like(x),))
    assert units(got, [mpmath.log(c + w * mpmath.exp(v)) for v in exact(x)]).max() < 8
    slope = [1 / (1 + c / w * mpmath.exp(-v)) for v in exact(x)]
    assert (units(tangent, slope) <= 8 + np.abs(x) + abs(np.log(weight / (1 - weight)))).all()
    ends = numerics.log_mix(jnp.array([-jnp.inf, 0.0, jnp.inf]), weight, 1 - weight)
    np.testing.assert_allclose(ends, [np.log(1 - weight), 0.0, np.inf], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("a", [1.0, 0.0, 0.5, 1.0 + 2.0**-30, 2.0, -1.0, 7.0, -7.0])
def test_power_generator(a, dtype, x64):
    x = RHO[(RHO <= 1.0) & (RHO * abs(a) > -80)].astype(dtype)
    p = mpmath.mpf(a)

    def truth(v):
        r = mpmath.exp(v)
        if a == 1.0:
            return r * v - r + 1
        if a == 0.0:
            return r - 1 - v
        return (r**p - p * r - (1 - p)) / (p * (p - 1))

    got, tangent = jax.jvp(lambda v: numerics.power_generator(v, a), (x,), (np.ones_like(x),))
    slope = [mpmath.exp(v) * (v if a == 1.0 else mpmath.expm1((p - 1) * v) / (p - 1)) for v in exact(x)]
    allowed = 8 + 2 * np.abs(a * x)
    assert (units(got, [truth(v) for v in exact(x)]) <= allowed).all()
    assert (units(tangent, slope) <= allowed + np.abs(x)).all()
    assert float(numerics.power_generator(jnp.zeros((), dtype), a)) == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_lambert_w0(dtype, x64):
    z = np.array([-85, -41, -39, -20, -2.1, -1.9, -0.5, 0, 0.5, 1, 1.5, 1.99, 2.01, 5, 30, 1e3, 1e8, 1e26], dtype)
    got, slope = jax.jvp(numerics.lambert_w0_exp, (z,), (np.ones_like(z),))
    inside = z < 300
    with mpmath.workdps(60):
        truth = [mpmath.lambertw(mpmath.exp(v)).real for v in exact(z[inside])]
    assert (units(np.asarray(got)[inside], truth) <= 8 + np.abs(z[inside])).all()
    assert (units(np.asarray(slope)[inside], [w / (1 + w) for w in truth]) <= 8 + np.abs(z[inside])).all()
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    large = z >= 1
    np.testing.assert_allclose((got + jnp.log(got))[large], z[large], rtol=rtol)
    scipy_w = scipy.special.lambertw(np.exp(z[inside].astype(float))).real
    np.testing.assert_allclose(np.asarray(got)[inside], scipy_w, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lambert_wm1(dtype, x64):
    """Near its branch point z = 1 the function is a square root of z - 1: no accuracy is lost there for an exact z."""
    steps = [2.0**-20, 2.0**-12, 2.0**-8, 1e-3, 0.01, 0.1, 0.5, 1, 1.9, 2.1, 5, 30, 99, 1e4, 1e26]
    z = np.array([1 + s for s in steps], dtype)
    got, slope = jax.jvp(numerics.lambert_wm1_exp, (z,), (np.ones_like(z),))
    inside = z < 300
    truth = [mpmath.lambertw(-mpmath.exp(-v), -1).real for v in exact(z[inside])]
    assert units(np.asarray(got)[inside], truth).max() < 8
    condition = 8 + 8 * np.array([float(1 / abs(1 + w)) for w in truth])  # the slope divides by 1 + w
    assert (units(np.asarray(slope)[inside], [-w / (1 + w) for w in truth]) <= condition).all()
    np.testing.assert_allclose(-got - np.log(-got), z, rtol=1e-6)
    np.testing.assert_array_equal(numerics.lambert_wm1_exp(jnp.array([1.0, 0.0])), [-1.0, -1.0])


@pytest.mark.parametrize("c", [1.7, -0.6, 0.3, 1.0 / 3.0, -2.5, 2.0, 0.0])
def test_exponentials_of_a_product_keep_their_digits(c):
    """e^{c x} to a few units at exponents of 80, where rounding c x to float32 alone costs thirty."""
    x = np.array([-32.3, -17.77, -0.3, 1e-5, 0.7, 23.456, 33.1, 3e7, -jnp.inf], np.float32)
    got, less_one = np.asarray(numerics.exp_scaled(x, c)), np.asarray(numerics.expm1_scaled(x, c or 1.0))
    for i, v in enumerate(x[:7]):
        exact = mpmath.exp(mpmath.mpf(c) * mpmath.mpf(float(v)))
        assert abs(got[i] / exact - 1) <= 6e-7
        if c:
            exact = mpmath.expm1(mpmath.mpf(c) * mpmath.mpf(float(v))) / mpmath.mpf(c)
            assert abs(less_one[i] / exact - 1) <= 8e-7
    assert not np.isnan(got[7]) and not np.isnan(less_one).any()
    slopes = jax.vmap(jax.grad(lambda x: numerics.exp_scaled(x, c)))(x[:7])
    np.testing.assert_allclose(slopes, c * got[:7], rtol=1e-6)
    high, low = (np.asarray(v, np.float64) for v in numerics.scaled_pair(x[:7], c))
    np.testing.assert_allclose(high + low, c * x[:7].astype(np.float64), rtol=1e-10)


def test_arrays_of_a_shard_map_are_made_to_vary_alike():
    """Types alone: what a loop starts from, and the sum over the mesh in the gradient of what was replicated."""
    mesh, rows, whole = AbstractMesh((2,), ("d",), (AxisType.Auto,)), PartitionSpec("d"), PartitionSpec()

    def local(x, y):
        def step(total, value):
            return total + value, None

        with_both = numerics.vary_alike({"x": x, "y": y, "none": None})
        assert numerics.varying_axes(with_both["x"]) == numerics.varying_axes(with_both["y"]) == {"d"}
        start = numerics.vary_as(jnp.zeros(()), x)
        assert numerics.varying_axes(numerics.vary_as(y, x)) == {"d"} and not numerics.varying_axes(y)
        gradient = jax.grad(lambda y: jnp.sum(x * numerics.vary_alike((x, y))[1]))(y)
        assert not numerics.varying_axes(gradient)
        return jax.lax.scan(step, start, x)[0][None]

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    assert jax.eval_shape(sharded, jnp.ones(4), jnp.ones(2)).shape == (2,)
    x = jnp.ones(3)
    assert numerics.vary_alike((x, 1.0))[0] is x and numerics.vary_as(x, (1.0, None)) is x
