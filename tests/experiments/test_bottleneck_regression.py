"""The bottleneck comparison from end to end: a short run, its file, its tables and its settings."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.bottleneck_regression import cells as cells_module
from experiments.bottleneck_regression.cells import read_cells, settings_of, train_and_measure
from experiments.bottleneck_regression.config import Config
from experiments.bottleneck_regression.data import read_table
from experiments.bottleneck_regression.methods import Widths
from experiments.bottleneck_regression.run import main, run
from experiments.bottleneck_regression.splits import Part, stack_splits
from experiments.bottleneck_regression.tables import at_equal, chosen_values, format_tables, ratios_of, spread
from experiments.json_lines import drop_torn_line

SMALL = {"num_seeds": 2, "steps": 6, "batch_size": 32, "width": 8, "max_rows": 100, "info_rows": 20, "pgd_steps": 2}


def table_cell(config, method, rmse, ratio):
    information = (4.0 * (1.0 - np.array(ratio))).tolist()
    values = {"rmse": rmse, "relevance": rmse, "information": information, "cs_qmi": information}
    attacks = {"fgsm": [[1.5, 2.5]] * 5, "pgd": [[2.0, 2.0]] * 5}
    return {
        "method": method, "betas": [0.0, 0.1], "chosen": [0, 1], "scale": [10.0, 20.0],
        "validation": values, "test": values, "attacks": attacks, "settings": settings_of(config),
    }  # fmt: skip


def test_tables_hold_choices_and_paired_differences():
    config = Config(methods=("nib", "cs"), num_seeds=2, compressions=(0.25, 0.5))
    cells = {
        ("diabetes", "nib"): table_cell(config, "nib", [[1.0, 1.2], [2.0, 1.0]], [[0.0, 0.0], [0.5, 0.5]]),
        ("diabetes", "cs"): table_cell(config, "cs", [[1.0, 1.2], [1.2, 1.4]], [[0.0, 0.0], [0.5, 0.25]]),
    }
    text = format_tables(cells, config)
    # seed 0 keeps its first beta, seed 1 its second: RMSE 1 and 1, units 10 and 20
    assert "| diabetes | NIB | 0 to 0.1 | 1.000 ± 0.000 | 15 points | 1.00 ± 0.00 | 0.25 ± 0.35 | 0.25 ± 0.35 |" in text
    assert "2.000 ± 0.707 | 2.000 ± 0.000 |" in text and "FGSM at 0.1" in text
    assert "| diabetes | NIB | 1.250 ± 0.354 | 1.500 ± 0.707 |" in text  # its second beta beats the first
    assert "| diabetes | CS-IB | 1.250 ± 0.212 |  |" in text  # a split does not reach 0.5
    assert "| diabetes | CS-IB | NIB | +0.000 ± 0.400 |  |" in text  # 1.1 - 1.5 and 1.4 - 1.0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, run(Config(directory=directory, methods=("mse", "nib"), **SMALL))


def test_a_run_writes_cells_tables_and_a_picture(finished):
    directory, cells = finished
    assert [json.loads(line) for line in (directory / "cells.jsonl").read_text().splitlines()] == list(cells.values())
    assert list(cells) == [("diabetes", "mse"), ("diabetes", "nib")]
    cell = cells["diabetes", "nib"]
    assert np.shape(cell["test"]["rmse"]) == np.shape(cell["epochs"]) == (len(cell["betas"]), 2)
    assert np.shape(cell["attacks"]["pgd"]) == (5, 2) and cell["seconds"] > 0
    assert cells["diabetes", "mse"]["test"]["information"] == [[None, None]]
    assert cell["chosen"] == np.argmin(cell["validation"]["rmse"], axis=0).tolist()
    table = (directory / "table.md").read_text()
    assert "| diabetes | MSE | 0 |" in table and "r = 0.75" in table and "Differences" not in table
    assert (directory / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((directory / "config.json").read_text())["steps"] == 6


def test_a_finished_directory_is_refused_and_resumed(finished, monkeypatch):
    directory, cells = finished
    settings = {"directory": directory, "methods": ("mse", "nib"), **SMALL}
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --resume"):
        run(Config(**settings))
    with (directory / "cells.jsonl").open("a") as file:
        file.write('{"data": "dia')  # as an interruption leaves it
    monkeypatch.setattr("experiments.bottleneck_regression.run.train_and_measure", lambda *_: pytest.fail("anew"))
    again = run(Config(**settings, resume=True, compressions=(0.1,)))
    assert {name: json.loads(json.dumps(cell)) for name, cell in cells.items()} == again
    assert "r = 0.1 |" in (directory / "table.md").read_text()
    assert read_cells(directory / "cells.jsonl", Config(**settings | {"steps": 7})) == {}
    assert read_cells(directory / "none.jsonl", Config()) == {}
    drop_torn_line(directory / "cells.jsonl")  # cells of other settings stay, whoever goes on
    assert set(read_cells(directory / "cells.jsonl", Config(**settings))) == set(cells)


def test_settings_are_all_but_those_no_cell_depends_on():
    fields = set(Config.__dataclass_fields__)
    assert set(settings_of(Config())) == fields - set(cells_module.NO_SETTING)
    assert set(cells_module.NO_SETTING) < fields


def test_test_rows_choose_nothing(finished):
    """Other test rows change what is said of them, and neither epochs nor betas nor any validation value."""
    _, cells = finished
    config = Config(methods=("mse", "nib"), **SMALL)
    split = stack_splits(read_table("diabetes"), seeds=range(2), max_rows=SMALL["max_rows"])
    other = split._replace(test=Part(-split.test.x, 5.0 - 3.0 * split.test.y))
    first, second = cells["diabetes", "nib"], train_and_measure(config, "diabetes", "nib", other)
    for name in ("chosen", "epochs", "validation", "betas"):
        assert first[name] == second[name], name
    assert first["test"]["rmse"] != second["test"]["rmse"] and first["attacks"] != second["attacks"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ()}, "data is empty"),
        ({"data": ("boston",)}, "data is 'boston'; expected one of 'diabetes'"),
        ({"methods": ()}, "methods is empty"),
        ({"methods": ("ib",)}, "methods is 'ib'"),
        ({"max_rows": 49}, "max_rows is 49"),
        ({"num_seeds": 1}, "num_seeds is 1"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"steps": 0}, "steps is 0"),
        ({"width": 0}, "width is 0"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"x_sigma": -1.0}, "x_sigma is -1.0"),
        ({"select": "test"}, "select is 'test'; expected one of 'loss', 'rmse'"),
        ({"variant": "paper"}, "variant is 'paper'; expected one of 'published', 'released'"),
        ({"compressions": (1.5,)}, "compressions is 1.5"),
        ({"compressions": ()}, "compressions is -1.0"),
        ({"epsilons": (-0.1,)}, "epsilons is -0.1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)


def test_the_directory_and_widths_follow_the_settings():
    assert Config().run_directory == Path("runs/bottleneck_regression/diabetes-seed0")
    assert Config(data=("bike_hour", "diabetes"), seed=3).run_directory.name == "bike_hour-diabetes-seed3"
    assert Config(directory=Path("here")).run_directory == Path("here")
    assert Config(x_sigma=2.0, y_sigma=3.0, variant="released").widths == Widths(2.0, 3.0, 1.0, "released", 1e-3)


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_help_explains_every_setting(monkeypatch, capsys):
    assert command_line(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text


def test_what_is_wrong_is_one_line(monkeypatch, tmp_path, capsys):
    code = command_line(monkeypatch, "--data", "bike_hour", "--data-dir", tmp_path, "--directory", tmp_path / "out")
    assert code.startswith("error: read_table: directory ") and "has no file bike_hour.csv.xz" in code
    assert "\n" not in code and not (tmp_path / "out").exists()  # nothing is left behind
    (tmp_path / "cells.jsonl").write_text("")
    assert "holds an earlier run" in command_line(monkeypatch, "--directory", tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.bottleneck_regression.run.train_and_measure", interrupt)
    assert command_line(monkeypatch, "--directory", tmp_path / "new") == 130
    assert "--resume goes on" in capsys.readouterr().err


def test_numbers_of_a_table_are_those_of_the_cell():
    config = Config(num_seeds=2, compressions=(0.25,))
    cell = table_cell(config, "cs", [[1.0, 1.2], [2.0, 1.0]], [[0.0, 0.0], [0.5, 0.5]])
    np.testing.assert_array_equal(chosen_values(cell, cell["test"]["rmse"]), [1.0, 1.0])
    np.testing.assert_allclose(ratios_of(cell, "information"), [[0, 0], [0.5, 0.5]])
    np.testing.assert_allclose(at_equal(cell, config, "cs_qmi"), [[1.5, 1.0]])
    # weights come from validation rows: with r = 0.25 reached by the second beta there, its test values are taken
    cell["validation"] = cell["validation"] | {"information": [[4.0, 4.0], [3.0, 3.0]]}
    np.testing.assert_allclose(at_equal(cell, config, "information"), [[2.0, 1.0]])
    assert spread(np.array([1.0, np.inf])) == "" and spread(np.array([1.0, 2.0]), 2) == "1.50 ± 0.71"


def test_a_difference_says_on_how_many_splits_it_rests():
    config = Config(methods=("vib", "cs_narrow"), num_seeds=3, compressions=(0.5,))
    rmse, reach = [[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.4]]
    three = {
        "chosen": [0, 0, 0],
        "scale": [1.0, 1.0, 1.0],
        "attacks": {"fgsm": [[1.0] * 3] * 5, "pgd": [[1.0] * 3] * 5},
    }
    cells = {
        ("diabetes", "vib"): table_cell(config, "vib", rmse, reach) | three,
        ("diabetes", "cs_narrow"): table_cell(config, "cs_narrow", [rmse[0], [2.0, 2.0, 2.0]], [reach[0], [1, 1, 1]])
        | three,
    }
    text = format_tables(cells, config)
    # at r = 0.5: 1.5 - 2 and 1.5 - 3, the third split of VIB does not reach it
    assert "| diabetes | CS-IB, 0.3 sigma_x | VIB | -1.000 ± 0.500 (2 of 3) |" in text
    assert "| diabetes | VIB | 0 | 1.000 ± 0.000 | 1 points |" in text
