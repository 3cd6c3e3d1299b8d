"""Tasks in sequence where units die or a run diverges: what has no value is left out, and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.optimizer_solutions.learn import evaluate
from experiments.optimizer_solutions.measures import class_cosines, finite_mean, mean_and_deviation, mean_off_diagonal
from experiments.optimizer_solutions.network import init_network
from experiments.optimizer_solutions.run import COLUMNS, compare, describe, format_table, ranked
from experiments.optimizer_solutions.tasks import load_suites
from tests.experiments.small import small_images


def test_a_class_whose_units_are_dead_has_no_cosine():
    features = jnp.array([[1.0, 0.0], [3.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    found = np.asarray(class_cosines(features, jnp.array([0, 1, 2, 2]), jnp.ones(4, bool), num_classes=3))
    assert found[0, 1] == pytest.approx(0.5**0.5) and np.isnan(found[2]).all() and np.isnan(found[:, 2]).all()
    # and is not counted as one that is like no other
    assert mean_off_diagonal(found, np.ones(3, bool)) == pytest.approx(0.5**0.5)
    both = mean_off_diagonal(np.stack([found, np.full((3, 3), np.nan)]), np.ones(3, bool))
    np.testing.assert_allclose(both, [0.5**0.5, np.nan])


def test_a_dead_network_has_no_cosines_in_any_task():
    suite, _ = load_suites("permuted", data="digits", data_dir=None, num_tasks=2, seed=0, images=small_images())
    params = init_network(jax.random.key(0), inputs=64, widths=(12,), outputs=10)
    params["hidden_0"]["bias"] -= 1e3
    found = jax.jit(evaluate)(params, jax.tree.map(jnp.asarray, suite))
    assert np.isnan(found.cosines).all() and np.isfinite(found.loss).all()


def test_runs_without_a_value_are_left_out_and_counted():
    found = mean_and_deviation(np.array([0.5, np.nan, 0.7]))
    assert found == pytest.approx({"mean": 0.6, "std": np.sqrt(0.02), "runs": 2})
    one, none = mean_and_deviation(np.array([0.5, np.nan])), mean_and_deviation(np.array([np.nan, np.nan]))
    assert one["mean"] == 0.5 and np.isnan(one["std"]) and np.isnan(none["mean"]) and none["runs"] == 0
    np.testing.assert_allclose(finite_mean([[1.0, np.nan], [3.0, np.nan]], axis=0), [2.0, np.nan])


def rows_of(**cosines):
    """A table's rows of three runs, every measure 0.5 but for the cosines."""
    point = {"rate": 0.1, "learned_accuracy": 0.9, "final_own_accuracy": 0.5}
    flat = {"mean": 0.5, "std": 0.1, "runs": 3}
    return {
        name: {
            "rate": 0.1,
            "at_edge": False,
            "measures": dict.fromkeys(COLUMNS, flat) | {"class_cosine": mean_and_deviation(np.array(values))},
            "grid": [point],
            "accuracy": [[[0.0]]] * 3,
        }
        for name, values in cosines.items()
    }


def test_findings_say_what_was_left_out_and_rank_it_last():
    rows = rows_of(sgd=[np.nan] * 3, adamw=[0.8, np.nan, 0.9], muon=[0.2, 0.3, 0.2])
    assert ranked(rows, "class_cosine", "{:.2f}", descending=False) == "muon 0.23, adamw 0.85, sgd nan"
    assert ranked(rows, "class_cosine", "{:.2f}", descending=True) == "adamw 0.85, muon 0.23, sgd nan"
    error = np.sqrt(0.005 / 2 + np.var([0.2, 0.3, 0.2], ddof=1) / 3)
    assert compare(rows, "muon", "adamw", "class_cosine") == f"lower (-0.617, standard error {error:.3f})"
    assert compare(rows, "muon", "sgd", "class_cosine").startswith("unclear (+nan")
    assert "0.850 ± 0.071 (2 of 3 runs)" in format_table(rows) and "0.233 ± 0.058 |" in format_table(rows)
    expected = "have no cross-class cosine of sgd (permuted), no cross-class cosine of adamw (permuted)."
    assert expected in describe({"permuted": rows})
    whole = describe({"permuted": rows_of(adamw=[0.8, 0.9, 0.9])})
    assert "dead" not in whole
