"""The denoisers' estimator: exact denoisers against closed forms, a small trained one, and what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv import information as info

RHO = 0.75
EXACT = -0.5 * math.log(1 - RHO**2)


def normal_pairs(count, rho, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1))
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=x.shape)
    return x.astype(np.float32), y.astype(np.float32)


def posterior(x_t, sigma, mean, variance):
    """E[x | x_t] for x of this mean and variance."""
    sigma = sigma[:, None]
    return (x_t * variance + mean * sigma**2) / (variance + sigma**2)


def marginal(x_t, sigma):
    return posterior(x_t, sigma, 0.0, 1.0)


def conditional(x_t, sigma, y, rho=RHO):
    return posterior(x_t, sigma, rho * y, 1 - rho**2)


def hidden_by(sigma, rho=RHO):
    """I(x + sigma n; y)."""
    return -0.5 * math.log(1 - rho**2 / (1 + sigma**2))


@pytest.mark.parametrize("form", ["errors", "difference"])
@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(0.01, 30.0), (0.5, 2.0)])
def test_exact_denoisers_give_the_information_between_two_levels(form, sigma_min, sigma_max):
    x, y = normal_pairs(20_000, RHO)
    evaluate = functools.partial(info.denoising_information, marginal, conditional, key=jax.random.key(0), form=form)
    found = evaluate(x, y, sigma_min=sigma_min, sigma_max=sigma_max, num_levels=32)
    expected = hidden_by(sigma_min) - hidden_by(sigma_max)
    assert abs(float(found) - expected) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.02
    assert found.kind == "plug-in" and np.isinf(found.ceiling)
    assert found.info["local"].shape == (20_000,) and found.info["integrand"].shape == (32,)
    if form == "difference":
        assert float(jnp.min(found.info["local"])) >= 0.0


def test_the_integrand_is_the_derivative_at_every_level():
    """-d I(x + sigma n; y) / d log sigma, in narrow parts of the noise axis: the integrand's own check."""
    x, y = normal_pairs(50_000, RHO)
    found = info.denoising_information(
        marginal, conditional, x, y, key=jax.random.key(1), form="difference", num_levels=24
    )
    edges = np.geomspace(0.01, 30.0, 25)
    at_edges = np.array([hidden_by(s) for s in edges])
    expected = -np.diff(at_edges) / np.diff(np.log(edges))
    np.testing.assert_allclose(found.info["integrand"], expected, atol=0.01)


def test_several_dimensions_add():
    x, y = (np.concatenate(z, axis=1) for z in zip(*[normal_pairs(10_000, RHO, s) for s in range(3)], strict=True))
    found = info.denoising_information(marginal, conditional, x, y, key=jax.random.key(0), form="difference")
    assert float(found) == pytest.approx(3 * EXACT, abs=4 * float(found.stderr) + 0.002)


def test_independent_constant_and_broken_data():
    x, y = normal_pairs(1000, 0.0)
    for form in ("errors", "difference"):
        evaluate = functools.partial(info.denoising_information, marginal, key=jax.random.key(0), form=form)
        independent = jax.jit(functools.partial(evaluate, functools.partial(conditional, rho=0.0)))
        assert abs(float(independent(x, y))) < 1e-6
        blind = jax.jit(functools.partial(evaluate, lambda x_t, sigma, y: marginal(x_t, sigma)))
        assert float(blind(x, np.zeros_like(y))) == 0.0
        y_broken = y.copy()
        y_broken[3] = np.nan
        assert np.isnan(blind(x, y_broken).value) and np.isnan(blind(y_broken, x).value)


def test_transformations_dtypes_and_gradients(x64):
    x, y = (z[:50].astype(np.float64) for z in normal_pairs(50, RHO))

    @jax.jit
    def value(rho, x, y):
        given = functools.partial(conditional, rho=rho)
        return info.denoising_information(marginal, given, x, y, key=jax.random.key(0), num_levels=4).value

    one = value(RHO, x, y)
    assert one.dtype == jnp.float64
    assert value(jnp.float32(RHO), x.astype(np.float32), y.astype(np.float32)).dtype == jnp.float32
    assert value(jnp.float32(RHO), jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16)).dtype == jnp.float32
    both = jax.vmap(value, in_axes=(None, 0, 0))(RHO, np.stack([x, -x]), np.stack([y, y]))
    assert float(both[0]) == pytest.approx(float(one), rel=1e-12)
    slope = jax.grad(value)(RHO, x, y)
    difference = (value(RHO + 1e-6, x, y) - value(RHO - 1e-6, x, y)) / 2e-6
    assert float(slope) == pytest.approx(float(difference), rel=1e-7)


TRAIN = dict(widths=(64, 64), num_steps=600, batch_size=256, sigma_min=0.05, num_levels=32)


@functools.cache
def trained(rho, form="errors"):
    x, y = normal_pairs(4000, rho)
    return info.score_mutual_information(x, y, key=jax.random.key(0), form=form, **TRAIN)


# Exact denoisers prove both forms above; a second one is another compilation of the whole training.
@pytest.mark.parametrize("form", ["errors", pytest.param("difference", marks=pytest.mark.slow)])
def test_a_trained_denoiser_finds_the_information_of_a_normal_pair(form):
    found = trained(RHO, form)
    assert abs(float(found) - EXACT) < 0.08
    assert found.info["local"].shape == (2000,) and found.info["training_curve"].shape == (600,)
    # The weighted loss of exact denoisers: 1 without y, v (1 + s^2) / (v + s^2) with it, v = 1 - rho^2.
    squares, rest = np.geomspace(0.05, 30.0, 1001) ** 2, 1 - RHO**2
    least = (1 + np.mean(rest * (1 + squares) / (rest + squares))) / 2
    curve = np.asarray(found.info["training_curve"])
    assert np.mean(curve[-100:]) == pytest.approx(least, abs=0.03)
    assert np.mean(curve[:20]) > least + 0.05


def test_a_trained_denoiser_finds_nothing_in_independent_data():
    assert abs(float(trained(0.0))) < 0.05


def test_trained_on_constant_and_broken_columns():
    x, y = normal_pairs(4000, RHO)
    fit = functools.partial(info.score_mutual_information, key=jax.random.key(0), form="errors", **TRAIN)
    assert abs(float(fit(x, np.ones_like(y)))) < 0.05
    assert abs(float(fit(np.ones_like(x), y))) < 0.05
    for row in (0, 1, 2, 3):
        broken = y.copy()
        broken[row] = np.nan
        assert np.isnan(fit(x, broken).value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(9, np.float32)}, "y has 10 rows"),
        ({"x": np.ones(10, int)}, "x has dtype int"),
        ({"key": 0}, "key is 0"),
        ({"form": "scores"}, "form is 'scores'"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0"),
        ({"sigma_max": 0.01}, "sigma_max is 0.01"),
        ({"sigma_max": math.inf}, "sigma_max is inf"),
        ({"num_levels": 0}, "num_levels is 0"),
    ],
    ids=range(8),
)
def test_wrong_arguments_are_refused_by_both(change, message):
    arguments = {"x": np.ones(10, np.float32), "y": np.ones(10, np.float32), "key": jax.random.key(0), **change}
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises(ValueError, match=f"denoising_information: {message}"):
        info.denoising_information(marginal, conditional, x, y, **arguments)
    with pytest.raises(ValueError, match=f"score_mutual_information: {message}"):
        info.score_mutual_information(x, y, **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, "widths is ()"),
        ({"widths": 3}, "widths is 3"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"held_out": 0.01}, "held-out rows of x is 0"),
        ({"optimizer": 0.1}, "optimizer is 0.1"),
    ],
    ids=range(7),
)
def test_wrong_training_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=f"score_mutual_information: {message}"):
        info.score_mutual_information(np.ones(10, np.float32), np.ones(10, np.float32), key=jax.random.key(0), **change)


def test_wrong_denoisers_are_refused():
    x = np.ones((10, 2), np.float32)
    run = functools.partial(info.denoising_information, x=x, y=x, key=jax.random.key(0))
    with pytest.raises(ValueError, match="denoising_information: marginal_fn is 3; expected a denoiser"):
        run(3, conditional)
    with pytest.raises(ValueError, match=r"denoising_information: conditional_fn has shape \(10, 1\)"):
        run(marginal, lambda x_t, sigma, y: x_t[:, :1])


def test_an_optimizer_of_ones_own():
    x, y = normal_pairs(200, RHO)
    settings = dict(TRAIN, num_steps=20, optimizer=optax.sgd(1e-3))
    assert np.isfinite(info.score_mutual_information(x, y, key=jax.random.key(0), **settings).value)
