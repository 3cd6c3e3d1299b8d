"""Meshes, replicated states and split batches."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxdiv.training import data_mesh, replicate, shard_batch


def test_eight_devices(tmp_path):
    script = Path(__file__).with_name("eight_devices.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    result = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "all checks passed" in result.stdout


def test_one_device():
    mesh = data_mesh(1)
    state = replicate({"w": np.ones(3), "key": jax.random.key(0)}, mesh)
    assert state["w"].sharding.mesh == mesh
    np.testing.assert_array_equal(shard_batch(np.arange(3), mesh), np.arange(3))
    with pytest.raises(ValueError, match=r"tree\[0\] has shape \(\); expected an axis 0"):
        shard_batch([np.float32(1)], mesh)
    with pytest.raises(ValueError, match="num_devices is 0"):
        data_mesh(0)
