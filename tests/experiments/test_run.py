"""The whole experiment, small, and its command line."""

import dataclasses
import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.one_step_image import run as run_module
from experiments.one_step_image.config import Config, StudentConfig, TeacherConfig
from experiments.one_step_image.evaluation import COLUMNS
from experiments.one_step_image.run import main, run
from jaxdiv.training import CheckpointError, Interrupted
from tests.experiments.small import ARGUMENTS, contents, small_config

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory, images):
    """A run with the default method that trains its teacher."""
    directory = tmp_path_factory.mktemp("runs") / "default"
    return directory, run(small_config(directory=directory), images)


def check_outcome(directory, rows, student):
    table = (directory / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in table[0].split("|")[2:-1]] == list(COLUMNS.values())
    assert [line.split("|")[1].strip() for line in table[2:]] == list(rows)
    assert list(rows)[:3] == ["held-out images", "teacher, 35 evaluations", "teacher, best count"]
    assert list(rows)[-1] == student
    assert json.loads((directory / "results.json").read_text()) == rows
    for name, row in rows.items():
        assert all(np.isfinite(value).all() for value in row.values()), name
        wanted = set(COLUMNS) - ({"nfe", "images_per_second"} if name == "held-out images" else set())
        assert set(row) >= wanted - (set() if name.startswith("teacher") else {"heldout_loss"})
    assert rows["teacher, 35 evaluations"]["nfe"] == 35 and rows[student]["nfe"] == 1
    for picture in ("samples.png", "curves.png"):
        content = (directory / picture).read_bytes()
        assert content.startswith(PNG) and len(content) > 20_000


def test_the_default_run_leaves_everything(first):
    directory, rows = first
    assert "control: regression onto ODE pairs" in rows
    check_outcome(directory, rows, "student: uni_instruct, reverse_kl")
    stored = json.loads((directory / "config.json").read_text())
    assert stored["method"] == "uni_instruct" and stored["training"]["steps"] == 20
    teacher = rows["teacher, best count"]["frechet_distance"]
    assert teacher <= rows["teacher, 35 evaluations"]["frechet_distance"]


@pytest.mark.parametrize(
    ("settings", "student"),
    [
        pytest.param({"method": "sid"}, "student: sid, reverse_kl", marks=pytest.mark.slow),
        ({"method": "dmd2"}, "student: dmd2, reverse_kl"),
        pytest.param({"method": "diff_instruct"}, "student: diff_instruct, reverse_kl", marks=pytest.mark.slow),
        pytest.param({"method": "dmd", "pairs": 20}, "student: dmd, reverse_kl", marks=pytest.mark.slow),
        pytest.param({"method": "f_distill"}, "student: f_distill, jensen_shannon(0.5)", marks=pytest.mark.slow),
        pytest.param({"divergence": "kl"}, "student: uni_instruct, kl", marks=pytest.mark.slow),
    ],
)
def test_other_methods_from_the_same_teacher(first, images, tmp_path, settings, student):
    config = small_config(directory=tmp_path / "run", teacher=first[0], **{"pairs": 0} | settings)
    rows = run(config, images)
    check_outcome(tmp_path / "run", rows, student)
    assert not (tmp_path / "run" / "teacher").exists()
    teacher = "teacher, 35 evaluations"
    for column in ("frechet_distance", "heldout_loss"):
        assert rows[teacher][column] == pytest.approx(first[1][teacher][column], rel=1e-5)


def test_another_method_in_the_same_directory_is_refused(first, images):
    directory, _ = first
    before = contents(directory)
    with pytest.raises(ValueError, match="config.method: stored uni_instruct, asked sida"):
        run(small_config(directory=directory, method="sida", resume=True), images)
    with pytest.raises(ValueError, match="config.training.steps: stored 20, asked 30"):
        run(small_config(directory=directory, training={"steps": 30}, resume=True), images)
    assert contents(directory) == before


def test_a_batch_must_divide_over_the_devices(monkeypatch, images, tmp_path):
    monkeypatch.setattr(run_module.jax, "device_count", lambda: 3)
    with pytest.raises(ValueError, match="run: training.batch_size is 16; expected a multiple of the 3 devices"):
        run(small_config(directory=tmp_path / "run"), images)
    assert not (tmp_path / "run").exists()


def command_line(monkeypatch, capfd, *arguments):
    """Exit status and what is printed; small numbers of steps unless said otherwise."""
    words = [str(word) for pair in ARGUMENTS.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["run", *words, *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    captured = capfd.readouterr()
    text = captured.out + captured.err
    if isinstance(exit.value.code, str):  # Python prints it on stderr and ends with status 1
        return 1, text + exit.value.code
    return exit.value.code, text


def flat(text):
    """Words without the frames and line breaks of the help."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


def test_help_documents_every_field(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "200")
    code, text = command_line(monkeypatch, capfd, "--help")
    assert code == 0
    text = flat(text)
    assert "python -m experiments.one_step_image.run" in text
    for kind, prefix in ((Config, ""), (TeacherConfig, "training."), (StudentConfig, "distill.")):
        source = Path(sys.modules[kind.__module__].__file__).read_text(encoding="utf-8")
        body = source[source.index(f"class {kind.__name__}") :]
        for field in dataclasses.fields(kind):
            if field.name in ("training", "distill"):
                continue
            assert f"--{prefix}{field.name}".replace("_", "-") in text
            documented = re.search(rf'\n    {field.name}: [^\n]*\n    """(.*?)"""', body, re.DOTALL)
            assert documented, f"{kind.__name__}.{field.name} has no docstring"
            assert flat(documented[1]).replace(" ", "") in text.replace(" ", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "nonsense"], "method is 'nonsense'; expected one of 'diff_instruct'"),
        (["--divergence", "nonsense"], "divergence is 'nonsense'; expected one of 'alpha'"),
        (["--distill.cycles", "0"], "distill.cycles is 0"),
        (["--distill.cycles", "many"], "many"),
        (["--data", "nonsense"], "error: dataset_info: name is 'nonsense'; expected one of 'digits'"),
        (["--data", "mnist"], "error: load_split: data set 'mnist' is not in"),
    ],
)
def test_one_clear_error_and_nothing_written(monkeypatch, capfd, tmp_path, arguments, message):
    folders = ["--directory", tmp_path / "run", "--data-dir", tmp_path / "data"]
    code, text = command_line(monkeypatch, capfd, *folders, *arguments)
    assert code in (1, 2)
    assert message in flat(text) and "Traceback" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "nowhere"], "error: load_teacher: teacher nowhere holds none"),
        ([], "error: could not write the checkpoint of step 10"),
    ],
)
def test_errors_after_the_data(monkeypatch, capfd, tmp_path, images, arguments, message):
    """A teacher that is not there; a disk that is full when the first checkpoint is written."""
    monkeypatch.setattr(run_module, "load_images", lambda name, data_dir: images)
    monkeypatch.setattr("jaxdiv.training.checkpoint.write_manifest", full_disk)
    code, text = command_line(monkeypatch, capfd, "--directory", tmp_path / "run", *arguments)
    assert code == 1 and message in text and "Traceback" not in text
    assert not list(tmp_path.rglob("step_*"))


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_second_run_in_the_same_directory_is_refused(first, monkeypatch, capfd):
    directory, _ = first
    before = contents(directory)
    code, text = command_line(monkeypatch, capfd, "--directory", directory)
    assert code == 1 and f"error: run: directory {directory} holds an earlier run; expected --resume" in text
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "--resume goes on"),
        (Interrupted(signal.SIGTERM, 5), 143, ""),
        (Interrupted(signal.SIGINT, 5), 130, ""),
        (CheckpointError("none is intact"), 1, "error: none is intact"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
    ],
)
def test_how_a_run_ends(monkeypatch, capfd, raised, code, message):
    def stop(config):
        raise raised

    monkeypatch.setattr(run_module, "run", stop)
    status, text = command_line(monkeypatch, capfd)
    assert status == code and message in text and "Traceback" not in text
