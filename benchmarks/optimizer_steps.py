"""Steps that Muon needs for AdamW's best final loss, on a decoder of bytes on one accelerator.

    python -m benchmarks.optimizer_steps --plan                      # runs, FLOPs, predicted time
    python -m benchmarks.optimizer_steps --out steps.jsonl --seconds 520     # again with the same file goes on
    python -m benchmarks.optimizer_steps --dry --out dry.jsonl       # the same on a toy, to the end, on a CPU

Protocol. Every optimizer has the same grid of learning rates at the full horizon: all of them on the first seed, the
best two on every seed, and the best of these by its mean over the seeds is its rate. With that rate each optimizer but
AdamW is trained anew, with its schedule stretched to fit, for shorter horizons. Where its final validation loss meets
that of AdamW at AdamW's best rate on the same seed (same start, same batches) is interpolated in the logarithm of the
steps; the ratio to AdamW's steps gets a t interval over the seeds and a bootstrap over them. Rates, horizons and seeds
are arguments of the compiled programs, of which there is one per optimizer. Rows are written as they come and are not
computed twice.
"""

import argparse
import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.steps_ratio import FINALISTS, markdown, missing, summarise
from experiments.language_model.learner import Evaluator, apply_of, create_state, make_step
from experiments.language_model.optimizers import OPTIMIZERS, build_optimizer, state_bytes, warmup_decay
from experiments.language_model.text import load_corpus, validation_windows
from jaxdiv.checks import fail
from jaxdiv.networks import DecoderConfig, count_decoder_flops, count_parameters

EXTENSIBLE = ("seeds", "rates", "fractions")  # more of these are more rows of the same file
CHUNKS = 20  # a training is so many calls of one program; horizons are multiples of its steps


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is studied; calls that share a file may differ in ``EXTENSIBLE`` alone."""

    width: int = 384
    layers: int = 8
    heads: int = 6
    hidden: int = 1024
    length: int = 512
    batch: int = 64
    steps: int = 800
    seeds: int = 3
    rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
    fractions: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
    decay: str = "linear"
    warmup: float = 0.1
    aux_factor: float = 1.0
    weight_decay: float = 0.1
    data: str = "stdlib"

    def __post_init__(self):
        if self.steps % CHUNKS:
            raise fail("Setup", "steps", f"is {self.steps}", f"a multiple of {CHUNKS}")

    @property
    def decoder(self):
        """The network."""
        return DecoderConfig(
            vocab_size=256, width=self.width, num_layers=self.layers, num_heads=self.heads, hidden=self.hidden,
            attention="standard", feed_forward="dense", max_length=self.length,
        )  # fmt: skip

    @property
    def horizons(self):
        """The shorter ones, as whole numbers of chunks."""
        return tuple(round(f * CHUNKS) * (self.steps // CHUNKS) for f in self.fractions)


DRY = {"width": 32, "layers": 2, "heads": 2, "hidden": 64, "length": 32, "batch": 8, "steps": 60, "seeds": 2,
       "rates": (3e-3, 1e-2, 3e-2), "fractions": (0.4, 0.7)}  # fmt: skip


class Trainer:
    """The compiled programs of one optimizer."""

    def __init__(self, setup, name, text):
        self._setup, self._text = setup, text
        apply_fn, chunk = apply_of(setup.decoder), setup.steps // CHUNKS

        def optimizer(rate, horizon):
            schedule = warmup_decay(rate, horizon=horizon, warmup=setup.warmup, decay=setup.decay)
            return build_optimizer(name, schedule, weight_decay=setup.weight_decay, aux_factor=setup.aux_factor)

        @jax.jit
        def init(seed):
            return create_state(setup.decoder, optimizer(0.0, 1.0), seed=seed)

        @partial(jax.jit, donate_argnums=0)
        def advance(state, text, rate, horizon):
            step = make_step(apply_fn, optimizer(rate, horizon), batch_size=setup.batch, length=setup.length)
            state, metrics = jax.lax.scan(lambda state, _: step(state, text), state, None, chunk)
            return state, metrics["loss"]

        self._init, self._advance = init, advance

    def __call__(self, *, rate, seed, horizon):
        """The final state and the loss of every step."""
        state = self._init(jnp.int32(seed))
        losses = []
        for _ in range(horizon * CHUNKS // self._setup.steps):
            state, loss = self._advance(state, self._text, jnp.float32(rate), jnp.float32(horizon))
            losses.append(loss)
        return state, np.concatenate(jax.device_get(losses))


def save_plot(path, runs, names, summary, setup):
    """Loss against learning rate, and final loss against horizon."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for color, name in enumerate(names):
        tried = {rate: runs.get((name, rate, 0, setup.steps)) for rate in setup.rates}
        points = [(rate, row["validation"]) for rate, row in tried.items() if row and np.isfinite(row["validation"])]
        axes[0].semilogx(*zip(*points, strict=True), f"C{color}o-", label=name)
        if "curve" in summary[name]:
            axes[1].plot(*zip(*summary[name]["curve"], strict=True), f"C{color}o-", label=name)
    axes[1].axhline(np.mean(summary["adamw"]["validation"]), color="C0", linestyle="--", label="adamw, all steps")
    axes[0].set(title="first seed, all steps", xlabel="learning rate", ylabel="final validation loss (nats per byte)")
    axes[1].set(title="mean over the seeds, best rate", xlabel="steps of the run")
    for axis in axes:
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plan(setup, names, corpus, tflops):
    """What will be run and how long it takes at a given rate, as text."""
    tokens, config = setup.batch * setup.length, setup.decoder
    full = setup.steps * tokens * 3 * count_decoder_flops(config, setup.length)
    runs = len(setup.rates) + FINALISTS * (setup.seeds - 1)
    shorter = setup.seeds * sum(setup.horizons) / setup.steps
    total = len(names) * runs + (len(names) - 1) * shorter
    return (
        f"{corpus.describe()}\n"
        f"{count_parameters(config):,} parameters, {tokens:,} tokens a step, {setup.steps} steps: "
        f"{setup.steps * tokens / corpus.train.size:.2f} passes over the text, {full / 1e12:,.0f} TFLOP a run\n"
        f"{total:.1f} full runs ({', '.join(names)}): {total * full / (tflops * 1e12):,.0f} s at {tflops:g} TFLOP/s, "
        f"without compilation and the optimizers' own time"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Setup):
        many = isinstance(field.default, tuple)
        kind = type(field.default[0] if many else field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, nargs="+" if many else None)
    parser.add_argument("--optimizers", nargs="+", default=["adamw", "muon"], choices=OPTIMIZERS)
    parser.add_argument("--out", type=Path, default=Path("optimizer_steps.jsonl"), help="rows; table, plot beside it")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no run that would end later than this")
    parser.add_argument("--plan", action="store_true", help="only say what would be done")
    parser.add_argument("--tflops", type=float, default=240.0, help="the rate that --plan assumes")
    parser.add_argument("--dry", action="store_true", help="a toy that a CPU runs to the end")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Setup) if getattr(args, f.name) is not None}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    setup = Setup(**(DRY if args.dry else {}) | given)
    names = ["adamw", *(name for name in args.optimizers if name != "adamw")]
    corpus = load_corpus(setup.data)
    print(plan(setup, names, corpus, args.tflops), flush=True)
    if args.plan:
        return None

    runs = read_runs(args.out, setup, corpus)
    windows = validation_windows(corpus.validation, length=setup.length, limit=64 if args.dry else None)
    evaluator = Evaluator(apply_of(setup.decoder), windows, batch_size=setup.batch)
    text, trainers, slowest = jax.device_put(corpus.train), {}, {}
    while todo := missing(runs, names, setup):
        for name, rate, seed, horizon in todo:
            begin = time.perf_counter()
            if begin - started + slowest.get(name, 0.0) * horizon / setup.steps > args.seconds:
                print(f"stopped after {begin - started:.0f} s with {len(runs)} runs; the same command goes on")
                return None
            first = name not in trainers
            if first:
                trainers[name] = Trainer(setup, name, text)
            state, losses = trainers[name](rate=rate, seed=seed, horizon=horizon)
            validation, seconds = evaluator(state.params), time.perf_counter() - begin
            if not first:  # the first one also compiles
                slowest[name] = max(slowest.get(name, 0.0), seconds * setup.steps / horizon)
            tail = losses[-max(1, horizon // 20) :]
            row = {"optimizer": name, "rate": rate, "seed": seed, "horizon": horizon}
            runs[name, rate, seed, horizon] = row | {"validation": validation, "train": float(tail.mean())}
            row = runs[name, rate, seed, horizon] | {
                "seconds": seconds, "with_compilation": first, "tokens_per_second": horizon * setup.batch *
                setup.length / seconds, "skipped": int(state.skipped), "optimizer_bytes":
                state_bytes(state.optimizer_state), "losses": losses[:: setup.steps // CHUNKS].tolist(),
            }  # fmt: skip
            append(args.out, {"kind": "run"} | row)
            print(
                f"{time.perf_counter() - started:6.0f} s  {name} rate {rate:g} seed {seed} steps {horizon}: validation "
                f"{validation:.4f}, training {row['train']:.4f} ({seconds:.1f} s{', compiled' if first else ''})",
                flush=True,
            )
    summary = summarise(runs, names, setup)
    table = markdown(summary, setup)
    args.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    result = {"setup": dataclasses.asdict(setup), "corpus": corpus.digest, "summary": summary}
    args.out.with_suffix(".summary.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    save_plot(args.out.with_suffix(".png"), runs, names, summary, setup)
    print(f"\n{table}\n\ndone after {time.perf_counter() - started:.0f} s")
    return summary


def read_runs(path, setup, corpus):
    """The rows of a file by (optimizer, rate, seed, horizon); a new file gets the setup as its first row.

    Raises:
        ValueError: the file belongs to another setup or corpus.
    """
    asked = dataclasses.asdict(setup) | {"digest": corpus.digest}
    asked = {key: value for key, value in asked.items() if key not in EXTENSIBLE}
    runs = {}
    if path.exists() and path.read_text():
        whole = [line for line in path.read_text().splitlines() if line.endswith("}")]  # a kill may cut the last one
        path.write_text("".join(line + "\n" for line in whole))
        rows = [json.loads(line) for line in whole]
        if different := [key for key in asked if rows[0].get(key) != asked[key]]:
            raise fail("optimizer_steps", "out", f"{path} has another {', '.join(different)}", "another file")
        for row in rows[1:]:
            if row["kind"] == "run":
                runs[row["optimizer"], row["rate"], row["seed"], row["horizon"]] = row
    else:
        append(path, {"kind": "setup"} | asked)
    device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    append(path, {"kind": "start", "num_bytes": [corpus.train.size, corpus.validation.size]} | device)
    return runs


def append(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
