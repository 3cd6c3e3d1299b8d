"""Fixtures of the real images and weights: what uses them is skipped where they are not."""

import os
from functools import cache
from pathlib import Path

import pytest

from jaxdiv.data import formats

# Beside the checkout unless the environment says where.
FOLDER = Path(os.environ.get("JAXDIV_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data")


@cache
def _test_set():
    # Each module that takes the fixture has one of its own; two seconds of decoding are for all.
    return formats.read_cifar10(FOLDER / "cifar10", shards=["test"])["test"]


@pytest.fixture(scope="session")
def weights():
    """``weights(name)``: the path of a file of pretrained weights."""

    def find(name):
        path = FOLDER / "weights" / name
        if not path.is_file():
            pytest.skip(f"{name} is not there ($JAXDIV_REAL_DATA)")
        return path

    return find


@pytest.fixture(scope="session")
def cifar10_test():
    """The 10,000 test images of CIFAR-10 and their labels."""
    if not (FOLDER / "cifar10" / "test.xz").is_file():
        pytest.skip("CIFAR-10 is not there ($JAXDIV_REAL_DATA)")
    return _test_set()
