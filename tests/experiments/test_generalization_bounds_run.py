"""The generalization experiment: a tiny run from end to end, and its settings."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.generalization_bounds import known_tables
from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.records import knobs_of
from experiments.generalization_bounds.run import run

SMALL = {
    "depths": (1, 2),
    "widths": (4,),
    "weight_decays": (0.0, 1.0),
    "num_draws": 2,
    "num_seeds": 2,
    "num_train": 200,
    "steps": 30,
    "average_steps": 10,
    "noise_draws": 2,
    "resamples": 30,
    "trials": 200,
}
CONFIG = Config(**SMALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_tables, "DIMENSIONS", (2,))
        patch.setattr(known_tables, "NOISES", {"normal noise 2": known_tables.NOISES["normal noise 2"]})
        patch.setattr(known_tables, "LINEAR_WIDTHS", (2, 2))
        return directory, *run(dataclasses.replace(CONFIG, directory=directory))


def test_a_run_writes_records_tables_and_pictures(finished):
    directory, networks, rows = finished
    assert len(networks) == 2 * 2 * 2 * 2
    assert len({tuple(knobs_of(network).values()) for network in networks}) == len(networks)
    for file, kept in (("networks.jsonl", networks), ("known.jsonl", rows)):
        assert [json.loads(line) for line in (directory / file).read_text().splitlines()] == kept
    table = (directory / "table.md").read_text()
    assert all(f"| {name} | " in table for name in networks[0]["measures"])
    assert all(word in table for word in ("loss gap", "error gap", "normal noise 2", "no relation", "ceiling"))
    assert json.loads((directory / "config.json").read_text())["depths"] == [1, 2]
    assert set(json.loads((directory / "rankings.json").read_text())) == {"loss gap", "error gap"}
    for picture in ("gaps.png", "rankings.png", "known.png"):
        assert (directory / picture).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_records_keep_what_the_bounds_promise(finished):
    for network in finished[1]:
        assert network["loss gap"] == pytest.approx(network["test loss"] - network["train loss"])
        layers = {name: np.array(values) for name, values in network["layers"].items()}
        assert all(len(values) == network["depth"] for values in layers.values())
        assert (layers["lower"] <= layers["ceiling"] + 1e-5).all()
        assert (layers["lower"] <= layers["upper"]).all()
        assert (layers["parameters"] <= np.log(2) + 1e-5).all()
        assert (layers["parameters"] <= layers["divergences"] + 1e-5).all()
        assert (np.diff(layers["divergences"]) >= 0).all()  # more parameters tell more
        assert all(np.isfinite(value) for value in network["measures"].values())


def test_a_finished_directory_is_refused(finished):
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected another --directory"):
        run(dataclasses.replace(CONFIG, directory=finished[0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": ()}, r"depths is \(\); expected different values"),
        ({"widths": (8, 8)}, r"widths is \(8, 8\)"),
        ({"depths": (0,)}, "depths is 0"),
        ({"weight_decays": (-1.0,)}, "weight_decays is -1.0"),
        ({"num_draws": 1}, "num_draws is 1"),
        ({"num_seeds": 0}, "num_seeds is 0"),
        ({"num_train": 1001}, "num_train is 1001"),
        ({"average_steps": 2000}, "average_steps is 2000"),
        ({"label_noise": 1.5}, "label_noise is 1.5"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"resamples": 1}, "resamples is 1"),
        ({"trials": 1}, "trials is 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)


def test_the_directory_tells_seeds_apart():
    assert Config(seed=3).run_directory == Path("runs/generalization_bounds/seed3")
    assert Config(directory=Path("here")).run_directory == Path("here")
    assert Config(depths=(1, 2), widths=(3, 4)).shapes == [(1, 3), (1, 4), (2, 3), (2, 4)]
