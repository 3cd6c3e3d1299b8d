"""The information-plane experiment: short runs from end to end, their tables, pictures and settings."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.information_plane.config import Config
from experiments.information_plane.measure import BITS_ESTIMATORS, bottleneck_bound, label_entropy
from experiments.information_plane.models import BIT_WIDTHS, perceptron
from experiments.information_plane.plots import _band, save_curves, save_planes
from experiments.information_plane.run import Experiment, build_experiment, measure_snapshot, run
from experiments.information_plane.tables import compression, curves, format_tables, in_bits, mean_and_deviation
from experiments.information_plane.task import icosahedral_task
from experiments.information_plane.training import Snapshot

ROOT = Path(__file__).parent.parent.parent
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = {"num_seeds": 2, "epochs": 30, "snapshots": 3, "learning_rate": 3e-3}


def build_small(config):
    """The bits with one cheap estimator, so that nothing but the networks is compiled."""

    def measure(layer, key, last):
        layer = np.asarray(layer)
        found = {"mean": [float(abs(layer).mean()), float(layer.std())]}
        return found | ({"end": [1.0, 0.5]} if last else {})

    task, named = icosahedral_task(), {"mean": "of the units", "end": "at the end only"}
    return Experiment(task.patterns, task.labels, perceptron, measure, named, {"mean": "mean"}, "two moments.")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("experiments.information_plane.run.build_experiment", build_small)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.information_plane.run.build_experiment", build_small)
        return directory, run(Config(directory=directory, **SMALL))


def test_a_run_writes_a_line_for_every_network_and_snapshot(finished):
    directory, records = finished
    assert [json.loads(line) for line in (directory / "snapshots.jsonl").read_text().splitlines()] == records
    assert [(r["activation"], r["epoch"], r["seed"]) for r in records] == [
        (activation, epoch, seed) for activation in ("tanh", "relu") for epoch in (0, 1, 30) for seed in (0, 1)
    ]
    assert all(len(record["information"]) == len(BIT_WIDTHS) for record in records)
    assert ["end" in record["information"][0] for record in records[:6]] == [False] * 4 + [True] * 2
    config = json.loads((directory / "config.json").read_text())
    assert config["epochs"] == 30 and config["activations"] == ["tanh", "relu"]


def test_a_run_writes_tables_and_pictures(finished):
    directory, _ = finished
    table = (directory / "table.md").read_text()
    for word in (
        "| relu | 6: 2 |",
        "I(X; T) at the end, bits",
        "H(Y) = 0.9996 bits; seeds: 2,",
        "two moments.",
        "- end: ",
    ):
        assert word in table
    for name in ("planes.png", "curves.png"):
        assert (directory / name).read_bytes()[:8] == PNG


def test_the_networks_learn(finished):
    _, records = finished
    for activation in ("tanh", "relu"):
        for seed in (0, 1):
            chosen = [r for r in records if (r["activation"], r["seed"]) == (activation, seed)]
            assert chosen[-1]["loss"] < 0.65 * chosen[0]["loss"] and chosen[-1]["test_accuracy"] > 0.75
    assert len({record["loss"] for record in records}) == len(records)


def test_a_finished_directory_is_refused_unless_overwritten(finished, small):
    directory, _ = finished
    before = (directory / "snapshots.jsonl").read_text()
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --overwrite"):
        run(Config(directory=directory, **SMALL))
    assert (directory / "snapshots.jsonl").read_text() == before
    less = SMALL | {"epochs": 1, "activations": ("relu",)}  # of the same shapes, which are compiled
    records = run(Config(directory=directory, overwrite=True, **less))
    assert len((directory / "snapshots.jsonl").read_text().splitlines()) == len(records) == 4


def test_records_are_there_before_the_run_ends(tmp_path, monkeypatch):
    """An interruption leaves the lines measured so far."""

    def build(config):
        def measure(layer, key, last):
            if last:
                raise KeyboardInterrupt
            return {"mean": [0.0, 0.0]}

        return build_small(config)._replace(measure_fn=measure)

    monkeypatch.setattr("experiments.information_plane.run.build_experiment", build)
    with pytest.raises(KeyboardInterrupt):
        run(Config(directory=tmp_path, activations=("tanh",), **(SMALL | {"epochs": 2})))
    lines = [json.loads(line) for line in (tmp_path / "snapshots.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 0, 1, 1] and not (tmp_path / "table.md").exists()


def test_an_interrupted_overwriting_run_leaves_nothing_of_the_one_it_replaces(tmp_path, monkeypatch):
    for name in ("snapshots.jsonl", "table.md", "planes.png", "curves.png"):
        (tmp_path / name).write_text("of the earlier run")
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 99}))

    def build(config):
        def measure(layer, key, last):
            raise KeyboardInterrupt

        return build_small(config)._replace(measure_fn=measure)

    monkeypatch.setattr("experiments.information_plane.run.build_experiment", build)
    with pytest.raises(KeyboardInterrupt):
        run(Config(directory=tmp_path, overwrite=True, **SMALL))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "snapshots.jsonl"]
    assert json.loads((tmp_path / "config.json").read_text())["epochs"] == 30


def fake_records(activation="tanh", seeds=(0, 1)):
    """Two layers: of 3, 5 + seed, 2 bits with X and 1 bit with Y by "kde_upper"; "mixture" at the end alone."""
    records = []
    for epoch, size in ((0, 3.0), (1, 5.0), (2, 2.0)):
        for seed in seeds:
            peak = size + seed * (epoch == 1)
            layer = {name: [peak * np.log(2), np.log(2)] for name in BITS_ESTIMATORS if name != "mixture" or epoch == 2}
            scalars = {"loss": 0.5, "train_accuracy": 1.0, "test_accuracy": 0.9 - 0.1 * seed}
            records.append(
                {"activation": activation, "seed": seed, "epoch": epoch, **scalars, "information": [layer] * 2}
            )
    return records


def test_curves_are_in_bits_by_seed_and_epoch():
    epochs, values = curves(fake_records() + fake_records("relu"), "relu", 1, "bins")
    np.testing.assert_array_equal(epochs, [0, 1, 2])
    np.testing.assert_allclose(values[:, :, 0], [[3, 5, 2], [3, 6, 2]])
    np.testing.assert_allclose(values[:, :, 1], 1.0)
    epochs, values = curves(fake_records(), "tanh", 0, "mixture")
    assert epochs.tolist() == [2] and values.shape == (2, 1, 2)


def test_tables_show_what_was_lost_of_the_largest_value():
    table = format_tables(fake_records(), layers=("1: 10", "2: 7"), estimators=BITS_ESTIMATORS)
    networks, lost, kept, about = table.split("\n\nI(")
    assert "| tanh | 2 | 0.500 (least 0.500) | 1.000 (least 1.000) | 0.850 (least 0.800) |" in networks
    cells = " | ".join(["5.50, 3.50 ± 0.71"] * 5)  # peaks 5 and 6, ends 2 and 2; no "kde" and no "mixture"
    assert f"| tanh | 2: 7 | {cells} |" in lost
    assert "| tanh | 1: 10 | " + " | ".join(["2.00 ± 0.00"] * 6) + " |" in kept
    assert "| tanh | 1: 10 | " + " | ".join(["1.00 ± 0.00"] * 7) + " |" in about and "mixture" in about


def test_small_functions_of_the_tables():
    peak, end = compression(np.array([[1.0, 4.0, 3.0], [2.0, 1.0, 5.0]]))
    assert peak.tolist() == [4.0, 5.0] and end.tolist() == [3.0, 5.0]
    assert mean_and_deviation(np.array([2.0, 4.0, 6.0])) == "4.00 ± 2.00"
    np.testing.assert_allclose(in_bits([0.0, np.log(4.0)]), [0.0, 2.0])
    np.testing.assert_array_equal(bottleneck_bound(np.array([0.2, 0.7, 3.0]), 0.7), [0.2, 0.7, 0.7])
    assert label_entropy(np.array([0, 0, 0, 1])) == pytest.approx(0.75 * np.log(4 / 3) + 0.25 * np.log(4))


def test_pictures_of_one_seed_and_two_networks(tmp_path):
    records = fake_records(seeds=(3,)) + fake_records("relu", seeds=(3,))
    shown = {"layers": ("1: 10", "2: 7"), "panels": {"bins": "bins", "neighbors": "neighbours"}}
    save_planes(tmp_path / "planes.png", records, entropy=np.log(2), **shown)
    save_curves(tmp_path / "curves.png", records, **shown)
    assert all((tmp_path / name).read_bytes()[:8] == PNG for name in ("planes.png", "curves.png"))


def test_bands_have_the_deviation_of_the_tables():
    shown = {}

    class Axis:
        def plot(self, epochs, mean, *args, **kwargs):
            shown["mean"] = mean

        def fill_between(self, epochs, low, high, **kwargs):
            shown["width"] = (high - low) / 2

    values = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 8.0]])
    _band(Axis(), np.arange(2), values, color="k", label="")
    np.testing.assert_allclose(shown["mean"], [3.0, 4.0])
    assert [mean_and_deviation(column) for column in values.T] == [
        f"{mean:.2f} ± {width:.2f}" for mean, width in zip(shown["mean"], shown["width"], strict=True)
    ]
    _band(Axis(), np.arange(2), values[:1], color="k", label="")
    np.testing.assert_array_equal(shown["width"], 0.0)


def test_records_hold_what_the_measure_says_of_each_seeds_layer():
    layers = [np.arange(12.0).reshape(2, 3, 2), np.ones((2, 3, 1))]
    snapshot = Snapshot(7, layers, *(np.array([0.25, 0.5]) + n for n in range(3)))
    keys = []

    def measure(layer, key, last):
        keys.append(str(key))
        return {"sum": [float(layer.sum()), float(last)]}

    records = list(measure_snapshot(snapshot, measure, activation="relu", seeds=range(4, 6), last=True))
    assert [record["seed"] for record in records] == [4, 5] and {record["epoch"] for record in records} == {7}
    assert [record["information"][0]["sum"] for record in records] == [[15.0, 1.0], [51.0, 1.0]]
    assert records[1]["loss"] == 0.5 and records[0]["test_accuracy"] == 2.25
    assert len(set(keys)) == 4  # noise of its own for every network and layer


def test_the_bits_experiment_takes_the_users_labels(tmp_path):
    task = icosahedral_task()
    np.savez(tmp_path / "labels.npz", F=task.patterns, y=1 - task.labels)
    own, given = (build_experiment(Config(labels_file=file)) for file in (None, tmp_path / "labels.npz"))
    np.testing.assert_array_equal(given.y, 1 - own.y)
    assert given.model_fn("tanh").layer_names == perceptron("tanh").layer_names
    assert len(perceptron("tanh").layer_names) == len(BIT_WIDTHS) and set(own.panels) < set(own.estimators)
    assert "30 bins" in own.note


def test_settings_follow_the_task_unless_set():
    bits, digits = Config(), Config(task="digits")
    assert (bits.chosen_epochs, bits.chosen_snapshots, bits.chosen_batch_size) == (1000, 10, 512)
    assert (digits.chosen_epochs, digits.chosen_snapshots, digits.chosen_batch_size) == (100, 12, 128)
    assert Config(epochs=5, snapshots=4, batch_size=3).chosen_epochs == 5
    assert bits.run_directory == Path("runs/information_plane/bits-seed0")
    assert Config(task="digits", seed=3).run_directory == Path("runs/information_plane/digits-seed3")
    assert Config(directory=Path("here")).run_directory == Path("here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "words"}, "task is 'words'; expected one of 'bits', 'digits'"),
        ({"activations": ()}, r"activations is \(\); expected names, each once"),
        ({"activations": ("relu", "relu")}, r"activations is \('relu', 'relu'\); expected names, each once"),
        ({"activations": ("tanh", "gelu")}, "activations is 'gelu'"),
        ({"encoder": "vae"}, "encoder is 'vae'"),
        ({"num_seeds": 0}, "num_seeds is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"snapshots": 2}, "snapshots is 2"),
        ({"batch_size": 3277}, "batch_size is 3277"),
        ({"task": "digits", "batch_size": 1438}, "batch_size is 1438"),
        ({"bins": 1}, "bins is 1"),
        ({"k": 0}, "k is 0"),
        ({"k": 4096}, "k is 4096"),
        ({"task": "digits", "k": 1797}, "k is 1797"),
        ({"code_dims": 33}, "code_dims is 33"),
        ({"variance": 0.0}, "variance is 0.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"overwrite": 1}, "overwrite is 1"),
        ({"task": "digits", "labels_file": Path("y.mat")}, "labels_file is 'y.mat' with task 'digits'"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^Config: " + message):
        Config(**settings)


def test_help_explains_every_setting():
    command = [sys.executable, "-m", "experiments.information_plane.run", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in done.stdout


def test_a_bad_file_ends_the_command_with_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.information_plane.run", "--labels-file", str(tmp_path / "none.mat")]
    done = subprocess.run([*command, "--directory", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("error: read_task: labels_file")
    assert not (tmp_path / "run").exists()
