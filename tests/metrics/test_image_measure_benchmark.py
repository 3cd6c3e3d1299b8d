import subprocess
import sys

import numpy as np
import pytest

from benchmarks import image_measure as benchmark
from tests.data.binary_files import write_binary_cifar10
from tests.metrics import network_oracles as oracle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten images a file, and narrow networks under the names of the real ones."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "cifar10").mkdir()
    (folder / "weights").mkdir()
    sets = [(rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), np.arange(n) % 10) for n in (50, 10)]
    write_binary_cifar10(folder / "cifar10", *sets)
    np.savez(folder / "weights" / "cifar10_resnet56.npz", **oracle.random_resnet(rng))
    np.savez(folder / "weights" / "mobilenet_v2_imagenet_dequant.npz", **oracle.random_mobilenet(rng))
    np.save(folder / "samples.npy", sets[1][0])
    return folder


def run(capsys, folder, *arguments):
    benchmark.main(["--data", str(folder), "--batches", "10", "10", "--pairs", "10", *arguments])
    return capsys.readouterr().out


def test_prints_everything(capsys, folder, tmp_path):
    arguments = ["--samples", str(folder / "samples.npy"), "--cache", str(tmp_path), "--train", "20"]
    out = run(capsys, folder, *arguments)
    for text in ("ResNet56 top-1", "Frechet distance, 1280", "pixels", "horse", "floor (test set)", "fd_mobilenet_v2"):
        assert text in out, text
    assert "training set as samples: 20 in" in out and "samples.npy: 10 in" in out
    assert "ResNet20" not in out and len(list(tmp_path.iterdir())) == 3


def test_a_network_may_be_left_out(capsys, folder):
    out = run(capsys, folder, "--without", "mobilenet", "--no-parts")
    assert "fd_mobilenet_v2" not in out and "top-1" not in out and "precision" in out


def test_sense_counts_classes_of_the_same_meaning():
    labels = np.array([7, 7, 1, 9, 0])
    predicted = np.array([340, 5, 818, 676, 340])  # sorrel, a fish, sports car, moving van, sorrel; 0 is background
    rows = benchmark.sense(predicted, labels)
    assert rows["horse"] == (0.5, pytest.approx(1 / 3))
    assert rows["automobile"] == rows["truck"] == (1.0, 0.0)


def test_needs_no_data_set_library():
    script = (
        "import sys, benchmarks.image_measure; "
        "print(sorted({'grain', 'tensorflow_datasets', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
