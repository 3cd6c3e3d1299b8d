"""The pictures."""

import matplotlib.pyplot as plt
import numpy as np

from experiments.speedrun.plots import SHOWN, save_curves, save_strips


def test_a_strip_per_name(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (SHOWN + 5, 32, 32, 3)).astype(np.uint8)
    for count in (1, 3):
        save_strips(tmp_path / f"{count}.png", {f"minute {i}": images for i in range(count)})
    one, three = (plt.imread(tmp_path / f"{count}.png") for count in (1, 3))
    assert three.shape[0] > 2 * one.shape[0] and one.std() > 0.05


def test_a_line_per_run_and_per_reference(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plt.Axes, "semilogy", lambda self, x, y, *args, **kwargs: drawn.append((x, y, kwargs["label"])))
    lines = []
    monkeypatch.setattr(plt.Axes, "axhline", lambda self, y, **kwargs: lines.append((y, kwargs["label"])))
    monkeypatch.setattr(plt.Axes, "legend", lambda self, **kwargs: None)

    def result(seed, curve):
        return {
            "facts": {"change": "SiD", "seed": seed},
            "rows": {"test set": {"fd_a": 0.05}, "student": {"fd_a": 2.0, "nfe": 1}},
            "curve": curve,
        }

    save_curves(
        tmp_path / "curve.png",
        [result(0, [{"minutes": 1.0, "fd_a": 9.0}, {"minutes": 2.0, "fd_a": 4.0}]), result(1, [])],
    )
    assert drawn == [((1.0, 2.0), (9.0, 4.0), "SiD, seed 0")]
    assert lines == [(0.05, "test set")]
