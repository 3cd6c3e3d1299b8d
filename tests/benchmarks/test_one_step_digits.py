"""What the comparison on digits says of runs that fail."""

import sys

import pytest

from benchmarks import one_step_digits


def test_a_failed_run_ends_the_comparison_with_its_name(tmp_path, monkeypatch, capsys):
    """The table was printed without it, and the status was 0."""
    monkeypatch.setattr(one_step_digits.subprocess, "run", lambda *args, **options: type("Done", (), {"returncode": 1}))
    arguments = [
        "--out",
        str(tmp_path),
        "--workers",
        "1",
        "--teacher-seeds",
        "0",
        "--student-seeds",
        "3",
        "--only",
        "dmd2",
    ]
    monkeypatch.setattr(sys, "argv", ["one_step_digits", *arguments])
    with pytest.raises(SystemExit, match="not in the table, since they failed: teacher-0, student-dmd2-t0-s3"):
        one_step_digits.main()
    assert "student-dmd2-t0-s3: FAILED, see " in capsys.readouterr().out
