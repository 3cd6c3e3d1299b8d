"""SIGKILL in either stage, then the same command again: the same bits as a run that was left alone."""

import random
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import differences, finish, records, run_and_kill, start
from tests.experiments.small import ARGUMENTS

TRAININGS = f"{sys.executable} -m tests.experiments.killable --directory {{directory}} --devices"
WHOLE = " ".join(
    [sys.executable, "-m experiments.one_step_image.run --resume --directory {directory}"]
    + [f"{name} {value}" for name, value in (ARGUMENTS | {"--training.steps": 400, "--distill.cycles": 100}).items()]
)


@pytest.mark.slow  # both resume in their own tests; tests/training/test_kill kills the loop they share
def test_killed_in_both_stages_and_resumed_is_bit_identical(tmp_path):
    command = f"{TRAININGS} 1"
    finish(start(command, tmp_path / "alone"))
    of_teacher = records(tmp_path / "alone" / "teacher")
    assert of_teacher == 2 and records(tmp_path / "alone" / "student") == 4
    moments = [1, of_teacher + 1]
    killed = run_and_kill(command, tmp_path / "killed", moments, 0.0, random.Random(0))
    assert len(killed) == 2
    assert differences(tmp_path / "alone", tmp_path / "killed") == []


@pytest.mark.slow
def test_the_same_on_eight_devices(tmp_path):
    command = f"{TRAININGS} 8"
    finish(start(command, tmp_path / "alone"))
    moments = [1, records(tmp_path / "alone" / "teacher") + 1]
    assert len(run_and_kill(command, tmp_path / "killed", moments, 0.0, random.Random(0))) == 2
    assert differences(tmp_path / "alone", tmp_path / "killed") == []


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_the_command_line_killed_and_resumed(num_devices, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={num_devices}")
    script = [sys.executable, "-m", "benchmarks.kill_and_resume", "--kills", "2", "--command", WHOLE]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same bits" in result.stdout
