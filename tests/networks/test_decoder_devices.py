"""Perplexity and routing of a mixture of experts do not depend on how many devices hold its tokens and experts."""

import os
import subprocess
import sys

import numpy as np

# Eight devices, and programs compiled fast rather than well.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"


def test_a_mixture_on_eight_devices_trains_as_on_one(tmp_path):
    environment = os.environ | {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.networks.decoder_devices", tmp_path / "runs.npz"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = np.load(tmp_path / "runs.npz")
    assert runs["tokens_blocks_devices"] == 8 and runs["one_blocks_devices"] == 1
    assert runs["experts_ragged_local_experts"] == 1 and runs["tokens_ragged_local_experts"] == 8
    first = {name: runs[f"one_blocks_{name}"] for name in ("perplexity", "load", "max_logit", "balance", "up")}
    assert first["perplexity"][-1] < first["perplexity"][0] and np.std(first["load"]) > 0.01
    for other in ("one_ragged", "tokens_blocks", "experts_blocks", "tokens_ragged", "experts_ragged"):
        for name, expected in first.items():
            found = runs[f"{other}_{name}"]
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=f"{other} {name}")
