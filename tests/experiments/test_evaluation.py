"""The judge and the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.one_step_image.evaluation import COLUMNS, Judge, fixed_latents, format_table, timed_samples
from tests.experiments.small import random_images


@pytest.fixture(scope="module")
def judge(images):
    return Judge(images, num_steps=60)


def test_the_images_themselves_score_best(judge, images):
    train, heldout, noise = judge.row(images.scaled("train")), judge.heldout_row(), judge.row(random_images(200))
    distances = [row["frechet_distance"] for row in (train, heldout, noise)]
    assert distances[0] < 1e-3 < distances[1] < distances[2]
    assert train["median_nearest_neighbor_distance"] == 0 and noise["median_nearest_neighbor_distance"] > 2
    assert train["precision"] == train["recall"] == 1.0 and noise["precision"] < 0.1
    assert train["missing"] == len(train["missing_classes"])


def test_the_judge_is_the_same_every_time(judge, images):
    again = Judge(images, num_steps=60)
    assert again.row(random_images(100)) == judge.row(random_images(100))


def test_heldout_loss_is_that_of_the_denoiser(judge, denoiser):
    """A denoiser that always answers 0 has the loss E[weight |x|^2], known from the pixels and the noise law."""
    answers_zero = denoiser._replace(denoise_fn=lambda params, x, sigma, labels: jnp.zeros_like(x))
    pixels = np.mean(np.square(judge._test))
    # E[1 / sigma^2 + 1 / sigma_data^2] with ln sigma ~ N(-1.2, 1.2^2)
    weight = np.exp(2 * 1.2 + 2 * 1.2**2) + 1 / denoiser.sigma_data**2
    loss = judge.heldout_loss(answers_zero, {})
    assert 0.3 * pixels * weight < loss < 3 * pixels * weight  # heavy tails: few draws of exp(2.4 N)
    assert judge.heldout_loss(denoiser, denoiser.params) < loss
    assert judge.heldout_loss(answers_zero, {}) == loss


def test_every_row_sees_the_same_latents():
    np.testing.assert_array_equal(fixed_latents(5, (2, 2, 1)), fixed_latents(5, (2, 2, 1)))
    z = fixed_latents(4000, (2, 2, 1))
    assert abs(float(z.mean())) < 0.03 and float(z.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("num", [3, 1000, 1500])
def test_timed_samples_are_all_samples(num):
    sizes = set()

    def sample(params, z):
        sizes.add(len(z))
        return params * z

    z = jnp.arange(float(num))
    samples, speed = timed_samples(jax.jit(sample), 2.0, z)
    np.testing.assert_array_equal(samples, 2 * z)
    assert speed > 0 and sizes == {3: {3}, 1000: {1000}, 1500: {1000, 500}}[num]


def test_the_table_has_every_column_in_line():
    rows = {
        "held-out": {"frechet_distance": 1.23456, "missing": 0},
        "student": dict.fromkeys(COLUMNS, 1234.5) | {"nfe": 1, "precision": 0.5},
    }
    header, rule, heldout, student = format_table(rows).split("\n")
    assert len({len(line) for line in (header, rule, heldout, student)}) == 1
    assert [cell.strip() for cell in header.split("|")[2:-1]] == list(COLUMNS.values())
    cells = [cell.strip() for cell in heldout.split("|")[1:-1]]
    assert cells[:4] == ["held-out", "-", "1.235", "-"] and cells[6] == "0"
    assert [cell.strip() for cell in student.split("|")[1:5]] == ["student", "1", "1,234", "0.500"]
