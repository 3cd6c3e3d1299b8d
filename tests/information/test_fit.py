"""The trained critic: what it reports, which rows it saw, where it stops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv import information as info
from jaxdiv.information.critics import Critic

ADAM = optax.adam(3e-3)
SMALL = info.separable_critic(widths=(32,), num_features=8)
RUN = dict(
    critic=SMALL, optimizer=ADAM, num_steps=100, batch_size=64, eval_batch_size=100, eval_every=20, num_rotations=1
)


def normal_pairs(count, rho, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=count)
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=count)
    return x.astype(np.float32), y.astype(np.float32)


@functools.cache
def fit(rho=0.75, **settings):
    x, y = normal_pairs(1000, rho)
    return info.fit_critic(x, y, key=jax.random.key(0), **{**RUN, **settings})


def test_a_normal_pair_is_found_within_its_standard_error():
    """The true log-ratio at the same rows tells the noise of the sample from that of the fit."""
    found = fit(num_rotations=None, num_steps=400)
    x, y = normal_pairs(1000, 0.75)
    exact = -0.5 * math.log(1 - 0.75**2)
    at_rows = exact - (y - 0.75 * x) ** 2 / (2 * (1 - 0.75**2)) + y**2 / 2
    assert abs(float(found.estimate) - float(np.mean(at_rows))) < 0.05
    assert abs(float(found.estimate) - exact) < 0.1
    assert float(found.estimate.stderr) == pytest.approx(0.75 / math.sqrt(1000), rel=0.2)  # Var of the log-ratio: rho^2
    assert found.estimate.kind == "lower bound"
    assert float(found.estimate.ceiling) == pytest.approx(math.log(100), rel=1e-6)
    assert found.estimate.info["local"].shape == (1000,)
    assert found.estimate.info["rotation_values"].shape == (5,)
    assert float(jnp.mean(found.estimate.info["local"])) == pytest.approx(float(found.estimate), abs=1e-5)


def test_the_best_validated_step_is_kept_and_the_curves_show_it():
    found = fit()
    curve = found.estimate.info["validation_curve"]
    assert curve.shape == found.estimate.info["training_curve"].shape == (1, 5)
    assert np.all(np.isfinite(curve)) and curve[0, -1] > curve[0, 0] - 0.1
    assert int(found.estimate.info["best_step"][0]) == 20 * (int(np.argmax(curve[0])) + 1)


def reported(found, count=1000):
    """The reporting part again, from the returned parameters and scaling alone."""
    split_key, _ = jax.random.split(jax.random.key(0))
    rows = np.asarray(jax.random.permutation(split_key, count))[: count // 5]
    x, y = normal_pairs(count, 0.75)
    u, v = (x[rows, None] - found.x_mean[0]) / found.x_scale[0], (y[rows, None] - found.y_mean[0]) / found.y_scale[0]
    params = jax.tree.map(lambda leaf: leaf[0], found.params)
    return [float(info.info_nce(SMALL.apply(params, u[part], v[part]))) for part in (slice(100), slice(100, 200))]


def test_what_is_returned_reproduces_what_is_reported():
    found = fit()
    assert np.mean(reported(found)) == pytest.approx(float(found.estimate), abs=1e-5)


def test_reporting_rows_neither_train_nor_select():
    """Other values in the reporting part: other report, same parameters and curves, to the last bit."""
    found = fit()
    split_key, _ = jax.random.split(jax.random.key(0))
    rows = np.asarray(jax.random.permutation(split_key, 1000))[:200]
    x, y = normal_pairs(1000, 0.75)
    y = y.copy()
    y[rows] = np.random.default_rng(9).permutation(y[rows])
    other = info.fit_critic(x, y, key=jax.random.key(0), **RUN)
    jax.tree.map(np.testing.assert_array_equal, other.params, found.params)
    np.testing.assert_array_equal(other.estimate.info["validation_curve"], found.estimate.info["validation_curve"])
    assert float(other.estimate) < 0.05 < float(found.estimate) - 0.1


def test_independent_data_report_nothing_and_stop_early():
    """An overfitting critic's training curve rises; what is reported does not. After the stop curves are NaN."""
    settings = dict(RUN, num_steps=400, batch_size=60, patience=2, optimizer=optax.adam(1e-2))
    x, y = normal_pairs(400, 0.0)
    found = info.fit_critic(x, y, key=jax.random.key(0), **settings).estimate
    assert -0.5 < float(found) < 0.06
    curve = np.asarray(found.info["validation_curve"][0])
    count = int(np.sum(np.isfinite(curve)))
    assert count < 20 and count == int(found.info["best_step"][0]) // 20 + 2
    assert np.all(np.isnan(curve[count:]))
    assert float(np.nanmax(found.info["training_curve"])) > float(found)


def test_constant_columns_duplicates_and_nan():
    x, y = normal_pairs(1000, 0.75)
    constant = info.fit_critic(np.zeros_like(x), y, key=jax.random.key(0), **RUN).estimate
    assert -0.05 < float(constant) < 1e-4
    repeated = info.fit_critic(np.repeat(x[:10], 100), np.repeat(x[:10], 100), key=jax.random.key(0), **RUN).estimate
    assert 1.0 < float(repeated) < math.log(10) + 0.05  # ten values: at most log 10
    split_key, _ = jax.random.split(jax.random.key(0))
    for row in np.asarray(jax.random.permutation(split_key, 1000))[[0, 250, 999]]:  # reports, validates, trains
        broken = x.copy()
        broken[row] = np.nan
        assert np.isnan(info.fit_critic(broken, y, key=jax.random.key(0), **RUN).estimate.value)


def test_objectives_with_and_without_memory():
    common = dict(RUN, num_steps=100)
    x, y = normal_pairs(1000, 0.75)
    smile = functools.partial(info.smile, clip=3.0)
    for bound, objective in [
        (smile, info.jensen_shannon_bound),
        (info.donsker_varadhan, info.mine()),
        (info.nwj, None),
    ]:
        found = info.fit_critic(x, y, key=jax.random.key(0), bound=bound, objective=objective, **common).estimate
        assert 0.15 < float(found) < 0.6
        assert found.kind == ("lower bound" if bound is info.nwj else "plug-in")


def test_a_critic_may_return_what_its_bound_takes():
    scorer, partition = SMALL, info.concatenated_critic(widths=(16,))

    def init(key, x_width, y_width):
        keys = jax.random.split(key)
        return scorer.init(keys[0], x_width, y_width), partition.init(keys[1], x_width, y_width)

    def apply(params, x, y):
        return scorer.apply(params[0], x, y), jnp.diagonal(partition.apply(params[1], x, y))

    def flo(output):
        return info.flo(output[0], log_partition=output[1])

    x, y = normal_pairs(1000, 0.75)
    settings = dict(RUN, critic=Critic(init, apply), num_steps=200)
    found = info.fit_critic(x, y, key=jax.random.key(0), bound=flo, **settings).estimate
    assert found.kind == "lower bound" and 0.2 < float(jnp.max(found.info["validation_curve"])) < 0.6
    assert abs(float(found) - 0.413) < 4 * float(found.stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones(99, np.float32)}, "y has 100 rows; expected the 99 rows of x"),
        ({"x": np.ones(100, int)}, "x has dtype int"),
        ({"x": np.ones((100, 1, 1))}, "x has shape"),
        ({"key": 0}, "key is 0"),
        ({"bound": "nwj"}, "bound is 'nwj'; expected a function"),
        ({"bound": lambda s: jnp.sum(s)}, "returns a .*; expected a function that returns an Estimate"),
        ({"objective": 3}, "objective is 3"),
        ({"critic": lambda x: x}, "critic is"),
        ({"optimizer": 0.1}, "optimizer is 0.1"),
        ({"num_folds": 2}, "num_folds is 2"),
        ({"num_folds": 60}, "num_folds is 60; expected at most half of the 100 rows of x"),
        ({"num_rotations": 6}, "num_rotations is 6"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"eval_batch_size": 1}, "eval_batch_size is 1"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"num_steps": 30}, "num_steps is 30; expected a multiple of eval_every = 20"),
        ({"num_steps": 1.0}, "num_steps is 1.0"),
        ({"patience": 0}, "patience is 0"),
    ],
    ids=range(18),
)
def test_wrong_arguments_are_refused(change, message):
    x, y = normal_pairs(100, 0.5)
    arguments = {"x": x, "y": y, "key": jax.random.key(0), **RUN, **change}
    with pytest.raises(ValueError, match=f"fit_critic: .*{message}"):
        info.fit_critic(arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.slow
def test_info_nce_of_five_thousand_normal_pairs_is_within_three_hundredths():
    """Cross-fitted, so that the noise is that of 5000 rows, 0.0106; beside the true log-ratio at the same rows."""
    lacking = []
    for seed in range(4):
        x, y = normal_pairs(5000, 0.75, seed)
        found = info.fit_critic(x, y, key=jax.random.key(seed), num_steps=400, eval_every=50, patience=3).estimate
        exact = -0.5 * math.log(1 - 0.75**2)
        at_rows = exact - (y - 0.75 * x) ** 2 / (2 * (1 - 0.75**2)) + y**2 / 2
        assert abs(float(found) - exact) < 0.03
        lacking.append(float(np.mean(at_rows)) - float(found))
    assert 0.0 < np.mean(lacking) < 0.015
