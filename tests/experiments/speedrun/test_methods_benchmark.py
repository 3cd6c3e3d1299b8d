"""The comparison at equal minutes: what runs, what is not run again, and the table at the end."""

import json

import pytest

from benchmarks import speedrun_methods as benchmark
from experiments.speedrun.config import Config
from jaxdiv.training import Interrupted
from tests.experiments.speedrun.test_record import result

NAMES = ["sid 1.0", "dmd2"]


def test_every_setting_is_a_configuration_of_its_own(tmp_path):
    configs = [benchmark.config_of(name, 0, tmp_path) for name in benchmark.SETTINGS]
    assert len({config.run_directory for config in configs}) == len(configs)
    methods = {(config.distillation_method, config.student) for config in configs}
    assert len(methods) == len(configs)
    assert all(isinstance(config, Config) and config.track == "teacher" and config.resume for config in configs)


@pytest.fixture
def ran(monkeypatch):
    """``run`` writes a result instead; the names and seeds that it was called with."""
    calls = []

    def run(config, splits, measure):
        calls.append((config.change, config.seed))
        if config.change == "dmd2" and calls.count(("dmd2", config.seed)) == 1 and config.piece_minutes is not None:
            raise Interrupted(14, 5)
        config.run_directory.mkdir(parents=True, exist_ok=True)
        row = result(config.seed, 1.0 + config.seed, change=config.change, method=config.method)
        row["facts"]["settings_hash"] = config.settings_hash
        (config.run_directory / "results.json").write_text(json.dumps(row))

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "load_pixels", lambda folder: ("train", "test"))
    monkeypatch.setattr(benchmark, "make_measure", lambda config, *splits: None)
    return calls


def test_finished_runs_are_not_done_again(ran, tmp_path, capsys):
    arguments = ["--data-dir", "d", "--out", str(tmp_path), "--only", *NAMES, "--seeds", "0", "1"]
    benchmark.main(arguments)
    assert ran == [("sid 1.0", 0), ("dmd2", 0), ("sid 1.0", 1), ("dmd2", 1)]
    benchmark.main(arguments)
    assert len(ran) == 4
    with pytest.raises(ValueError, match="speedrun_methods: out has .* of other settings"):
        benchmark.main([*arguments, "--minutes", "12"])
    table = (tmp_path / "table.md").read_text()
    assert table.count("1.500 ± 0.707") == 2 and table in capsys.readouterr().out + "\n"
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_piece_ends_and_the_next_goes_on(ran, tmp_path):
    arguments = ["--data-dir", "d", "--out", str(tmp_path), "--only", *NAMES, "--piece-minutes", "5"]
    with pytest.raises(Interrupted):
        benchmark.main(arguments)
    benchmark.main(arguments)
    assert ran == [("sid 1.0", 0), ("dmd2", 0), ("dmd2", 0)]


def test_a_run_without_the_teachers_rows_is_done_again(ran, tmp_path):
    arguments = ["--data-dir", "d", "--out", str(tmp_path), "--only", "sid 1.0"]
    benchmark.main(arguments)
    file = benchmark.config_of("sid 1.0", 0, tmp_path).run_directory / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": False}))
    benchmark.main(arguments)
    benchmark.main(arguments)
    assert ran == [("sid 1.0", 0)] * 2


def test_an_unknown_setting_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--data-dir", "d", "--only", "gan"])
    assert "invalid choice: 'gan'" in capsys.readouterr().err
