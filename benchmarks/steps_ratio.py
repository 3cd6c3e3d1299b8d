"""How many steps one optimizer needs for another's best final loss: which runs it takes, and what follows from them.

A run is ``(optimizer, learning rate, seed, horizon)``, and ``runs`` maps it to a row with "validation" and "train".
"""

import itertools
import math

import numpy as np
from scipy import stats

from experiments.language_model.learner import bits

FINALISTS = 2


def interpolate_steps(steps, losses, target):
    """The number of steps, between those tried, at which the loss first meets the target; linear in log steps.

    Infinity where no number of steps reaches it, and the least one where that does already: an upper bound then.
    """
    order = np.argsort(steps)
    steps, losses = np.asarray(steps, float)[order], np.asarray(losses, float)[order]
    reached = np.flatnonzero(losses <= target)
    if reached.size == 0:
        return math.inf
    i = reached[0]
    if i == 0:
        return float(steps[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(np.exp(np.log(steps[i - 1]) + share * np.log(steps[i] / steps[i - 1])))


def t_interval(values, level=0.95):
    """Mean and two-sided Student interval of the mean; NaN without spread to judge from."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    if len(values) < 2 or not np.isfinite(values).all():
        return mean, math.nan, math.nan
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return mean, mean - float(half), mean + float(half)


def bootstrap_interval(values, level=0.95, limit=100_000):
    """The percentile interval of the mean under resampling: all resamples where they are few, else random ones."""
    values = np.asarray(values, float)
    if len(values) ** len(values) <= limit:
        means = [np.mean(sample) for sample in itertools.product(values, repeat=len(values))]
    else:
        means = np.random.default_rng(0).choice(values, (limit // len(values), len(values))).mean(1)
    low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def best_rates(runs, name, *, setup, count, seeds):
    """The rates with the least mean final loss over these seeds, among those that have all of them; best first."""
    means = {}
    for rate in setup.rates:
        found = [runs.get((name, rate, seed, setup.steps)) for seed in seeds]
        if all(row is not None for row in found):
            mean = float(np.mean([row["validation"] for row in found]))
            means[rate] = mean if math.isfinite(mean) else math.inf  # a diverged run comes last
    return sorted(means, key=means.get)[:count]


def missing(runs, names, setup):
    """The runs still to be done of the earliest stage that is not finished; each ``(name, rate, seed, horizon)``."""
    seeds = range(setup.seeds)
    stages = [[(name, rate, 0, setup.steps) for rate in setup.rates for name in names]]
    if all(key in runs for key in stages[0]):
        finalists = {n: best_rates(runs, n, setup=setup, count=FINALISTS, seeds=[0]) for n in names}
        stages.append([(n, rate, seed, setup.steps) for seed in seeds for n in names for rate in finalists[n]])
    if len(stages) == 2 and all(key in runs for key in stages[1]):
        best = {n: best_rates(runs, n, setup=setup, count=1, seeds=seeds)[0] for n in names}
        others = [n for n in names if n != "adamw"]
        stages.append([(n, best[n], seed, h) for seed in seeds for h in setup.horizons for n in others])
    return [key for key in stages[-1] if key not in runs]


def summarise(runs, names, setup):
    """For each optimizer its best rate, final losses and, beside AdamW, the ratio of steps."""
    seeds, summary = range(setup.seeds), {}
    best = {n: best_rates(runs, n, setup=setup, count=1, seeds=seeds)[0] for n in names}
    target = [runs["adamw", best["adamw"], seed, setup.steps]["validation"] for seed in seeds]
    for name in names:
        rate = best[name]
        final = [runs[name, rate, seed, setup.steps] for seed in seeds]
        row = {
            "rate": rate,
            "rate at the edge of the grid": rate in (min(setup.rates), max(setup.rates)),
            "validation": [run["validation"] for run in final],
            "train": [run["train"] for run in final],
        }
        horizons = (*setup.horizons, setup.steps)
        if name != "adamw" and all((name, rate, seed, h) in runs for seed in seeds for h in horizons):
            curves = [[runs[name, rate, seed, h]["validation"] for h in horizons] for seed in seeds]
            met = [interpolate_steps(horizons, c, t) for c, t in zip(curves, target, strict=True)]
            ratios = [steps / setup.steps for steps in met]
            mean, low, high = t_interval(ratios)
            row |= {
                "curve": [list(h) for h in zip(horizons, np.mean(curves, axis=0).tolist(), strict=True)],
                "ratios": ratios,
                "ratio": mean,
                "t interval": [low, high],
                "bootstrap interval": list(bootstrap_interval(ratios)) if np.isfinite(ratios).all() else None,
                "of the means": interpolate_steps(horizons, np.mean(curves, axis=0), np.mean(target)) / setup.steps,
                "bounds only": [ratio in (min(horizons) / setup.steps, math.inf) for ratio in ratios],
            }
        summary[name] = row
    return summary


def markdown(summary, setup):
    """Two tables: the ratio, and the losses behind it."""
    lines = [
        "| optimizer | best rate | validation, nats per byte | bits per byte | training | steps over AdamW's | 95 % t |"
        " 95 % bootstrap | per seed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, row in summary.items():
        loss, spread = np.mean(row["validation"]), np.std(row["validation"], ddof=1) if setup.seeds > 1 else math.nan
        cells = [f"{row['rate']:g}" + (" (edge)" if row["rate at the edge of the grid"] else "")]
        cells += [f"{loss:.4f} ± {spread:.4f}", f"{bits(loss):.4f}", f"{np.mean(row['train']):.4f}"]
        if "ratio" in row:
            limits = [_interval(row["t interval"]), _interval(row["bootstrap interval"])]
            signs = ["≤ " if bound and np.isfinite(r) else "" for r, bound in _pairs(row)]
            each = ", ".join(s + f"{r:.3f}" for s, r in zip(signs, row["ratios"], strict=True))
            cells += [f"{row['ratio']:.3f}", *limits, each]
        else:
            cells += ["1" if name == "adamw" else "-", "", "", ""]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    curves = {name: dict(row["curve"]) for name, row in summary.items() if "curve" in row}
    if curves:
        horizons = next(iter(curves.values()))
        lines += ["", "| final validation loss after | " + " | ".join(f"{h} steps" for h in horizons) + " |"]
        lines.append("|---|" + "--:|" * len(horizons))
        lines += [f"| {n} | " + " | ".join(f"{c[h]:.4f}" for h in horizons) + " |" for n, c in curves.items()]
    return "\n".join(lines)


def _pairs(row):
    return zip(row["ratios"], row["bounds only"], strict=True)


def _interval(limits):
    return "-" if limits is None or not np.isfinite(limits).all() else f"{limits[0]:.3f} to {limits[1]:.3f}"
