"""Run as a program with eight host devices: ten cycles of the experiment's student on as many of them as asked."""

import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from experiments.one_step_image.models import build_denoiser
from experiments.one_step_image.student import distil
from jaxdiv import training
from jaxdiv.training import data_mesh, read_metrics
from tests.experiments.small import small_config, small_images


def ten_cycles(num_devices: int) -> dict[str, np.ndarray]:
    config, images = small_config(distill={"cycles": 10}), small_images()
    denoiser = build_denoiser(config, images.shape, images.sigma_data, seed=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(training, "data_mesh", lambda: data_mesh(num_devices)),
    ):
        _, state = distil(config, images, denoiser, denoiser.params, None, Path(folder))
        record = read_metrics(Path(folder) / "metrics.jsonl")[-1]
    trees = {"student": state.student, "ema": state.student_ema, "fake": state.fake, "head": state.head}
    flat = {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for name, tree in trees.items()}
    names = ("student_loss", "fake_loss", "gan_loss", "discriminator_loss", "sample_std", "ess")
    mesh = jax.tree.leaves(state.student)[0].sharding.mesh
    return flat | {"losses": np.array([record[name] for name in names]), "devices": np.array(mesh.size)}


if __name__ == "__main__":
    runs = {num: ten_cycles(num) for num in map(int, sys.argv[2:])}
    np.savez(sys.argv[1], **{f"{name}_{num}": value for num, run in runs.items() for name, value in run.items()})
