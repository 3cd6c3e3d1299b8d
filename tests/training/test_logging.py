"""Metrics files are exact and survive kills."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.training import MetricsWriter, read_metrics


def write(path, steps, **kwargs):
    writer = MetricsWriter(path, **kwargs)
    for step in steps:
        writer.write(step, {"loss": np.float32(0.1) * step})
    writer.sync()
    writer.close()


def test_values_are_exact(tmp_path):
    writer = MetricsWriter(tmp_path / "new" / "m.jsonl")
    values = {
        "f32": np.float32(1) / 3,
        "bf16": jnp.bfloat16(1.1),
        "nan": np.nan,
        "inf": -np.inf,
        "n": 3,
        "v": np.eye(2),
    }
    writer.write(1, values)
    writer.write(2, {"frechet": 1e-300}, split="eval")
    writer.close()
    train, evaluation = read_metrics(tmp_path / "new" / "m.jsonl")
    assert train["step"] == 1 and train["split"] == "train" and train["time"] > 1e9
    assert np.float32(train["f32"]) == np.float32(1) / 3 and train["bf16"] == float(jnp.bfloat16(1.1))
    assert np.isnan(train["nan"]) and train["inf"] == -np.inf and train["n"] == 3
    assert train["v"] == [[1.0, 0.0], [0.0, 1.0]]
    assert evaluation["frechet"] == 1e-300
    assert read_metrics(tmp_path / "new" / "m.jsonl", split="eval") == [evaluation]


@pytest.mark.parametrize("torn", ["", '{"step": 5, "spl'])
def test_resuming_drops_later_and_torn_records(tmp_path, torn):
    path = tmp_path / "m.jsonl"
    write(path, range(1, 5))
    with path.open("a") as file:
        file.write(torn)
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4]
    write(path, [3, 4, 5], resume_step=2)
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_new_run_starts_an_empty_file(tmp_path):
    write(tmp_path / "m.jsonl", [1, 2])
    write(tmp_path / "m.jsonl", [1])
    assert [r["step"] for r in read_metrics(tmp_path / "m.jsonl")] == [1]


def test_tensorboard_gets_the_scalars(tmp_path):
    write(tmp_path / "m.jsonl", [1, 2], tensorboard=tmp_path / "board")
    (events,) = (tmp_path / "board").iterdir()
    assert events.read_bytes().count(b"train/loss") == 2
