"""Writes torch_muon.npz: twenty steps of torch.optim.Muon, for test_transformation.py; needs torch.

Recorded with torch 2.13.0 (CPU), float32 parameters: ``python tests/optimizers/torch_muon.py``.
"""

from pathlib import Path

import numpy as np

SHAPES = {"wide": (8, 24), "tall": (24, 8), "square": (16, 16)}  # torch's (out, in)
RUNS = {
    "original": {"lr": 0.004, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True},
    "match_rms": {"lr": 0.008, "weight_decay": 0.5, "momentum": 0.8, "nesterov": False},
}
STEPS = 20


def start(shape):
    return np.sin(0.7 * np.arange(np.prod(shape)) ** 1.5).reshape(shape)


def gradient(step, param):
    """Of full rank, different in every step, and a function of the parameter, so that errors would grow."""
    index = np.arange(param.size).reshape(param.shape)
    return np.sin(0.37 * index**2 + 1.3 * step) + 0.5 * np.asarray(param, np.float64)


def main():
    import torch

    recorded = {}
    for run, settings in RUNS.items():
        params = {k: torch.nn.Parameter(torch.tensor(start(s), dtype=torch.float32)) for k, s in SHAPES.items()}
        adjust = {"match_rms": "match_rms_adamw"}.get(run, run)
        optimizer = torch.optim.Muon(params.values(), adjust_lr_fn=adjust, **settings)
        for step in range(STEPS):
            for p in params.values():
                p.grad = torch.tensor(gradient(step, p.detach().numpy()), dtype=torch.float32)
            optimizer.step()
        recorded |= {f"{run}_{name}": p.detach().numpy() for name, p in params.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), version=torch.__version__, **recorded)


if __name__ == "__main__":
    main()
