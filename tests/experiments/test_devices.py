"""A student does not depend on how many devices share its batch."""

import os
import subprocess
import sys

import numpy as np


def test_ten_cycles_on_one_two_and_eight_devices(tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.experiments.device_student", str(tmp_path / "runs.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = np.load(tmp_path / "runs.npz")
    for num in (1, 2, 8):
        assert runs[f"devices_{num}"] == num
        for name in ("losses", "student", "ema", "fake", "head"):
            one, other = runs[f"{name}_1"], runs[f"{name}_{num}"]
            assert np.isfinite(one).all() and np.std(one) > 0
            np.testing.assert_allclose(other, one, rtol=2e-4, atol=2e-5, err_msg=f"{name} on {num}")
