import pytest

from experiments.speedrun.run import run
from tests.experiments.speedrun.small import small_config, small_measure, small_splits


@pytest.fixture(scope="package")
def splits():
    return small_splits()


@pytest.fixture(scope="package")
def measure(splits, tmp_path_factory):
    return small_measure(tmp_path_factory.mktemp("measure"), splits)


@pytest.fixture(scope="package")
def finished(splits, measure, tmp_path_factory):
    """A run from scratch with classes: its configuration and results."""
    config = small_config(
        tmp_path_factory.mktemp("run") / "scratch", conditional=True, cache=tmp_path_factory.mktemp("cache")
    )
    return config, run(config, splits, measure)
