"""The experiment's two trainings alone, for the kill tests: ``python -m tests.experiments.killable --directory DIR``.

Teacher and student as ``run`` trains them, on few images and with no evaluation, so that a process starts fast.
"""

import argparse
from pathlib import Path

import jax

from experiments.one_step_image.run import make_pairs
from experiments.one_step_image.student import distil
from experiments.one_step_image.teacher import train_teacher
from tests.experiments.small import small_config, small_images


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=1)
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    # An adversarial term, so that all of the state matters; calls of one length, so that each step compiles once.
    config = small_config(
        training={"steps": 100}, distill={"cycles": 40, "real": "teacher"}, divergence="kl", save_every=10
    )  # fmt: skip
    images = small_images()
    denoiser, teacher = train_teacher(config, images, arguments.directory / "teacher")
    pairs = make_pairs(config, denoiser, teacher)
    distil(config, images, denoiser, teacher, pairs, arguments.directory / "student")


if __name__ == "__main__":
    main()
