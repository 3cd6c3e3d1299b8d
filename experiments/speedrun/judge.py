"""Samples on the device, and the rows that the fixed measure makes of them."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.one_step_image.models import Denoiser
from experiments.one_step_image.student import digest as params_digest
from experiments.speedrun.config import Config
from experiments.speedrun.pixels import Pixels, balanced_labels
from jaxdiv import diffusion, metrics
from jaxdiv.distillation import State
from jaxdiv.metrics import FeatureStatistics, ImageMeasure
from jaxdiv.metrics.array_cache import cached_arrays, digest
from jaxdiv.typing import Array, PyTree

SAMPLE_SEED = 1234
GRID = 100

Sampler = Callable[[PyTree, int], np.ndarray]
"""``(params, num) -> uint8 images``."""


def make_measure(config: Config, train: Pixels, test: Pixels) -> ImageMeasure:
    """The fixed measure with the networks of ``data_dir/weights``."""
    weights = config.data_dir / "weights"
    small = jax.default_backend() == "cpu"  # small batches stay in a processor's cache
    return metrics.make_image_measure(
        train.images,
        train.labels,
        test.images,
        resnet_path=weights / "cifar10_resnet56.npz",
        mobilenet_path=weights / "mobilenet_v2_imagenet_dequant.npz",
        cache=config.cache,
        resnet_batch=100 if small else 1000,
        mobilenet_batch=10 if small else 250,
    )


def make_fid(config: Config, train: Pixels) -> Callable[[np.ndarray], dict[str, float]]:
    """``images -> {label: distance}`` to the training set with the Inception of ``config.inception``, or nothing."""
    if config.inception is None:
        return lambda images: {}
    weights = metrics.load_inception(config.inception)

    def compute() -> dict[str, np.ndarray]:
        statistics = metrics.inception_statistics(weights, train.images)
        return {"mean": statistics.mean, "scatter": statistics.scatter}

    arrays = cached_arrays(config.cache, f"inception-{digest(config.inception, train.images)[:24]}", compute)
    reference = FeatureStatistics(len(train.images), arrays["mean"], arrays["scatter"])

    def distance(images: np.ndarray) -> dict[str, float]:
        result = metrics.fid(metrics.inception_statistics(weights, images), reference, weights)
        return {result.label: result.value}

    return distance


def make_sampler(config: Config, generate: Callable[[PyTree, Array, Array | None], Array]) -> Sampler:
    """Samples from ``generate(params, z, labels)``: latents and labels by sample number."""
    size = config.sample_batch

    @jax.jit
    def chunk(params: PyTree, number: Array) -> Array:
        z = jax.random.normal(jax.random.fold_in(jax.random.key(SAMPLE_SEED), number), (size, 32, 32, 3))
        labels = balanced_labels(number * size, size) if config.conditional else None
        return metrics.to_uint8(generate(params, z, labels))

    def sample(params: PyTree, num: int) -> np.ndarray:
        chunks = [chunk(params, jnp.int32(i)) for i in range(-(-num // size))]
        return np.concatenate([np.asarray(images) for images in chunks])[:num]

    return sample


def student_row(
    config: Config,
    measure: ImageMeasure,
    sample: Sampler,
    params: PyTree,
    fid: Callable[[np.ndarray], dict[str, float]] = lambda images: {},
) -> tuple[dict[str, Any], np.ndarray]:
    """The final row of a student, with the seconds that sampling and measuring took, and the first samples."""
    sample(params, 1)  # compiles
    start = time.perf_counter()
    images = sample(params, config.num_samples)
    sampled = time.perf_counter()
    row = measure(images)
    seconds = {"sample_seconds": sampled - start, "measure_seconds": time.perf_counter() - sampled}
    return {"nfe": 1} | row | fid(images) | seconds, images[:GRID]


def teacher_rows(
    config: Config, measure: ImageMeasure, denoiser: Denoiser, teacher: PyTree
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """The teacher's rows at its standard count and at its best one, and samples of each.

    Every part is kept in ``config.cache``, under all that it depends on but the device, as soon as it is there.
    """
    if not config.teacher_levels:
        return {}, {}

    def sampler(num_levels: int) -> Sampler:
        levels = diffusion.karras_noise_levels(num_levels)

        def generate(params: PyTree, z: Array, labels: Array | None) -> Array:
            return diffusion.heun_sample(
                lambda x, sigma: denoiser.denoise_fn(params, x, sigma, labels), z, sigmas=levels
            )

        return make_sampler(config, generate)

    teacher_digest = params_digest(teacher)
    samplers = {num_levels: sampler(num_levels) for num_levels in config.teacher_levels}

    def kept(
        kind: str, num_levels: int, num: int, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        depends_on = (num_levels, num, config.sample_batch, config.conditional)
        return cached_arrays(config.cache, f"{kind}-{digest(teacher_digest, measure.digest, depends_on)[:24]}", compute)

    def whole(num_levels: int) -> dict[str, np.ndarray]:
        images = samplers[num_levels](teacher, config.num_samples)
        row = {"nfe": 2 * num_levels - 1} | measure(images)
        return {"row": np.array(json.dumps(row)), "grid": images[:GRID]}

    def trial(num_levels: int) -> dict[str, np.ndarray]:
        distances = measure.distances(samplers[num_levels](teacher, config.curve_samples))
        return {"distance": np.array(next(iter(distances.values())))}

    tried = {n: float(kept("trial", n, config.curve_samples, partial(trial, n))["distance"]) for n in samplers}
    rows, grids = {}, {}
    for num_levels in dict.fromkeys((config.teacher_levels[0], min(tried, key=tried.__getitem__))):
        arrays = kept("teacher", num_levels, config.num_samples, partial(whole, num_levels))
        name = f"teacher, {2 * num_levels - 1} evaluations"
        rows[name], grids[name] = json.loads(str(arrays["row"])), arrays["grid"]
    return rows, grids


def grid_path(folder: Path, step: int) -> Path:
    """Where a point of the curve keeps its first samples."""
    return folder / f"step_{step:07d}.npy"


def make_curve(
    config: Config, measure: ImageMeasure, sample: Sampler, folder: Path
) -> Callable[[State, int], dict[str, Any]]:
    """``(state, step) -> distances`` of ``curve_samples``; the first samples of each point are kept as a file."""
    folder.mkdir(parents=True, exist_ok=True)

    def evaluate(state: State, step: int) -> dict[str, Any]:
        images = sample(state.student_ema, config.curve_samples)
        np.save(grid_path(folder, step), images[:GRID])
        return measure.distances(images)

    return evaluate
