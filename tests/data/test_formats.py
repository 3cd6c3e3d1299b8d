import json
import lzma

import numpy as np
import pytest

from jaxdiv.data import formats
from tests.data import files


@pytest.fixture
def folder(tmp_path):
    shards = {name: files.random_cifar10(2, seed) for seed, name in enumerate(("train0", "train1", "test"))}
    files.write_cifar10(tmp_path, shards)
    return tmp_path, shards


def test_decoding_inverts_the_encoder():
    images, _ = files.random_cifar10(4, 5)
    np.testing.assert_array_equal(formats.decode_residuals(files.encode_residuals(images)), images)


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_constant_images(value):
    images = np.full((1, 32, 32, 3), value, np.uint8)
    np.testing.assert_array_equal(formats.decode_residuals(files.encode_residuals(images)), images)


def test_zero_residuals_are_known_pixels():
    # All planes 0: G = 0, R = B = 0 - 128 + 0 mod 256.
    np.testing.assert_array_equal(formats.decode_residuals(bytes(3072))[0, 31, 31], [128, 0, 128])


def test_a_length_that_is_no_number_of_images_is_refused():
    with pytest.raises(ValueError, match="data has 3071 bytes; expected a multiple of 3072"):
        formats.decode_residuals(bytes(3071))


def test_read_cifar10_joins_the_training_shards(folder):
    directory, shards = folder
    splits = formats.read_cifar10(directory)
    assert set(splits) == {"train", "test"}
    for split, names in (("train", ("train0", "train1")), ("test", ("test",))):
        images, labels = splits[split]
        np.testing.assert_array_equal(images, np.concatenate([shards[name][0] for name in names]))
        np.testing.assert_array_equal(labels, np.concatenate([shards[name][1] for name in names]))
        assert labels.dtype == np.int32


def test_read_cifar10_takes_some_shards(folder):
    directory, shards = folder
    (directory / "test.xz").unlink()
    splits = formats.read_cifar10(directory, shards=["train1"])
    assert list(splits) == ["train"]
    np.testing.assert_array_equal(splits["train"][0], shards["train1"][0])


def test_other_pixels_than_the_manifests_are_refused_by_name(folder):
    directory, shards = folder
    images = shards["train1"][0].copy()
    images[0, 3, 4, 0] ^= 1
    (directory / "train1.xz").write_bytes(lzma.compress(files.encode_residuals(images)))
    with pytest.raises(ValueError, match=r"train1\.xz has 2 images with sha256 \w+; expected 2 with \w+ \(manifest"):
        formats.read_cifar10(directory)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:60] + b"\xff" + d[61:], lambda d: b""])
def test_a_damaged_shard_is_refused_by_name(folder, damage):
    directory, _ = folder
    path = directory / "train0.xz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train0\.xz is damaged"):
        formats.read_cifar10(directory)


def test_missing_and_unknown_shards_are_named(folder):
    directory, _ = folder
    with pytest.raises(ValueError, match=r"shards has \['train9'\]; expected names out of \['train0'"):
        formats.read_cifar10(directory, shards=["train9"])
    (directory / "train1.xz").unlink()
    with pytest.raises(FileNotFoundError, match=r"\['train1'\] are not in .*--shards"):
        formats.read_cifar10(directory)


def test_labels_of_another_length_are_refused(folder):
    directory, shards = folder
    np.savez(directory / "labels.npz", **{name: np.zeros(3, np.uint8) for name in shards})
    with pytest.raises(ValueError, match=r"labels.npz has \(3,\) labels for train0.xz of 2"):
        formats.read_cifar10(directory)


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_damaged_labels_are_named(folder, damage):
    directory, shards = folder
    if damage is None:
        np.savez(directory / "labels.npz", test=np.zeros(2, np.uint8))  # a shard is missing
    else:
        (directory / "labels.npz").write_bytes(damage)
    with pytest.raises(ValueError, match="labels.npz is damaged"):
        formats.read_cifar10(directory)


def test_a_count_that_differs_from_the_manifest_is_refused(folder):
    directory, _ = folder
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["test"]["n"] = 3
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"test.xz has 2 images .* expected 3"):
        formats.read_cifar10(directory)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (4, 3, 2)])
@pytest.mark.parametrize("name", ["a-idx-ubyte", "a-idx-ubyte.gz"])
def test_read_idx_inverts_the_writer(tmp_path, shape, name):
    import gzip

    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = files.idx_bytes(array)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    found = formats.read_idx(tmp_path / name)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "begins with ; expected an idx header"),
        (b"\0\0\x0d\x01\0\0\0\x01\0", "begins with 00000d01"),
        (b"\0\0\x08\x02\0\0\0\x01", "begins with 00000802"),
        (b"\0\0\x08\x01\0\0\0\x03ab", r"has 2 values; expected \(3,\)"),
        (b"\0\0\x08\x01\0\0\0\x01ab", r"has 2 values; expected \(1,\)"),
    ],
)
def test_bad_idx_files_are_refused(tmp_path, data, match):
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(ValueError, match=match):
        formats.read_idx(tmp_path / "bad")


@pytest.mark.parametrize("keep", [slice(0, 30), slice(5, None), slice(0, -8)])
def test_damaged_gzip_is_refused_by_name(tmp_path, keep):
    import gzip

    data = gzip.compress(files.idx_bytes(np.arange(200)))
    (tmp_path / "bad.gz").write_bytes(data[keep])
    with pytest.raises(ValueError, match=r"bad\.gz is damaged"):
        formats.read_idx(tmp_path / "bad.gz")


@pytest.mark.parametrize("compressed", [True, False])
def test_read_idx_dataset(tmp_path, compressed):
    rng = np.random.default_rng(0)
    splits = {p: (rng.integers(0, 256, (n, 28, 28)), np.arange(n)) for p, n in (("train", 5), ("t10k", 3))}
    files.write_idx_dataset(tmp_path, splits, compressed=compressed)
    found = formats.read_idx_dataset(tmp_path)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        np.testing.assert_array_equal(found[split][0], splits[prefix][0][..., None])
        np.testing.assert_array_equal(found[split][1], splits[prefix][1])


def test_a_missing_idx_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither train-images-idx3-ubyte.gz nor train-images-idx3-ubyte is in"):
        formats.read_idx_dataset(tmp_path)
