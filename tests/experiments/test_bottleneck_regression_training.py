"""Training of the bottleneck comparison: all betas and seeds in one program, epochs chosen by validation rows."""

import jax
import numpy as np
import pytest

from experiments.bottleneck_regression.data import read_table
from experiments.bottleneck_regression.measure import measure
from experiments.bottleneck_regression.methods import METHODS
from experiments.bottleneck_regression.splits import Part, Split, stack_splits
from experiments.bottleneck_regression.train import Trainer

KEYS = jax.vmap(jax.random.key)(np.arange(2))


@pytest.fixture(scope="module")
def split() -> Split:
    return stack_splits(read_table("diabetes"), seeds=range(2), max_rows=150)


def small_trainer(method: str, **changes) -> Trainer:
    return Trainer(method, **{"width": 8, "batch_size": 32, "steps": 24, "learning_rate": 1e-2} | changes)


@pytest.fixture(scope="module")
def cs(split):
    """Betas 0, 0.5 and 0 again on two seeds, 8 epochs; a compilation takes seconds."""
    trainer, seen = small_trainer("cs"), []
    betas = (0.0, 0.5, 0.0)
    fit = trainer.fit(split.train, split.validation, betas=betas, keys=KEYS, progress=lambda *a: seen.append(a))
    return trainer, fit, seen


def test_the_loss_falls(cs):
    _, fit, _ = cs
    assert np.isfinite(fit.losses).all() and fit.losses.shape == (8, 3, 2)
    assert (fit.losses[-1] < fit.losses[0]).all()
    assert (fit.validation_losses.min(axis=0) < fit.validation_losses[0]).all()


@pytest.mark.slow  # a compilation for each
@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_its_loss(method, split):
    trainer = small_trainer(method, steps=90)
    betas = METHODS[method].betas[:2]
    fit = trainer.fit(split.train, split.validation, betas=betas, keys=KEYS)
    assert np.isfinite(fit.losses).all() and fit.losses.shape == (30, len(betas), 2)
    assert (fit.losses[-5:].mean(axis=0) < fit.losses[0]).all()  # pairwise terms move from batch to batch


def test_models_side_by_side_are_those_trained_alone(cs, split):
    trainer, fit, _ = cs
    train, validation = (Part(*(array[1:] for array in part)) for part in (split.train, split.validation))
    alone = trainer.fit(train, validation, betas=(0.5,), keys=KEYS[1:])
    np.testing.assert_allclose(alone.losses[:, 0, 0], fit.losses[:, 1, 1], rtol=1e-3, atol=1e-5)
    for one, many in zip(jax.tree.leaves(alone.params), jax.tree.leaves(fit.params), strict=True):
        np.testing.assert_allclose(one[0, 0], many[1, 1], rtol=0.02, atol=2e-3)


def test_betas_of_a_seed_share_all_else_and_seeds_do_not(cs):
    _, fit, _ = cs
    np.testing.assert_allclose(fit.losses[:, 0], fit.losses[:, 2], rtol=1e-4)
    weight = np.asarray(fit.params["mean"][0]["weight"])
    np.testing.assert_allclose(weight[0], weight[2], atol=1e-3)
    assert np.abs(weight[0, 0] - weight[0, 1]).max() > 0.1 and np.abs(weight[0] - weight[1]).max() > 0.01


def test_the_epoch_has_the_least_validation_error(cs, split):
    trainer, fit, _ = cs
    np.testing.assert_array_equal(fit.epoch, fit.validation_rmse.argmin(axis=0) + 1)
    kept = measure(fit.params, split.validation, KEYS, model=trainer.model)["rmse"]
    np.testing.assert_allclose(kept, np.take_along_axis(fit.validation_rmse, fit.epoch[None] - 1, 0)[0], rtol=1e-4)


def test_the_epoch_may_have_the_least_loss_instead(split):
    trainer = small_trainer("mse", steps=40, learning_rate=0.05, select="loss")
    fit = trainer.fit(split.train, split.validation, betas=(0.0,), keys=KEYS)
    np.testing.assert_array_equal(fit.epoch, fit.validation_losses.argmin(axis=0) + 1)
    assert (fit.epoch < len(fit.losses)).any()  # it fits too closely before the end
    loss = 0.5 * fit.validation_rmse**2  # one batch holds the 24 validation rows
    np.testing.assert_allclose(fit.validation_losses, loss, rtol=1e-4)


def test_epochs_are_whole_and_reported(cs):
    _, fit, seen = cs
    assert small_trainer("mse", steps=7).epochs(96) == 3 and small_trainer("mse", steps=7).epochs(5) == 7
    assert [entry[:2] for entry in seen] == [(number, 8) for number in range(1, 9)]
    assert seen[-1][2] == pytest.approx(fit.validation_losses[-1].mean())


def test_a_set_smaller_than_a_batch_is_one_batch(split):
    trainer = small_trainer("mse", batch_size=4096, steps=3)
    fit = trainer.fit(split.train, split.validation, betas=(0.0,), keys=KEYS)
    assert fit.losses.shape == (3, 1, 2)
    first = jax.vmap(lambda key: trainer.model.init(jax.random.fold_in(key, 0), 10))(KEYS)
    prediction = jax.vmap(trainer.model.predict)(first, split.train.x)
    expected = 0.5 * np.mean(np.square(prediction - split.train.y), axis=1)
    np.testing.assert_allclose(fit.losses[0, 0], expected, rtol=1e-4)  # all rows, before the first step


def test_validation_loss_is_the_mean_of_whole_batches(split):
    trainer = small_trainer("mse", batch_size=10, steps=1)  # 24 rows: two batches, four rows are left
    fit = trainer.fit(split.train, split.validation, betas=(0.0,), keys=KEYS)
    prediction = jax.vmap(trainer.model.predict)(jax.tree.map(lambda leaf: leaf[0], fit.params), split.validation.x)
    errors = 0.5 * np.square(prediction - split.validation.y)
    best = fit.validation_losses[fit.epoch[0] - 1, 0, range(2)]
    np.testing.assert_allclose(best, errors[:, :20].mean(axis=1), rtol=1e-4)
    rmse = fit.validation_rmse[fit.epoch[0] - 1, 0, range(2)]
    np.testing.assert_allclose(rmse, np.sqrt(2 * errors.mean(axis=1)), rtol=1e-4)


def test_training_is_a_function_of_rows_betas_and_keys(cs, split):
    trainer, fit, _ = cs
    again = trainer.fit(split.train, split.validation, betas=(0.0, 0.5, 0.0), keys=KEYS)
    np.testing.assert_array_equal(again.losses, fit.losses)
    other = trainer.fit(split.train, split.validation, betas=(0.0, 0.5, 0.0), keys=KEYS[::-1])
    assert (other.losses[0] != fit.losses[0]).all()


@pytest.mark.slow  # many steps
@pytest.mark.parametrize("method", [name for name in METHODS if name != "mse"])
def test_the_largest_beta_leaves_less_of_x(method, split):
    trainer = small_trainer(method, steps=300)
    betas = METHODS[method].betas[0], METHODS[method].betas[-1]
    fit = trainer.fit(split.train, split.validation, betas=betas, keys=KEYS)
    kept = measure(fit.params, split.train, KEYS, model=trainer.model)["information"]
    assert (kept[1] < 0.8 * kept[0]).all()
