"""The benchmark of estimators: a short run from end to end, its file, its tables and its settings."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.estimator_benchmark.cells import Runner, in_scope, read_cells
from experiments.estimator_benchmark.config import FULL_SIZES, SHORT_TASKS, Config
from experiments.estimator_benchmark.estimators import ESTIMATORS
from experiments.estimator_benchmark.run import run
from experiments.estimator_benchmark.tables import bias_and_spread, family, format_tables
from jaxdiv.information import TASKS, ksg

SMALL = {
    "tasks": ("normal-1x1", "half_cube-normal-1x1", "dense-2x2"),
    "estimators": ("ksg_1", "binned"),
    "sizes": (100, 40),
    "num_seeds": 2,
    "critic_steps": 20,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, run(Config(directory=directory, **SMALL))


def test_a_run_writes_every_cell_a_table_and_a_picture(finished):
    directory, cells = finished
    assert len(cells) == 10 and all(len(cell["values"]) == 2 for cell in cells.values())
    lines = [json.loads(line) for line in (directory / "cells.jsonl").read_text().splitlines()]
    assert lines == list(cells.values())  # binned is not meant for 2 + 2 columns
    table = (directory / "table.md").read_text()
    assert all(word in table for word in (*SMALL["tasks"], *SMALL["estimators"], "N = 40", "N = 100", "Miller-Madow"))
    assert (directory / "estimates.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((directory / "config.json").read_text())["critic_steps"] == 20


def test_cells_are_what_the_estimator_says_of_the_tasks_samples(finished):
    _, cells = finished
    cell = cells["ksg_1", "dense-2x2", 40]
    key = jax.random.split(jax.random.key(0), (2, 2))[0, 1]
    x, y = TASKS["dense-2x2"].sample(key, 100)
    assert cell["values"][1] == pytest.approx(float(ksg(x[:40], y[:40])), abs=1e-5)
    assert cell["truth"] == TASKS["dense-2x2"].mutual_information and cell["seconds"] > 0
    bias, spread = bias_and_spread(cell)
    assert bias == pytest.approx(np.mean(cell["values"]) - cell["truth"])
    assert spread == pytest.approx(abs(np.diff(cell["values"])[0]) / 2**0.5)


def test_a_finished_directory_is_refused_and_resumed(finished, monkeypatch):
    directory, cells = finished
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --resume"):
        run(Config(directory=directory, **SMALL))
    with (directory / "cells.jsonl").open("a") as file:
        file.write('{"estimator": "ks')  # as an interruption leaves it
    monkeypatch.setattr(Runner, "cell", lambda *_: pytest.fail("a finished cell was computed anew"))
    assert run(Config(directory=directory, resume=True, **SMALL)) == cells
    monkeypatch.undo()
    more = run(Config(directory=directory, resume=True, **(SMALL | {"estimators": ("ksg_1", "ksg_2")})))
    assert len(more) == 12 and more["ksg_1", "dense-2x2", 40] == cells["ksg_1", "dense-2x2", 40]
    kept = read_cells(directory / "cells.jsonl", {"seed": 0})
    assert len(kept) == 16
    assert read_cells(directory / "cells.jsonl", {"seed": 1}) == {}
    assert read_cells(directory / "none.jsonl", {}) == {}


@pytest.mark.slow  # a compilation for each
def test_what_an_estimator_refuses_is_left_out_by_name(tmp_path):
    """Canonical correlations of 25 + 25 columns want more than 50 rows."""
    settings = {"tasks": ("dense-25x25",), "estimators": ("gaussian", "ksg_1"), "sizes": (40, 60), "num_seeds": 2}
    cells = run(Config(directory=tmp_path, **settings))
    assert list(cells) == [("ksg_1", "dense-25x25", 40), ("gaussian", "dense-25x25", 60), ("ksg_1", "dense-25x25", 60)]
    left_out = "- left out: gaussian on dense-25x25 at N = 40: gaussian_mutual_information: x has 40 rows"
    assert left_out in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_every_estimator_gives_a_number_of_small_samples():
    runner = Runner(seed=1, num_seeds=2, critic_steps=2)
    x, y = runner.samples("normal-1x1", 40)
    for estimator, entry in ESTIMATORS.items():
        values, seconds = runner.estimate(estimator, x, y)
        assert values.shape == (2,) and np.isfinite(values).all() and seconds > 0, estimator
        assert entry.what and in_scope(estimator, "normal-1x1")
    assert not in_scope("lnc", "dense-25x25")


def test_tables_hold_bias_spread_and_errors_of_families():
    def cell(values, truth):
        return {"values": values, "truth": truth, "seconds": 0.25}

    truth = TASKS["normal-1x1"].mutual_information
    cells = {
        ("ksg_1", "normal-1x1", 100): cell([truth + 0.1, truth + 0.3], truth),
        ("ksg_1", "additive-0.1", 100): cell([1.0, 1.0], 1.0),
        ("ksg_2", "normal-1x1", 100): cell([truth, truth], truth),
    }
    table = format_tables(cells, tasks=["normal-1x1", "additive-0.1"], estimators=["ksg_1", "ksg_2"], sizes=[100])
    assert "| normal-1x1 | 0.413 | +0.200 ± 0.141 | +0.000 ± 0.000 |" in table
    assert "| additive-0.1 | 1.709 | +0.000 ± 0.000 |  |" in table
    assert "| one-dimensional | 100 | 0.158 |  |" in table  # sqrt((0.1^2 + 0.3^2) / 4); ksg_2 lacks a task
    assert "| one-dimensional | 100 | 0.050 |  |" in table  # the median of 0, 0, 0.1 and 0.3
    assert "| 100 | 0.25 | 0.25 |" in table


def test_families_hold_all_tasks():
    members = {}
    for task in TASKS:
        members.setdefault(family(task), []).append(task)
    assert {name: len(tasks) for name, tasks in members.items()} == {
        "one-dimensional": 9,
        "a curve in the plane": 1,
        "normal, 2x2 to 5x5": 6,
        "normal, 25x25 and 50x50": 3,
        "Student-t": 9,
        "mapped normal, 3x3 and 5x5": 8,
        "mapped normal, 25x25": 4,
    }


def test_full_means_everything_unless_set():
    full, short = Config(full=True), Config()
    assert (len(full.chosen_tasks), full.chosen_sizes, full.seeds) == (40, FULL_SIZES, 10)
    assert full.chosen_estimators == tuple(ESTIMATORS)
    assert short.chosen_tasks == SHORT_TASKS and short.seeds == 3
    assert not any(ESTIMATORS[name].trained for name in short.chosen_estimators)
    assert Config(full=True, sizes=(200, 50), num_seeds=4).chosen_sizes == (50, 200)
    assert Config(full=True, num_seeds=4).seeds == 4
    assert full.run_directory == Path("runs/estimator_benchmark/full-seed0")
    assert Config(directory=Path("here")).run_directory == Path("here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("no",)}, "tasks is 'no'"),
        ({"tasks": ()}, "tasks is empty"),
        ({"estimators": ("no",)}, "estimators is 'no'; expected one of 'gaussian'"),
        ({"sizes": (19,)}, "sizes is 19"),
        ({"sizes": ()}, "sizes is 0"),
        ({"num_seeds": 1}, "num_seeds is 1"),
        ({"critic_steps": 0}, "critic_steps is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"full": 1}, "full is 1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)
