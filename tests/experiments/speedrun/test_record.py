"""The record table from result files."""

import json

import pytest

from experiments.speedrun.config import Config
from experiments.speedrun.record import distance_columns, format_records, main, read_results, record_lines, run_facts


def result(seed, distance, *, change="f_distill, kl", commit="abc", missing=(), method="f_distill"):
    row = {
        "fd_resnet56": distance, "fd_mobilenet_v2": 3.0, "precision": 0.7, "recall": 0.6,
        "missing_classes": list(missing), "nearest_train_close": 0.05,
    }  # fmt: skip
    facts = {
        "date": "2026-11-27", "commit": commit, "device": "H200", "track": "teacher", "change": change,
        "data": "real data", "seed": seed, "settings_hash": method,
    }  # fmt: skip
    return {
        "finished": True, "facts": facts, "minutes": 12.0 + seed,
        "rows": {
            "test set": row | {"fd_resnet56": 0.05},
            "teacher, 35 evaluations": row | {"fd_resnet56": 1.0},
            "student": row,
        },
        "curve": [{"step": 10, "minutes": 1.0, "fd_resnet56": 9.0, "fd_mobilenet_v2": 30.0}],
    }  # fmt: skip


def test_seeds_of_equal_settings_are_one_line_with_mean_and_deviation():
    lines = record_lines([result(0, 1.0), result(1, 2.0, missing=(3,)), result(2, 3.0)])
    (line,) = lines
    assert line["seeds"] == 3 and line["missing"] == 1
    assert line["fd_resnet56"] == (2.0, 1.0) and line["minutes"] == (13.0, 1.0)


def test_other_settings_and_other_commits_are_lines_of_their_own():
    results = [result(0, 1.0), result(0, 2.0, method="sid"), result(0, 3.0, commit="def")]
    assert [line["seeds"] for line in record_lines(results)] == [1, 1, 1]


def test_the_least_distance_comes_first():
    lines = record_lines([result(0, 2.0, method="sid", change="worse"), result(0, 1.0, change="better")])
    header, rule, first, second = format_records(lines).splitlines()
    assert "FD-resnet56" in header and "missing classes" in header and set(rule) <= set("|- ")
    assert "better" in first and "| 1.000 |" in first and "worse" in second


def test_distances_are_found_by_name():
    assert distance_columns({"nfe": 1, "fd_resnet8": 2.0}) == {"fd_resnet8": "FD-resnet8"}


def test_the_command_prints_the_table_and_draws_the_curves(tmp_path, capsys):
    for seed in (0, 1):
        (tmp_path / f"run{seed}").mkdir()
        (tmp_path / f"run{seed}" / "results.json").write_text(json.dumps(result(seed, 1.0 + seed)))
    (tmp_path / "unfinished").mkdir()
    folders = sorted(tmp_path.iterdir())
    assert len(read_results(folders)) == 2
    main([*map(str, folders), "--figure", str(tmp_path / "curve.png")])
    assert "1.500 ± 0.707" in capsys.readouterr().out
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_folders_without_results_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "none of the 1 folders holds results.json" in capsys.readouterr().err


def test_facts_tell_data_free_from_real_data(monkeypatch):
    assert run_facts(Config(method="sid"))["data"] == "data-free"
    monkeypatch.setenv("JAXDIV_COMMIT", "c0ffee")
    facts = run_facts(Config(method="f_distill", divergence="kl", change="KL"))
    assert facts["data"] == "real data" and facts["change"] == "KL" and facts["commit"] == "c0ffee"
