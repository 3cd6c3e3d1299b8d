"""Lint, format, types and notebooks: the checks that read the source instead of running it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["pyrefly", "check", "--python-interpreter-path", sys.executable],
        ["colab.build", "--check"],
    ],
    ids=" ".join,
)
def test_check(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_check_of_the_readme():
    """One marked line of README is what `.ci/run` cuts out and runs; both commands set themselves up."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.count("<!-- check -->") == 1
    start = lines.index("<!-- check -->")
    assert [lines[start + 1], lines[start + 3]] == ["```bash", "```"]
    assert lines[start + 2].endswith(".venv/bin/python -m pytest -n 2")
    commands = [line for line in lines if line.startswith("python3 -m venv .venv && .venv/bin/pip install")]
    assert len(commands) == 2
    script = ROOT / ".ci" / "run"
    assert "<!-- check -->" in script.read_text()
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"
