"""Trains a decoder on bytes with Muon and with AdamW, same data, same start, same number of steps.

    python -m experiments.language_model.run                       # Python's own sources, 3 minutes on two CPU cores
    python -m experiments.language_model.run --attention mla --feed-forward moe
    python -m experiments.language_model.run --optimizer muon --data path/to/texts
    python -m experiments.language_model.run --help                # every setting

Writes checkpoints, metrics, curves, samples and a table into one folder and prints table and samples.
"""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.command_line import run_command, say
from experiments.language_model.config import MAX_PROMPT, Config
from experiments.language_model.learner import Evaluator, State, apply_of, bits, create_state, make_step
from experiments.language_model.optimizers import build_optimizer, decoder_routes, state_bytes, warmup_decay
from experiments.language_model.plots import mean_spectrum, save_curves
from experiments.language_model.speed import (
    Peak,
    cache_size,
    decode_speed,
    median_seconds,
    peak_flops,
    utilisation,
)
from experiments.language_model.text import Corpus, load_corpus, validation_windows
from jaxdiv import training
from jaxdiv.checks import fail
from jaxdiv.networks import count_parameters, generate
from jaxdiv.optimizers import format_routes
from jaxdiv.training import CheckpointError, checkpoint_steps, read_metrics
from jaxdiv.typing import PyTree

STEPS_PER_CALL = 10
COLUMNS = {
    "parameters": "parameters",
    "steps": "steps",
    "train_loss": "training loss (nats)",
    "validation_loss": "validation loss (nats)",
    "bits_per_byte": "validation bits per byte",
    "load_ratio": "load of the busiest expert over the mean, last fifth of the steps",
    "tokens_per_second": "tokens/s",
    "utilisation": "model FLOPs utilisation",
    "cache_bytes": "cache bytes per token, by formula",
    "cache_bytes_measured": "cache bytes per token, measured",
    "decode_tokens_per_second": "decode tokens/s",
    "optimizer_bytes": "optimizer state bytes",
}


def run(config: Config, corpus: Corpus | None = None) -> dict[str, dict[str, Any]]:
    """The whole experiment; returns the table's rows and writes everything else into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    folders = {name: directory / name for name in config.optimizers}
    if not config.resume and any(checkpoint_steps(folder / "checkpoints") for folder in folders.values()):
        raise fail("run", "directory", f"{directory} holds an earlier run", "--resume to go on, or another --directory")
    mesh = training.data_mesh()
    if config.batch_size % mesh.size:
        raise fail("run", "batch_size", f"is {config.batch_size}", f"a multiple of the {mesh.size} devices")
    corpus = load_corpus(config.data, data_dir=config.data_dir) if corpus is None else corpus
    say(corpus.describe())
    start = jax.jit(partial(create_state, config.decoder, optax.identity()))(seed=config.seed).params
    if config.optimizers != ("adamw",):
        say(format_routes(start, decoder_routes))  # Muon must not take or leave a matrix without a word
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    peak = peak_flops()
    apply_fn = apply_of(config.decoder)
    windows = validation_windows(corpus.validation, length=config.length, limit=config.validation_windows)
    evaluator = Evaluator(apply_fn, windows, batch_size=config.batch_size, mesh=mesh)

    prompt = first_lines(corpus.validation) if config.prompt is None else config.prompt.encode()
    write = jax.jit(partial(continuation, config, prompt))
    rows, samples, spectra, shared = {}, {}, {}, {}
    for name in config.optimizers:
        state, speed = train_decoder(config, name, corpus, evaluator, folders[name])
        if not rows:
            shared = shared_figures(config, state)
        rows[name] = shared | table_row(config, state, speed, peak, folders[name] / "metrics.jsonl", evaluator)
        samples[name] = as_text(write(state.params, state.balance)[0])
        spectra[name] = mean_spectrum(state.params)
    spectra["start"] = mean_spectrum(start)

    table = format_table(rows)
    text = "\n\n".join(f"--- {name} ---\n{sample}" for name, sample in samples.items())
    (directory / "table.md").write_text(table + "\n", encoding="utf-8")
    (directory / "samples.txt").write_text(text + "\n", encoding="utf-8")
    (directory / "results.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    metrics = {name: folder / "metrics.jsonl" for name, folder in folders.items()}
    save_curves(directory / "curves.png", metrics, spectra)
    print(f"{text}\n\n{table}\n")
    print(
        f"Utilisation is of {peak.flops:.3g} FLOP/s on each of {mesh.size} devices ({peak.source}). Decoding is of "
        f"{config.decode_batch} sequences with a cache of {config.decode_context} positions.\n"
        f"Curves, samples, metrics and checkpoints are in {directory} ({time.perf_counter() - started:.0f} s)."
    )
    return rows


def train_decoder(
    config: Config, name: str, corpus: Corpus, evaluator: Evaluator, directory: Path | None, **loop: Any
) -> tuple[State, float]:
    """Trains with one optimizer; returns the final state and the tokens per second of the step alone."""
    rate = warmup_decay(config.rate(name), horizon=config.steps, warmup=config.warmup, decay=config.decay)
    optimizer = build_optimizer(
        name, rate, weight_decay=config.weight_decay, clip_norm=config.clip_norm, aux_factor=config.aux_factor
    )
    mesh = training.data_mesh()
    sizes = {"batch_size": config.batch_size, "length": config.length, "balance_rate": config.balance_rate}
    step = make_step(apply_of(config.decoder), optimizer, mesh=mesh if mesh.size > 1 else None, **sizes)

    @partial(jax.jit, donate_argnums=0)
    def steps(state: State, numbers: jax.Array, text: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        return jax.lax.scan(lambda state, _: step(state, text), state, numbers)  # the numbers only give the length

    text = training.replicate(corpus.train, mesh)
    evaluate_every = _whole_calls(config.steps / config.evaluations)
    state = jax.jit(partial(create_state, config.decoder, optimizer))(seed=config.seed)

    def evaluate(state: State, step: int) -> dict[str, float]:
        loss = evaluator(state.params, state.balance)
        return {"validation_loss": loss, "bits_per_byte": bits(loss)}

    state = training.train(
        lambda state, numbers: steps(state, numbers, text),
        training.replicate(state, mesh),
        num_steps=config.steps,
        batch_fn=np.int32,
        place_fn=lambda numbers: training.replicate(numbers, mesh),
        directory=directory,
        config=config.fingerprint(name, corpus.digest),
        save_every=_whole_calls(config.save_every),
        steps_per_call=STEPS_PER_CALL,
        log_every=min(STEPS_PER_CALL, max(1, config.steps // 10)),
        eval_every=evaluate_every,
        eval_fn=evaluate,
        progress=("loss", "skipped"),
        description=name,
        **loop,
    )
    numbers = training.replicate(np.zeros(STEPS_PER_CALL, np.int32), mesh)
    copies = iter([jax.tree.map(jnp.copy, state) for _ in range(3)])  # a call takes its state's buffers
    seconds = median_seconds(lambda: steps(next(copies), numbers, text), repeats=2)
    return state, STEPS_PER_CALL * config.batch_size * config.length / seconds


def _whole_calls(steps: float) -> int:
    """A number of steps as the nearest multiple of a call's, so that all calls are of one length."""
    return max(1, round(steps / STEPS_PER_CALL)) * STEPS_PER_CALL


def shared_figures(config: Config, state: State) -> dict[str, Any]:
    """What the architecture costs, whichever optimizer trained it."""
    dtype = config.decoder.compute_dtype()
    decoding = decode_speed(
        apply_of(config.decoder), state.params, config.decoder, batch=config.decode_batch,
        context=config.decode_context, balance=state.balance,
    )  # fmt: skip
    return {
        "parameters": count_parameters(config.decoder),
        **cache_size(config.decoder, dtype=dtype),
        "decode_tokens_per_second": decoding,
    }


def table_row(
    config: Config, state: State, speed: float, peak: Peak, metrics: Path, evaluator: Evaluator
) -> dict[str, Any]:
    """What a training gave and what its optimizer costs."""
    records = read_metrics(metrics, split="train")
    late = [record["load_ratio"] for record in records[-max(len(records) // 5, 1) :] if "load_ratio" in record]
    loss = evaluator(state.params, state.balance)
    sizes = {"length": config.length, "peak": peak, "num_devices": jax.device_count()}
    return {
        **({"load_ratio": float(np.mean(late))} if late else {}),
        "steps": int(state.step),
        "train_loss": float(np.mean([record["loss"] for record in records[-5:]])),
        "validation_loss": loss,
        "bits_per_byte": bits(loss),
        "tokens_per_second": speed,
        "utilisation": utilisation(config.decoder, tokens_per_second=speed, **sizes),
        "optimizer_bytes": state_bytes(state.optimizer_state),
        "skipped": int(state.skipped),
    }


def continuation(config: Config, prompt: bytes, params: PyTree, balance: PyTree) -> jax.Array:
    """The prompt's bytes and those that the decoder goes on with, ``[1, P + sample_bytes]``."""
    tokens = jnp.asarray(np.frombuffer(prompt, np.uint8)[None], jnp.int32)
    return generate(
        apply_of(config.decoder), params, tokens, config=config.decoder, num_tokens=config.sample_bytes,
        key=jax.random.key(config.seed), temperature=config.temperature, balance=balance,
    )  # fmt: skip


def first_lines(text: np.ndarray, *, size: int = MAX_PROMPT) -> bytes:
    r"""Whole lines of up to so many bytes from the middle of the text; a piece of it where its lines are longer.

    >>> first_lines(np.frombuffer(b"zero\none\ntwo\nthree\n", np.uint8), size=8)
    b'three\n'
    """
    content = text.tobytes()
    middle = content.find(b"\n", len(content) // 2) + 1
    piece = content[middle : middle + size]
    return piece[: piece.rfind(b"\n") + 1] or piece or content[:size]


def as_text(tokens: Any) -> str:
    """Bytes as text; what is no UTF-8 shows as a replacement character.

    >>> as_text([104, 105])
    'hi'
    """
    return bytes(np.asarray(tokens).astype(np.uint8)).decode("utf-8", "replace")


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """A Markdown table with a column for each optimizer, without the lines that no row has."""
    lines = ["| | " + " | ".join(rows) + " |", "|---|" + "--:|" * len(rows)]
    for key, title in COLUMNS.items():
        if not all(key in row for row in rows.values()):
            continue  # a dense decoder has no experts
        lines.append(f"| {title} | " + " | ".join(_cell(key, row[key]) for row in rows.values()) + " |")
    return "\n".join(lines)


def _cell(key: str, value: float) -> str:
    if key == "utilisation":
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.4f}"


def main() -> None:
    """The command line."""
    run_command(
        Config,
        run,
        description=__doc__,
        interrupted="--resume goes on from the last checkpoint",
        errors=(ValueError, OSError, CheckpointError),
    )


if __name__ == "__main__":
    main()
