"""FID's Inception-v3 against an independent PyTorch network with the same random weights.

    python benchmarks/inception_parity.py [--images 4]

Needs torch, which is not among the library's dependencies. Random weights are saved by ``torch.save`` in both of its
formats and read by ``load_inception``; the same 299x299 images go through both networks in float32, and in float64
with parameters folded in float64. The figure is max |ours - torch's| over max |torch's|; it fails above 1e-5 in
float32 or 1e-12 in float64.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jaxdiv.metrics.inception import inception_features
from jaxdiv.metrics.inception_pixels import inception_input
from jaxdiv.metrics.inception_weights import convert_inception_state_dict, load_inception
from jaxdiv.networks.state_dicts import read_state_dict

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


class _ConvNorm(nn.Module):
    def __init__(self, num_in, num_out, size, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(num_out, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


def mean_pool(x):
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _MixedA(nn.Module):
    def __init__(self, num_in, pool):
        super().__init__()
        self.branch1x1 = _ConvNorm(num_in, 64, 1)
        self.branch5x5_1 = _ConvNorm(num_in, 48, 1)
        self.branch5x5_2 = _ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _ConvNorm(num_in, 64, 1)
        self.branch3x3dbl_2 = _ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = _ConvNorm(num_in, pool, 1)

    def forward(self, x):
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), five, three, self.branch_pool(mean_pool(x))), 1)


class _MixedB(nn.Module):
    def __init__(self, num_in):
        super().__init__()
        self.branch3x3 = _ConvNorm(num_in, 384, 3, stride=2)
        self.branch3x3dbl_1 = _ConvNorm(num_in, 64, 1)
        self.branch3x3dbl_2 = _ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _ConvNorm(96, 96, 3, stride=2)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)), 1)


class _MixedC(nn.Module):
    def __init__(self, num_in, width):
        super().__init__()
        row, column = {"size": (1, 7), "padding": (0, 3)}, {"size": (7, 1), "padding": (3, 0)}
        self.branch1x1 = _ConvNorm(num_in, 192, 1)
        self.branch7x7_1 = _ConvNorm(num_in, width, 1)
        self.branch7x7_2 = _ConvNorm(width, width, **row)
        self.branch7x7_3 = _ConvNorm(width, 192, **column)
        self.branch7x7dbl_1 = _ConvNorm(num_in, width, 1)
        self.branch7x7dbl_2 = _ConvNorm(width, width, **column)
        self.branch7x7dbl_3 = _ConvNorm(width, width, **row)
        self.branch7x7dbl_4 = _ConvNorm(width, width, **column)
        self.branch7x7dbl_5 = _ConvNorm(width, 192, **row)
        self.branch_pool = _ConvNorm(num_in, 192, 1)

    def forward(self, x):
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat((self.branch1x1(x), single, double, self.branch_pool(mean_pool(x))), 1)


class _MixedD(nn.Module):
    def __init__(self, num_in):
        super().__init__()
        self.branch3x3_1 = _ConvNorm(num_in, 192, 1)
        self.branch3x3_2 = _ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _ConvNorm(num_in, 192, 1)
        self.branch7x7x3_2 = _ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _ConvNorm(192, 192, 3, stride=2)

    def forward(self, x):
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat((three, self.branch7x7x3_4(seven), functional.max_pool2d(x, 3, 2)), 1)


class _MixedE(nn.Module):
    def __init__(self, num_in, max_pool):
        super().__init__()
        row, column = {"size": (1, 3), "padding": (0, 1)}, {"size": (3, 1), "padding": (1, 0)}
        self.max_pool = max_pool
        self.branch1x1 = _ConvNorm(num_in, 320, 1)
        self.branch3x3_1 = _ConvNorm(num_in, 384, 1)
        self.branch3x3_2a = _ConvNorm(384, 384, **row)
        self.branch3x3_2b = _ConvNorm(384, 384, **column)
        self.branch3x3dbl_1 = _ConvNorm(num_in, 448, 1)
        self.branch3x3dbl_2 = _ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _ConvNorm(384, 384, **row)
        self.branch3x3dbl_3b = _ConvNorm(384, 384, **column)
        self.branch_pool = _ConvNorm(num_in, 192, 1)

    def forward(self, x):
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self.max_pool else mean_pool(x)
        one, three = self.branch1x1(x), self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        three = self.branch3x3_2a(three), self.branch3x3_2b(three)
        double = self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)
        return torch.cat((one, *three, *double, self.branch_pool(pooled)), 1)


class _Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = _ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = _ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _MixedA(192, 32), _MixedA(256, 64), _MixedA(288, 64)
        self.Mixed_6a = _MixedB(288)
        self.Mixed_6b, self.Mixed_6c = _MixedC(768, 128), _MixedC(768, 160)
        self.Mixed_6d, self.Mixed_6e = _MixedC(768, 160), _MixedC(768, 192)
        self.Mixed_7a = _MixedD(768)
        self.Mixed_7b, self.Mixed_7c = _MixedE(1280, max_pool=False), _MixedE(2048, max_pool=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            x = block(x) if name.startswith("Mixed") else x
        return x.mean((2, 3))


@torch.no_grad()
def randomize(network, seed):
    """Weights that keep activations near one through ReLUs; every part of every norm has its own random values."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, scale, shift=0.0):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + shift)

    for module in network.modules():
        if isinstance(module, _ConvNorm):
            normal(module.conv.weight, np.sqrt(2 / module.conv.weight[0].numel()))
            normal(module.bn.weight, 0.1, 1.0)
            normal(module.bn.bias, 0.2)
            normal(module.bn.running_mean, 0.2)
            module.bn.running_var.copy_(torch.rand(module.bn.running_var.shape, generator=generator) + 0.5)
    normal(network.fc.weight, 0.02)
    return network.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, jax {jax.__version__}, numpy {np.__version__}, {jax.default_backend()}")
    network = randomize(_Inception(), arguments.seed)
    # Patches of 8x8 pixels in random colours: independent pixels would look alike after the pools.
    colours = np.random.default_rng(arguments.seed).integers(0, 256, (arguments.images, 4, 4, 3), dtype=np.uint8)
    pixels = colours.repeat(8, axis=1).repeat(8, axis=2)
    with tempfile.TemporaryDirectory() as folder:
        loaded = []
        for zipped in (True, False):
            path = Path(folder) / "inception.pth"
            torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
            loaded.append(load_inception(path).params)
            print(f"{'zip' if zipped else 'old'} format: {path.stat().st_size:,} bytes")
        same = jax.tree.map(lambda a, b: bool((a == b).all()), *loaded)
        state = read_state_dict(path)
    passed = all(jax.tree.leaves(same))
    images = np.asarray(inception_input(pixels))
    for dtype, tolerance in TOLERANCES.items():
        with jax.enable_x64(dtype == "float64"), torch.no_grad():
            params = loaded[0] if dtype == "float32" else convert_inception_state_dict(state, dtype=jnp.float64)
            network = network.to(getattr(torch, dtype))
            theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(dtype))).numpy()
            start = time.perf_counter()
            ours = np.asarray(jax.jit(inception_features)(params, jnp.asarray(images, dtype)))
            seconds = time.perf_counter() - start
        difference, size = np.abs(ours - theirs), np.abs(theirs)
        error, large = difference.max() / size.max(), size > 0.1
        passed &= bool(error <= tolerance) and ours.dtype == theirs.dtype
        print(
            f"{dtype}: max |ours - torch| / max |torch| {error:.1e} (at most {tolerance:.0e}), "
            f"of any feature above 0.1 {(difference[large] / size[large]).max():.1e}; features {theirs.mean():.2f} "
            f"+- {theirs.std():.2f}, between images {theirs.std(0).mean():.2f}, {(theirs == 0).mean():.1%} zero; "
            f"{seconds:.1f} s with compilation"
        )
    print("agrees" if passed else "DIFFERS")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
