import subprocess
import sys

import numpy as np
import pytest

from jaxdiv import data
from jaxdiv.data import prepare
from tests.data import files


def rows(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.fixture
def cifar10(tmp_path):
    source = tmp_path / "from"
    source.mkdir()
    shards = {name: files.random_cifar10(2, seed) for seed, name in enumerate(("train0", "train1", "test"))}
    files.write_cifar10(source, shards)
    return source, tmp_path / "data", shards


def test_cifar10_comes_back_as_it_was(cifar10):
    source, data_dir, shards = cifar10
    directory = data.prepare_dataset("cifar10", source_dir=source, data_dir=data_dir)
    assert directory == data_dir / "cifar10" / "3.0.2"
    for split, names in (("train", ("train0", "train1")), ("test", ("test",))):
        arrays = data.to_arrays(data.load_split("cifar10", split, data_dir=data_dir))
        expected = sorted(sum((rows(*shards[name]) for name in names), []))
        assert rows(arrays["image"], arrays["label"]) == expected
    batch = data.load_batches("cifar10", batch_size=2, seed=0, data_dir=data_dir, flip=True).at(0)
    assert batch["image"].shape == (2, 32, 32, 3)


def test_tensorflow_datasets_own_loader_opens_it(cifar10):
    import tensorflow_datasets as tfds

    source, data_dir, _ = cifar10
    data.prepare_dataset("cifar10", source_dir=source, data_dir=data_dir, shards=["train0"])
    assert len(tfds.data_source("cifar10", split="train", data_dir=data_dir)) == 2


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_data_sets_come_back_as_they_were(tmp_path, name):
    rng = np.random.default_rng(0)
    splits = {
        p: (rng.integers(0, 256, (n, 28, 28)).astype(np.uint8), np.arange(n)) for p, n in (("train", 5), ("t10k", 3))
    }
    files.write_idx_dataset(tmp_path, splits)
    data.prepare_dataset(name, source_dir=tmp_path, data_dir=tmp_path / "data")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = data.to_arrays(data.load_split(name, split, data_dir=tmp_path / "data"))
        assert arrays["image"].shape[1:] == (28, 28, 1)
        assert rows(arrays["image"], arrays["label"]) == rows(*splits[prefix])


def test_digits_need_no_files(digits_dir, tmp_path):
    data.prepare_dataset("digits", data_dir=tmp_path)
    ours, theirs = (data.load_split("digits", "test", data_dir=folder)[3]["image"] for folder in (digits_dir, tmp_path))
    np.testing.assert_array_equal(ours, theirs)


def test_a_directory_that_is_there_is_not_written_over(digits_dir):
    with pytest.raises(ValueError, match=r"1\.0\.0 exists; remove it to prepare digits again"):
        data.prepare_dataset("digits", data_dir=digits_dir)


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("imagenet", {}, "name is 'imagenet'"),
        ("cifar10", {}, "source_dir is None; expected the folder of cifar10's original files"),
        ("mnist", {"shards": ["train0"]}, "only cifar10 comes in shards"),
    ],
)
def test_bad_arguments_are_named(tmp_path, name, settings, match):
    with pytest.raises(ValueError, match=match):
        data.prepare_dataset(name, data_dir=tmp_path, **settings)


@pytest.mark.parametrize(("side", "label"), [(27, 3), (28, 10)])
def test_another_data_set_is_refused(tmp_path, side, label):
    arrays = (np.zeros((2, side, side)), np.full(2, label))
    files.write_idx_dataset(tmp_path, {"train": arrays, "t10k": arrays})
    with pytest.raises(ValueError, match=r"images of shape \(28, 28, 1\) and labels below 10"):
        data.prepare_dataset("mnist", source_dir=tmp_path, data_dir=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_command_prepares(cifar10, capsys):
    source, data_dir, _ = cifar10
    prepare.main(["cifar10", "--from", str(source), "--data-dir", str(data_dir), "--shards", "train1", "test"])
    assert capsys.readouterr().out == f"cifar10 is in {data_dir / 'cifar10' / '3.0.2'}\n"
    assert len(data.load_split("cifar10", "train", data_dir=data_dir)) == 2


def test_the_command_refuses_a_damaged_shard_in_one_line(cifar10, capsys):
    source, data_dir, _ = cifar10
    (source / "train1.xz").write_bytes(b"no")
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["cifar10", "--from", str(source), "--data-dir", str(data_dir)])
    assert stopped.value.code == 2
    assert "train1.xz is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert not data_dir.exists()


def test_it_runs_as_a_module_without_tensorflow(cifar10):
    source, data_dir, _ = cifar10
    code = (
        "import runpy, sys; sys.argv[0] = 'prepare'; runpy.run_module('jaxdiv.data.prepare', run_name='__main__');"
        "assert 'tensorflow' not in sys.modules"
    )
    arguments = ["cifar10", "--from", source, "--data-dir", data_dir, "--shards", "test"]
    result = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(data.load_split("cifar10", "test", data_dir=data_dir)) == 2
