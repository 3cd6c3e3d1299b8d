"""Compares a loaded EDM teacher with the denoiser outputs recorded beside it.

    python benchmarks/check_teacher.py --teacher DIR

DIR holds one .npz of weights, config.json and check.npz (x [S, N, C, H, W], sigma [S], D like x). The comparison is in
float32 with full-precision products; it fails above 1e-4.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv.networks import UNet, functional, load_edm_weights

SIGMA_DATA = 0.5
TOLERANCE = 1e-4


def check_teacher(folder: Path) -> dict[float, float]:
    """The largest absolute difference of D by noise level."""
    (weights,) = (path for path in folder.glob("*.npz") if path.name != "check.npz")
    config, params = load_edm_weights(weights)
    config = dataclasses.replace(config, dtype="float32")
    apply_fn, _ = functional(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))

    @jax.jit
    def denoise(params, x, sigma):
        # EDM preconditioning (arXiv 2206.00364, table 1), written out so that the check rests on the network alone.
        total = sigma**2 + SIGMA_DATA**2
        c_noise = jnp.full(x.shape[0], jnp.log(sigma) / 4)
        raw = apply_fn(params, x / jnp.sqrt(total), c_noise)
        return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / jnp.sqrt(total) * raw

    recorded = np.load(folder / "check.npz")
    errors = {}
    with jax.default_matmul_precision("highest"):
        for x, sigma, expected in zip(recorded["x"], recorded["sigma"], recorded["D"], strict=True):
            ours = denoise(params, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(sigma))
            errors[float(sigma)] = float(np.abs(np.asarray(ours).transpose(0, 3, 1, 2) - expected).max())
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="folder with the weights, config.json, check.npz")
    errors = check_teacher(parser.parse_args().teacher)
    for sigma, error in errors.items():
        print(f"sigma {sigma:8.4f}  max |D - recorded D| {error:.2e}")
    passed = max(errors.values()) <= TOLERANCE
    print("agrees" if passed else f"differs by more than {TOLERANCE}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
