import json

import numpy as np
import pytest

from jaxdiv import data
from jaxdiv.data import builders

NAMES = ("no", "yes")


def make_builder(folder, value=7, count=5, shape=(4, 6, 3)):
    images = np.full((count, *shape), value, np.uint8)
    splits = {"train": (images, np.arange(count) % 2), "test": (images[:2], np.array([1, 0]))}
    return builders.ArrayBuilder(
        name="tiny", version="1.2.3", splits=splits, label_names=NAMES, description="five images", data_dir=folder
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_what_is_read(tmp_path, channels):
    import tensorflow_datasets as tfds

    images = np.random.default_rng(0).integers(0, 256, (9, 4, 6, channels)).astype(np.uint8)
    labels = np.arange(9) % 2
    directory = builders.publish(
        lambda folder: builders.ArrayBuilder(
            name="tiny",
            version="1.0.0",
            splits={"train": (images, labels)},
            label_names=NAMES,
            description="noise",
            data_dir=folder,
        ),
        tmp_path,
    )
    assert directory == tmp_path / "tiny" / "1.0.0"
    builder = tfds.builder_from_directory(directory)
    assert builder.info.features["label"].names == list(NAMES)
    arrays = data.to_arrays(builder.as_data_source("train"))
    order = [np.flatnonzero((images == image).all((1, 2, 3))).item() for image in arrays["image"]]
    assert sorted(order) == list(range(9))
    np.testing.assert_array_equal(arrays["label"], labels[order])


def test_records_are_keyed_by_position():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    found = list(builders.records(images, np.array([1, 0])))
    assert [key for key, _ in found] == [0, 1]
    assert [record["label"] for _, record in found] == [1, 0]
    np.testing.assert_array_equal(np.asarray(found[1][1]["image"]), images[1, ..., 0])


def test_publish_keeps_the_first_directory_and_cleans_up(tmp_path):
    first = builders.publish(lambda folder: make_builder(folder, count=5), tmp_path)
    second = builders.publish(lambda folder: make_builder(folder, count=4), tmp_path)
    assert first == second
    splits = json.loads((first / "dataset_info.json").read_text())["splits"]
    assert {split["name"]: split["shardLengths"] for split in splits} == {"train": ["5"], "test": ["2"]}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_publish_says_nothing(tmp_path, capsys):
    builders.publish(make_builder, tmp_path)
    assert capsys.readouterr().out == ""


def test_a_failure_while_writing_leaves_no_directory(tmp_path):
    def broken(folder):
        builder = make_builder(folder)
        builder._splits["test"] = (builder._splits["test"][0], np.array([1, 2]))
        return builder

    with pytest.raises(ValueError, match="2"):
        builders.publish(broken, tmp_path)
    assert list(tmp_path.glob("tiny/*")) == []


def test_publish_reports_a_target_that_cannot_be_replaced(tmp_path):
    blocked = tmp_path / "tiny" / "1.2.3"
    blocked.mkdir(parents=True)
    (blocked / "something else").touch()
    with pytest.raises(OSError, match=r"1\.2\.3"):
        builders.publish(make_builder, tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [((3, 4, 6), (3,), "images has shape"), ((3, 4, 6, 1), (2,), "labels has shape")],
)
def test_arrays_of_the_wrong_shape_are_refused(tmp_path, images, labels, match):
    splits = {"train": (np.zeros(images, np.uint8), np.zeros(labels, int))}
    with pytest.raises(ValueError, match=match):
        builders.ArrayBuilder(
            name="tiny", version="1.0.0", splits=splits, label_names=NAMES, description="", data_dir=tmp_path
        )
