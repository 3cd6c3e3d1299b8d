"""A run does not depend on how many devices share its batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_ten_cycles_on_one_two_and_eight_devices(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.distillation.device_cycle", str(tmp_path / "runs.npz")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = np.load(tmp_path / "runs.npz")
    alone = runs["1"]
    assert np.isfinite(alone).all() and np.std(alone) > 0.1
    for num in ("2", "8"):
        np.testing.assert_allclose(runs[num], alone, rtol=2e-4, atol=2e-5)
