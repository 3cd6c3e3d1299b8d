"""Latent attention and experts beside dense multi-head attention at equal parameters, on one accelerator.

    python -m benchmarks.decoder_throughput --out decoder.jsonl --seconds 520     # again with the same file goes on
    python -m benchmarks.decoder_throughput --train 400 --out decoder.jsonl       # also the loss after so many steps
    python -m benchmarks.decoder_throughput --dry --out dry.jsonl                 # a toy that a CPU runs to the end

For each architecture: training tokens per second and utilisation (model FLOPs of the layers that a token passes), bytes
of cache per token by formula and as measured, tokens per second of sampling over batches and contexts, and the
validation loss after equal steps of AdamW and of Muon, one learning rate each. The inner width of the feed-forward,
or the number of experts, makes up for the parameters that attention has more or less. The paper's figures (arXiv
2508.01261, abstract: 68 % less cache, 3.2 times the speed at half the rank) stand beside ours.
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

from experiments.language_model.learner import Evaluator, apply_of, create_state, make_step
from experiments.language_model.optimizers import build_optimizer, warmup_decay
from experiments.language_model.speed import cache_size, decode_speed, peak_flops, utilisation
from experiments.language_model.text import load_corpus, validation_windows
from jaxdiv.networks import DecoderConfig, count_parameters

PAPER = "paper: 68 % less cache and 3.2 times the decoding speed for latent attention with experts"
REFERENCE = "mha"
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


def train(config, text, *, name, rate, steps, batch, length, seed=0):
    """The final state, and the median tokens per second of the calls after the first."""
    optimizer = build_optimizer(name, warmup_decay(rate, horizon=steps))
    step = make_step(apply_of(config), optimizer, batch_size=batch, length=length)

    @partial(jax.jit, donate_argnums=0)
    def advance(state, text):
        return jax.lax.scan(lambda state, _: step(state, text), state, None, STEPS_PER_CALL)

    state, times = jax.jit(partial(create_state, config, optimizer))(seed=seed), []
    for _ in range(math.ceil(steps / STEPS_PER_CALL)):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(advance(state, text))
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[1:]))
    return state, metrics, STEPS_PER_CALL * batch * length / seconds


def jobs(args, configs):
    """What is measured, in order: ``(kind, architecture, settings)``."""
    for name in configs:
        yield "cache", name, {}
    for name in configs:
        yield "speed", name, {}
    for context in args.contexts:
        for batch in args.decode_batches:
            for name in configs:
                yield "decode", name, {"batch": batch, "context": context}
    if args.train:
        for name in configs:
            for optimizer in ("adamw", "muon"):
                yield "loss", name, {"optimizer": optimizer, "steps": args.train}


class Bench:
    """One measurement of each kind."""

    def __init__(self, args, configs):
        self._args, self._configs, self._peak, self._params = args, configs, peak_flops(), {}
        corpus = load_corpus(args.data)
        print(f"{corpus.describe()}\nutilisation is of {self._peak.flops:.4g} FLOP/s: {self._peak.source}", flush=True)
        self._text = jax.device_put(corpus.train)
        self._windows = validation_windows(corpus.validation, length=args.length, limit=1024)

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
        args, steps = self._args, 4 * STEPS_PER_CALL
        sizes = {"steps": steps, "batch": args.batch, "length": args.length}
        _, _, speed = train(self._configs[name], self._text, name="adamw", rate=args.adamw_rate, **sizes)
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

    def loss(self, name, *, optimizer, steps):
        """A short training and its validation loss."""
        args, config = self._args, self._configs[name]
        rate = args.adamw_rate if optimizer == "adamw" else args.muon_rate
        sizes = {"steps": steps, "batch": args.batch, "length": args.length}
        state, metrics, speed = train(config, self._text, name=optimizer, rate=rate, **sizes)
        evaluator = Evaluator(apply_of(config), self._windows, batch_size=args.batch)
        loss = evaluator(state.params, state.balance)
        row = {"rate": rate, "validation": loss, "perplexity": math.exp(loss), "tokens_per_second": speed}
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
        row = rows.get((kind, name, json.dumps(settings)))
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

    if args.train:
        lines += ["", f"| after {args.train} steps | AdamW, nats per byte | perplexity | Muon | perplexity | load |"]
        lines.append("|---|" + "--:|" * 5)
        for name in configs:
            cells = []
            for optimizer in ("adamw", "muon"):
                chosen = {"optimizer": optimizer, "steps": args.train}
                cells += [cell(get(f, "loss", name, **chosen), "{:.4f}") for f in ("validation", "perplexity")]
            cells.append(cell(get("load_ratio", "loss", name, **chosen), "{:.2f}"))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", "Perplexity is per byte. Load is the busiest expert's over the mean, in Muon's last steps."]
    return "\n".join(lines)


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
    parser.add_argument("--train", type=int, default=0, help="steps after which losses are compared; 0 leaves them out")
    parser.add_argument("--adamw-rate", type=float, default=2e-3)
    parser.add_argument("--muon-rate", type=float, default=4e-3)
    parser.add_argument("--only", nargs="+", help="architectures whose names begin so")
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--out", type=Path, default=Path("decoder_throughput.jsonl"), help="rows; the tables beside it")
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no measurement after this")
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args(argv)
    if args.dry:
        toy = {"width": 32, "layers": 2, "heads": 2, "length": 32, "batch": 4, "contexts": [160], "tokens": 4}
        vars(args).update(toy | {"decode_batches": [1, 3], "train": 40, "only": ["mla, about 16"]})
    started = time.perf_counter()
    configs = architectures(args.width, args.layers, args.heads, max(args.length, *args.contexts))
    if args.only:
        chosen = tuple(args.only)
        configs = {name: config for name, config in configs.items() if name == REFERENCE or name.startswith(chosen)}

    lines = args.out.read_text().splitlines() if args.out.exists() else []
    rows = {_key(row): row for row in map(json.loads, lines) if row["kind"] != "start"}
    asked = {name: value for name, value in vars(args).items() if name not in ("out", "seconds")}
    header = {"kind": "start", "device": jax.devices()[0].device_kind, "jax": jax.__version__, **asked}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        print(json.dumps(header), file=file, flush=True)
        bench = Bench(args, configs)
        for kind, name, settings in jobs(args, configs):
            if (kind, name, json.dumps(settings)) in rows:
                continue
            if time.perf_counter() - started > args.seconds:
                print(f"stopped after {args.seconds:.0f} s; the same command goes on")
                break
            row = {"kind": kind, "architecture": name, "settings": settings}
            row |= _measure(getattr(bench, kind), name, settings)
            rows[_key(row)] = row
            print(json.dumps(row), file=file, flush=True)
            figures = "  ".join(f"{k} {v:,.4g}" for k, v in row.items() if isinstance(v, float | int))
            print(f"{time.perf_counter() - started:6.0f} s  {kind} {name} {settings} {figures}", flush=True)
    text = report(rows, configs, args)
    args.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\ndone after {time.perf_counter() - started:.0f} s")
    return rows


def _measure(measure, name, settings):
    """The figures, or the reason why there are none: one architecture that fails costs no other its row."""
    try:
        return measure(name, **settings)
    except Exception as error:
        print(f"{name} {settings} failed: {error!r}"[:2000], flush=True)
        return {"failed": repr(error)[:300]}


def _key(row):
    return row["kind"], row["architecture"], json.dumps(row["settings"])


if __name__ == "__main__":
    main()
