import json
import subprocess
import sys

import numpy as np
import pytest

from jaxdiv import data
from jaxdiv.data import formats
from tests.data import files
from tests.data.binary_files import write_binary_cifar10


@pytest.fixture
def sets():
    return files.random_cifar10(10, 0), files.random_cifar10(3, 1)


@pytest.fixture
def binary(tmp_path, sets):
    write_binary_cifar10(tmp_path, *sets)
    return tmp_path


def assert_same(splits, sets):
    assert list(splits) == ["train", "test"]
    for split, (images, labels) in zip(splits.values(), sets, strict=True):
        assert (split["image"].dtype, split["label"].dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(split["image"], images)
        np.testing.assert_array_equal(split["label"], labels)


def test_the_binary_form(binary, sets):
    assert_same(data.read_cifar10(binary), sets)
    assert data.read_cifar10(str(binary))["train"]["image"].flags.c_contiguous


def test_the_xz_form(tmp_path, sets):
    (images, labels), test = sets
    files.write_cifar10(
        tmp_path, {"train0": (images[:4], labels[:4]), "train1": (images[4:], labels[4:]), "test": test}
    )
    assert_same(data.read_cifar10(tmp_path), sets)


def test_shards_keep_their_order_whatever_thread_ends_first(tmp_path):
    shards = {f"train{i}": files.random_cifar10(5 - i, i) for i in range(5)}
    files.write_cifar10(tmp_path, shards)
    images = formats.read_cifar10(tmp_path)["train"][0]
    np.testing.assert_array_equal(images, np.concatenate([shard[0] for shard in shards.values()]))


def test_an_empty_folder_names_the_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        data.read_cifar10(tmp_path)


def test_a_missing_binary_file_is_named(binary):
    (binary / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"read_cifar10: \['data_batch_3.bin'\] are not in"):
        data.read_cifar10(binary)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: b"\x0a" + d[1:]])
def test_a_damaged_binary_file_is_named(binary, damage):
    path = binary / "data_batch_2.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"data_batch_2\.bin is not records of a label from 0 to 9 and 3072 bytes"):
        data.read_cifar10(binary)


def test_the_binary_form_has_no_shards(binary):
    with pytest.raises(ValueError, match=r"shards is \['train0'\]; expected None: .* has the binary form"):
        formats.read_cifar10(binary, shards=["train0"])


def test_prepare_takes_the_binary_form(binary, sets, tmp_path):
    data.prepare_dataset("cifar10", source_dir=binary, data_dir=tmp_path / "prepared")
    arrays = data.to_arrays(data.load_split("cifar10", "test", data_dir=tmp_path / "prepared"))
    order = np.lexsort(arrays["image"].reshape(3, -1).T)
    expected = np.lexsort(sets[1][0].reshape(3, -1).T)
    np.testing.assert_array_equal(arrays["image"][order], sets[1][0][expected])
    np.testing.assert_array_equal(arrays["label"][order], sets[1][1][expected])


def test_reading_loads_neither_tensorflow_datasets_nor_grain(binary):
    script = (
        "import json, sys; from jaxdiv.data import read_cifar10; read_cifar10(sys.argv[1]); "
        "print(json.dumps(sorted({'grain', 'tensorflow_datasets', 'tyro'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(binary)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
