"""The bottleneck comparison: its network, losses, attacks, measures and curves, on untrained networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bottleneck_regression.attacks import fgsm, pgd
from experiments.bottleneck_regression.curves import (
    at_compression,
    best_beta,
    compression_ratio,
    equal_compression,
    frontier,
)
from experiments.bottleneck_regression.measure import attacked_rmse, measure, pick
from experiments.bottleneck_regression.methods import METHODS, Widths
from experiments.bottleneck_regression.model import NOISES, Model
from experiments.bottleneck_regression.splits import Part
from jaxdiv.information import cs_bottleneck_loss, cs_qmi

KEYS = jax.vmap(jax.random.key)(np.arange(2))


@pytest.mark.parametrize("noise", NOISES)
def test_the_noise_is_what_the_log_variance_says(noise):
    model = Model(width=4, noise=noise, std=0.5)
    params = model.init(jax.random.key(0), 3)
    if noise == "scalar":
        params["log_variance"] = jnp.log(4.0)
    x = jnp.ones((20000, 3))
    out = model.apply(params, x, jax.random.key(1))
    np.testing.assert_allclose(out.prediction, model.decode(params, out.representation), rtol=1e-6)
    spread = np.std(out.representation - out.mean, axis=0)
    np.testing.assert_allclose(spread, np.exp(out.log_variance[0] / 2), rtol=0.03)
    if noise != "diagonal":
        np.testing.assert_allclose(spread, {"none": 0.0, "fixed": 0.5, "scalar": 1.0}[noise], rtol=0.03)
    other = model.apply(params, x, jax.random.key(2))
    assert bool(jnp.array_equal(out.prediction, other.prediction)) == (noise == "none")
    np.testing.assert_array_equal(out.mean, other.mean)


def test_the_network_is_the_layers_it_names():
    model = Model(width=4, noise="fixed", std=0.1)
    params = model.init(jax.random.key(0), 3)
    assert [layer["weight"].shape for layer in params["encoder"]] == [(3, 4), (4, 4), (4, 4)]
    assert [layer["weight"].shape for layer in params["decoder"]] == [(4, 4), (4, 1)]
    assert all(np.abs(leaf).max() <= 3**-0.5 for leaf in jax.tree.leaves(params))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    hidden = x
    for layer in params["encoder"]:
        hidden = np.maximum(hidden @ layer["weight"] + layer["bias"], 0)
    hidden = hidden @ params["mean"][0]["weight"] + params["mean"][0]["bias"]
    first, last = params["decoder"]
    hidden = np.maximum(hidden @ first["weight"] + first["bias"], 0)
    expected = (hidden @ last["weight"] + last["bias"])[:, 0]
    np.testing.assert_allclose(model.predict(params, x), expected, rtol=1e-4, atol=1e-6)


def test_first_weights_fill_their_range():
    params = Model(width=128, noise="diagonal", std=0.1).init(jax.random.key(0), 4)
    for name, bound in (("mean", 128**-0.5), ("log_variance", 128**-0.5)):
        weight = np.asarray(params[name][0]["weight"])
        assert 0.99 * bound < weight.max() <= bound and weight.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert 0.45 < np.abs(params["encoder"][0]["weight"]).max() <= 0.5


def test_losses_are_those_of_the_library():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=12).astype(np.float32)
    model = Model(width=4, noise="fixed", std=0.1)
    out = model.apply(model.init(jax.random.key(0), 3), x, jax.random.key(1))
    widths = Widths(x=0.7, y=0.8, representation=0.9, variant="released")
    narrow = dataclasses.replace(widths, x=0.7 / 0.3)

    @jax.jit  # one compilation instead of one for every operation
    def terms():
        found = {name: METHODS[name].loss(out, x, y, 0.3, widths) for name in METHODS if name != "mse"}
        found["cs_narrow"] = METHODS["cs_narrow"].loss(out, x, y, 0.3, narrow)
        found["mse"] = METHODS["mse"].loss(out, x, y, 0.0, widths)
        found["plain hsic"] = METHODS["hsic"].loss(out, x, y, 0.0, widths)
        options = {"beta": 0.3, "sigma": (0.7, 0.8, 0.9), "variant": "released"}
        found["expected"] = cs_bottleneck_loss(x, y, out.prediction, out.representation, **options)
        return found

    found = jax.tree.map(float, terms())
    assert found["cs"].loss == pytest.approx(found["expected"].loss, rel=1e-5)
    assert found["cs_narrow"].loss == pytest.approx(found["expected"].loss, rel=1e-5)
    half = float(0.5 * np.mean((out.prediction - y) ** 2))
    for method in ("mse", "vib", "nib", "square_nib"):
        assert found[method].prediction == pytest.approx(half, rel=1e-5), method
    assert found["mse"].loss == pytest.approx(half) and found["mse"].rate == 0
    assert found["nib"].loss - half == pytest.approx(0.3 * found["nib"].rate, rel=1e-3)
    assert found["square_nib"].loss - half == pytest.approx(0.3 * found["nib"].rate ** 2, rel=1e-3)
    hsic, plain = found["hsic"], found["plain hsic"]
    assert hsic.loss - plain.loss == pytest.approx(0.3 * plain.rate, rel=1e-4)
    assert plain.loss < half  # less the relevance


def test_grids_begin_without_compression():
    for entry in METHODS.values():
        assert entry.betas[0] == 0 and list(entry.betas) == sorted(set(entry.betas)) and entry.noise in NOISES


WEIGHTS = jnp.array([1.0, -2.0, 0.5])


def linear(rows):
    return rows @ WEIGHTS


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_attacks_on_a_linear_model_are_the_worst_case(attack, epsilon):
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32), jnp.asarray(rng.normal(size=20), jnp.float32)
    moved = attack(linear, x, y, epsilon=epsilon)
    assert float(jnp.abs(moved - x).max()) == pytest.approx(epsilon, abs=1e-6)
    expected = np.abs(linear(x) - y) + epsilon * float(jnp.abs(WEIGHTS).sum())
    np.testing.assert_allclose(np.abs(linear(moved) - y), expected, rtol=1e-4)


def test_many_small_steps_find_what_one_large_step_passes():
    def bump(rows):  # its largest value is at 0.5 from the origin, and it is small again at 1
        return jnp.exp(-20.0 * jnp.square(rows[:, 0] - 0.5))

    x, y = jnp.zeros((1, 1)), jnp.zeros(1)
    one, many = (float(bump(rows)[0]) for rows in (fgsm(bump, x, y, epsilon=1.0), pgd(bump, x, y, epsilon=1.0)))
    assert one < 0.01 and many > 0.99
    with pytest.raises(ValueError, match="pgd: steps is 0"):
        pgd(bump, x, y, epsilon=1.0, steps=0)


@pytest.fixture(scope="module")
def untrained():
    """A model, parameters [2, 2] as two betas and two seeds have them, and rows of two seeds."""
    model = Model(width=32, noise="fixed", std=0.1)
    params = jax.vmap(jax.vmap(lambda key: model.init(key, 10)))(jax.random.split(jax.random.key(0), (2, 2)))
    rng = np.random.default_rng(0)
    return model, params, Part(np.float32(rng.normal(size=(2, 24, 10))), np.float32(rng.normal(size=(2, 24))))


def test_attacked_errors_are_those_of_each_seeds_network(untrained):
    model, params, part = untrained
    epsilons = (0.0, 0.2)
    chosen = pick(params, np.array([1, 0]))
    values = attacked_rmse(chosen, part, model=model, epsilons=epsilons, steps=3)
    plain = measure(params, part, KEYS, model=model)["rmse"]
    for name in ("fgsm", "pgd"):
        np.testing.assert_allclose(values[name][0], [plain[1, 0], plain[0, 1]], rtol=1e-5)
        assert (values[name][1] > values[name][0]).all()
    weights = jax.tree.map(lambda leaf: leaf[0, 1], params)
    x, y = part.x[1], part.y[1]
    moved = fgsm(lambda rows: model.predict(weights, rows), x, y, epsilon=0.2)
    error = np.sqrt(np.mean((model.predict(weights, moved) - y) ** 2))
    assert values["fgsm"][1, 1] == pytest.approx(float(error), rel=1e-4)


def test_measures_are_what_they_say(untrained):
    model, params, part = untrained
    values = measure(params, part, KEYS, model=model, rows=20)
    assert {name: value.shape for name, value in values.items()} == dict.fromkeys(
        ("rmse", "relevance", "information", "cs_qmi"), (2, 2)
    )
    weights, x, y = jax.tree.map(lambda leaf: leaf[1, 0], params), part.x[0], part.y[0]
    error = float(np.mean((model.predict(weights, x) - y) ** 2))
    assert values["rmse"][1, 0] == pytest.approx(error**0.5, rel=1e-4)
    assert values["relevance"][1, 0] == pytest.approx(0.5 * np.log(y.var() / error), abs=1e-4)
    mean, _ = model.encode(weights, x[:20])
    assert values["cs_qmi"][1, 0] == pytest.approx(float(cs_qmi(x[:20], mean)), rel=1e-3)
    assert (values["information"] <= np.log(20) + 1e-5).all()


def test_information_sees_noise_and_has_no_number_without(untrained):
    model, params, part = untrained
    apart, same = params | {}, params | {}
    for target, factor in ((apart, 1e6), (same, 0.0)):
        target["mean"] = jax.tree.map(lambda leaf, f=factor: leaf * f, params["mean"])
    full, none = (measure(p, part, KEYS, model=model, rows=24)["information"] for p in (apart, same))
    np.testing.assert_allclose(full, np.log(24), atol=1e-3)
    np.testing.assert_allclose(none, 0, atol=1e-5)
    silent = dataclasses.replace(model, noise="none")
    assert np.isnan(measure(params, part, KEYS, model=silent)["information"]).all()


def test_ratios_and_choices():
    np.testing.assert_allclose(compression_ratio(np.array([[4.0, 2.0], [1.0, 3.0]])), [[0, 0], [0.75, -0.5]])
    np.testing.assert_array_equal(best_beta(np.array([[3.0, 1.0], [2.0, 1.0], [2.5, 0.5]])), [1, 2])


def test_values_lie_on_lines_between_betas():
    ratio, values = np.array([0.0, 0.8, 0.4]), np.array([1.0, 9.0, 3.0])  # the order of betas does not matter
    assert at_compression(ratio, values, values, 0.4) == 3.0
    assert at_compression(ratio, values, values, 0.5) == pytest.approx(4.5)
    assert at_compression(ratio, values, 10.0 - values, 0.5) == pytest.approx(5.5)
    assert at_compression(ratio, values, values, 0.0) == at_compression(ratio, values, values, -0.5) == 1.0
    assert np.isnan(at_compression(ratio, values, values, 0.81))
    assert np.isnan(at_compression(np.full(2, np.nan), np.ones(2), np.ones(2), 0.5))
    both = np.stack([ratio, ratio / 2], axis=1), *(np.stack([values, values], axis=1),) * 2
    np.testing.assert_allclose(equal_compression(*both, (0.2, 0.5)), [[2.0, 3.0], [4.5, np.nan]])


def test_the_frontier_leaves_out_what_is_beaten():
    ratio, error = np.array([0.0, 0.2, 0.5, 0.6, 0.6]), np.array([2.0, 1.0, 9.0, 4.0, 3.0])
    assert frontier(ratio, error) == [1, 4]  # 0.2 beats 0, the second 0.6 the first and 0.5
    assert at_compression(ratio, error, error, 0.1) == 1.0  # what compresses more and errs less
    assert at_compression(ratio, error, error, 0.4) == pytest.approx(2.0)
    assert frontier(np.zeros(3), np.ones(3)) == [2]
    rng = np.random.default_rng(0)
    ratio, error = rng.normal(size=(2, 50))
    kept = frontier(ratio, error)
    beaten = [any((ratio > r) & (error <= e)) for r, e in zip(ratio, error, strict=True)]
    assert sorted(kept) == [number for number in range(50) if not beaten[number]]
