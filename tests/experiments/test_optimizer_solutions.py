"""Tasks in sequence: the tasks, Shampoo and the measures against numpy, and a small run from end to end."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.optimizer_solutions.config import Config
from experiments.optimizer_solutions.learn import evaluate, learn, make_learner
from experiments.optimizer_solutions.measures import (
    class_cosines,
    mean_and_deviation,
    mean_off_diagonal,
    mean_ranks,
    sequence_measures,
)
from experiments.optimizer_solutions.network import apply_network, hidden_kernels, init_network
from experiments.optimizer_solutions.optimizers import OPTIMIZERS, build_optimizer, rate_grid
from experiments.optimizer_solutions.run import (
    COLUMNS,
    choose,
    compare,
    describe,
    equal_ranges,
    format_table,
    run,
    tuning_grid,
)
from experiments.optimizer_solutions.shampoo import scale_by_shampoo
from experiments.optimizer_solutions.tasks import SUITES, load_suites, task_classes, task_permutations
from tests.experiments.small import contents, small_images

ROOT = Path(__file__).parent.parent.parent
SIZES = {"steps": 8, "batch_size": 16, "widths": (12,)}
FEW = ("sgd", "shampoo", "muon")
SMALL = SIZES | {"optimizers": FEW, "num_tasks": 2, "seeds": 2, "tuning_seeds": 1, "num_rates": 2}


@pytest.fixture(scope="module")
def images():
    return small_images()


def suites_of(name, images, *, num_tasks=3, seed=0):
    return load_suites(name, data="digits", data_dir=None, num_tasks=num_tasks, seed=seed, images=images)


# tasks


def test_class_incremental_tasks_are_disjoint_pairs(images):
    classes = task_classes("class_incremental", 5, 10)
    assert [np.flatnonzero(row).tolist() for row in classes] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    _, suite = suites_of("class_incremental", images, num_tasks=5)
    rows = [set(row[:count].tolist()) for row, count in zip(suite.train_rows, suite.train_counts, strict=True)]
    assert sum(map(len, rows)) == len(set().union(*rows)) == sum(suite.train_counts)
    for task, (row, found) in enumerate(zip(suite.train_rows, rows, strict=True)):
        assert set(row.tolist()) == found  # what fills a row up is the task's own
        assert set(suite.labels[list(found)].tolist()) == {2 * task, 2 * task + 1}


@pytest.mark.parametrize("name", SUITES)
def test_training_validation_and_test_images_are_apart(name, images):
    validation, test = suites_of(name, images)
    num_train = len(images.train["label"])
    trained = set(np.concatenate([row[:n] for row, n in zip(test.train_rows, test.train_counts, strict=True)]).tolist())
    held_out = set(validation.eval_rows[validation.eval_mask].tolist())
    tested = test.eval_rows[test.eval_mask]
    assert trained.isdisjoint(held_out) and trained | held_out <= set(range(num_train))
    assert sorted(tested.tolist()) == list(range(num_train, len(test.labels)))
    assert len(held_out) == validation.eval_mask.sum() == int(0.2 * num_train)
    assert jax.tree.map(np.shape, validation) == jax.tree.map(np.shape, test)
    np.testing.assert_array_equal(validation.train_rows, test.train_rows)
    np.testing.assert_array_equal(test.images[:num_train], images.scaled("train").reshape(num_train, -1))
    np.testing.assert_array_equal(test.labels[num_train:], images.test["label"])


def test_permutations_are_invertible_different_and_deterministic():
    first = task_permutations("permuted", 4, 64, seed=3)
    np.testing.assert_array_equal(first, task_permutations("permuted", 4, 64, seed=3))
    np.testing.assert_array_equal(np.sort(first, axis=1), np.tile(np.arange(64), (4, 1)))
    np.testing.assert_array_equal(first[0], np.arange(64))
    assert all((first[i] != first[j]).any() for i in range(4) for j in range(i))
    assert (first[1:] != task_permutations("permuted", 4, 64, seed=4)[1:]).any(axis=1).all()
    # a longer sequence begins with the shorter one
    np.testing.assert_array_equal(task_permutations("permuted", 6, 64, seed=3)[:4], first)
    assert task_classes("permuted", 2, 10).all()


def test_suites_name_what_is_wrong(images):
    with pytest.raises(ValueError, match="load_suites: name is 'rotated'; expected one of 'class_incremental'"):
        suites_of("rotated", images)
    few = images._replace(train={key: value[:3] for key, value in images.train.items()})
    with pytest.raises(ValueError, match="load_suites: data digits has tasks without training images"):
        suites_of("class_incremental", few, num_tasks=5)


# optimizers


def numpy_root(x, ridge):
    values, vectors = np.linalg.eigh(x)
    return vectors @ np.diag((np.maximum(values, 0) + ridge * values[-1]) ** -0.25) @ vectors.T


def test_shampoo_is_the_formula():
    """Six steps, with roots of the first and fourth step, beside float64 numpy."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(6, 5, 3)) * np.array([1.0, 10.0, 0.1])
    optimizer = scale_by_shampoo(b1=0.8, b2=0.9, decay=0.7, ridge=1e-4, refresh_every=3)
    adam = optax.scale_by_adam(b1=0.8, b2=0.9)
    params = {"kernel": jnp.zeros((5, 3))}
    state, adam_state, update = optimizer.init(params), adam.init(params), jax.jit(optimizer.update)
    left, right, moment, roots = np.zeros((5, 5)), np.zeros((3, 3)), np.zeros((5, 3)), None
    for number, g in enumerate(gradients):
        tree = {"kernel": jnp.asarray(g, jnp.float32)}
        updates, state = update(tree, state)
        size, adam_state = adam.update(tree, adam_state)
        left, right = 0.7 * left + 0.3 * g @ g.T, 0.7 * right + 0.3 * g.T @ g
        moment = 0.8 * moment + 0.2 * g
        if number % 3 == 0:
            roots = numpy_root(left, 1e-4), numpy_root(right, 1e-4)
        expected = roots[0] @ moment @ roots[1]
        expected *= np.linalg.norm(size["kernel"]) / np.linalg.norm(expected)
        np.testing.assert_allclose(updates["kernel"], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_one_shampoo_step_is_along_the_polar_factor():
    """(G G^T)^(-1/4) G (G^T G)^(-1/4) = U V^T: without momentum Shampoo's first step is Muon's."""
    g = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    optimizer = scale_by_shampoo(b1=0.0, ridge=1e-9)
    updates, _ = optimizer.update(jnp.asarray(g), optimizer.init(jnp.asarray(g)))
    found = np.asarray(updates) / np.linalg.norm(updates)
    np.testing.assert_allclose(found, u @ vt / 2, atol=3e-3)


def test_shampoo_survives_a_zero_gradient():
    zero = jnp.zeros((3, 2))
    optimizer = scale_by_shampoo()
    updates, _ = optimizer.update(zero, optimizer.init(zero))
    np.testing.assert_array_equal(updates, zero)


@pytest.fixture(scope="module")
def first_updates():
    """The first update of every optimizer at rate 0.1, from one gradient."""
    params = init_network(jax.random.key(0), inputs=6, widths=(5, 4), outputs=3)
    gradient = jax.tree.map(lambda x: 0.1 + jnp.sin(7 * jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    found = {}
    for name in OPTIMIZERS:
        optimizer = build_optimizer(name, 0.1)
        found[name] = optimizer.update(gradient, optimizer.init(params), params)[0]
    return gradient, found


def test_who_moves_what(first_updates):
    gradient, found = first_updates
    for name, updates in found.items():
        for layer, leaves in updates.items():
            for kind, update in leaves.items():
                g = np.asarray(gradient[layer][kind])
                by_matrix = kind == "kernel" and (
                    name in ("shampoo", "muon_all") or (layer != "head" and name in ("shampoo_hidden", "muon"))
                )
                adam = -0.1 * np.sign(g)
                if name == "sgd":
                    np.testing.assert_allclose(update, -0.1 * g, rtol=1e-5)
                elif by_matrix:
                    assert np.abs(update - adam).max() > 0.01, (name, layer, kind)
                else:
                    np.testing.assert_allclose(update, adam, rtol=1e-3, err_msg=f"{name} {layer} {kind}")
    norms = [np.linalg.norm(found[name]["hidden_0"]["kernel"]) for name in ("adamw", "shampoo")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)  # grafted


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_of_matrices_and_times_the_rate(name):
    params = init_network(jax.random.key(0), inputs=6, widths=(5,), outputs=3)
    params = jax.tree.map(lambda x: x + 1.0, params)
    gradient = jax.tree.map(jnp.ones_like, params)
    with_decay, without = (build_optimizer(name, 0.1, weight_decay=decay) for decay in (0.5, 0.0))
    a, b = (optimizer.update(gradient, optimizer.init(params), params)[0] for optimizer in (with_decay, without))
    for layer in params:
        np.testing.assert_allclose(a[layer]["kernel"] - b[layer]["kernel"], -0.05 * params[layer]["kernel"], atol=1e-6)
        np.testing.assert_array_equal(a[layer]["bias"], b[layer]["bias"])


def test_grids_are_of_one_size_and_names_are_checked():
    grids = {name: rate_grid(name, 5) for name in OPTIMIZERS}
    assert {len(grid) for grid in grids.values()} == {5}
    for grid in grids.values():
        np.testing.assert_allclose(grid[1:] / grid[:-1], np.sqrt(10))
    assert grids["sgd"][2] == pytest.approx(0.1) and grids["muon"][2] == pytest.approx(3e-3)
    with pytest.raises(ValueError, match="build_optimizer: name is 'lion'"):
        build_optimizer("lion", 0.1)


# measures


def test_measures_of_hand_made_accuracy_matrices():
    accuracy = np.array([[0.9, 0.1, 0.0], [0.6, 0.8, 0.2], [0.3, 0.85, 0.7]])
    found = sequence_measures(np.stack([accuracy, np.eye(3), np.tril(np.ones((3, 3)))]))
    expected = {
        "learned_accuracy": [0.8, 1.0, 1.0],
        "final_accuracy": [1.85 / 3, 1 / 3, 1.0],
        "earlier_accuracy": [0.575, 0.0, 1.0],
        "forgetting": [((0.9 - 0.3) + (0.8 - 0.85)) / 2, 1.0, 0.0],  # learning went on: a negative part
        "backward_transfer": [((0.3 - 0.9) + (0.85 - 0.8)) / 2, -1.0, 0.0],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12, err_msg=name)


def test_forgetting_is_from_the_best_and_backward_transfer_from_the_first():
    accuracy = np.array([[0.5, 0.0, 0.0], [0.9, 0.6, 0.0], [0.4, 0.6, 0.6]])
    found = sequence_measures(accuracy)
    assert found["forgetting"] == pytest.approx(0.25) and found["backward_transfer"] == pytest.approx(-0.05)


@pytest.mark.parametrize("shape", [(3,), (1, 1), (2, 3)])
def test_a_matrix_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="sequence_measures: accuracy has shape"):
        sequence_measures(np.zeros(shape))


def test_class_cosines_are_numpys():
    rng = np.random.default_rng(2)
    features, labels, mask = rng.normal(size=(40, 7)) + 0.3, rng.integers(0, 4, 40), rng.random(40) < 0.7
    found = class_cosines(jnp.asarray(features), jnp.asarray(labels), jnp.asarray(mask), num_classes=5)
    means = np.stack([features[mask & (labels == c)].mean(0) for c in range(4)])
    norms = np.linalg.norm(means, axis=1)
    expected = means @ means.T / np.outer(norms, norms)
    np.testing.assert_allclose(found[:4, :4], expected, atol=1e-5)
    assert np.isnan(found[4]).all()  # no examples
    among = np.arange(5) < 4
    mean = (expected.sum() - 4) / 12
    assert mean_off_diagonal(found, among) == pytest.approx(mean, abs=1e-5)
    assert mean_off_diagonal(np.stack([found, np.ones((5, 5))]), among) == pytest.approx([mean, 1.0], abs=1e-5)


def test_ranks_are_numpys_and_of_the_hidden_layers():
    params = init_network(jax.random.key(3), inputs=6, widths=(5, 4), outputs=3)
    matrices = hidden_kernels(params)
    assert [x.shape for x in matrices] == [(6, 5), (5, 4)]
    effective, stable = [], []
    for x in matrices:
        sigma = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)
        p = sigma / sigma.sum()
        effective.append(np.exp(-(p * np.log(p)).sum()))
        stable.append((sigma**2).sum() / sigma[0] ** 2)
    np.testing.assert_allclose(mean_ranks(matrices), [np.mean(effective), np.mean(stable)], rtol=1e-5)


def test_mean_and_deviation():
    values = np.array([0.1, 0.4, 0.7, 0.2])
    found = mean_and_deviation(values)
    assert found["mean"] == pytest.approx(0.35)
    assert found["std"] == pytest.approx(np.sqrt(((values - 0.35) ** 2).sum() / 3))


# learning


def test_the_network_is_numpys():
    params = init_network(jax.random.key(1), inputs=6, widths=(5, 4), outputs=3)
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    logits, hidden = apply_network(params, jnp.asarray(x))
    for layer in ("hidden_0", "hidden_1"):
        x = np.maximum(x @ np.asarray(params[layer]["kernel"]), 0)
    np.testing.assert_allclose(hidden, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, x @ np.asarray(params["head"]["kernel"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SUITES)
def test_evaluation_is_numpys(name, images):
    suite = suites_of(name, images)[0]
    params = init_network(jax.random.key(0), inputs=64, widths=(12,), outputs=10)
    found = jax.jit(evaluate)(params, jax.tree.map(jnp.asarray, suite))
    rows = suite.eval_rows[suite.eval_mask]
    for task in range(3):
        own = np.flatnonzero(suite.classes[task])
        chosen = rows[np.isin(suite.labels[rows], own)]
        logits, _ = apply_network(params, suite.images[chosen][:, suite.permutations[task]])
        logits, labels = np.asarray(logits, np.float64), suite.labels[chosen]
        assert found.accuracy[task] == pytest.approx((logits.argmax(1) == labels).mean(), abs=1e-6)
        assert found.own_accuracy[task] == pytest.approx((own[logits[:, own].argmax(1)] == labels).mean(), abs=1e-6)
        loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
        assert found.loss[task] == pytest.approx(loss.mean(), rel=1e-5)
    broken = jax.tree.map(lambda x: x * jnp.nan, params)
    np.testing.assert_array_equal(jax.jit(evaluate)(broken, jax.tree.map(jnp.asarray, suite)).accuracy, 0.0)


def test_runs_learn_forget_and_do_not_depend_on_their_neighbours(images):
    suite = suites_of("class_incremental", images, num_tasks=2)[1]
    sizes = SIZES | {"steps": 60, "widths": (16,)}
    rates, keys = np.array([1e-2, 1e-2, 0.0], np.float32), jax.random.split(jax.random.key(0), 3)
    outcome = jax.device_get(make_learner("adamw", weight_decay=0.0, **sizes)(suite, rates, keys))
    accuracy = outcome.accuracy
    assert accuracy.shape == (3, 2, 2) and outcome.cosines.shape == (3, 10, 10)
    assert (np.diagonal(accuracy[:2], axis1=1, axis2=2) > 0.8).all()  # each task is learned when it comes
    assert (accuracy[:2, 1, 0] < 0.5).all()  # and the one head then prefers the new classes
    assert (accuracy[0] != accuracy[1]).any() or (outcome.loss[0] != outcome.loss[1]).any()
    np.testing.assert_array_equal(accuracy[2, 0], accuracy[2, 1])  # rate 0 stays where it is
    alone = jax.jit(partial(learn, build_fn=partial(build_optimizer, "adamw"), **sizes))(suite, rates[1], keys[1])
    np.testing.assert_allclose(alone.loss, outcome.loss[1], rtol=1e-2, atol=1e-3)


def test_the_rate_is_chosen_by_the_task_just_learned_alone():
    accuracy = np.zeros((4, 2, 2))
    accuracy[:2] = [[0.8, 0.0], [0.9, 0.8]]  # forgets nothing
    accuracy[2:] = [[0.9, 0.0], [0.0, 0.9]]  # learns better and forgets all
    loss = np.where(np.arange(4)[:, None, None] == 3, np.nan, 0.5) * np.ones((4, 2, 2))

    class Tuned:
        pass

    tuned = Tuned()
    tuned.accuracy, tuned.own_accuracy, tuned.loss = accuracy, accuracy / 2, loss
    grid = tuning_grid(np.array([0.1, 0.2]), tuned)
    assert [row["rate"] for row in grid] == [0.1, 0.2]
    assert grid[0]["learned_loss"] == 0.5 and 1e37 < grid[1]["learned_loss"] < np.inf
    assert grid[0]["final_accuracy"] == pytest.approx(0.85) and choose(grid) == 1
    assert grid[0]["final_own_accuracy"] == pytest.approx(0.425)


def made_up_rows(**measures):
    """A table's rows in which everything but the measures is nought."""
    rows = {}
    for number, name in enumerate(("adamw", "muon")):
        values = {key: {"mean": 0.0, "std": 0.1, "runs": 4} for key in COLUMNS}
        values |= {key: {"mean": pair[number], "std": 0.1, "runs": 4} for key, pair in measures.items()}
        grid = [
            {"rate": 0.1, "learned_accuracy": 0.99, "final_own_accuracy": 0.2},
            {"rate": 1.0, "learned_accuracy": 0.985, "final_own_accuracy": 0.6},
            {"rate": 9.0, "learned_accuracy": 0.5, "final_own_accuracy": 0.1},
        ]
        rows[name] = {"rate": 0.1, "at_edge": number == 1, "measures": values, "grid": grid, "accuracy": [[[0.0]]] * 4}
    return rows


def test_findings_follow_the_numbers():
    up, down, near = (made_up_rows(earlier_accuracy=pair) for pair in ((0.1, 0.5), (0.5, 0.1), (0.1, 0.2)))
    assert compare(up, "muon", "adamw", "earlier_accuracy") == "higher (+0.400, standard error 0.071)"
    assert compare(down, "muon", "adamw", "earlier_accuracy").startswith("lower (-0.400")
    assert compare(near, "muon", "adamw", "earlier_accuracy").startswith("unclear (+0.100")
    text = describe({"permuted": down})
    assert "The paper reports" in text and "most first: adamw 0.500, muon 0.100" in text
    assert "at the edge of its grid for muon (permuted)" in text and "adamw 0.20 to 0.60" in text
    assert equal_ranges(up)["muon"] == (0.2, 0.6)
    table = format_table(up)
    assert "| muon | 0.1 (edge of the grid) | 0.000 ± 0.100" in table and "0.0 ± 0.1" in table


# from end to end


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    directory = tmp_path_factory.mktemp("run")
    return directory, run(Config(directory=directory, **SMALL), images)


def test_a_run_writes_everything(finished):
    directory, results = finished
    written = json.loads((directory / "results.json").read_text())
    assert json.dumps(written) == json.dumps(results)  # as text, in which NaN equals itself
    assert json.loads((directory / "config.json").read_text())["steps"] == 8
    table = (directory / "table.md").read_text()
    assert set(results) == set(SUITES) and all(set(rows) == set(FEW) for rows in results.values())
    for name in FEW:
        assert sum(line.startswith(f"| {name} |") for line in table.splitlines()) == len(SUITES)
    assert all(title in table for title in COLUMNS.values()) and "The paper reports" in table
    for picture in ("accuracy.png", "cosines.png", "curves.png"):
        assert (directory / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_run_reports_what_its_matrices_say(finished):
    _, results = finished
    for rows in results.values():
        for row in rows.values():
            accuracy = np.array(row["accuracy"])
            assert accuracy.shape == (2, 2, 2)
            final = accuracy[:, 1].mean(1)
            expected = {"mean": final.mean(), "std": final.std(ddof=1), "runs": 2}
            assert row["measures"]["final_accuracy"] == pytest.approx(expected)
            assert row["rate"] in [point["rate"] for point in row["grid"]] and len(row["grid"]) == 2
            values = {key: value["mean"] for key, value in row["measures"].items()}
            assert set(values) == set(COLUMNS) and np.isfinite(list(values.values())).all()
            assert 1 <= values["update_stable_rank"] <= values["update_effective_rank"] <= 12
            assert values["final_own_accuracy"] >= values["final_accuracy"] - 1e-6


def test_a_directory_with_results_is_refused_without_overwrite(finished, images):
    directory, results = finished
    before = contents(directory)
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --overwrite"):
        run(Config(directory=directory, **SMALL), images)
    assert contents(directory) == before
    few = SMALL | {"suites": ("permuted",), "optimizers": ("sgd",)}
    again = run(Config(directory=directory, overwrite=True, **few), images)
    assert list(again) == ["permuted"]
    assert json.dumps(again["permuted"]["sgd"]) == json.dumps(results["permuted"]["sgd"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "imagenet"}, "data is 'imagenet'; expected one of 'digits'"),
        ({"suites": ("rotated",)}, "suites is 'rotated'"),
        ({"suites": ()}, r"suites is \(\)"),
        ({"optimizers": ("lion",)}, "optimizers is 'lion'"),
        ({"optimizers": ("sgd", "sgd")}, r"optimizers is \('sgd', 'sgd'\)"),
        ({"num_tasks": 1}, "num_tasks is 1"),
        ({"num_tasks": 6}, "num_tasks is 6"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"widths": ()}, "widths is 0"),
        ({"widths": (8, 0)}, "widths is 0"),
        ({"seeds": 1}, "seeds is 1"),
        ({"tuning_seeds": 0}, "tuning_seeds is 0"),
        ({"num_rates": 0}, "num_rates is 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)


def test_the_directory_tells_runs_apart():
    assert Config(seed=3).run_directory == Path("runs/optimizer_solutions/digits-seed3")
    assert Config(directory=Path("here")).run_directory == Path("here")


def test_help_explains_every_setting_and_errors_are_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.optimizer_solutions.run"]
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert helped.returncode == 0, helped.stderr
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in helped.stdout
    wrong = [*command, "--data", "mnist", "--data-dir", str(tmp_path), "--directory", str(tmp_path / "run")]
    done = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: load_split: data set 'mnist' is not in")
    assert contents(tmp_path) == {}
