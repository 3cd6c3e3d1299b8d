"""What the benchmark of cycles says before it has timed anything."""

import sys

import pytest

from benchmarks import cycle_throughput


@pytest.mark.parametrize("name", ["sdi", "dmd"])  # DMD's cycle takes pairs of the teacher's sampler
def test_a_method_that_cannot_be_timed_is_refused_before_the_parts_are(monkeypatch, capsys, name):
    monkeypatch.setattr(cycle_throughput, "timed", lambda *args, **options: pytest.fail("timed a part"))
    monkeypatch.setattr(sys, "argv", ["cycle_throughput", "--size", "7.0M", "--batch", "1", "--methods", name])
    with pytest.raises(SystemExit):
        cycle_throughput.main()
    assert f"invalid choice: '{name}'" in capsys.readouterr().err
