"""Lines of JSON come back as they were written, but for one that was cut off."""

from pathlib import Path

import pytest

from experiments.json_lines import read_json_lines, write_json_lines


def test_what_was_written_is_read_without_a_cut_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    write_json_lines(path, [{"a": 1}, [2.5, None]])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_json_lines(path) == [{"a": 1}, [2.5, None]]
    write_json_lines(path, iter([3]))
    assert read_json_lines(path) == [3]


def test_a_process_that_dies_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "lines.jsonl"
    write_json_lines(path, [1])

    def die(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_json_lines(path, [1, 2])
    assert read_json_lines(path) == [1]
