"""Fixtures for the whole suite."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType


@pytest.fixture
def x64():
    """Float64 for one test; every array made before it keeps its dtype."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def hopper():
    """Programs are lowered as for an NVIDIA H100: without any GPU, jax from 0.11 on wants to know for which."""
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)):
        yield
