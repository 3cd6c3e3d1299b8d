"""Grids and curves."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.one_step_image.plots import image_grid, save_curves, save_grids
from jaxdiv.distillation import NoiseBins
from tests.experiments.small import random_images

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_grid_puts_images_in_rows():
    images = np.stack([np.full((2, 3, 1), value) for value in (-1.0, 0.0, 1.0, 5.0, -0.5)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (4, 6, 1)  # the fifth has no full row
    corners = [[grid[0, 0, 0], grid[0, 3, 0]], [grid[2, 0, 0], grid[2, 3, 0]]]
    np.testing.assert_allclose(corners, [[0.0, 0.5], [1.0, 1.0]])


@pytest.mark.parametrize("channels", [1, 3])
def test_grids_of_grey_and_colour(tmp_path, channels):
    images = np.repeat(random_images(100), channels, axis=-1)
    save_grids(tmp_path / "one.png", {"data": images})
    save_grids(tmp_path / "two.png", {"data": images, "student": -images})
    one, two = (plt.imread(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.shape[0] == pytest.approx(2 * one.shape[0], rel=0.01) and two.shape[1] == one.shape[1]
    assert one[..., :3].std() > 0.1
    assert plt.get_fignums() == []


@pytest.mark.parametrize("discriminator", [False, True])
@pytest.mark.parametrize("num", [1, 30])
def test_curves(tmp_path, discriminator, num):
    bins = NoiseBins(num=3)
    record = {
        "score_gap": [0.1, 0.0, 0.3], "score_gap_count": [5, 0, 2], "fake_loss": 0.5, "ess": 0.9,
        "log_ratio_quantiles": [-1.0, -0.5, 0.0, 0.5, 1.0],
    }  # fmt: skip
    if discriminator:
        record |= {"discriminator_loss": 1.3, "discriminator_accuracy": 0.6}
    records = [record | {"step": step, "split": "train"} for step in range(1, num + 1)]
    records.append({"step": num, "split": "eval", "frechet_distance": 2.0})
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in records))
    save_curves(tmp_path / "curves.png", log, bins=bins, references={"teacher": 1.5, "control": 4.0})
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)
    assert plt.get_fignums() == []
