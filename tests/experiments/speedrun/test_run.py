"""The whole experiment on a small scale: what a run leaves behind, what it refuses, and that pieces add up."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments.speedrun import stage
from experiments.speedrun.run import report, run, use_compilation_cache
from experiments.speedrun.teacher import load_teacher
from jaxdiv.training import Interrupted, checkpoint_steps, read_metrics
from tests.experiments.speedrun.small import small_config


def test_results_hold_every_row_and_the_curve(finished):
    config, results = finished
    directory = config.run_directory
    assert json.loads((directory / "results.json").read_text()) == results
    assert results["finished"]
    names = list(results["rows"])
    assert names[0] == "test set" and names[-1] == "student"
    assert (
        set(names[1:-1]) <= {"teacher, 3 evaluations", "teacher, 5 evaluations"} and "teacher, 3 evaluations" in names
    )
    assert results["rows"]["student"]["num_samples"] == config.num_samples
    assert [point["step"] for point in results["curve"]] == [3, 6]
    assert all(point["fd_resnet8"] > 0 and point["minutes"] > 0 for point in results["curve"])
    assert results["facts"]["data"] == "real data" and results["facts"]["seed"] == 0
    for name in ("teacher", "student"):
        facts = results["stages"][name]
        assert (facts["steps"], facts["pieces"]) == (6, 1)
        assert facts["train_seconds"] > 0 and facts["images_per_second"] > 0 and facts["compile_seconds"] > 0
    assert results["stages"]["teacher"]["model_tflop_per_second"] > 0
    assert results["minutes"] == pytest.approx(sum(s["train_seconds"] for s in results["stages"].values()) / 60)


def test_pictures_and_samples_are_written(finished):
    config, _ = finished
    for name in ("curve.png", "samples.png", "table.md"):
        assert (config.run_directory / name).stat().st_size > 100
    grids = [np.load(path) for path in sorted((config.run_directory / "samples").glob("*.npy"))]
    assert [grid.shape for grid in grids] == [(12, 32, 32, 3)] * 2 and grids[0].dtype == np.uint8


def test_the_trained_teacher_is_one_for_the_fixed_track(finished):
    config, results = finished
    path = config.run_directory / "teacher_weights" / "speedrun_teacher.npz"
    denoiser, params = load_teacher(dataclasses.replace(config, track="teacher", teacher=path))
    assert denoiser.sigma_data == 0.5 and sum(leaf.size for leaf in jax.tree.leaves(params)) == results["parameters"]


def test_the_report_has_a_line_per_row_and_the_ratios(finished):
    _, results = finished
    text = report(results)
    for name in results["rows"]:
        assert f"| {name}" in text
    row, teacher = results["rows"]["student"], results["rows"]["teacher, 3 evaluations"]
    ratio = row["fd_resnet8"] / teacher["fd_resnet8"]
    assert f"student over teacher, 3 evaluations: FD-resnet8 {ratio:.2f}" in text


def test_an_earlier_run_is_not_overwritten(finished, splits, measure):
    config, _ = finished
    with pytest.raises(ValueError, match="holds an earlier run; expected --resume"):
        run(config, splits, measure)


def without_times(record):
    times = ("time", "minutes", "sample_seconds", "measure_seconds")
    return {name: value for name, value in record.items() if name not in times}


def test_a_finished_run_resumes_to_the_same_numbers(finished, splits, measure):
    config, results = finished
    again = run(dataclasses.replace(config, resume=True), splits, measure)
    assert without_times(again["rows"]["student"]) == without_times(results["rows"]["student"])
    assert again["curve"] == results["curve"] and again["stages"] == results["stages"]


def test_a_piece_that_is_over_saves_and_the_next_goes_on_to_the_same_bits(
    finished, splits, measure, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "COMPILE_SECONDS", -1e9)  # so that the piece gets as far as its first step
    config, results = finished
    directory = tmp_path / "pieces"
    shutil.copytree(config.run_directory / "teacher", directory / "teacher")
    pieces = dataclasses.replace(config, directory=directory, resume=True, piece_minutes=1e-6)
    with pytest.raises(Interrupted) as interrupted:
        run(pieces, splits, measure)
    assert interrupted.value.code == 142
    (done,) = checkpoint_steps(directory / "student" / "checkpoints")
    assert 1 <= done < 6
    whole = run(dataclasses.replace(pieces, piece_minutes=None), splits, measure)
    assert whole["stages"]["student"]["pieces"] == 2
    assert without_times(whole["rows"]["student"]) == without_times(results["rows"]["student"])
    ours, theirs = (read_metrics(d / "student" / "metrics.jsonl") for d in (directory, config.run_directory))
    assert [without_times(record) for record in ours] == [without_times(record) for record in theirs]


def test_a_piece_too_short_to_compile_ends_before(splits, measure, tmp_path, capsys):
    with pytest.raises(Interrupted):
        run(small_config(tmp_path, piece_minutes=1.0), splits, measure)
    assert "the piece ends before the teacher's compilation, which takes about 150 s" in capsys.readouterr().err


def test_other_settings_do_not_go_on_and_an_aborted_run_leaves_nothing(finished, splits, measure, tmp_path):
    config, _ = finished
    other = dataclasses.replace(config, resume=True, training=dataclasses.replace(config.training, learning_rate=1.0))
    with pytest.raises(ValueError, match="was begun with other training; expected the same settings"):
        run(other, splits, measure)
    aborted = tmp_path / "run"
    shutil.copytree(config.run_directory / "teacher", aborted / "teacher", ignore=lambda *_: ["checkpoints"])
    (aborted / "samples").mkdir()
    (aborted / "samples" / "step_0000003.npy").touch()
    with pytest.raises(Interrupted):  # there is no time, but what was left is cleared
        run(small_config(aborted, piece_minutes=1.0), splits, measure)
    assert not (aborted / "teacher").exists() and not list((aborted / "samples").glob("*"))


def test_a_compilation_cache_is_set_unless_there_is_one(tmp_path, monkeypatch):
    set_to = []
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.append((name, value)))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    use_compilation_cache(None)
    use_compilation_cache(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    use_compilation_cache(tmp_path)
    assert set_to == [("jax_compilation_cache_dir", str(tmp_path / "compiled"))]


@pytest.mark.slow
def test_other_settings_run_through(splits, measure, tmp_path):
    student = {"steps": 2, "optimizer": "muon", "fake_optimizer": "muon", "frozen_convolutions": True, "fake_steps": 2}
    changes = {"curve_points": 0, "teacher_levels": (), "training": {"steps": 1}}
    results = run(small_config(tmp_path, method="f_distill", student=student, **changes), splits, measure)
    assert results["facts"]["data"] == "real data"
    assert results["curve"] == [] and list(results["rows"]) == ["test set", "student"]
    assert np.isfinite(results["rows"]["student"]["fd_resnet8"])
