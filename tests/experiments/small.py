"""Small runs of the experiment for these tests, in this process or in others."""

from pathlib import Path

import numpy as np

from benchmarks.one_step_digits import digits
from experiments.one_step_image.config import Config, StudentConfig, TeacherConfig
from experiments.one_step_image.images import Images

ARGUMENTS = {
    "--training.steps": 20, "--training.batch-size": 16, "--distill.cycles": 20, "--distill.batch-size": 16,
    "--distill.evaluations": 2, "--num-samples": 100, "--pairs": 60, "--control-steps": 10, "--classifier-steps": 60,
    "--save-every": 10, "--teacher-levels": 18,
}  # fmt: skip
"""The same as ``small_config()`` on the command line, with one sampler less."""


def small_config(*, training: dict | None = None, distill: dict | None = None, **changes) -> Config:
    """Everything as by default, but for the numbers of steps and samples."""
    sizes = {"num_samples": 100, "pairs": 60, "control_steps": 10, "classifier_steps": 60, "save_every": 10}
    return Config(
        training=TeacherConfig(**{"steps": 20, "batch_size": 16, **(training or {})}),
        distill=StudentConfig(**{"cycles": 20, "batch_size": 16, "evaluations": 2, **(distill or {})}),
        **sizes | {"teacher_levels": (18, 5)} | changes,
    )


def small_images(num: int = 200) -> Images:
    """The first of the embedded digits."""
    images = digits()
    train, test = ({name: values[:num] for name, values in split.items()} for split in (images.train, images.test))
    return images._replace(train=train, test=test)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that nothing is changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def random_images(num: int, *, seed: int = 0) -> np.ndarray:
    """``[num, 8, 8, 1]`` in [-1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, (num, 8, 8, 1)).astype(np.float32)
