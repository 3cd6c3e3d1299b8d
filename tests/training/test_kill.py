"""SIGKILL at random moments, then resume: the same bits as a run that was left alone."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import finish, records, start
from jaxdiv.training import checkpoint_steps

ROOT = Path(__file__).resolve().parents[2]
KILLABLE = f"{sys.executable} {ROOT / 'tests' / 'training' / 'killable.py'} --num-steps 40 --directory"


@pytest.mark.parametrize(("num_devices", "num_kills", "num_per_call"), [(1, 1, 3), (8, 1, 1)])
def test_killed_and_resumed_is_bit_identical(num_devices, num_kills, num_per_call):
    command = f"{KILLABLE} {{directory}} --devices {num_devices} --steps-per-call {num_per_call}"
    script = [
        sys.executable,
        ROOT / "benchmarks" / "kill_and_resume.py",
        "--kills",
        str(num_kills),
        "--command",
        command,
    ]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same bits" in result.stdout
    assert result.stdout.count("killed at") == num_kills


def test_what_a_command_prints_does_not_stop_it(tmp_path):
    """Progress bars filled the pipe that nobody read, and the wait for the next record never ended."""
    script = "import sys, pathlib; print('bar' * 10**5, file=sys.stderr); f = pathlib.Path(sys.argv[1]); f.mkdir(); "
    script += "(f / 'metrics.jsonl').write_text('{}\\n'); print('end', file=sys.stderr); sys.exit(3)"
    command = f"{sys.executable} -c {shlex.quote(script)} {{directory}}"
    process = start(command, tmp_path / "run")
    assert process.wait(timeout=60) == 3 and records(tmp_path / "run") == 1
    with pytest.raises(SystemExit, match=r"(?s)the command ended with 3:.*bar\nend"):
        finish(process)


def test_sigterm_ends_the_process_with_143_after_saving(tmp_path):
    command = [*KILLABLE.split(), tmp_path, "--sleep", "0.05"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not checkpoint_steps(tmp_path / "checkpoints"):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    newest = checkpoint_steps(tmp_path / "checkpoints")[-1]
    assert 5 <= newest < 40 and f"SIGTERM: stopped at step {newest}, saved in {tmp_path}" in errors
    assert "Traceback" not in errors
