"""A student does not depend on how many devices share its batch."""

import os
import subprocess
import sys

import numpy as np
import pytest

# Eight devices, and programs compiled fast rather than well.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def check_same_on(counts, tmp_path):
    environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.experiments.device_student", tmp_path / "runs.npz", *map(str, counts)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = np.load(tmp_path / "runs.npz")
    for num in counts:
        assert runs[f"devices_{num}"] == num
        for name in ("losses", "student", "ema", "fake", "head"):
            first, other = runs[f"{name}_{counts[0]}"], runs[f"{name}_{num}"]
            assert np.isfinite(first).all() and np.std(first) > 0
            np.testing.assert_allclose(other, first, rtol=1e-5, atol=2e-5, err_msg=f"{name} on {num}")


@pytest.mark.slow
def test_ten_cycles_on_one_and_eight_devices(tmp_path):
    check_same_on([1, 8], tmp_path)


@pytest.mark.slow
def test_ten_cycles_on_one_two_and_eight_devices(tmp_path):
    check_same_on([1, 2, 8], tmp_path)
