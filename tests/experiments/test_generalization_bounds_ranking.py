"""Rank correlations against scipy, one knob at a time by hand, and the tables made from them."""

import numpy as np
import pytest
from scipy import stats

from experiments.generalization_bounds.plots import save_ranking
from experiments.generalization_bounds.ranking import (
    bootstrap_weights,
    granulated_deviation,
    granulated_kendall,
    interval,
    partial_spearman,
    rank_correlations,
)
from experiments.generalization_bounds.tables import format_layers, format_ranking, format_settings, rank_measures

RNG = np.random.default_rng(0)
GRID = [{"a": a, "b": b, "only": 1} for a in range(3) for b in range(4)]


@pytest.mark.parametrize("levels", [3, 8, 10**6])
def test_rank_correlations_are_scipys(levels):
    for _ in range(5):
        x, y = RNG.integers(0, levels, size=(2, 40))
        found = rank_correlations(x, x + y)
        assert found["spearman"] == pytest.approx(stats.spearmanr(x, x + y).statistic, abs=1e-12)
        assert found["kendall"] == pytest.approx(stats.kendalltau(x, x + y).statistic, abs=1e-12)


def test_weights_are_repetitions():
    x, y = RNG.integers(0, 9, size=(2, 25))
    weights = bootstrap_weights(range(25), resamples=20, seed=1)
    assert (weights.sum(1) == 25).all() and weights.max() > 1
    found = rank_correlations(x, y, weights)
    for number, weight in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(25), weight)
        assert found["spearman"][number] == pytest.approx(stats.spearmanr(x[rows], y[rows]).statistic, abs=1e-12)
        assert found["kendall"][number] == pytest.approx(stats.kendalltau(x[rows], y[rows]).statistic, abs=1e-12)


def test_clusters_are_drawn_whole():
    weights = bootstrap_weights(["a", "a", "b", "b", "b", "c"], resamples=50, seed=2)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2:5].std(1) == 0).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all()
    np.testing.assert_array_equal(weights, bootstrap_weights(["a", "a", "b", "b", "b", "c"], resamples=50, seed=2))


def test_the_interval_covers_a_known_correlation():
    """Of normals with correlation r, Spearman has 6 / pi arcsin(r / 2) and Kendall 2 / pi arcsin r."""
    r, covered, runs = 0.6, np.zeros(2), 100
    truths = 6 / np.pi * np.arcsin(r / 2), 2 / np.pi * np.arcsin(r)
    for run in range(runs):
        x, e = RNG.normal(size=(2, 60))
        found = rank_correlations(
            x, r * x + (1 - r**2) ** 0.5 * e, bootstrap_weights(range(60), resamples=200, seed=run)
        )
        for place, (name, truth) in enumerate(zip(("spearman", "kendall"), truths, strict=True)):
            low, high = interval(found[name])
            covered[place] += low < truth < high
    assert (covered >= 85).all() and (covered < runs).all()


def test_a_constant_has_no_correlation():
    found = rank_correlations([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])
    assert np.isnan(found["spearman"]) and np.isnan(found["kendall"])
    assert np.isnan(rank_correlations([np.inf, np.inf], [1.0, 2.0])["kendall"])
    x = [np.inf, 1.0, np.inf, -np.inf]
    assert rank_correlations(x, range(4))["kendall"] == pytest.approx(
        stats.kendalltau([9, 1, 9, 0], range(4)).statistic
    )
    assert np.isnan(interval(np.full(4, np.nan))).all()
    assert interval(np.array([np.nan, *np.arange(101.0)])) == (2.5, 97.5)


def test_granulated_kendall_by_hand():
    """In a 3 x 4 grid, x follows a and the gap follows a against b."""
    a, b = (np.array([setting[name] for setting in GRID], float) for name in ("a", "b"))
    found = granulated_kendall(a, 10 * a - b, GRID)
    assert found["a"] == 1.0 and found["b"] == 0.0 and np.isnan(found["only"]) and found["mean"] == 0.5
    found = granulated_kendall(a + b, 10 * a - b, GRID)
    assert found["a"] == 1.0 and found["b"] == -1.0 and found["mean"] == 0.0
    assert rank_correlations(a + b, 10 * a - b)["kendall"] > 0.1  # what one number would say


def test_granulated_kendall_is_scipys_in_each_group():
    x, y = RNG.normal(size=(2, 12))
    found = granulated_kendall(x, y, GRID)
    over_b = [stats.kendalltau(x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]).statistic for i in range(3)]
    over_a = [stats.kendalltau(x[i::4], y[i::4]).statistic for i in range(4)]
    assert found["b"] == pytest.approx(np.mean(over_b)) and found["a"] == pytest.approx(np.mean(over_a))


def test_the_deviation_of_chance_by_simulation():
    found = [granulated_kendall(*RNG.normal(size=(2, 12)), GRID) for _ in range(2000)]
    expected = granulated_deviation(GRID)
    for knob in ("a", "b"):
        assert np.std([row[knob] for row in found]) == pytest.approx(expected[knob], rel=0.08)
        assert abs(np.mean([row[knob] for row in found])) < 0.05
    assert np.isnan(expected["only"])


def test_partial_spearman_sees_through_a_common_cause():
    z = RNG.normal(size=3000)
    x, y = z + RNG.normal(size=(2, 3000))
    assert rank_correlations(x, y)["spearman"] > 0.4
    assert abs(partial_spearman(x, y, z)) < 0.07
    ranks = [stats.rankdata(values) for values in (x, y, z)]
    rest = [values - np.polyval(np.polyfit(ranks[2], values, 1), ranks[2]) for values in ranks[:2]]
    assert partial_spearman(x, y, z) == pytest.approx(np.corrcoef(*rest)[0, 1], abs=1e-9)
    assert np.isnan(partial_spearman(z, y, -z)) and np.isnan(partial_spearman(x, y, np.zeros(3000)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_correlations([1.0, 2.0], [1.0]), r"rank_correlations: y has shape \(1,\)"),
        (lambda: rank_correlations([1.0, np.nan], [1.0, 2.0]), "rank_correlations: x or y has NaN"),
        (lambda: rank_correlations([1.0], [1.0]), "rank_correlations: y has shape"),
        (lambda: rank_correlations([1.0, 2.0], [1.0, 2.0], [1.0]), r"weights has shape \(1,\)"),
        (lambda: bootstrap_weights([1, 2], resamples=0, seed=0), "bootstrap_weights: resamples is 0"),
        (lambda: granulated_kendall([1.0], [1.0, 2.0], [{"a": 1}]), "granulated_kendall: knobs has 1 entries"),
        (lambda: granulated_kendall([], [], []), "granulated_kendall: knobs has 0 entries"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def network(width, decay, seed, gap, lower):
    return {
        "depth": 2,
        "width": width,
        "weight_decay": decay,
        "draw": 0,
        "seed": seed,
        "loss gap": gap,
        "error gap": gap / 10,
        "train loss": 1.0 + 0.1 * seed,
        "test loss": 1.0 + gap + 0.1 * seed,
        "train error": 0.1,
        "test error": 0.1 + gap / 10,
        "layers": {"lower": [lower, 1.0], "ceiling": [3.0, 3.0], "upper": [9.0, gap], "parameters": [1.0, 1.0]},
        "measures": {"follows": gap, "against": -gap, "same": 1.0},
    }


def test_one_setting_has_no_interval_over_settings(tmp_path, monkeypatch):
    """Resamples of one cluster are all the sample itself: they would show an interval of width 0."""
    networks = [network(1, 0.0, s, gap, 2.0) for s, gap in enumerate((0.3, 0.1, 0.4, 0.2))]
    rankings = {gap: rank_measures(networks, gap, resamples=50, seed=0) for gap in ("loss gap", "error gap")}
    row = rankings["loss gap"]["follows"]
    assert np.isnan(row["spearman interval clustered"]).all() and np.isnan(row["kendall interval clustered"]).all()
    assert row["spearman"] == 1.0 and row["spearman interval"] == (1.0, 1.0)
    several = rank_measures([*networks, *(network(2, 0.0, s, s / 7, 2.0) for s in range(4))], "loss gap",
                            resamples=50, seed=0)  # fmt: skip
    assert np.isfinite(several["follows"]["spearman interval clustered"]).all()
    bars = []
    monkeypatch.setattr("matplotlib.axes.Axes.barh", lambda *args, xerr=None, **kwargs: bars.append(xerr))
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda *args, **kwargs: None)
    save_ranking(tmp_path / "rankings.png", rankings)
    assert not np.any(bars[:2])  # no bars of error from the value to 0


def test_tables_say_what_ranks_and_what_is_saturated():
    networks = [network(w, d, s, w - 2 * d + s / 4, 2.99 if w == 2 else 2.0) for w in (1, 2) for d in (0.0, 0.1)
                for s in (0, 1)]  # fmt: skip
    rankings = rank_measures(networks, "loss gap", resamples=50, seed=0)
    assert rankings["follows"]["spearman"] == 1.0 and rankings["against"]["kendall"] == -1.0
    assert rankings["follows"]["spearman interval clustered"] == (1.0, 1.0)
    assert rankings["against"]["granulated"]["weight_decay"] == -1.0
    knobs = [{name: n[name] for name in ("depth", "width", "weight_decay", "draw", "seed")} for n in networks]
    table = format_ranking(rankings, "loss gap", knobs)
    assert "| follows | +1.00 | +1.00 to +1.00 | +1.00 to +1.00 | +1.00 | +1.00 |" in table
    assert "| same |  |  |  |  |  |  |  | +0.00 | +0.00 |  | +0.00 | +0.00 |" in table
    assert "| no relation, if groups were independent |  |  |  |  |  |  |  | ± 0.50 | ± 0.50 |  | ± 0.50 |  |" in table
    assert "| 2 | 0.0 | 1.050 | 3.175 | 2.125 | 0.100 | 0.312 | 0.213 | 100% | 0% |" in format_settings(networks)
    lines = format_layers(networks).splitlines()
    assert "| 2 | 1 | 2.50 | 3.00 | 50% | 9.00 | 1.00 | +0.87 |  |" in lines  # two values of lower against eight gaps
    assert "| 2 | 2 | 1.00 | 3.00 | 0% | 1.52 | 1.00 |  | +1.00 |" in lines
