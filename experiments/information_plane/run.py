"""Follows the layers of networks through the information plane, by estimators that disagree.

    python -m experiments.information_plane.run                 # twelve bits, tanh and ReLU: 3 or 4 minutes on one core
    python -m experiments.information_plane.run --task digits   # convolutions, by lossy compression: 90 seconds
    python -m experiments.information_plane.run --help          # every setting

The bits are the task of Shwartz-Ziv and Tishby (arXiv:1703.00810) with labels of our own, or those of --labels-file.
Layers are measured by bins, by pairwise bounds and by neighbours. Bins show compression with tanh and with ReLU; once
the noise has a fixed size, that of ReLU is gone, which is the critique of Saxe et al. (2018). The digits follow Butakov
et al. (arXiv:2305.08013): noise in the layers, codes of few dimensions. A line of JSON with the measures in nats is
written for every snapshot of a network; tables and pictures are in bits.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from experiments.command_line import run_command
from experiments.information_plane.autoencoder import fit_autoencoder
from experiments.information_plane.config import Config
from experiments.information_plane.measure import (
    BITS_ESTIMATORS,
    DIGITS_ESTIMATORS,
    MeasureFn,
    label_entropy,
    make_bits_measure,
    make_digits_measure,
)
from experiments.information_plane.models import BIT_WIDTHS, Model, convolutional, perceptron
from experiments.information_plane.plots import save_curves, save_planes
from experiments.information_plane.tables import Record, format_tables, in_bits
from experiments.information_plane.task import icosahedral_task, read_task
from experiments.information_plane.training import Snapshot, snapshot_epochs, train_networks
from jaxdiv.checks import fail

TABLE, PLANES, CURVES = "table.md", "planes.png", "curves.png"


class Experiment(NamedTuple):
    """What the two tasks have in common."""

    x: np.ndarray
    y: np.ndarray
    model_fn: Callable[[str], Model]
    measure_fn: MeasureFn
    estimators: dict[str, str]
    panels: dict[str, str]
    """Estimators of the pictures, and their titles."""
    note: str
    """One line for the table."""


def build_experiment(config: Config) -> Experiment:
    """Data, network and estimators of the task."""
    if config.task == "bits":
        task = icosahedral_task() if config.labels_file is None else read_task(config.labels_file)
        measure_fn = make_bits_measure(
            task.labels, bins=config.bins, variance=config.variance, k=config.k, widest=max(BIT_WIDTHS)
        )
        panels = {
            "bins": f"{config.bins} bins on [-1, 1]",
            "range_bins": f"{config.bins} bins on its range",
            "kde": f"pairwise upper bounds, variance {config.variance:g}",
            "neighbors": f"neighbours, variance {config.variance:g}",
        }
        note = f"{config.bins} bins; noise of variance {config.variance:g} is added to measure; k = {config.k}."
        return Experiment(task.patterns, task.labels, perceptron, measure_fn, BITS_ESTIMATORS, panels, note)

    from jaxdiv.data.digits import load_digits  # with the tools that write data sets: seconds, and the bits need none

    images, labels = load_digits()
    x = (images / 8.0 - 1.0).astype(np.float32)
    encode_fn, note = None, f"noise {config.noise:g}; {config.code_dims} components of images and layers"
    if config.encoder == "autoencoder":
        key = jax.random.fold_in(jax.random.key(config.seed), 2)
        encode_fn, explained = fit_autoencoder(key, x.reshape(len(x), -1), code_dims=config.code_dims)
        note = f"noise {config.noise:g}; {config.code_dims} components of layers, codes of as many dimensions that "
        note += f"explain {explained:.2f} of the images' variance"
    measure_fn = make_digits_measure(x, labels, code_dims=config.code_dims, k=config.k, encode_fn=encode_fn)
    panels = {"latent": f"neighbours of {config.code_dims}-dimensional codes"}
    return Experiment(
        x,
        labels,
        lambda activation: convolutional(activation, noise=config.noise),
        measure_fn,
        DIGITS_ESTIMATORS,
        panels,
        f"{note}; k = {config.k}.",
    )


def measure_snapshot(snapshot: Snapshot, measure_fn: MeasureFn, *, activation: str, seeds: range, last: bool):
    """The records of one snapshot, a network after the other."""
    for row, seed in enumerate(seeds):
        key = jax.random.fold_in(jax.random.key(seed), snapshot.epoch)
        information = [
            measure_fn(layer[row], jax.random.fold_in(key, number), last)
            for number, layer in enumerate(snapshot.layers)
        ]
        scalars = {name: float(getattr(snapshot, name)[row]) for name in ("loss", "train_accuracy", "test_accuracy")}
        yield {"activation": activation, "seed": seed, "epoch": snapshot.epoch, **scalars, "information": information}


def run(config: Config) -> list[Record]:
    """All records; also writes them, tables and pictures into ``config.run_directory``."""
    directory, started = config.run_directory, time.perf_counter()
    file = directory / "snapshots.jsonl"
    if file.exists() and not config.overwrite:
        raise fail("run", "directory", f"{directory} holds an earlier run", "--overwrite, or another --directory")
    experiment = build_experiment(config)
    directory.mkdir(parents=True, exist_ok=True)
    for name in (TABLE, PLANES, CURVES):  # of the run that is replaced: they would lie beside other snapshots
        (directory / name).unlink(missing_ok=True)
    (directory / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1, default=str) + "\n")
    epochs = snapshot_epochs(config.chosen_epochs, config.chosen_snapshots)
    seeds = range(config.seed, config.seed + config.num_seeds)
    records: list[Record] = []
    total = len(config.activations) * len(epochs) * len(seeds)
    with file.open("w", encoding="utf-8") as lines, tqdm(total=total, unit="network", dynamic_ncols=True) as bar:
        for activation in config.activations:
            snapshots = train_networks(
                experiment.model_fn(activation),
                experiment.x,
                experiment.y,
                seeds=seeds,
                epochs=epochs,
                learning_rate=config.learning_rate,
                batch_size=config.chosen_batch_size,
            )
            for snapshot in snapshots:
                bar.set_description(f"{activation}, epoch {snapshot.epoch}")
                last = snapshot.epoch == epochs[-1]
                for record in measure_snapshot(
                    snapshot, experiment.measure_fn, activation=activation, seeds=seeds, last=last
                ):
                    records.append(record)
                    lines.write(json.dumps(record) + "\n")
                    lines.flush()
                    bar.update()

    layers = experiment.model_fn(config.activations[0]).layer_names
    entropy = label_entropy(experiment.y)
    tables = format_tables(records, layers=layers, estimators=experiment.estimators)
    tables += f"\n\nH(Y) = {float(in_bits(entropy)):.4f} bits; seeds: {len(seeds)}, mean ± deviation; {experiment.note}"
    legend = "\n".join(f"- {name}: {what}" for name, what in experiment.estimators.items())
    (directory / TABLE).write_text(f"{tables}\n\n{legend}\n", encoding="utf-8")
    save_planes(directory / PLANES, records, layers=layers, panels=experiment.panels, entropy=entropy)
    save_curves(directory / CURVES, records, layers=layers, panels=experiment.panels)
    print(tables)
    print(f"\nTables, records and pictures are in {directory} ({time.perf_counter() - started:.0f} s).")
    return records


def main() -> None:
    """The command line."""
    run_command(Config, run, description=__doc__, interrupted="the directory has the snapshots so far")


if __name__ == "__main__":
    main()
