import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdiv import data


@pytest.mark.parametrize(
    ("name", "shape", "num_train"),
    [("digits", (8, 8, 1), 1397), ("mnist", (28, 28, 1), 60000), ("fashion_mnist", (28, 28, 1), 60000),
     ("cifar10", (32, 32, 3), 50000)],
)  # fmt: skip
def test_dataset_info(name, shape, num_train):
    info = data.dataset_info(name)
    assert (info.name, info.image_shape, info.num_classes, info.num_examples["train"]) == (name, shape, 10, num_train)


@pytest.mark.parametrize(("name", "top"), [("digits", 16), ("mnist", 255), ("fashion_mnist", 255), ("cifar10", 255)])
def test_scaling_maps_the_pixel_range_onto_minus_one_to_one_and_back(name, top):
    half_range = data.dataset_info(name).half_range
    pixels = np.arange(top + 1, dtype=np.uint8)
    scaled = data.scale_images(pixels, half_range=half_range)
    assert scaled.dtype == np.float32
    assert (scaled[0], scaled[-1]) == (-1, 1)
    np.testing.assert_allclose(scaled, np.linspace(-1, 1, top + 1), atol=1e-7)
    np.testing.assert_array_equal(data.unscale_images(scaled, half_range=half_range), pixels)


def test_unscale_clips_and_takes_low_precision():
    found = data.unscale_images(np.array([-3.0, 0.5, 7.0], np.float16), half_range=127.5)
    np.testing.assert_array_equal(found, np.array([0, 191, 255], np.uint8))


def test_load_split_gives_random_access(digits_dir):
    source = data.load_split("digits", "train", data_dir=digits_dir)
    assert len(source) == 1397
    example = source[1396]
    assert set(example) == {"image", "label"}
    assert example["image"].shape == (8, 8, 1) and example["image"].dtype == np.uint8


def test_load_split_takes_slices(digits_dir):
    part = data.to_arrays(data.load_split("digits", "train[100:110]", data_dir=digits_dir))
    whole = data.to_arrays(data.load_split("digits", "train", data_dir=digits_dir))
    np.testing.assert_array_equal(part["image"], whole["image"][100:110])


def test_load_split_opens_the_newest_version(digits_dir, tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "1.0.0").symlink_to(digits_dir / "digits" / "1.0.0")
    (tmp_path / "digits" / "0.9.0").mkdir()
    (tmp_path / "digits" / "0.9.0" / "dataset_info.json").write_text("not read")
    assert len(data.load_split("digits", "test", data_dir=tmp_path)) == 400


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_missing_data_set_is_named_with_the_folder_and_the_command(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        data.load_split(name, "train", data_dir=tmp_path)
    message = str(caught.value)
    assert repr(name) in message
    assert str(tmp_path) in message
    assert f"python -m jaxdiv.data.prepare {name} --from DIR --data-dir {tmp_path}" in message
    assert list(tmp_path.iterdir()) == []


def test_another_file_format_is_named(digits_dir, tmp_path):
    import shutil

    target = tmp_path / "digits" / "1.0.0"
    shutil.copytree(digits_dir / "digits" / "1.0.0", target)
    info = target / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="is stored as tfrecord; expected array_record"):
        data.load_split("digits", "train", data_dir=tmp_path)


def test_unknown_names_are_refused(digits_dir):
    with pytest.raises(ValueError, match="name is 'imagenet'; expected one of 'digits', 'mnist'"):
        data.dataset_info("imagenet")
    with pytest.raises(ValueError, match="name is 'imagenet'"):
        data.load_split("imagenet", "train", data_dir=digits_dir)
    with pytest.raises(ValueError, match="split is 'valid'; expected one of 'train', 'test'"):
        data.load_split("digits", "valid", data_dir=digits_dir)


def test_default_data_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXDIV_DATA", str(tmp_path / "chosen"))
    assert data.default_data_dir() == tmp_path / "chosen"
    monkeypatch.delenv("JAXDIV_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.default_data_dir() == tmp_path / "cache" / "jaxdiv"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data.default_data_dir() == tmp_path / "home" / ".cache" / "jaxdiv"


def test_load_split_uses_the_default_data_dir(monkeypatch, digits_dir):
    monkeypatch.setenv("JAXDIV_DATA", str(digits_dir))
    assert len(data.load_split("digits", "test")) == 400


def test_to_arrays_keeps_the_order():
    examples = [{"image": np.full((2, 3, 1), i, np.uint8), "label": np.int64(i)} for i in range(4)]
    arrays = data.to_arrays(examples)
    assert arrays["image"].shape == (4, 2, 3, 1)
    np.testing.assert_array_equal(arrays["image"][:, 0, 0, 0], np.arange(4))
    np.testing.assert_array_equal(arrays["label"], np.arange(4))


def run_python(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result


def test_importing_loads_none_of_the_heavy_libraries():
    code = (
        "import sys, jaxdiv.data; print(sorted({'grain', 'tensorflow_datasets', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    assert run_python(code).stdout.strip() == "[]"


def test_preparing_and_reading_never_loads_tensorflow_and_prints_nothing(tmp_path):
    code = """
import sys
from jaxdiv import data
batches = data.load_batches("digits", batch_size=4, seed=0, data_dir=sys.argv[1], in_memory=False)
next(batches.iterator())
assert "grain" in sys.modules and "tensorflow_datasets" in sys.modules
print("tensorflow" in sys.modules)
"""
    result = run_python(code, tmp_path)
    assert result.stdout.strip() == "False"
    assert result.stderr == ""
    assert (Path(tmp_path) / "digits" / "1.0.0" / "features.json").is_file()


def test_the_namespace_has_what_it_names():
    assert all(hasattr(data, name) for name in data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        data.nothing  # noqa: B018
