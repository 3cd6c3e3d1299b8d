"""Schedules: identities, inverses, published values."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate

from jaxdiv.diffusion import (
    Schedule,
    cosine_schedule,
    discrete_vp_schedule,
    flow_matching_schedule,
    ve_schedule,
    vp_schedule,
)

DDPM_TABLE = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
SCHEDULES = {
    "vp": vp_schedule(),
    "vp from rate zero": vp_schedule(beta_min=0.0, beta_max=10.0),
    "vp of constant rate": vp_schedule(beta_min=5.0, beta_max=5.0),
    "cosine": cosine_schedule(),
    "cosine with offset": cosine_schedule(offset=0.008),
    "flow": flow_matching_schedule(),
    "ve": ve_schedule(),
    "discrete": discrete_vp_schedule(DDPM_TABLE),
}
PRESERVING = [name for name in SCHEDULES if name not in ("flow", "ve")]
LEVELS = np.geomspace(0.011, 12.0, 25)  # inside every schedule's range; "constant rate" ends at 12.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_inverse(name):
    schedule = SCHEDULES[name]
    got = schedule.noise_level(schedule.time_of(jnp.asarray(LEVELS, jnp.float32)))
    # Float32 rounding of t itself moves the level by eps t dlog(sigma)/dt, 1e-5 at these levels.
    np.testing.assert_allclose(got, LEVELS, rtol=1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(schedule.noise_level(schedule.time_of(LEVELS)), LEVELS, rtol=1e-10)
        times = np.linspace(0.03, 0.97, 20)
        np.testing.assert_allclose(schedule.time_of(schedule.noise_level(times)), times, rtol=1e-10)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n not in ("discrete", "vp of constant rate")])
def test_inverse_over_the_whole_edm_range(x64, name):
    levels = np.geomspace(0.002, 80.0, 30)
    np.testing.assert_allclose(SCHEDULES[name].noise_level(SCHEDULES[name].time_of(levels)), levels, rtol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_level_is_s_over_alpha_and_grows(x64, name):
    schedule = SCHEDULES[name]
    assert isinstance(schedule, Schedule)
    t = np.linspace(0.001, 0.99, 50)
    np.testing.assert_allclose(schedule.noise_level(t), schedule.s(t) / schedule.alpha(t), rtol=1e-11)
    assert np.all(np.diff(schedule.noise_level(t)) > 0)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(x64, name):
    t = np.linspace(0.0, 1.0, 50)
    np.testing.assert_allclose(SCHEDULES[name].alpha(t) ** 2 + SCHEDULES[name].s(t) ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n not in ("discrete", "ve")])
def test_time_zero_is_data(name):
    schedule = SCHEDULES[name]
    zero = jnp.float32(0)
    values = [schedule.alpha(zero), schedule.s(zero), schedule.noise_level(zero), schedule.time_of(zero)]
    np.testing.assert_allclose(values, [1, 0, 0, 0], atol=1e-7)


def test_vp_solves_its_differential_equation(x64):
    """alpha' = -beta alpha / 2 integrated numerically."""

    def right_hand_side(t, y):
        return -0.5 * (0.1 + t * 19.9) * y

    solution = integrate.solve_ivp(right_hand_side, (0, 1), [1.0], t_eval=[0.3, 1.0], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(vp_schedule().alpha(np.array([0.3, 1.0])), solution.y[0], rtol=1e-7)


@pytest.mark.parametrize("offset", [0.0, 0.008])
def test_cosine_near_data_in_float32_against_mpmath(offset):
    """Small times are where 1 - alpha^2 would cancel."""
    for t in (1e-4, 1e-2, 0.5):
        with mpmath.workdps(30):
            t_exact = mpmath.mpf(float(np.float32(t)))
            b = mpmath.pi / 2 * (t_exact + offset) / (1 + mpmath.mpf(offset))
            a = mpmath.pi / 2 * mpmath.mpf(offset) / (1 + mpmath.mpf(offset))
            s = mpmath.sqrt(1 - (mpmath.cos(b) / mpmath.cos(a)) ** 2)
            level = float(s * mpmath.cos(a) / mpmath.cos(b))
        schedule = cosine_schedule(offset=offset)
        np.testing.assert_allclose(schedule.s(jnp.float32(t)), float(s), rtol=2e-6)
        np.testing.assert_allclose(schedule.time_of(jnp.float32(level)), t, rtol=2e-6)


@pytest.mark.parametrize("offset", [0.0, 0.008])
def test_cosine_near_noise_in_float32(offset):
    """Its cosine is 0 there, which a rounded pi / 2 passes."""
    schedule = cosine_schedule(offset=offset)
    assert schedule.alpha(jnp.float32(1.0)) == 0.0 and schedule.noise_level(jnp.float32(1.0)) == jnp.inf
    for left in (2.0**-20, 2.0**-10):
        exact = np.sin(np.pi / 2 * left / (1 + offset)) / np.cos(np.pi / 2 * offset / (1 + offset))
        np.testing.assert_allclose(schedule.alpha(jnp.float32(1 - left)), exact, rtol=3e-7)


def test_discrete_schedule_is_the_table_at_its_steps(x64):
    schedule = SCHEDULES["discrete"]
    t = np.arange(1000) / 999
    np.testing.assert_allclose(schedule.alpha(t) ** 2, DDPM_TABLE, rtol=1e-10)
    np.testing.assert_allclose(schedule.time_of(np.sqrt(1 / DDPM_TABLE - 1)) * 999, np.arange(1000), atol=1e-8)
    np.testing.assert_allclose(schedule.time_of(np.array([1e-4, 1e4])), [0, 1])


def test_discrete_ddpm_table_is_nearly_the_linear_vp_schedule(x64):
    """The table is the discretisation of beta_min 0.1, beta_max 20 in 1000 steps."""
    t = np.linspace(0.1, 1.0, 10)
    np.testing.assert_allclose(SCHEDULES["discrete"].alpha(t), vp_schedule().alpha(t), rtol=0.05)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_gives_float32_under_jit_vmap_and_grad(name, dtype):
    value = jnp.array([0.25, 0.5], dtype)
    for field, curve in SCHEDULES[name]._asdict().items():
        result = jax.jit(jax.vmap(curve))(value)
        assert result.dtype == jnp.float32, field
        np.testing.assert_allclose(result, curve(value.astype(jnp.float32)), rtol=1e-5)
        assert np.all(np.isfinite(jax.vmap(jax.grad(curve))(value))), field


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vp_schedule(beta_min=-1.0), "vp_schedule: beta_min is -1.0"),
        (lambda: vp_schedule(beta_min=2.0, beta_max=1.0), "vp_schedule: beta_max is 1.0"),
        (lambda: vp_schedule(beta_min=0.0, beta_max=0.0), "vp_schedule: beta_max is 0.0"),
        (lambda: cosine_schedule(offset=-0.1), "cosine_schedule: offset is -0.1"),
        (lambda: discrete_vp_schedule(np.array([0.1, 0.9])), "discrete_vp_schedule: alphas_cumprod is"),
        (lambda: discrete_vp_schedule(np.array([0.9])), "at least 2"),
        (lambda: discrete_vp_schedule(np.ones((2, 2))), r"alphas_cumprod has shape \(2, 2\)"),
        (lambda: vp_schedule().alpha(jnp.array([1])), "Schedule.alpha: value has dtype int32"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
