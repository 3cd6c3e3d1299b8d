"""Errors of divergences between logits: ours for every record beside torch, optax, distrax and tfp, against an oracle.

python -m benchmarks.divergence_accuracy [--seed N] [--vocab 64 1000 32000] [--rows 24 12 3] [--json PATH] [--no-peers]

A cell is "largest relative error of the value; largest max-norm relative error of the gradient", over the rows whose
truth is finite; for ours the gradient is the worse of both sides', for peers that of q's logits. NaN rates, missed
infinities ("inf a/b") and negative values are named where they occur. The oracle (`divergence_oracle`) is mpmath for 64
classes and numpy's extended precision beyond, held against mpmath on one row of every regime (beyond 1,000 classes on
one wide row). Total variation's gradient is not scored in rows with a class so near r = 1 that the sign of its
log-ratio is a matter of rounding.

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


class Cell(NamedTuple):
    """What one implementation did in one regime."""

    value_error: float
    gradient_error: float
    nan_values: int
    nan_gradients: int
    finite_rows: int
    infinities_right: int
    infinities: int
    negative: int

    def text(self) -> str:
        """The cell as it stands in the table."""
        parts = []
        if self.finite_rows:
            parts.append(f"{self.value_error:.0e}" if self.nan_values < self.finite_rows else "")
            parts[0] += f" (NaN {self.nan_values / self.finite_rows:.0%})" if self.nan_values else ""
            parts.append(f"{self.gradient_error:.0e}" if self.nan_gradients < self.finite_rows else "")
            parts[1] += f" (NaN {self.nan_gradients / self.finite_rows:.0%})" if self.nan_gradients else ""
        text = " ; ".join(part.strip() for part in parts)
        text += f" inf {self.infinities_right}/{self.infinities}" if self.infinities else ""
        return (text + (f" neg {self.negative}" if self.negative else "")).strip()

    def holds(self, dtype: str) -> bool:
        """Whether the promise is kept."""
        value, gradient = BOUNDS[dtype]
        clean = not (self.nan_values or self.nan_gradients or self.negative)
        exact = self.infinities_right == self.infinities
        return clean and exact and self.value_error <= value and self.gradient_error <= gradient


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
    value_error = gradient_error = 0.0
    nan_values = nan_gradients = right = infinities = finite_rows = 0
    for i, t in enumerate(truth):
        if float(t.value) == np.inf:
            infinities += 1
            right += int(value[i] == np.inf)
            continue
        finite_rows += 1
        error = oracle.relative_error(value[i], t.value)
        nan_values += int(not np.isfinite(value[i]))
        value_error = max(value_error, error if np.isfinite(value[i]) else 0.0)
        nan_gradients += int(any(not np.isfinite(g[i]).all() for _, g in gradients))
        for place, g in gradients:
            if t[place] is not None and scored[i] and np.isfinite(g[i]).all():
                gradient_error = max(gradient_error, oracle.gradient_error(g[i], t[place]))
    negative = int((value < 0).sum())
    return Cell(value_error, gradient_error, nan_values, nan_gradients, finite_rows, right, infinities, negative)


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


def measure(rng: np.random.Generator, vocab: int, rows: int, dtype: str, others: dict) -> dict[str, dict[str, Any]]:
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
        results |= {peer: (fn(x, y), (2,)) for peer, fn in others.get(name, {}).items()}
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=None, help="fresh and printed when not given")
    parser.add_argument("--vocab", type=int, nargs="+", default=VOCAB)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="per regime, one for each vocabulary")
    parser.add_argument("--json", default=None, help="write every cell to this file too")
    parser.add_argument("--no-peers", action="store_true")
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
        for dtype in BOUNDS:
            print(f"\n{dtype}, {vocab} classes, {rows} rows a regime")
            rng = np.random.default_rng([seed, vocab, len(dtype)])
            table = measure(rng, vocab, rows, dtype, others)
            missed += [f"{dtype} V={vocab} {line}" for line in show(table, dtype)]
            cells[f"{dtype} V={vocab}"] = {k: {r: c._asdict() for r, c in row.items()} for k, row in table.items()}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(
                {"seed": seed, "device": device.device_kind, "peers": lines, "missed": missed, "cells": cells}, file
            )
    print(f"\nours beyond the bounds: {len(missed)}", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
