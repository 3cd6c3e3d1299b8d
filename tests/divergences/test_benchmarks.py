"""The benchmarks of divergences: what their tables hold."""

import re
from pathlib import Path

import numpy as np

from benchmarks import divergence_accuracy, linear_head, sinkhorn_throughput

BENCHMARKS = (Path(__file__).parent.parent.parent / "BENCHMARKS.md").read_text(encoding="utf-8")


def test_the_errors_of_a_head_are_there_for_every_record_and_all_of_jaxs_peers():
    rows = linear_head.gradient_errors(8, 40, 4, 8, with_torch=False)
    errors = {row["error of"]: (row["hidden"], row["head"]) for row in rows}
    ways = ("ours", "plain jax", "plain jax, float32 logits,", "plain jax, float32 logits, 16-bit gradients,")
    assert {f"{way} {name}" for way in ways for name in linear_head.RECORDS} <= set(errors)
    for name in linear_head.RECORDS:
        ours, exact = (np.array(errors[f"{way} {name}"]) for way in (ways[0], ways[2]))
        assert (ours < 0.01).all() and (exact < 0.004).all()


def test_the_accuracy_tables_command_has_the_rows_of_the_table():
    section = BENCHMARKS.split("## Divergences between logits: accuracy")[1].split("\n## ")[0]
    command = re.search(r"python -m benchmarks.divergence_accuracy(.*)", section)
    assert "--rows" not in command[1] and "--vocab" not in command[1]
    assert "{}, {} and {} rows a regime".format(*divergence_accuracy.ROWS) in " ".join(section.split())
    header = next(line for line in section.splitlines() if line.startswith("| | 64 classes"))
    assert [int(x.replace(",", "")) for x in re.findall(r"[\d,]+", header)] == list(divergence_accuracy.VOCAB)


def test_the_table_of_entropic_transport_has_every_shape_of_its_command():
    section = BENCHMARKS.split("## Entropic transport")[1].split("\n## ")[0]
    for shape in sinkhorn_throughput.DENSE:
        assert "| {} x {} x {} |".format(*shape) in section
    assert "error of the value" in section
