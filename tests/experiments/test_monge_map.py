"""The map-fitting experiment: a short run from end to end, its parts and its settings."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.monge_map.config import Config
from experiments.monge_map.fit import Task, apply_map, exact_cost, fit_map, init_map
from experiments.monge_map.run import COLUMNS, run
from experiments.monge_map.shapes import SHAPES, draw
from jaxdiv.training import read_metrics

ROOT = Path(__file__).parent.parent.parent
SMALL = {"steps": 60, "batch_size": 64, "num_samples": 100, "num_iters": 15, "evaluations": 3, "widths": (16, 16)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, run(Config(directory=directory, learning_rate=0.01, **SMALL))


def test_a_run_writes_table_picture_and_metrics(finished):
    directory, rows = finished
    assert json.loads((directory / "results.json").read_text()) == rows
    table = (directory / "table.md").read_text()
    assert all(name in table for name in (*rows, *COLUMNS.values()))
    assert (directory / "maps.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for folder in ("without_the_gap", "with_the_gap"):
        file = directory / folder / "metrics.jsonl"
        assert [record["step"] for record in read_metrics(file, split="eval")] == [20, 40, 60]
        train = [record["loss"] for record in read_metrics(file, split="train")]
        assert train[-1] < train[0] and np.isfinite(train).all()


def test_a_gap_that_the_fit_does_not_compute_is_no_gap_of_0(finished):
    directory, _ = finished
    without, with_gap = (
        read_metrics(directory / folder / "metrics.jsonl", split="train")
        for folder in ("without_the_gap", "with_the_gap")
    )
    assert all("monge_gap" not in record for record in without)
    for record in with_gap:
        total = record["sinkhorn_divergence"] + Config().gap_weight * record["monge_gap"]
        assert record["loss"] == pytest.approx(total, rel=1e-5) and record["monge_gap"] != 0.0


@pytest.mark.parametrize(("steps", "evaluations", "expected"), [(5, 3, [2, 4]), (2, 9, [1, 2])])
def test_there_are_no_more_evaluations_than_asked_for(monkeypatch, steps, evaluations, expected):
    seen = {}
    monkeypatch.setattr(
        "experiments.monge_map.fit.training.train", lambda step_fn, state, **settings: seen.update(settings) or state
    )
    config = Config(**(SMALL | {"steps": steps, "evaluations": evaluations}))
    fit_map(Task(config), gap_weight=0.0, directory=Path("unused"), description="")
    assert [step for step in range(1, steps + 1) if step % seen["eval_every"] == 0] == expected


def test_the_gap_brings_the_map_nearer_to_exact_transport(finished):
    _, rows = finished
    without, with_gap, exact = (rows[name] for name in ("without the gap", "with the gap", "exact transport"))
    assert 0 <= with_gap["exact_gap"] < without["exact_gap"]
    assert exact["transport_cost"] > 0 and rows["another sample of the target"]["sinkhorn_divergence"] > 0


def test_a_finished_directory_is_refused_and_resumed(finished):
    directory, rows = finished
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --resume"):
        run(Config(directory=directory, learning_rate=0.01, **SMALL))
    again = run(Config(directory=directory, learning_rate=0.01, resume=True, **SMALL))
    assert again["with the gap"] == pytest.approx(rows["with the gap"], rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_centred_and_of_one_size(shape):
    points = SHAPES[shape](np.random.default_rng(0), 20000)
    assert points.shape == (20000, 2)
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=0.03)
    assert 0.98 < np.sqrt((points**2).sum(axis=1).mean()) < 1.25


def test_draws_are_a_function_of_the_seed():
    first, again, other = (draw("moons", "ring", 5, seed=seed) for seed in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).all() and first[0].dtype == np.float32
    assert first[1].mean(axis=0)[0] > 1.5


def test_a_permuting_map_has_the_gap_of_its_pairing():
    config = Config(cost="l1", **SMALL)
    task = Task(config)
    params = init_map(jax.random.key(0), config.widths)
    row = task.evaluate(params)
    mapped = np.asarray(apply_map(params, task.x))
    cost = np.abs(task.x[:, None] - mapped[None]).sum(-1)
    assert row["transport_cost"] == pytest.approx(np.trace(cost) / 100, rel=1e-5)
    assert row["exact_gap"] == pytest.approx(np.trace(cost) / 100 - exact_cost(cost), abs=1e-5)
    assert 0 <= row["exact_gap"] <= row["monge_gap"] + 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "square"}, "source is 'square'; expected one of 'moons'"),
        ({"target": ""}, "target is ''"),
        ({"cost": "l2"}, "cost is 'l2'"),
        ({"steps": 0}, "steps is 0"),
        ({"num_samples": 99}, "num_samples is 99"),
        ({"widths": ()}, "widths is 0"),
        ({"gap_weight": -1.0}, "gap_weight is -1.0"),
        ({"gap_epsilon": 0.0}, "gap_epsilon is 0.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)


def test_the_directory_tells_runs_apart():
    assert Config().run_directory == Path("runs/monge_map/moons-s_curve-sqeuclidean-seed0")
    assert Config(directory=Path("here")).run_directory == Path("here")


def test_help_explains_every_setting():
    command = [sys.executable, "-m", "experiments.monge_map.run", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in done.stdout
