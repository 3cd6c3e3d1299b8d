"""Errors of divergences between logits: ours for every record beside torch, optax, distrax and tfp, against an oracle.

python -m benchmarks.divergence_accuracy [--seed N] [--vocab 64 1000 32000] [--rows 24 12 3] [--json PATH] [--no-peers]
    [--cast]

A cell is "largest relative error of the value; largest max-norm relative error of the gradient", over the rows whose
truth is finite; for ours the gradient is the worse of both sides', for peers that of q's logits (KL's gradient for p
is reverse KL's for q). Rates of NaN and of infinities in these rows, infinities found where the truth is one ("inf
a/b") and negative values are named where they occur; a gradient beyond float32's range has no truth and is not judged.
After each vocabulary comes one row for each implementation, over all records it has, with the errors of the near-equal
rows in parentheses, apart from the rest.

The oracle (`divergence_oracle`) is mpmath for 64 classes and numpy's extended precision beyond, held against mpmath on
one row of every regime (beyond 1,000 classes on one wide row). Total variation's gradient is not scored in rows with a
class so near r = 1 that the sign of its log-ratio is a matter of rounding.

Peers compute in the dtype of their input unless --cast, which has them cast it to float32 as careful callers do.

Exit code 1 when ours misses what is promised: float32 2e-6 in value and gradient; bfloat16 input 1e-6 in value and
4e-3 in gradient; no NaN, no negative value, every infinity right.
"""

import argparse
import json
import secrets
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import divergence_oracle as oracle
from benchmarks.divergence_peers import peers
from jaxdiv.divergences.categorical import f_divergence

VOCAB, ROWS = (64, 1000, 32_000), (24, 12, 3)  # of the table in BENCHMARKS.md
REGIMES = ("moderate", "near-equal", "wide", "mask both", "mask p", "mask q")
BOUNDS = {"float32": (2e-6, 2e-6), "bfloat16": (1e-6, 4e-3)}
"""Largest errors of value and gradient that ours may show."""
FAILURE = {"float32": 1e-2, "bfloat16": 1e-1}
"""Error beyond which a regime counts as failed in the table of implementations."""


class Cell(NamedTuple):
    """What one implementation did in one regime, or in several (`merged`)."""

    value_error: float
    gradient_error: float
    finite_rows: int  # whose value has a finite truth
    nan_values: int
    infinite_values: int
    gradient_rows: int  # whose gradient has a truth
    nan_gradients: int
    infinite_gradients: int
    infinities: int  # rows whose value is truly infinite
    infinities_right: int
    negative: int

    def text(self) -> str:
        """The cell as it stands in the table."""
        parts = []
        for error, rows, nans, infinite in (
            (self.value_error, self.finite_rows, self.nan_values, self.infinite_values),
            (self.gradient_error, self.gradient_rows, self.nan_gradients, self.infinite_gradients),
        ):
            if rows:
                part = [f"{error:.0e}"] if nans + infinite < rows else []
                part += [f"({name} {n / rows:.0%})" for name, n in (("NaN", nans), ("inf", infinite)) if n]
                parts.append(" ".join(part))
        text = " ; ".join(parts)
        text += f" inf {self.infinities_right}/{self.infinities}" if self.infinities else ""
        return (text + (f" neg {self.negative}" if self.negative else "")).strip()

    def clean(self) -> bool:
        """No NaN, no negative value, every infinity where it belongs."""
        wrong = (self.nan_values, self.nan_gradients, self.infinite_values, self.infinite_gradients, self.negative)
        return not any(wrong) and self.infinities_right == self.infinities

    def holds(self, dtype: str) -> bool:
        """Whether the promise is kept."""
        value, gradient = BOUNDS[dtype]
        return self.clean() and self.value_error <= value and self.gradient_error <= gradient

    def fails(self, dtype: str) -> bool:
        """Whether the regime counts as failed."""
        return not (self.clean() and max(self.value_error, self.gradient_error) <= FAILURE[dtype])


def merged(cells: list[Cell]) -> Cell:
    """The worst errors and the counts of all."""
    value, gradient, *counts = zip(*cells, strict=True)
    return Cell(max(value), max(gradient), *(sum(count) for count in counts))


def draw(rng: np.random.Generator, rows: int, vocab: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits of p and q, ``[regimes * rows, vocab]``, already rounded to the dtype; every row keeps a common class."""
    shape = (len(REGIMES), rows, vocab)
    a, b = rng.normal(size=shape), rng.normal(size=shape)
    b[1] = a[1] + 1e-3 * rng.normal(size=shape[1:])
    a[2], b[2] = rng.uniform(-50, 50, size=(2, *shape[1:]))
    mask = rng.uniform(size=shape[1:]) < 0.25
    mask[:, 0] = False
    a[3], b[3] = np.where(mask, -np.inf, a[3]), np.where(mask, -np.inf, b[3])
    a[4], b[5] = np.where(mask, -np.inf, a[4]), np.where(mask, -np.inf, b[5])
    a, b = (np.asarray(x.reshape(-1, vocab), jnp.dtype(dtype)) for x in (a, b))
    return a, b


def at_kink(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows with a class whose |rho| is under a millionth of the row's median: its sign is not for float32 to say."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        x = a - np.log(np.exp(a).sum(-1, keepdims=True)) - b + np.log(np.exp(b).sum(-1, keepdims=True))
    rho = np.where(np.isfinite(x), np.abs(x), np.nan).astype(np.float64)
    return np.nanmin(rho, -1) < 1e-6 * np.nanmedian(rho, -1)


def score(value: np.ndarray, gradients: list[tuple[int, np.ndarray]], truth: list, scored: np.ndarray) -> Cell:
    """One cell from values ``[N]`` and gradients ``[N, V]``, each with its place in `Truth`."""
    errors: tuple[list[float], list[float]] = ([0.0], [0.0])
    count = dict.fromkeys(Cell._fields[2:], 0)
    for i, t in enumerate(truth):
        count["negative"] += int(value[i] < 0)
        if float(t.value) == np.inf:
            count["infinities"] += 1
            count["infinities_right"] += int(value[i] == np.inf)
            continue
        count["finite_rows"] += 1
        count["nan_values"] += int(np.isnan(value[i]))
        count["infinite_values"] += int(np.isinf(value[i]))
        if np.isfinite(value[i]):
            errors[0].append(oracle.relative_error(value[i], t.value))
        known = [(g[i], t[place]) for place, g in gradients if t[place] is not None]
        nan = any(np.isnan(g).any() for g, _ in known)
        count["gradient_rows"] += int(bool(known))
        count["nan_gradients"] += int(nan)
        count["infinite_gradients"] += int(not nan and any(np.isinf(g).any() for g, _ in known))
        if scored[i]:
            errors[1].extend(oracle.gradient_error(g, h) for g, h in known if np.isfinite(g).all())
    return Cell(max(errors[0]), max(errors[1]), **count)


def ours(name: str, a: jax.Array, b: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value and both gradients, as a user gets them."""
    divergence = oracle.DEFINITIONS[name].make()

    @jax.jit
    def both(a, b):
        def loss(a, b):
            value = f_divergence(divergence, p_logits=a, q_logits=b)
            return jnp.sum(value), value

        (_, value), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(a, b)
        return value, *gradients

    return tuple(np.asarray(x, np.float64) for x in both(a, b))


def measure(
    rng: np.random.Generator, vocab: int, rows: int, dtype: str, others: dict, cast: bool = False
) -> dict[str, dict[str, Any]]:
    """All cells of one table, by "record: implementation" and regime."""
    names = list(oracle.DEFINITIONS)
    a, b = draw(rng, rows, vocab, dtype)
    truth = oracle.truths(names, a, b)
    if vocab > 64 and oracle.EXTENDED:
        some = slice(None, None, rows) if vocab <= 1000 else slice(2 * rows, 2 * rows + 1)
        print(f"  the two oracles differ by at most {oracle.disagreement(names, a[some], b[some]):.0e}", flush=True)
    smooth, kink = np.ones(len(a), bool), at_kink(a, b)
    x, y = jnp.asarray(a), jnp.asarray(b)
    table = {}
    for name in names:
        results = {"jaxdiv": (ours(name, x, y), (1, 2))}
        results |= {peer: (fn(x, y, cast), (2,)) for peer, fn in others.get(name, {}).items()}
        scored = ~kink if name == "total_variation" else smooth
        for implementation, ((value, *gradients), places) in results.items():
            cells = {}
            for i, regime in enumerate(REGIMES):
                part = slice(i * rows, (i + 1) * rows)
                placed = [(place, g[part]) for place, g in zip(places, gradients, strict=True)]
                cells[regime] = score(value[part], placed, [t[name] for t in truth[part]], scored[part])
            table[f"{name}: {implementation}"] = cells
    return table


def show(table: dict[str, dict[str, Cell]], dtype: str) -> list[str]:
    """Print a table; return the names of our cells that miss the bounds."""
    print("| record: implementation | " + " | ".join(REGIMES) + " |")
    print("|---" * (len(REGIMES) + 1) + "|")
    missed = []
    for key, cells in table.items():
        print(f"| {key} | " + " | ".join(cells[regime].text() for regime in REGIMES) + " |", flush=True)
        if key.endswith(": jaxdiv"):
            missed += [
                f"{key} {regime}: {cells[regime].text()}" for regime in REGIMES if not cells[regime].holds(dtype)
            ]
    return missed


def by_implementation(tables: dict[str, dict[str, dict[str, Cell]]]) -> list[str]:
    """Lines of a table with one row for each implementation, from the tables of each dtype."""
    dtypes = list(tables)
    head = [
        "implementation (records)",
        "value error (near-equal)",
        "gradient error (near-equal)",
        "NaN values, gradients",
    ]
    head += ["infinities missed, false", "negative"] + [f"records that fail, {dtype}" for dtype in dtypes]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    names = dict.fromkeys(key.split(": ", 1)[1] for key in tables[dtypes[0]])
    for name in names:
        rows = {d: [row for key, row in tables[d].items() if key.split(": ", 1)[1] == name] for d in dtypes}
        totals = [merged([cell for row in rows[d] for cell in row.values()]) for d in dtypes]
        columns = [f"{name} ({len(rows[dtypes[0]])})"]
        near = [merged([row["near-equal"] for row in rows[d]]) for d in dtypes]
        far = [merged([c for row in rows[d] for regime, c in row.items() if regime != "near-equal"]) for d in dtypes]
        for error in ("value_error", "gradient_error"):
            pairs = zip(far, near, strict=True)
            columns.append(" / ".join(f"{getattr(f, error):.0e} ({getattr(n, error):.0e})" for f, n in pairs))
        for text in (
            lambda c: f"{c.nan_values}, {c.nan_gradients}",
            lambda c: f"{c.infinities - c.infinities_right}, {c.infinite_values}",
            lambda c: f"{c.negative}",
        ):
            columns.append(" / ".join(text(c) for c in totals))
        for d in dtypes:
            failed = {regime: sum(row[regime].fails(d) for row in rows[d]) for regime in REGIMES}
            columns.append(", ".join(f"{regime} {n}" for regime, n in failed.items() if n) or "none")
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="fresh and printed when not given")
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCAB)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="per regime, one for each vocabulary")
    parser.add_argument("--json", default=None, help="write every cell to this file too")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--cast", action="store_true", help="peers cast their input to float32 first")
    args = parser.parse_args()
    if len(args.rows) != len(args.vocab):
        parser.error("--rows needs one number for each vocabulary")
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    others, lines = ({}, []) if args.no_peers else peers()
    device = jax.devices()[0]
    print(f"seed {seed}; jax {jax.__version__} on {device.platform} ({device.device_kind}); " + "; ".join(lines))
    print(f"bounds: {BOUNDS}; extended precision: {oracle.EXTENDED}")
    cells, missed = {}, []
    for vocab, rows in zip(args.vocab, args.rows, strict=True):
        tables = {}
        for dtype in BOUNDS:
            print(f"\n{dtype}, {vocab} classes, {rows} rows a regime")
            rng = np.random.default_rng([seed, vocab, len(dtype)])
            table = tables[dtype] = measure(rng, vocab, rows, dtype, others, args.cast)
            missed += [f"{dtype} V={vocab} {line}" for line in show(table, dtype)]
            cells[f"{dtype} V={vocab}"] = {k: {r: c._asdict() for r, c in row.items()} for k, row in table.items()}
        print(f"\n{vocab} classes, {len(REGIMES) * rows} rows a record: {' / '.join(tables)}; fails beyond {FAILURE}")
        print(*by_implementation(tables), sep="\n", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"seed": seed, "device": device.device_kind, "peers": lines, "missed": missed, "cells": cells}, file
            )
    print(f"\nours beyond the bounds: {len(missed)}", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
