"""Sampling on the device and the rows made of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speedrun import judge
from experiments.speedrun.config import Config
from experiments.speedrun.teacher import build_denoiser
from jaxdiv.data import unscale_images
from jaxdiv.metrics import FeatureStatistics, InceptionWeights, frechet_distance_from_features
from tests.experiments.speedrun.small import small_config


def config_of(**changes):
    return Config(
        **{"num_samples": 20, "curve_samples": 10, "sample_batch": 6, "teacher_levels": (2, 3), "cache": None} | changes
    )


def noise(params, z, labels):
    return params * z


def test_samples_are_a_function_of_their_number(splits):
    sample = judge.make_sampler(config_of(), noise)
    few, many = sample(0.25, 5), sample(0.25, 14)
    assert many.shape == (14, 32, 32, 3) and many.dtype == np.uint8
    np.testing.assert_array_equal(many[:5], few)
    assert len({image.tobytes() for image in many}) == 14
    first = 0.25 * jax.random.normal(jax.random.fold_in(jax.random.key(judge.SAMPLE_SEED), 0), (6, 32, 32, 3))
    np.testing.assert_array_equal(many[:6], unscale_images(np.asarray(first), half_range=127.5))
    assert abs(many.mean() - 127.5) < 2 and abs(many.std() - 0.25 * 127.5) < 1


def test_classes_are_balanced_where_there_are_classes():
    seen = []

    def labelled(params, z, labels):
        seen.append(labels)
        return z * 0 + (0 if labels is None else labels[:, None, None, None] / 127.5 - 1)

    images = judge.make_sampler(config_of(conditional=True), labelled)(0.0, 20)
    assert images[:, 0, 0, 0].tolist() == [*range(10)] * 2
    judge.make_sampler(config_of(), labelled)(0.0, 1)
    assert seen[-1] is None


def test_the_students_row_is_the_measure_of_its_samples(measure):
    config = config_of()
    sample = judge.make_sampler(config, noise)
    row, grid = judge.student_row(config, measure, sample, jnp.float32(0.4))
    images = sample(jnp.float32(0.4), 20)
    assert row.items() >= measure(images).items() and row["nfe"] == 1
    assert row["sample_seconds"] > 0 and row["measure_seconds"] > 0
    np.testing.assert_array_equal(grid, images)


def test_distances_are_those_of_the_row(measure, splits):
    images = splits[1].images
    row = measure(images)
    assert measure.distances(images) == {"fd_resnet8": row["fd_resnet8"]}
    with pytest.raises(ValueError, match=r"ImageMeasure.distances: samples .* expected uint8"):
        measure.distances(images.astype(np.float32))


def test_the_teachers_rows_are_its_standard_and_its_best_count_and_are_kept(measure, tmp_path, monkeypatch):
    config = dataclasses.replace(small_config(None), cache=tmp_path, num_samples=12, curve_samples=6, sample_batch=6)
    denoiser = build_denoiser(config)
    rows, grids = judge.teacher_rows(config, measure, denoiser, denoiser.params)
    assert list(rows)[0] == "teacher, 3 evaluations" and list(grids) == list(rows)
    assert all(row["nfe"] in (3, 5) and row["num_samples"] == 12 for row in rows.values())
    monkeypatch.setattr(judge, "make_sampler", lambda *_: None)  # nothing is sampled again
    again, same = judge.teacher_rows(config, measure, denoiser, denoiser.params)
    assert again == rows and all(np.array_equal(same[name], grids[name]) for name in rows)
    with pytest.raises(TypeError):  # other weights are another teacher
        judge.teacher_rows(config, measure, denoiser, build_denoiser(dataclasses.replace(config, seed=1)).params)


def test_no_levels_no_teacher(measure):
    assert judge.teacher_rows(config_of(teacher_levels=()), measure, None, None) == ({}, {})


def test_an_inception_network_adds_its_number_under_its_own_name(splits, tmp_path, monkeypatch):
    seen = []

    def colours(weights, images):
        seen.append(len(images))
        return FeatureStatistics.empty(3).update(images.mean((1, 2)))

    monkeypatch.setattr(judge.metrics, "load_inception", lambda path: InceptionWeights({}, "0" * 64))
    monkeypatch.setattr(judge.metrics, "inception_statistics", colours)
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    train, test = splits
    distances = [judge.make_fid(config_of(inception=path, cache=tmp_path), train)(test.images) for _ in range(2)]
    expected = frechet_distance_from_features(test.images.mean((1, 2)), train.images.mean((1, 2)))
    assert distances[0] == distances[1] == {"FD-Inception (unpinned weights)": pytest.approx(expected, rel=1e-5)}
    assert seen == [60, 40, 40]  # the training set once
    assert judge.make_fid(config_of(), train)(test.images) == {}


def test_the_fixed_measure_reads_both_networks(tmp_path, splits):
    with pytest.raises(FileNotFoundError, match="cifar10_resnet56.npz"):
        judge.make_measure(Config(data_dir=tmp_path), *splits)
