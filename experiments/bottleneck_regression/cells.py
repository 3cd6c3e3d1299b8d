"""One cell of the comparison: a method on a set, trained, chosen by validation rows, then measured on test rows."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.bottleneck_regression.config import Config
from experiments.bottleneck_regression.curves import best_beta
from experiments.bottleneck_regression.measure import Measures, attacked_rmse, measure, pick
from experiments.bottleneck_regression.methods import METHODS
from experiments.bottleneck_regression.splits import Split
from experiments.bottleneck_regression.train import Trainer
from experiments.json_lines import read_json_lines

Cell = dict[str, Any]
Cells = dict[tuple[str, str], Cell]
NO_SETTING = ("data", "data_dir", "methods", "compressions", "directory", "resume")
"""Fields of Config on which no cell depends."""


def settings_of(config: Config) -> dict[str, Any]:
    """What a cell carries with it, so that another run can tell whether it may keep it."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in NO_SETTING}
    return json.loads(json.dumps(values))


def train_and_measure(
    config: Config,
    data: str,
    method: str,
    split: Split,
    progress: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
) -> Cell:
    """Everything the file keeps of a cell: lists ``[betas, seeds]``, and ``[epsilons, seeds]`` of the attacks.

    Epochs and betas are chosen before anything reads ``split.test``.
    """
    started = time.perf_counter()
    betas = METHODS[method].betas
    keys = jax.vmap(jax.random.key)(jax.numpy.arange(config.seed, config.seed + config.num_seeds))
    trainer = Trainer(
        method,
        width=config.width,
        std=config.noise,
        widths=config.widths,
        batch_size=config.batch_size,
        steps=config.steps,
        learning_rate=config.learning_rate,
        select=config.select,
    )
    fit = trainer.fit(split.train, split.validation, betas=betas, keys=keys, progress=progress)
    settings: dict[str, Any] = {"model": trainer.model, "widths": config.widths, "rows": config.info_rows}
    validation = measure(fit.params, split.validation, keys, **settings)
    chosen = best_beta(validation["rmse"])

    test = measure(fit.params, split.test, keys, **settings)
    attacks = attacked_rmse(
        pick(fit.params, chosen), split.test, model=trainer.model, epsilons=config.epsilons, steps=config.pgd_steps
    )
    return {
        "data": data,
        "method": method,
        "settings": settings_of(config),
        "betas": list(betas),
        "chosen": chosen.tolist(),
        "epochs": fit.epoch.tolist(),
        "scale": split.scale.tolist(),
        "validation": _plain(validation),
        "test": _plain(test),
        "attacks": _plain(attacks),
        "seconds": time.perf_counter() - started,
    }


def _plain(values: Measures) -> dict[str, list]:
    """Lists for JSON, which knows no NaN."""
    return {
        name: [[v if math.isfinite(v) else None for v in row] for row in rows.tolist()] for name, rows in values.items()
    }


def read_cells(path: Path, config: Config) -> Cells:
    """Finished cells that were made with these settings; not a last line that an interruption cut off."""
    settings = settings_of(config)
    cells = read_json_lines(path)
    return {(cell["data"], cell["method"]): cell for cell in cells if cell["settings"] == settings}
