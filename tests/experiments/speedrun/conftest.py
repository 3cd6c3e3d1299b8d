import pytest

from experiments.speedrun import clock
from experiments.speedrun.run import run
from tests.experiments.speedrun.small import small_config, small_measure, small_splits


@pytest.fixture(scope="package", autouse=True)
def timed_shortly():
    """A step is timed a few times only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "TIMED_CALLS", 2)
        patch.setattr(clock, "TIMED_SECONDS", 0.0)
        yield


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
