"""The benchmark of KSG runs, writes its lines, and its peers agree."""

import json
import sys

import pytest

from benchmarks import ksg_throughput


def test_it_writes_a_line_per_estimator(tmp_path, monkeypatch):
    out = tmp_path / "lines.jsonl"
    monkeypatch.setattr(sys, "argv", ["x", "--n", "200", "--dims", "2", "--repeats", "1", "--json", str(out)])
    ksg_throughput.main()
    rows = {row["name"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert list(rows) == ["jaxdiv", "scikit-learn", "scipy"]
    assert {row["n"] for row in rows.values()} == {200}
    values = [row["value"] for row in rows.values() if "value" in row]  # a peer may not be installed
    assert values == pytest.approx([values[0]] * len(values), abs=1e-3)
    assert all(row["process_seconds"] >= 0 for row in rows.values() if "value" in row)
    assert rows["jaxdiv"]["temporary_mib"] > 0


def test_a_null_has_no_peer(tmp_path, monkeypatch):
    out = tmp_path / "lines.jsonl"
    arguments = [
        "--n",
        "60",
        "--dims",
        "1",
        "--repeats",
        "1",
        "--permutations",
        "9",
        "--batch",
        "4",
        "--json",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    ksg_throughput.main()
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["permutations"] == 9
    assert 10 * row["value"] == pytest.approx(round(10 * row["value"])) and 0 < row["value"] <= 1
