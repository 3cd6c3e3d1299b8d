"""Latent attention and experts beside dense multi-head attention at equal parameters, on one accelerator.

    python -m benchmarks.decoder_throughput --out decoder.jsonl --seconds 480     # again with the same file goes on
    python -m benchmarks.decoder_throughput --parts loss --seeds 5 --out decoder.jsonl          # more of the same table
    python -m benchmarks.decoder_throughput --dry --out dry.jsonl                 # a toy that a CPU runs to the end

For each architecture: training tokens per second and utilisation (model FLOPs of the layers that a token passes), bytes
of cache per token by formula and as measured, tokens per second of sampling over batches and contexts, and the
validation loss after equal steps of AdamW and of Muon over several seeds. Of several rates each architecture and
optimizer takes the one that is best on the first seed. The inner width of the feed-forward, or the number of experts,
makes up for the parameters that attention has more or less. The paper's figures (arXiv 2508.01261, abstract: 68 % less
cache, 3.2 times the speed at half the rank) stand beside ours. Needs jax, flax, optax and scipy, no more.
"""

import argparse
import dataclasses
import functools
import json
import math
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.json_lines import read_json_lines, write_json_lines
from experiments.language_model.learner import Evaluator, apply_of, create_state, make_step
from experiments.language_model.optimizers import build_optimizer, warmup_decay
from experiments.language_model.speed import cache_size, decode_speed, peak_flops, utilisation
from experiments.language_model.text import load_corpus, validation_windows
from jaxdiv.checks import fail
from jaxdiv.networks import DecoderConfig, count_parameters

PAPER = "paper: 68 % less cache and 3.2 times the decoding speed for latent attention with experts"
REFERENCE = "mha"
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}
PARTS = ("cache", "speed", "decode", "loss")
SAME = ("width", "layers", "heads", "length", "batch", "tokens", "data")  # of all calls that share a file
STEPS_PER_CALL = 20


def architectures(width, layers, heads, length):
    """Name -> configuration; all have the parameters of the first, as nearly as whole inner widths allow."""
    base = DecoderConfig(
        vocab_size=256, width=width, num_layers=layers, num_heads=heads, hidden=3 * width, max_length=length
    )
    size = width // heads
    latent = {"attention": "mla", "kv_rank": width // 2, "rope_dim": size}
    coarse = {"feed_forward": "moe", "num_shared_experts": 1, "experts_per_token": 3, "expert_hidden": 3 * width // 16}
    fine = {"feed_forward": "moe", "num_shared_experts": 2, "experts_per_token": 6, "expert_hidden": 3 * width // 64}
    changes = {
        REFERENCE: {},
        "gqa, 4 heads a group": {"num_kv_heads": max(1, heads // 4)},
        "mla, half rank": latent,
        "mha, about 16 experts": coarse,
        "mla, about 16 experts": latent | coarse,
        "mla, about 64 experts": latent | fine,
    }
    return {name: equal_parameters(dataclasses.replace(base, **change), base) for name, change in changes.items()}


def equal_parameters(config, reference):
    """The configuration with the inner width, or the number of routed experts, that brings it nearest to the reference.

    Widths go in steps of 8, which matrix units want.
    """
    field, unit = ("num_experts", 1) if config.feed_forward == "moe" else ("hidden", 8)
    least = config.experts_per_token if field == "num_experts" else unit
    low, high = (count_parameters(dataclasses.replace(config, **{field: least + n})) for n in (0, unit))
    steps = round((count_parameters(reference) - low) / (high - low))
    return dataclasses.replace(config, **{field: least + unit * max(steps, 0)})


class Trainer:
    """The programs of one architecture and optimizer, compiled once for every rate, seed and horizon."""

    def __init__(self, config, name, text, *, batch, length):
        self._text, self._tokens = text, STEPS_PER_CALL * batch * length

        def optimizer(rate, horizon):
            return build_optimizer(name, warmup_decay(rate, horizon=horizon))

        @partial(jax.jit, donate_argnums=0)
        def advance(state, text, rate, horizon):
            step = make_step(apply_of(config), optimizer(rate, horizon), batch_size=batch, length=length)
            return jax.lax.scan(lambda state, _: step(state, text), state, None, STEPS_PER_CALL)

        self._init = jax.jit(partial(create_state, config, optimizer(0.0, 1.0)))
        self._advance = advance

    def __call__(self, *, rate, steps, seed=0):
        """The final state, the last call's metrics, and the median tokens per second of the calls after the first."""
        state, times = self._init(seed=jnp.int32(seed)), []
        for _ in range(steps // STEPS_PER_CALL):
            start = time.perf_counter()
            arguments = state, self._text, jnp.float32(rate), jnp.float32(steps)
            state, metrics = jax.block_until_ready(self._advance(*arguments))
            times.append(time.perf_counter() - start)
        return state, metrics, self._tokens / float(np.median(times[1:]))


def jobs(args, configs, rows):
    """What is measured, in order: ``(kind, architecture, settings)``; what rates have shown is read from ``rows``."""
    for kind in ("cache", "speed"):
        for name in configs:
            yield kind, name, {}
    for context in args.contexts:
        for batch in args.decode_batches:
            for name in configs:
                yield "decode", name, {"batch": batch, "context": context}
    for name in configs:
        for optimizer in OPTIMIZERS:
            for rate in rates(args, optimizer):
                yield "loss", name, run_settings(args, optimizer, rate, 0)
            best = best_rate(rows, args, name, optimizer)
            for seed in range(1, args.seeds):
                yield "loss", name, run_settings(args, optimizer, best, seed)


def rates(args, optimizer):
    return args.adamw_rates if optimizer == "adamw" else args.muon_rates


def run_settings(args, optimizer, rate, seed):
    return {"optimizer": optimizer, "steps": args.train, "rate": rate, "seed": seed}


def best_rate(rows, args, name, optimizer):
    """The rate with the least loss on the first seed; what was not run or failed or diverged comes last."""

    def loss(rate):
        row = rows.get(_key("loss", name, run_settings(args, optimizer, rate, 0)), {})
        value = row.get("validation", math.inf)
        return value if math.isfinite(value) else math.inf

    return min(rates(args, optimizer), key=loss)


class Bench:
    """One measurement of each kind."""

    def __init__(self, args, configs):
        self._args, self._configs, self._peak, self._params = args, configs, peak_flops(), {}
        corpus = load_corpus(args.data)
        self.digest, self.passes = corpus.digest, args.train * args.batch * args.length / corpus.train.size
        print(f"{corpus.describe()}; {args.train} steps are {self.passes:.2f} passes over it")
        print(f"utilisation is of {self._peak.flops:.4g} FLOP/s: {self._peak.source}", flush=True)
        # Runs that share programs are neighbours, so that one program of each kind is enough.
        self._trainer = functools.lru_cache(maxsize=1)(self._make_trainer)
        self._evaluator = functools.lru_cache(maxsize=1)(self._make_evaluator)
        self._text = jax.device_put(corpus.train)
        self._windows = validation_windows(corpus.validation, length=args.length, limit=1024)

    def _make_trainer(self, name, optimizer):
        sizes = {"batch": self._args.batch, "length": self._args.length}
        return Trainer(self._configs[name], optimizer, self._text, **sizes)

    def _make_evaluator(self, name):
        return Evaluator(apply_of(self._configs[name]), self._windows, batch_size=self._args.batch)

    def cache(self, name):
        """Bytes per token, and sizes."""
        config = self._configs[name]
        row = cache_size(config, dtype=config.compute_dtype())
        inner = f"{config.hidden}"
        if config.feed_forward == "moe":
            inner = f"{config.expert_hidden} in {config.num_shared_experts} + {config.num_experts}"
        return row | {"parameters": count_parameters(config), "inner_width": inner}

    def speed(self, name):
        """Training."""
        args = self._args
        _, _, speed = self._trainer(name, "adamw")(rate=args.adamw_rates[0], steps=4 * STEPS_PER_CALL)
        share = utilisation(
            self._configs[name], length=args.length, tokens_per_second=speed, peak=self._peak, num_devices=1
        )
        return {"tokens_per_second": speed, "utilisation": share}

    def decode(self, name, *, batch, context):
        """Decoding with untrained parameters, in the compute dtype on an accelerator."""
        config = self._configs[name]
        if name not in self._params:
            state = jax.jit(partial(create_state, config, build_optimizer("adamw", 0.0)))(seed=0)
            self._params = {name: jax.tree.map(_half, state.params) if _on_accelerator() else state.params}
        speed = decode_speed(
            apply_of(config), self._params[name], config, batch=batch, context=context, num_tokens=self._args.tokens
        )
        return {"tokens_per_second": speed}

    def loss(self, name, *, optimizer, steps, rate, seed):
        """A short training and its validation loss."""
        state, metrics, speed = self._trainer(name, optimizer)(rate=rate, steps=steps, seed=seed)
        loss = self._evaluator(name)(state.params, state.balance)
        row = {"validation": loss, "perplexity": math.exp(loss), "tokens_per_second": speed}
        if "load_ratio" in metrics:
            row["load_ratio"] = float(jnp.mean(metrics["load_ratio"]))
        return row | {"train": float(jnp.mean(metrics["loss"])), "skipped": int(state.skipped)}


def _half(leaf):
    return leaf.astype(jnp.bfloat16)


def _on_accelerator():
    return jax.default_backend() != "cpu"


def report(rows, configs, args):
    """The tables, as Markdown; what was not measured is left empty."""

    def get(field, kind, name, **settings):
        row = rows.get(_key(kind, name, settings))
        return None if row is None else row.get(field)

    def cell(value, form, beside=None):
        if value is None:
            return ""
        return form.format(value) + (f" ({value / beside:.2f}x)" if beside else "")

    lines = ["| | parameters | inner width | cache bytes per token | measured | saved | training tokens/s | of peak |"]
    lines.append("|---|" + "--:|" * 7)
    for name in configs:
        size, base = (get("cache_bytes", "cache", n) for n in (name, REFERENCE))
        cells = [
            cell(get("parameters", "cache", name), "{:,}"),
            cell(get("inner_width", "cache", name), "{}"),
            cell(size, "{:,.0f}"),
            cell(get("cache_bytes_measured", "cache", name), "{:,.0f}"),
            cell(1 - size / base if size and base else None, "{:.1%}"),
            cell(get("tokens_per_second", "speed", name), "{:,.0f}", get("tokens_per_second", "speed", REFERENCE)),
            cell(get("utilisation", "speed", name), "{:.1%}"),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    settings = [{"batch": b, "context": c} for c in args.contexts for b in args.decode_batches]
    lines += ["", "| decode tokens/s | " + " | ".join(f"{s['batch']} x {s['context']}" for s in settings) + " |"]
    lines.append("|---|" + "--:|" * len(settings))
    for name in configs:
        pairs = [[get("tokens_per_second", "decode", n, **s) for n in (name, REFERENCE)] for s in settings]
        lines.append(f"| {name} | " + " | ".join(cell(v, "{:,.0f}", base) for v, base in pairs) + " |")
    lines += ["", f"Batch x positions of the cache; in brackets, beside {REFERENCE}. {PAPER}."]

    titles = [f"{title}: rate | nats per byte | perplexity" for title in OPTIMIZERS.values()]
    lines += ["", f"| after {args.train} steps | " + " | ".join(titles) + " | load, AdamW | Muon |"]
    lines.append("|---|" + "--:|" * 8)
    for name in configs:
        cells, loads = [], []
        for optimizer in OPTIMIZERS:
            rate = best_rate(rows, args, name, optimizer)
            runs = [run_settings(args, optimizer, rate, seed) for seed in range(args.seeds)]
            losses, perplexities, load = (
                [value for run in runs if (value := get(field, "loss", name, **run)) is not None]
                for field in ("validation", "perplexity", "load_ratio")
            )
            grid = rates(args, optimizer)
            edge = " (edge)" if len(grid) > 1 and rate in (min(grid), max(grid)) else ""
            cells += [
                f"{rate:g}{edge}" if losses else "",
                spread(losses, 4, of=args.seeds),
                spread(perplexities, 3, of=args.seeds),
            ]
            loads.append(spread(load, 2, of=args.seeds))
        lines.append(f"| {name} | " + " | ".join(cells + loads) + " |")
    seeds = f"Mean and standard deviation over {args.seeds} seeds" + ("" if args.seeds > 1 else ": one is no result")
    lines += [
        "",
        f"{seeds}. Perplexity is per byte. Load: the busiest expert's over the mean, last {STEPS_PER_CALL} steps.",
    ]
    return "\n".join(lines)


def spread(values, digits, *, of):
    """Mean and standard deviation (n - 1), with the number of values where some of them are missing.

    >>> spread([1.0, 3.0], 2, of=3)
    '2.00 ± 1.41 (2 of 3)'
    """
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}" + (f" ({len(values)} of {of})" if len(values) < of else "")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048], help="positions of the cache")
    parser.add_argument("--decode-batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--tokens", type=int, default=32, help="decoded in each timed call")
    parser.add_argument("--train", type=int, default=400, help="steps after which losses are compared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--adamw-rates", type=float, nargs="+", default=[2e-3], help="the best on the first seed counts"
    )
    parser.add_argument("--muon-rates", type=float, nargs="+", default=[8e-3], help="likewise")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="architectures whose names begin so")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--out", type=Path, default=Path("decoder_throughput.jsonl"), help="rows; the tables beside it")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no measurement after this")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args(argv)
    if args.dry:
        toy = {"width": 32, "layers": 2, "heads": 2, "length": 32, "batch": 4, "contexts": [160], "tokens": 4}
        toy |= {"decode_batches": [1, 3], "train": 40, "seeds": 2, "muon_rates": [8e-3, 3e-2]}
        vars(args).update(toy | ({} if args.only else {"only": ["mla, about 16"]}))
    if args.train < 2 * STEPS_PER_CALL or args.train % STEPS_PER_CALL:
        parser.error(f"--train is {args.train}; expected a multiple of {STEPS_PER_CALL} from {2 * STEPS_PER_CALL} on")
    started = time.perf_counter()
    configs = architectures(args.width, args.layers, args.heads, max(args.length, *args.contexts))
    if args.only:
        chosen = tuple(args.only)
        configs = {name: config for name, config in configs.items() if name == REFERENCE or name.startswith(chosen)}

    bench = Bench(args, configs)
    rows = read_rows(args, bench.digest)
    with args.out.open("a") as file:
        for kind, name, settings in jobs(args, configs, rows):
            if kind not in args.parts or _key(kind, name, settings) in rows:
                continue
            if time.perf_counter() - started > args.seconds:
                print(f"stopped after {args.seconds:.0f} s; the same command goes on")
                break
            row = {"kind": kind, "architecture": name, "settings": settings}
            row |= _measure(getattr(bench, kind), name, settings)
            rows[_key(kind, name, settings)] = row
            print(json.dumps(row), file=file, flush=True)
            figures = "  ".join(f"{k} {v:,.4g}" for k, v in row.items() if isinstance(v, float | int))
            print(f"{time.perf_counter() - started:6.0f} s  {kind} {name} {settings} {figures}", flush=True)
    text = report(rows, configs, args)
    args.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\ndone after {time.perf_counter() - started:.0f} s")
    return rows


def read_rows(args, digest):
    """The rows of a file by their keys; a new file gets the settings that all of its rows share.

    Raises:
        ValueError: the file belongs to another setup, text or device, whose figures must not stand in one table.
    """
    device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    asked = {name: getattr(args, name) for name in SAME} | {"digest": digest} | device
    lines = read_json_lines(args.out)
    if lines and (different := [key for key in asked if lines[0].get(key) != asked[key]]):
        raise fail("decoder_throughput", "out", f"{args.out} has another {', '.join(different)}", "another file")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(args.out, lines or [{"kind": "start"} | asked])  # without a line that a kill cut
    return {_key(row["kind"], row["architecture"], row["settings"]): row for row in lines[1:]}


def _measure(measure, name, settings):
    """The figures, or the reason why there are none: one architecture that fails costs no other its row."""
    try:
        return measure(name, **settings)
    except Exception as error:
        print(f"{name} {settings} failed: {error!r}"[:2000], flush=True)
        return {"failed": repr(error)[:300]}


def _key(kind, name, settings):
    return kind, name, json.dumps(settings)


if __name__ == "__main__":
    main()
