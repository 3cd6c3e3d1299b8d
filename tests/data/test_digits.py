import multiprocessing

import numpy as np
import pytest
from sklearn import datasets

from jaxdiv import data
from jaxdiv.data import digits


@pytest.fixture(scope="module")
def splits(digits_dir):
    return {name: data.to_arrays(data.load_split("digits", name, data_dir=digits_dir)) for name in ("train", "test")}


def rows_with_label(arrays):
    flat = arrays["image"].reshape(len(arrays["image"]), -1)
    return sorted(map(tuple, np.column_stack([flat, arrays["label"]]).tolist()))


def test_sizes_dtypes_and_range(splits):
    for name, size in (("train", 1397), ("test", 400)):
        assert splits[name]["image"].shape == (size, 8, 8, 1)
        assert splits[name]["image"].dtype == np.uint8
        assert splits[name]["label"].dtype == np.int32
        assert (splits[name]["image"].min(), splits[name]["image"].max()) == (0, 16)


def test_the_splits_are_disjoint_and_together_the_whole_set(splits):
    original = datasets.load_digits()
    whole = {"image": original.images.astype(np.uint8), "label": original.target}
    # No two of the 1797 images are equal, so equal multisets of this size also mean disjoint splits.
    assert len({row[:-1] for row in rows_with_label(whole)}) == 1797
    assert sorted(rows_with_label(splits["train"]) + rows_with_label(splits["test"])) == rows_with_label(whole)


def test_every_class_is_in_both_splits(splits):
    assert np.bincount(splits["train"]["label"]).min() > 100
    assert np.bincount(splits["test"]["label"]).min() > 25


def test_preparing_elsewhere_gives_the_same_records_in_the_same_order(splits, tmp_path):
    again = data.to_arrays(data.load_split("digits", "train", data_dir=tmp_path))
    np.testing.assert_array_equal(again["image"], splits["train"]["image"])
    np.testing.assert_array_equal(again["label"], splits["train"]["label"])


def test_load_digits_keeps_scikit_learns_order():
    images, labels = digits.load_digits()
    assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels[:10], np.arange(10))


def test_prepare_digits_leaves_what_is_there(digits_dir):
    info = digits_dir / "digits" / "1.0.0" / "dataset_info.json"
    before = info.stat().st_mtime_ns
    assert data.prepare_digits(digits_dir) == info.parent
    assert info.stat().st_mtime_ns == before


def test_processes_that_prepare_at_once_all_get_the_data(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(data.prepare_digits, [tmp_path] * 2)
    assert found == [tmp_path / "digits" / "1.0.0"] * 2
    assert len(data.load_split("digits", "test", data_dir=tmp_path)) == 400
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_builder_is_a_registered_tensorflow_datasets_builder(digits_dir):
    import tensorflow_datasets as tfds

    assert issubclass(data.Digits, tfds.core.GeneratorBasedBuilder)
    assert len(tfds.data_source("digits", split="test", data_dir=digits_dir)) == 400
