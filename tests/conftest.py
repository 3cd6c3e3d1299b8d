"""Fixtures for the whole suite."""

import jax
import pytest


@pytest.fixture
def x64():
    """Float64 for one test; every array made before it keeps its dtype."""
    with jax.enable_x64(True):
        yield
