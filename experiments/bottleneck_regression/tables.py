"""Tables: each method at its best beta, all at equal compression, and CS-IB against the others split by split."""

import numpy as np

from experiments.bottleneck_regression.cells import Cell, Cells
from experiments.bottleneck_regression.config import Config
from experiments.bottleneck_regression.curves import compression_ratio, equal_compression
from experiments.bottleneck_regression.data import UNITS
from experiments.bottleneck_regression.methods import METHODS

CAUCHY_SCHWARZ = ("cs", "cs_narrow")
MEASURES = {"information": "I(X; T)", "cs_qmi": "CS-QMI"}


def chosen_values(cell: Cell, values: np.ndarray) -> np.ndarray:
    """Of ``[betas, seeds]`` those of each seed's beta."""
    return np.asarray(values)[cell["chosen"], np.arange(len(cell["chosen"]))]


def ratios_of(cell: Cell, measure: str, part: str = "test") -> np.ndarray:
    """R ``[betas, seeds]`` by a measure; NaN for a method without noise, which keeps infinitely many nats."""
    return compression_ratio(np.array(cell[part][measure], np.float64))


def at_equal(cell: Cell, config: Config, measure: str) -> np.ndarray:
    """Test RMSE ``[compressions, seeds]``, at weights that validation rows give."""
    error, values = (np.array(cell[part]["rmse"]) for part in ("validation", "test"))
    return equal_compression(ratios_of(cell, measure, "validation"), error, values, config.compressions)


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Mean and standard deviation over seeds; empty where a seed has no value.

    >>> spread(np.array([1.0, 3.0]), 1), spread(np.array([1.0, np.nan]))
    ('2.0 ± 1.4', '')
    """
    values = np.asarray(values)
    if not np.isfinite(values).all():
        return ""
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def format_tables(cells: Cells, config: Config) -> str:
    """Markdown of the whole run."""
    present = [(data, method) for data in config.data for method in config.methods if (data, method) in cells]
    parts = [_best(cells, config, present)]
    for measure, label in MEASURES.items():
        parts += [table(cells, config, present, measure, label) for table in (_equal, _paired)]
    return "\n\n".join(part for part in parts if part)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    lines = [title, "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _best(cells, config, present):
    middle = len(config.epsilons) // 2
    attack = f"at {config.epsilons[middle]:g}"
    header = ["set", "method", "beta", "RMSE", "RMSE in units", "I(T; Y), nats", "r", "r by CS-QMI"]
    rows = []
    for data, method in present:
        cell = cells[data, method]
        test = cell["test"]
        rmse = chosen_values(cell, test["rmse"])
        betas = sorted({cell["betas"][number] for number in cell["chosen"]})
        rows.append(
            [data, METHODS[method].label, f"{betas[0]:g}" + (f" to {betas[-1]:g}" if betas[1:] else ""), spread(rmse)]
            + [f"{(rmse * cell['scale']).mean():.3g} {UNITS[data]}", spread(chosen_values(cell, test["relevance"]), 2)]
            + [spread(chosen_values(cell, ratios_of(cell, m)), 2) if len(cell["betas"]) > 1 else "" for m in MEASURES]
            + [spread(cell["attacks"][name][middle]) for name in ("fgsm", "pgd")]
        )
    over = f"test, mean ± standard deviation of {config.num_seeds} splits"
    title = f"At the beta with the least validation RMSE of each split: {over}"
    return _table(title, [*header, f"FGSM {attack}", f"PGD {attack}"], rows)


def _equal(cells, config, present, measure, label):
    rows = [
        [data, METHODS[method].label, *(spread(values) for values in at_equal(cells[data, method], config, measure))]
        for data, method in present
        if len(METHODS[method].betas) > 1
    ]
    header = ["set", "method", *(f"r = {r:g}" for r in config.compressions)]
    title = (
        f"Test RMSE at compression r (more, where that errs less), r by {label}; empty where a split does not reach it"
    )
    return _table(title, header, rows) if rows else ""


def _paired(cells, config, present, measure, label):
    rows = []
    for data, method in present:
        for ours in CAUCHY_SCHWARZ:
            if method in CAUCHY_SCHWARZ or len(METHODS[method].betas) == 1 or (data, ours) not in cells:
                continue
            first, second = (at_equal(cells[data, name], config, measure) for name in (ours, method))
            rows.append([data, METHODS[ours].label, METHODS[method].label, *map(_difference, first - second)])
    header = ["set", "method", "less", *(f"r = {r:g}" for r in config.compressions)]
    title = f"Differences of test RMSE, r by {label}: mean ± standard error over splits that both reach"
    return _table(title, header, rows) if rows else ""


def _difference(values: np.ndarray) -> str:
    """Below 0 the first errs less; the number of splits where some are missing."""
    found = values[np.isfinite(values)]
    if len(found) < 2:
        return ""
    missing = f" ({len(found)} of {len(values)})" if len(found) < len(values) else ""
    return f"{found.mean():+.3f} ± {found.std(ddof=1) / np.sqrt(len(found)):.3f}{missing}"
