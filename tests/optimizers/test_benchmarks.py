"""The benchmarks of Muon and of its products: tiny, on a CPU, and the arithmetic of their floors."""

import json

import pytest

from benchmarks import muon_update, symmetric_products


def rows_of(main, path, arguments):
    main(["--dry", "--out", str(path), *arguments])
    device, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert device["device"] == "cpu"
    return rows


def test_flops_are_those_of_five_quintic_steps():
    assert muon_update.product_flops(((2, 3, 5),)) == 2 * 5 * (2 * 2 * 3 * 3 * 5 + 2 * 3**3)
    large = {name: muon_update.product_flops(groups) for name, groups in muon_update.SETS.items()}
    assert large["124M"] == pytest.approx(1.63e12, rel=0.01) and large["1.2B"] == pytest.approx(64.9e12, rel=0.01)
    for width in (256, 512):  # twelve layers with four square matrices and two of four times the width
        size = muon_update.num_parameters(muon_update.SETS[f"d{width}"])
        assert size == 12 * (4 * width**2 + 2 * 4 * width**2)


def test_every_set_and_part_has_a_dry_form():
    assert muon_update.SETS.keys() == muon_update.DRY_SETS.keys()
    assert muon_update.optimizers(dry=True).keys() == muon_update.optimizers(dry=False).keys() < set(muon_update.PARTS)


def test_an_update_beside_its_peers(tmp_path):
    parts = ["floor", "ours xla", "optax.contrib.muon", "optax.contrib.muon table"]
    rows = rows_of(muon_update.main, tmp_path / "rows", ["--sets", "d256", "--parts", *parts])
    assert [row["part"] for row in rows] == parts and not any("failed" in row for row in rows)
    floor, ours, *peers = rows
    assert ours["finite"] and ours["times_floor"] == pytest.approx(
        ours["ms"] / (floor["gemm_ms"] + floor["bytes_ms"]), abs=2e-3
    )
    assert all(peer["finite"] and "times_floor" not in peer and peer["ops"] > 0 for peer in peers)


def test_each_group_by_itself(tmp_path):
    rows = rows_of(muon_update.main, tmp_path / "rows", ["--sets", "d256", "--parts", "floor", "ours xla", "--groups"])
    assert [row["set"] for row in rows] == ["d256 8x8", "d256 8x8", "d256 8x16", "d256 8x16"]
    for row in rows[1::2]:
        share = row["ceiling_most"]
        assert share["floor_ms"] == pytest.approx(muon_update.product_flops(((4, 8, 8),)) / 778e9, abs=1e-3)
        # The profile of a CPU has no device whose kernels it could name.
        assert row["device_ms_by_kind"] == {} and row["ms_outside_kernels"] == row["ms"]


def test_a_side_with_a_measured_ceiling_is_held_to_it():
    groups = ((48, 768, 768),)
    found = muon_update.against_floors({"part": "ours auto", "ms": 3.0}, groups, None)
    assert found["ceiling_at_side"] == {"tflops": 462.0, "floor_ms": 1.4119, "share": 0.471}
    assert "ceiling_at_side" not in muon_update.against_floors({"part": "ours auto", "ms": 3.0}, ((1, 8, 8),), None)
    assert muon_update.against_floors({"part": "optax.contrib.muon", "ms": 3.0}, groups, None).keys() == {"tflops"}


def test_compilation_alone_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(muon_update, "median_ms", None)
    arguments = ["--sets", "d256", "--parts", "floor", "ours xla", "optax.adamw", "--compile"]
    rows = rows_of(muon_update.main, tmp_path / "rows", arguments)
    assert [row["part"] for row in rows] == ["ours xla", "optax.adamw"]
    assert all(row["ops"] > 0 and row["trace_s"] > 0 and "ms" not in row for row in rows)


def test_symmetric_products(tmp_path):
    rows = rows_of(symmetric_products.main, tmp_path / "rows", [])
    measured = [row for row in rows if "operation" in row]
    assert not any("failed" in row for row in measured)
    assert {row["kernel"] for row in measured} >= {"xla", "triton", "xla (a I + B) X"}
    assert all(row["error"] < 0.02 for row in measured if "error" in row)
    shapes = {tuple(row["shape"]) for row in measured}
    assert shapes == set(symmetric_products.DRY_SHAPES)


def test_no_new_products_after_the_time_is_spent(tmp_path):
    rows = rows_of(symmetric_products.main, tmp_path / "rows", ["--seconds", "0"])
    assert {row.get("kernel") for row in rows} == {"xla", None}
