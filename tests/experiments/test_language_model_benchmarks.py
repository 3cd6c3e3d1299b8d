"""The benchmarks of the language model: how steps are compared, which runs are made, and what is read back."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import decoder_throughput, optimizer_steps
from benchmarks.decoder_throughput import REFERENCE, architectures, equal_parameters, jobs, report
from benchmarks.optimizer_steps import CHUNKS, Setup, plan, read_runs
from benchmarks.steps_ratio import (
    best_rates,
    bootstrap_interval,
    interpolate_steps,
    markdown,
    missing,
    summarise,
    t_interval,
)
from jaxdiv.networks import cache_bytes_per_token, count_decoder_flops, count_parameters
from tests.experiments.small_decoder import small_text

ROOT = Path(__file__).parent.parent.parent

# ---- where two losses meet ----


@pytest.mark.parametrize("steps", [320.0, 350.0, 480.0, 799.0, 800.0])
def test_the_meeting_point_of_a_curve_that_is_linear_in_log_steps_is_exact(steps):
    tried = [800, 320, 480, 640]  # in any order
    losses = [3.0 - 0.2 * np.log(s) for s in tried]
    assert interpolate_steps(tried, losses, 3.0 - 0.2 * np.log(steps)) == pytest.approx(steps, rel=1e-9)


def test_a_loss_out_of_reach_and_one_that_is_reached_at_once():
    assert interpolate_steps([10, 20], [2.0, 1.5], 1.0) == math.inf
    assert interpolate_steps([10, 20], [2.0, 1.5], 2.5) == 10.0
    assert interpolate_steps([10, 20, 40], [2.0, 1.0, 1.2], 1.1) < 20  # the first meeting counts
    assert interpolate_steps([10, 20], [2.0, 1.0], 1.5) == pytest.approx(math.sqrt(200))
    assert interpolate_steps([10, 20], [math.inf, math.nan], 1.0) == math.inf


@pytest.mark.parametrize("values", [[0.5, 0.7], [0.61, 0.66, 0.7], [1.0, 2.0, 4.0, 8.0]])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_t_interval_is_scipys(values, level):
    mean, low, high = t_interval(values, level)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(level)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high), rel=1e-9)


def test_an_interval_without_spread_to_judge_from_is_nan():
    for values in ([0.5], [0.5, math.inf]):
        mean, low, high = t_interval(values)
        assert mean == np.mean(values) and math.isnan(low) and math.isnan(high)


def test_the_bootstrap_of_two_is_their_four_resamples():
    # means 0, 1, 1, 2 of the pair (0, 2), whose quantile at share s of the way lies at 3 s between neighbours
    assert bootstrap_interval([0.0, 2.0], 0.5) == pytest.approx((0.75, 1.25))
    low, high = bootstrap_interval([0.6, 0.7, 0.65])
    assert 0.6 <= low < 0.65 < high <= 0.7


def test_the_bootstrap_of_many_is_near_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 1.0, 40)
    low, high = bootstrap_interval(values)
    error = values.std() / np.sqrt(40)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert bootstrap_interval(values) == (low, high)


# ---- which runs are made ----

SETUP = Setup(steps=100, seeds=3, rates=(0.1, 0.2, 0.4), fractions=(0.4, 0.7))
NAMES = ["adamw", "muon"]
OFFSETS = (0.0, 0.02, -0.01)


def made_up(name, rate, seed, horizon):
    """Losses that fall with the logarithm of the steps; Muon is 0.2 log(0.6) ahead: it needs 0.6 of the steps."""
    best = {"adamw": 0.2, "muon": 0.4}[name]
    ahead = 0.2 * math.log(0.6) if name == "muon" else 0.0
    loss = 2.0 - 0.2 * math.log(horizon) + ahead + OFFSETS[seed] + 0.1 * abs(math.log(rate / best))
    return {"validation": loss, "train": loss - 0.1}


def run_all(setup=SETUP, names=NAMES, run=made_up):
    runs, batches = {}, []
    while todo := missing(runs, names, setup):
        batches.append(todo)
        runs |= {key: run(*key) for key in todo}
    return runs, batches


def test_the_stages_follow_one_another():
    _, (tuning, finalists, horizons) = run_all()
    assert set(tuning) == {(name, rate, 0, 100) for name in NAMES for rate in SETUP.rates}
    best_two = {"adamw": {0.1, 0.2, 0.4}, "muon": {0.2, 0.4}}
    assert len(finalists) == 8 and all(seed in (1, 2) and horizon == 100 for _, _, seed, horizon in finalists)
    assert all(rate in best_two[name] for name, rate, _, _ in finalists)
    assert set(horizons) == {("muon", 0.4, seed, horizon) for seed in range(3) for horizon in (40, 70)}


def test_what_is_done_is_not_done_again():
    runs, batches = run_all()
    for key in batches[2][1:3]:
        del runs[key]
    assert missing(runs, NAMES, SETUP) == batches[2][1:3]
    del runs[batches[0][0]]
    assert missing(runs, NAMES, SETUP) == batches[0][:1]


def test_a_diverged_rate_comes_last():
    runs = {("muon", rate, 0, 100): {"validation": value} for rate, value in ((0.1, math.nan), (0.2, 3.0), (0.4, 1.0))}
    assert best_rates(runs, "muon", setup=SETUP, count=3, seeds=[0]) == [0.4, 0.2, 0.1]
    assert best_rates(runs, "muon", setup=SETUP, count=2, seeds=[0, 1]) == []


def test_the_summary_finds_the_ratio_that_was_put_in():
    runs, _ = run_all()
    summary = summarise(runs, NAMES, SETUP)
    row = summary["muon"]
    assert (summary["adamw"]["rate"], row["rate"]) == (0.2, 0.4)
    assert not summary["adamw"]["rate at the edge of the grid"] and row["rate at the edge of the grid"]
    assert row["ratios"] == pytest.approx([0.6] * 3) and row["ratio"] == pytest.approx(0.6)
    assert row["of the means"] == pytest.approx(0.6)
    assert row["t interval"] == pytest.approx([0.6, 0.6]) and row["bootstrap interval"] == pytest.approx([0.6, 0.6])
    assert row["bounds only"] == [False] * 3
    assert [h for h, _ in row["curve"]] == [40, 70, 100]
    table = markdown(summary, SETUP)
    assert (
        "| muon | 0.4 (edge) |" in table and "0.600 | 0.600 to 0.600 | 0.600 to 0.600 | 0.600, 0.600, 0.600 |" in table
    )
    assert "| adamw | 0.2 |" in table and "| 40 steps | 70 steps | 100 steps |" in table


@pytest.mark.parametrize(("ahead", "text"), [(-1.0, "≤ 0.400"), (1.0, "inf")])
def test_a_ratio_outside_the_horizons_is_marked(ahead, text):
    def run(name, rate, seed, horizon):
        row = made_up(name, rate, seed, horizon)
        return row | {"validation": row["validation"] + (ahead if name == "muon" else 0.0)}

    runs, _ = run_all(run=run)
    summary = summarise(runs, NAMES, SETUP)
    assert summary["muon"]["bounds only"] == [True] * 3
    assert text in markdown(summary, SETUP)


def test_a_bad_setup_is_named():
    with pytest.raises(ValueError, match=f"Setup: steps is 50; expected a multiple of {CHUNKS}"):
        Setup(steps=50)
    assert Setup().horizons == (240, 320, 400, 480, 560, 680)


def test_the_plan_says_what_it_costs():
    setup, corpus = Setup(), small_text()
    text = plan(setup, NAMES, corpus, 100.0)
    full = 800 * 64 * 512 * 3 * count_decoder_flops(setup.decoder, 512)
    assert f"{count_parameters(setup.decoder):,} parameters, 32,768 tokens a step, 800 steps" in text
    assert 10e6 < count_parameters(setup.decoder) < 30e6
    runs = 2 * (6 + 2 * 2) + 3 * (0.3 + 0.4 + 0.5 + 0.6 + 0.7 + 0.85)
    assert f"{runs:.1f} full runs (adamw, muon): {runs * full / 1e14:,.0f} s at 100 TFLOP/s" in text


def test_rows_are_read_back_and_another_setup_is_refused(tmp_path):
    path, corpus = tmp_path / "rows.jsonl", small_text()
    assert read_runs(path, SETUP, corpus) == {}
    row = {"kind": "run", "optimizer": "muon", "rate": 0.1, "seed": 2, "horizon": 40, "validation": 1.5, "train": 1.0}
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n" + '{"kind": "run", "optimizer": "mu')  # a kill in the middle of a row
    assert read_runs(path, SETUP, corpus) == {("muon", 0.1, 2, 40): row}
    assert read_runs(path, SETUP, corpus) == {("muon", 0.1, 2, 40): row}
    assert all(json.loads(line) for line in path.read_text().splitlines())
    more = dataclasses.replace(SETUP, seeds=5, rates=(0.1,), fractions=(0.3,))
    assert read_runs(path, more, corpus) == {("muon", 0.1, 2, 40): row}
    with pytest.raises(ValueError, match="has another steps; expected another file"):
        read_runs(path, dataclasses.replace(SETUP, steps=200), corpus)
    with pytest.raises(ValueError, match="has another digest"):
        read_runs(path, SETUP, corpus._replace(digest="other"))


def test_the_plan_of_the_command_line_trains_nothing(tmp_path, capsys):
    assert optimizer_steps.main(["--plan", "--steps", "600", "--out", str(tmp_path / "x.jsonl")]) is None
    assert "600 steps" in capsys.readouterr().out and not (tmp_path / "x.jsonl").exists()


@pytest.mark.slow
def test_the_study_runs_to_the_end_and_goes_on_where_it_stopped(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    arguments = ["--dry", "--out", str(path)]
    assert optimizer_steps.main([*arguments, "--seconds", "0"]) is None
    assert "the same command goes on" in capsys.readouterr().out
    summary = optimizer_steps.main(arguments)
    assert math.isfinite(summary["adamw"]["validation"][0]) and summary["muon"]["ratio"] > 0
    before = path.read_text()
    assert optimizer_steps.main(arguments) == json.loads(json.dumps(summary))
    assert path.read_text().count('"kind": "run"') == before.count('"kind": "run"') == 14
    assert (tmp_path / "rows.png").exists() and "| muon |" in (tmp_path / "rows.md").read_text()


# ---- architectures side by side ----


def test_the_architectures_have_equal_parameters_and_their_caches():
    configs = architectures(512, 8, 8, 2048)
    target = count_parameters(configs[REFERENCE])
    for name, config in configs.items():
        assert count_parameters(config) == pytest.approx(target, rel=0.03), name
    sizes = {name: cache_bytes_per_token(config, "bfloat16") for name, config in configs.items()}
    assert sizes[REFERENCE] == 8 * 2 * 512 * 2
    assert sizes["gqa, 4 heads a group"] == sizes[REFERENCE] / 4
    saved = 1 - sizes["mla, half rank"] / sizes[REFERENCE]
    assert saved == pytest.approx(0.75 - 64 / 1024)  # 75 % less rope_dim / (2 width)
    fine = configs["mla, about 64 experts"]
    assert 56 <= fine.num_experts + fine.num_shared_experts <= 64 and fine.expert_hidden == 24


def test_the_nearest_inner_width_is_taken():
    config = architectures(64, 2, 4, 64)[REFERENCE]
    larger = dataclasses.replace(config, hidden=264)
    assert equal_parameters(config, larger).hidden == 264
    assert equal_parameters(config, dataclasses.replace(config, hidden=267)).hidden == 264
    assert equal_parameters(config, dataclasses.replace(config, hidden=1)).hidden == 8
    experts = architectures(64, 2, 4, 64)["mha, about 16 experts"]
    assert abs(count_parameters(experts) - count_parameters(config)) <= 2 * 3 * 64 * experts.expert_hidden


class Asked:
    """What the command line asks for, without one."""

    contexts, decode_batches, train, seeds = [512], [1, 32], 400, 3
    adamw_rates, muon_rates = [2e-3], [4e-3, 8e-3, 1.6e-2]


def loss_row(rows, name, optimizer, rate, seed, **values):
    settings = {"optimizer": optimizer, "steps": 400, "rate": rate, "seed": seed}
    rows["loss", name, json.dumps(settings)] = values


def test_every_seed_runs_at_the_rate_that_is_best_on_the_first():
    rows, done = {}, []
    for kind, name, settings in jobs(Asked, {REFERENCE: None}, rows):
        if kind == "loss":
            done.append(tuple(settings.values()))
            loss = {4e-3: math.nan, 8e-3: 1.0 + settings["seed"], 1.6e-2: 1.2}.get(settings["rate"], 2.0)
            loss_row(rows, name, settings["optimizer"], settings["rate"], settings["seed"], validation=loss)
    adamw = [("adamw", 400, 2e-3, seed) for seed in range(3)]
    tuning = [("muon", 400, rate, 0) for rate in Asked.muon_rates]
    assert done == [*adamw, *tuning, ("muon", 400, 8e-3, 1), ("muon", 400, 8e-3, 2)]


def test_the_report_sets_rows_beside_the_reference():
    configs = {REFERENCE: None, "mla": None}
    rows = {}

    def put(kind, name, settings, **values):
        rows[kind, name, json.dumps(settings)] = values

    put("cache", REFERENCE, {}, cache_bytes=1000, cache_bytes_measured=1000.0, parameters=5, inner_width=8)
    put("cache", "mla", {}, cache_bytes=320, cache_bytes_measured=320.0, parameters=6, inner_width=7)
    put("decode", REFERENCE, {"batch": 1, "context": 512}, tokens_per_second=100.0)
    put("decode", "mla", {"batch": 1, "context": 512}, tokens_per_second=250.0)
    put("decode", "mla", {"batch": 32, "context": 512}, failed="out of memory")
    for seed, (loss, perplexity, load) in enumerate([(1.0, 3.0, 1.5), (1.2, 3.5, 1.7), (1.4, 4.0, 1.9)]):
        loss_row(rows, "mla", "muon", 8e-3, seed, validation=loss, perplexity=perplexity, load_ratio=load)
        loss_row(rows, "mla", "adamw", 2e-3, seed, **({"failed": "x"} if seed == 1 else {"validation": loss}))
        loss_row(rows, REFERENCE, "muon", 1.6e-2, seed, validation=loss, perplexity=perplexity)
    loss_row(rows, "mla", "muon", 4e-3, 0, validation=1.1, perplexity=2.0)  # not the best: not in the table
    text = report(rows, configs, Asked)
    assert "| mla | 6 | 7 | 320 | 320 | 68.0% |  |  |" in text
    assert "| mla | 250 (2.50x) |  |" in text and "68 % less cache and 3.2 times" in text
    muon = "0.008 | 1.2000 ± 0.2000 | 3.500 ± 0.500"
    assert f"| mla | 0.002 | 1.2000 ± 0.2828 (2 of 3) |  | {muon} |  | 1.70 ± 0.20 |" in text
    assert "| mha |  |  |  | 0.016 (edge) | 1.2000 ± 0.2000 | 3.500 ± 0.500 |  |  |" in text


def losses_of(rows):
    found = {}
    for (kind, name, settings), row in rows.items():
        if kind == "loss":
            chosen = json.loads(settings)
            found[name, chosen["optimizer"], chosen["rate"], chosen["seed"]] = row["validation"]
    return found


def test_a_comparison_of_losses_goes_on_where_it_was_killed(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    arguments = ["--dry", "--only", "(the reference alone)", "--parts", "cache", "loss", "--out", str(path)]
    rows = decoder_throughput.main([*arguments, "--seconds", "0"])
    assert rows == {} and "the same command goes on" in capsys.readouterr().out
    rows = decoder_throughput.main(arguments)
    losses = losses_of(rows)
    assert len(rows) == 6 and len(set(losses.values())) == 5 and max(losses.values()) < math.log(256)
    kept = path.read_text().splitlines()[:-1]
    path.write_text("\n".join(kept) + '\n{"kind": "loss", "archi')  # a kill in the middle of the last row
    again = losses_of(decoder_throughput.main(arguments))
    assert again == losses and path.read_text().splitlines()[:-1] == kept
    text = (tmp_path / "rows.md").read_text()
    assert "after 40 steps" in text and "of 2)" not in text and text.count(" ± ") == 4
    path.write_text("\n".join([json.dumps(json.loads(kept[0]) | {"width": 64}), *kept[1:]]) + "\n")
    with pytest.raises(ValueError, match="has another width; expected another file"):
        decoder_throughput.main(arguments)


@pytest.mark.slow
def test_experts_speed_and_decoding_run_to_the_end(tmp_path):
    rows = decoder_throughput.main(["--dry", "--out", str(tmp_path / "rows.jsonl")])
    assert len(rows) == 2 * (1 + 1 + 2 + 2 + 3) and not any("failed" in row for row in rows.values())
    loads = [row["load_ratio"] for (kind, name, _), row in rows.items() if kind == "loss" and name != REFERENCE]
    assert len(loads) == 5 and min(loads) >= 1


def test_the_comparison_needs_none_of_the_experiment_layer():
    absent = ("tyro", "grain", "tensorflow_datasets", "tensorflow", "tqdm", "orbax", "matplotlib", "sklearn")
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import benchmarks.decoder_throughput"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
