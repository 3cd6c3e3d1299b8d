"""The language-model experiment: its parts, a short run from end to end, and a run that is interrupted."""

import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.kill_and_resume import differences, finish, records, run_and_kill, start
from experiments.language_model.config import Config
from experiments.language_model.learner import Evaluator, apply_of, byte_loss, create_state, make_step
from experiments.language_model.optimizers import (
    OPTIMIZERS,
    build_optimizer,
    decoder_routes,
    hidden_matrices,
    state_bytes,
    warmup_decay,
)
from experiments.language_model.plots import mean_spectrum
from experiments.language_model.run import COLUMNS, as_text, first_lines, format_table, run, train_decoder
from experiments.language_model.speed import Peak, cache_size, median_seconds, peak_flops, utilisation
from experiments.language_model.text import corpus_from_files, validation_windows
from jaxdiv.networks import count_decoder_flops, count_parameters
from jaxdiv.optimizers import format_routes
from jaxdiv.training import Interrupted, checkpoint_path, load_leaves, read_metrics
from tests.experiments.small_decoder import SMALL, small_text

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def corpus():
    return small_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    directory, said = tmp_path_factory.mktemp("run"), io.StringIO()
    with contextlib.redirect_stderr(said):
        rows = run(Config(directory=directory, **SMALL), corpus)
    (directory / "stderr.txt").write_text(said.getvalue())
    return directory, rows


# ---- the whole ----


def test_both_optimizers_learn_and_everything_is_written(finished, corpus):
    directory, rows = finished
    assert list(rows) == ["adamw", "muon"] and json.loads((directory / "results.json").read_text()) == rows
    table = (directory / "table.md").read_text()
    assert all(name in table for name in (*rows, *COLUMNS.values()) if name != COLUMNS["load_ratio"])
    assert COLUMNS["load_ratio"] not in table
    assert (directory / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    uniform = np.log(256)
    for name, row in rows.items():
        assert row["steps"] == SMALL["steps"] and row["skipped"] == 0
        assert 0 < row["validation_loss"] < 0.8 * uniform
        assert row["bits_per_byte"] == pytest.approx(row["validation_loss"] / np.log(2))
        assert row["tokens_per_second"] > 0 and 0 < row["utilisation"] < 3
        assert row["decode_tokens_per_second"] > 0 and row["cache_bytes"] == row["cache_bytes_measured"]
        file = directory / name / "metrics.jsonl"
        train = [record["loss"] for record in read_metrics(file, split="train")]
        assert train[-1] < 0.6 * train[0] < 0.6 * 1.5 * uniform
        assert [record["step"] for record in read_metrics(file, split="eval")] == [20, 40]
    assert rows["muon"]["optimizer_bytes"] < rows["adamw"]["optimizer_bytes"]
    assert rows["muon"]["parameters"] == rows["adamw"]["parameters"] == count_parameters(Config(**SMALL).decoder)


def test_the_routing_is_printed_once_and_whole(finished, corpus):
    params = jax.eval_shape(lambda: create_state(Config(**SMALL).decoder, optax.identity(), seed=0).params)
    said = (finished[0] / "stderr.txt").read_text()
    assert said.count(format_routes(params, decoder_routes)) == 1
    assert said.count("\npath ") == 1 and "head/kernel" in said


def test_the_samples_go_on_from_the_prompt(finished, corpus):
    text = (finished[0] / "samples.txt").read_text()
    prompt = first_lines(corpus.validation).decode()
    for name in ("adamw", "muon"):
        sample = text.split(f"--- {name} ---\n")[1].split("\n\n--- ")[0]
        assert sample.startswith(prompt)
        assert len(sample) > len(prompt) + 2


def test_a_finished_directory_is_refused_and_resumed(finished, corpus):
    directory, rows = finished
    with pytest.raises(ValueError, match="run: directory .* holds an earlier run; expected --resume"):
        run(Config(directory=directory, **SMALL), corpus)
    again = run(Config(directory=directory, resume=True, **SMALL), corpus)
    for name, row in rows.items():
        assert again[name]["validation_loss"] == row["validation_loss"]
    with pytest.raises(ValueError, match="config.corpus: stored .*, asked 0123"):
        run(Config(directory=directory, resume=True, **SMALL), corpus._replace(digest="0123"))


class Sigterm:
    """An evaluator that ends the first evaluation with a signal to its own process."""

    def __call__(self, params, balance):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.0


def test_an_interrupted_training_resumes_to_the_same_bits(finished, corpus, tmp_path):
    config = Config(optimizer="muon", directory=tmp_path, **SMALL)
    with pytest.raises(Interrupted) as stopped:
        train_decoder(config, "muon", corpus, Sigterm(), tmp_path / "muon")
    assert stopped.value.code == 143 and 20 <= stopped.value.step < 40

    def evaluator(params, balance):
        return 1.0

    train_decoder(config, "muon", corpus, evaluator, tmp_path / "muon")
    alone, resumed = (
        load_leaves(checkpoint_path(folder / "muon" / "checkpoints", 40)) for folder in (finished[0], tmp_path)
    )
    assert list(alone) == list(resumed) and len(alone) > 10
    for name, leaf in alone.items():
        np.testing.assert_array_equal(leaf, resumed[name], err_msg=name)


KILLABLE = f"{sys.executable} -m tests.experiments.killable_decoder --directory {{directory}} --devices"


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 8])
def test_killed_and_resumed_is_bit_identical(tmp_path, num_devices):
    command = f"{KILLABLE} {num_devices}"
    finish(start(command, tmp_path / "alone"))
    moments = [1, records(tmp_path / "alone" / "adamw") + 1]
    assert len(run_and_kill(command, tmp_path / "killed", moments, 0.0, random.Random(0))) == 2
    assert differences(tmp_path / "alone", tmp_path / "killed") == []


@pytest.mark.slow
def test_one_and_eight_devices_train_alike(tmp_path):
    losses = []
    for num_devices in (1, 8):
        folder = tmp_path / str(num_devices)
        finish(start(f"{KILLABLE} {num_devices}", folder))
        losses.append([record["loss"] for record in read_metrics(folder / "muon" / "metrics.jsonl", split="train")])
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw"])
def test_every_variant_learns(name, corpus):
    state, _ = train_decoder(Config(optimizer=name, **SMALL), name, corpus, lambda *_: 1.0, None)
    config = Config(**SMALL)
    windows = validation_windows(corpus.validation, length=config.length, limit=8)
    assert Evaluator(apply_of(config.decoder), windows, batch_size=8)(state.params) < 0.8 * np.log(256)


@pytest.mark.slow
def test_latent_attention_and_experts_from_end_to_end(tmp_path, corpus):
    changes = {"attention": "mla", "rope_dim": 8, "feed_forward": "moe", "num_experts": 4, "expert_hidden": 16}
    rows = run(Config(optimizer="muon", directory=tmp_path, **SMALL, **changes), corpus)
    assert rows["muon"]["validation_loss"] < 0.8 * np.log(256)
    assert rows["muon"]["cache_bytes"] == rows["muon"]["cache_bytes_measured"] == 2 * (16 + 8) * 4
    ratio = [record["load_ratio"] for record in read_metrics(tmp_path / "muon" / "metrics.jsonl", split="train")]
    assert all(1 <= value <= 4 for value in ratio)


# ---- the step ----


def one_step(config, corpus, optimizer, state):
    step = make_step(apply_of(config.decoder), optimizer, batch_size=4, length=config.length, balance_rate=0.01)
    return jax.jit(step)(state, jnp.asarray(corpus.train))


def test_the_loss_is_the_mean_cross_entropy(corpus):
    config = Config(**SMALL)
    apply_fn = apply_of(config.decoder)
    params = create_state(config.decoder, optax.identity(), seed=0).params
    windows = validation_windows(corpus.validation, length=config.length, limit=6)
    logits = np.asarray(jax.jit(apply_fn)(params, jnp.asarray(windows[:, :-1], jnp.int32)), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_probs, windows[:, 1:, None].astype(int), -1)[..., 0]
    loss, routing = byte_loss(apply_fn, params, jnp.asarray(windows, jnp.int32), None)
    assert float(loss) == pytest.approx(expected.mean(), rel=1e-5) and routing == {}
    evaluator = Evaluator(apply_fn, windows, batch_size=4)  # one whole batch, the rest is cut off
    assert evaluator(params) == pytest.approx(expected[:4].mean(), rel=1e-5)
    assert evaluator.num_bytes == 4 * config.length


def test_equal_seeds_give_equal_starts_and_optimizers_share_them():
    config = Config(**SMALL).decoder
    first, again = (create_state(config, build_optimizer(name, 1e-3), seed=5) for name in ("adamw", "muon"))
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert (jax.random.key_data(first.key) == jax.random.key_data(again.key)).all()
    other = create_state(config, optax.identity(), seed=6)
    assert (other.params["embedding"] != first.params["embedding"]).any()


def test_a_step_that_is_not_finite_changes_nothing(corpus):
    config, optimizer = Config(**SMALL), build_optimizer("adamw", 1e-2)
    state = create_state(config.decoder, optimizer, seed=0)
    broken = state._replace(params=jax.tree.map(lambda x: x.at[..., 0].set(jnp.nan), state.params))
    after, metrics = one_step(config, corpus, optimizer, broken)
    jax.tree.map(np.testing.assert_array_equal, after.params, broken.params)
    jax.tree.map(np.testing.assert_array_equal, after.optimizer_state, broken.optimizer_state)
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (1, 1, 1)
    after, metrics = one_step(config, corpus, optimizer, state)
    assert int(after.skipped) == 0 and (after.params["embedding"] != state.params["embedding"]).any()
    assert np.isfinite(metrics["loss"]) and float(metrics["gradient_norm"]) > 0


def test_the_routers_biases_move_towards_balance(corpus):
    changes = {"feed_forward": "moe", "num_experts": 4, "expert_hidden": 8, "num_shared_experts": 1}
    config, optimizer = Config(**SMALL, **changes), optax.sgd(0.0)
    state = create_state(config.decoder, optimizer, seed=0)
    assert state.balance.shape == (2, 4) and not state.balance.any()
    after, metrics = one_step(config, corpus, optimizer, state)
    moved = np.abs(np.asarray(after.balance))
    assert 1 < float(metrics["load_ratio"]) <= 4 and moved.any()
    np.testing.assert_allclose(moved[moved > 0], 0.01, rtol=0.5)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_the_bias_balances_routers_that_are_trained(corpus):
    changes = {"feed_forward": "moe", "num_experts": 4, "experts_per_token": 1, "expert_hidden": 8}
    config, text = Config(**SMALL, **changes), jnp.asarray(corpus.train)
    optimizer = build_optimizer("muon", 0.02)
    step = make_step(apply_of(config.decoder), optimizer, batch_size=8, length=16, balance_rate=0.01)

    @jax.jit
    def train(state, keep):  # with 0 every step starts from biases of 0, which is a run without them
        def one(state, _):
            return step(state._replace(balance=keep * state.balance), text)

        return jax.lax.scan(one, state, None, 150)[1]

    start = create_state(config.decoder, optimizer, seed=0)
    off, on = (train(start, jnp.float32(keep)) for keep in (0, 1))
    late = [float(metrics["load_ratio"][-50:].mean()) - 1 for metrics in (off, on)]
    assert late[0] > 0.5 and late[1] < 0.5 * late[0]  # 0.90 and 0.23
    assert all(float(metrics["loss"][-50:].mean()) < 0.5 * np.log(256) for metrics in (off, on))


# ---- the optimizers ----


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize(("horizon", "warmup"), [(10, 0.2), (40, 0.1), (7, 0.0), (5, 1.0)])
def test_the_schedule_rises_and_falls_to_zero(decay, horizon, warmup):
    rate = jax.jit(lambda step, peak, total: warmup_decay(peak, horizon=total, warmup=warmup, decay=decay)(step))
    rising = max(round(warmup * horizon), 1)
    for step in range(horizon + 2):
        left = min(max((horizon - step) / max(horizon - rising, 1), 0), 1)
        falling = left if decay == "linear" else (1 - np.cos(np.pi * left)) / 2
        expected = 3.0 * min((step + 1) / rising, falling)
        assert float(rate(step, 3.0, horizon)) == pytest.approx(expected, abs=1e-5)
    assert float(rate(horizon, 3.0, horizon)) == 0


def test_the_schedule_of_a_wrong_name_is_refused():
    with pytest.raises(ValueError, match="warmup_decay: decay is 'step'"):
        warmup_decay(1.0, horizon=3, decay="step")
    with pytest.raises(ValueError, match="build_optimizer: name is 'sgd'"):
        build_optimizer("sgd", 1.0)


@pytest.mark.parametrize("changes", [{}, {"attention": "mla"}, {"feed_forward": "moe"}, {"feed_forward": "hourglass"}])
def test_muon_takes_every_matrix_of_a_layer_but_the_router(changes):
    config = Config(**SMALL, **changes).decoder
    params = jax.eval_shape(lambda: create_state(config, optax.identity(), seed=0).params)
    chosen = jax.tree_util.tree_leaves_with_path(hidden_matrices(params))
    for (path, taken), leaf in zip(chosen, jax.tree.leaves(params), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        is_matrix = name.startswith("layers/") and name.endswith("/kernel") and leaf.ndim >= 3
        assert taken == (is_matrix and "router" not in name), name
    assert sum(taken for _, taken in chosen) >= 6
    assert jax.tree.structure(decoder_routes(params), is_leaf=lambda x: not isinstance(x, dict)).num_leaves == len(
        chosen
    )


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_the_hidden_matrices_decay(name):
    params = {"layers": {"up": {"kernel": jnp.ones((2, 3, 4))}}, "head": {"kernel": jnp.ones((4, 5))}}
    optimizer = build_optimizer(name, 0.5, weight_decay=0.2)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layers"]["up"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_array_equal(updates["head"]["kernel"], 0.0)


def test_the_rates_of_both_parts_of_muon():
    params = {"layers": {"up": {"kernel": jnp.ones((2, 8, 8))}}, "head": {"kernel": jnp.ones((8, 5))}}
    keys = jax.random.split(jax.random.key(0), 2)
    gradient = {
        "layers": {"up": {"kernel": jax.random.normal(keys[0], (2, 8, 8))}},
        "head": {"kernel": jax.random.normal(keys[1], (8, 5))},
    }
    for rate in (0.01, lambda step: 0.01 * (step + 1)):
        optimizer = build_optimizer("muon", rate, weight_decay=0.0, aux_factor=3.0)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        head = np.abs(np.asarray(updates["head"]["kernel"]))
        np.testing.assert_allclose(head, 0.03, rtol=1e-4)  # Adam's first step has the size of its rate
        hidden = np.asarray(updates["layers"]["up"]["kernel"])
        assert np.sqrt((hidden**2).mean()) == pytest.approx(0.01 * 0.2, rel=0.15)


def test_the_state_bytes():
    params = {"layers": {"up": {"kernel": jnp.ones((2, 8, 8))}}}
    assert state_bytes(build_optimizer("adamw", 1e-3).init(params)) == 2 * 4 * 128 + 4
    assert 4 * 128 <= state_bytes(build_optimizer("muon", 1e-3).init(params)) <= 4 * 128 + 16


# ---- what it costs ----


@pytest.mark.parametrize("changes", [{}, {"kv_heads": 1}, {"attention": "mla", "rope_dim": 8, "kv_rank": 24}])
def test_the_cache_grows_as_the_formula_says(changes):
    config = Config(**SMALL | {"heads": 2}, **changes).decoder
    row = cache_size(config, dtype=jnp.bfloat16)
    entries = {"kv_heads": 2 * 16, "attention": 24 + 8}.get(next(iter(changes), ""), 2 * 32)
    assert row["cache_bytes"] == row["cache_bytes_measured"] == 2 * 2 * entries


def test_utilisation_is_three_forward_passes_over_the_peak():
    config = Config(**SMALL).decoder
    share = utilisation(config, length=16, tokens_per_second=1000.0, peak=Peak(1e9, "made up"), num_devices=4)
    assert share == pytest.approx(3 * count_decoder_flops(config, 16) * 1000 / 4e9)
    peak = peak_flops()
    assert peak.flops > 1e8 and "measured" in peak.source
    assert median_seconds(lambda: jnp.zeros(3) + 1, repeats=3) > 0


def test_the_data_sheet_is_found_by_the_name_of_the_device(monkeypatch):
    from experiments.language_model import speed

    class Device:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(speed.jax, "devices", lambda: [Device()])
    assert peak_flops() == Peak(989.4e12, "NVIDIA H200, data sheet, dense bfloat16")


def test_the_spectrum_is_that_of_the_hidden_matrices():
    u, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
    kernel = jnp.asarray(np.stack([u * [4.0, 2.0, 1.0, 0.5], u * [2.0, 2.0, 2.0, 0.5]]), jnp.float32)
    params = {"layers": {"up": {"kernel": kernel}}, "head": {"kernel": jnp.ones((4, 4))}}
    np.testing.assert_allclose(mean_spectrum(params), [1.0, 0.75, 0.625, 0.1875], rtol=1e-5)


# ---- text and table ----


def test_prompts_are_whole_lines_where_there_are_any():
    text = np.frombuffer(b"0123456789\nab\ncdef\nghijkl\n", np.uint8)
    assert first_lines(text, size=9) == b"cdef\n"
    assert first_lines(np.frombuffer(b"x" * 50, np.uint8), size=9) == b"x" * 9
    assert as_text(np.array([72, 105, 200])) == "Hi\ufffd"


def test_the_table_has_a_column_for_each_optimizer():
    row = dict.fromkeys(COLUMNS, 1.25) | {"parameters": 1234567, "utilisation": 0.123}
    table = format_table({"a": row, "b": row}).splitlines()
    assert table[0] == "| | a | b |" and len(table) == 2 + len(COLUMNS)
    assert "| parameters | 1,234,567 | 1,234,567 |" in table
    assert "| model FLOPs utilisation | 12.3% | 12.3% |" in table


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "Config: optimizer is 'sgd'; expected one of 'both', 'adamw', 'muon'"),
        ({"steps": 0}, "Config: steps is 0"),
        ({"decay": "step"}, "Config: decay is 'step'"),
        ({"warmup": 1.5}, "Config: warmup is 1.5"),
        ({"learning_rate": 0.0}, "Config: learning_rate is 0.0"),
        ({"clip_norm": 0.0}, "Config: clip_norm is 0.0"),
        ({"decode_context": 64}, "Config: decode_context is 64"),
        ({"prompt": ""}, "Config: prompt is empty"),
        ({"seed": -1}, "Config: seed is -1"),
        ({"temperature": -0.1}, "Config: temperature is -0.1"),
        ({"attention": "linear"}, "DecoderConfig: attention is 'linear'"),
        ({"heads": 3}, "DecoderConfig: width is 128; expected a multiple of num_heads 3"),
        ({"kv_heads": 3}, "DecoderConfig: num_kv_heads is 3"),
        ({"feed_forward": "moe", "num_experts": 1}, "DecoderConfig: experts_per_token is 2"),
        ({"attention": "mla", "kv_heads": 2}, "DecoderConfig: num_kv_heads is 2"),
        ({"attention": "mla", "qk_norm": True}, "DecoderConfig: qk_norm is True"),
        ({"q_rank": 8}, "Config: q_rank is 8; expected None without --attention mla"),
        ({"kv_rank": 8}, "Config: kv_rank is 8; expected None without --attention mla"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match="^" + message):
        Config(**settings)


@pytest.mark.parametrize(
    "settings", [{"attention": "mla", "kv_rank": 0}, {"hidden": 0}, {"feed_forward": "moe", "expert_hidden": 0}]
)
def test_a_width_of_0_is_refused_and_not_the_default(settings):
    with pytest.raises(ValueError, match="is 0"):
        Config(**settings)


def test_one_word_changes_the_architecture():
    assert Config(attention="mla").decoder.kv_rank == 64 and Config(attention="mla", kv_rank=8).decoder.kv_rank == 8
    assert Config(attention="mla", q_rank=24).decoder.q_rank == 24 and Config(qk_norm=True).decoder.qk_norm
    assert Config(tie_embeddings=True).decoder.tie_embeddings and Config(remat=True).decoder.remat
    assert Config(feed_forward="hourglass").decoder.hidden == 64 and Config().decoder.hidden == 336
    moe = Config(feed_forward="moe").decoder
    assert (moe.num_experts, moe.experts_per_token, moe.num_shared_experts, moe.expert_hidden) == (8, 2, 1, 128)
    assert Config(prompt="é" * 300, sample_bytes=50).decoder.max_length == 650
    assert 0.5e6 < count_parameters(Config().decoder) < 1e6


def test_rates_and_directories():
    assert Config().optimizers == ("adamw", "muon") and Config(optimizer="normuon").optimizers == ("normuon",)
    assert Config(learning_rate=0.5).rate("adamw") == 0.5 and Config().rate("normuon") == Config().rate("muon")
    name = "runs/language_model/muon-mla-moe-seed3"
    assert Config(optimizer="muon", attention="mla", feed_forward="moe", seed=3).run_directory == Path(name)
    assert Config(directory=Path("here")).run_directory == Path("here")


def test_the_fingerprint_has_what_changes_the_numbers():
    base = Config().fingerprint("muon", "abc")
    for change in ({"steps": 5}, {"width": 64}, {"learning_rate": 1.0}, {"seed": 1}, {"decay": "cosine"}):
        assert Config(**change).fingerprint("muon", "abc") != base
    assert Config().fingerprint("adamw", "abc") != base != Config().fingerprint("muon", "abd")
    assert Config(directory=Path("x"), resume=True, temperature=2.0).fingerprint("muon", "abc") == base
    assert json.loads(json.dumps(base))["decoder"]["width"] == 128


def test_a_batch_that_the_devices_cannot_share_is_refused(monkeypatch, corpus, tmp_path):
    from experiments.language_model import run as module

    mesh = jax.sharding.AbstractMesh((3,), ("data",))
    monkeypatch.setattr(module.training, "data_mesh", lambda: mesh)
    with pytest.raises(ValueError, match="run: batch_size is 8; expected a multiple of the 3 devices"):
        run(Config(directory=tmp_path, **SMALL), corpus)


def test_help_explains_every_setting_and_a_bad_one_ends_in_one_line():
    command = [sys.executable, "-m", "experiments.language_model.run"]
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in done.stdout
    arguments = ["--data", "/no/such/folder", "--steps", "1"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: load_corpus: data is '/no/such")


def test_few_files_make_a_corpus_for_tests(corpus):
    assert corpus.train.size > 5000 and corpus.validation.size > 500
    assert corpus_from_files("x", {"a": b"1" * 9, "b": b"2" * 9}).num_files == (1, 1)
