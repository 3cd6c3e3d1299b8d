"""Sets in the plane to draw points from, centred on the origin, 1 to 1.25 from it (the root mean square distance)."""

from collections.abc import Callable

import numpy as np


def moons(rng: np.random.Generator, num: int) -> np.ndarray:
    """Two half circles that interlock."""
    angle, upper = rng.uniform(0.0, np.pi, num), rng.random(num) < 0.5
    x = np.where(upper, np.cos(angle) - 0.5, 0.5 - np.cos(angle))
    y = np.where(upper, np.sin(angle) - 0.25, 0.25 - np.sin(angle))
    return np.stack([x, y], axis=-1) + 0.05 * rng.normal(size=(num, 2))


def s_curve(rng: np.random.Generator, num: int) -> np.ndarray:
    """Two three-quarter circles that make an S."""
    angle = 1.5 * np.pi * rng.uniform(-1.0, 1.0, num)
    points = np.stack([np.sin(angle), np.sign(angle) * (np.cos(angle) - 1.0)], axis=-1)
    return 0.8 * points + 0.05 * rng.normal(size=(num, 2))


def ring(rng: np.random.Generator, num: int) -> np.ndarray:
    """A circle."""
    angle = rng.uniform(0.0, 2.0 * np.pi, num)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1) + 0.05 * rng.normal(size=(num, 2))


def eight_gaussians(rng: np.random.Generator, num: int) -> np.ndarray:
    """Eight small clusters on a circle."""
    angle = rng.integers(0, 8, num) * np.pi / 4.0
    return 1.2 * np.stack([np.cos(angle), np.sin(angle)], axis=-1) + 0.1 * rng.normal(size=(num, 2))


def gaussian(rng: np.random.Generator, num: int) -> np.ndarray:
    """A round normal cloud."""
    return 0.7 * rng.normal(size=(num, 2))


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    shape.__name__: shape for shape in (moons, s_curve, ring, eight_gaussians, gaussian)
}
TARGET_SHIFT = np.array([3.0, 0.0])


def draw(source: str, target: str, num: int, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``num`` points of each set ``[num, 2]`` float32, a pure function of the seed."""
    rng = np.random.default_rng(seed)
    x, y = SHAPES[source](rng, num), SHAPES[target](rng, num) + TARGET_SHIFT
    return x.astype(np.float32), y.astype(np.float32)
