"""The digits, prepared once for all tests of this folder."""

import pytest

from jaxdiv import data


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    data.load_split("digits", "test", data_dir=directory)
    return directory
