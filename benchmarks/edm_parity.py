"""EDM's network in our U-Net against an independent PyTorch network with the same random weights.

    python benchmarks/edm_parity.py [--batch 4]

Needs torch, which is not among the library's dependencies. The DDPM++ of CIFAR-10 (Karras et al., arXiv 2206.00364),
unconditional, and with 10 classes and 9 augmentation inputs: random weights are saved by ``torch.save``, read by
``load_edm_weights``, and D(x; sigma) is compared in float32. It fails where max |D_jax - D_torch| reaches 1e-4.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

from jaxdiv.networks import UNet, config_from_edm, load_edm_weights
from jaxdiv.networks.functional import functional as split

SIGMAS = (0.002, 0.1, 1.0, 2.5, 80.0)
TOLERANCE = 1e-4
SIGMA_DATA = 0.5
NETWORKS = {
    "unconditional": {"label_dim": 0, "augment_dim": 0},
    "10 classes, 9 augmentations": {"label_dim": 10, "augment_dim": 9},
}


class _Conv(nn.Module):
    """A convolution that may halve or double the image: by means of 2x2 pixels, or by repeating each."""

    def __init__(self, num_in, num_out, size, resample=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_out, num_in, size, size))
        self.bias = nn.Parameter(torch.empty(num_out))
        self.resample = resample
        if resample:
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))

    def forward(self, x):
        if self.resample:
            box = self.resample_filter.expand(x.shape[1], 1, 2, 2)
            if self.resample == "down":
                x = functional.conv2d(x, box, stride=2, groups=x.shape[1])
            else:
                x = functional.conv_transpose2d(x, box * 4, stride=2, groups=x.shape[1])
        return functional.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def _norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class _Block(nn.Module):
    def __init__(self, num_in, num_out, num_emb, resample=None, attention=False):
        super().__init__()
        self.norm0 = _norm(num_in)
        self.conv0 = _Conv(num_in, num_out, 3, resample)
        self.affine = nn.Linear(num_emb, num_out)
        self.norm1 = _norm(num_out)
        self.conv1 = _Conv(num_out, num_out, 3)
        self.skip = _Conv(num_in, num_out, 1, resample) if num_in != num_out or resample else nn.Identity()
        self.attention = attention
        if attention:
            self.norm2 = _norm(num_out)
            self.qkv = _Conv(num_out, 3 * num_out, 1)
            self.proj = _Conv(num_out, num_out, 1)

    def forward(self, x, emb):
        y = self.conv0(functional.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        y = self.conv1(functional.silu(self.norm1(y)))
        y = (self.skip(x) + y) / 2**0.5
        if self.attention:
            batch, channels, height, width = y.shape
            # Each channel has its query, key and value in neighbouring rows.
            q, k, v = self.qkv(self.norm2(y)).reshape(batch, channels, 3, height * width).unbind(2)
            weights = torch.einsum("bcq,bck->bqk", q, k / channels**0.5).softmax(2)
            attended = torch.einsum("bqk,bck->bcq", weights, v).reshape(y.shape)
            y = (self.proj(attended) + y) / 2**0.5
        return y


class _SongUNet(nn.Module):
    def __init__(self, label_dim, augment_dim, base=128, mult=(2, 2, 2), blocks=4, size=32, attention=(16,)):
        super().__init__()
        num_emb = 4 * base
        self.base = base
        self.map_label = nn.Linear(label_dim, base) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, base, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = nn.Linear(base, num_emb), nn.Linear(num_emb, num_emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{size}x{size}_conv"] = _Conv(3, base, 3)
        width, skips = base, [base]
        for level, factor in enumerate(mult):
            side = size // 2**level
            if level:
                self.enc[f"{side}x{side}_down"] = _Block(width, width, num_emb, "down")
                skips.append(width)
            for i in range(blocks):
                block = _Block(width, base * factor, num_emb, attention=side in attention)
                self.enc[f"{side}x{side}_block{i}"] = block
                width = base * factor
                skips.append(width)
        for level, factor in reversed(list(enumerate(mult))):
            side = size // 2**level
            if level == len(mult) - 1:
                self.dec[f"{side}x{side}_in0"] = _Block(width, width, num_emb, attention=True)
                self.dec[f"{side}x{side}_in1"] = _Block(width, width, num_emb)
            else:
                self.dec[f"{side}x{side}_up"] = _Block(width, width, num_emb, "up")
            for i in range(blocks + 1):
                attend = i == blocks and side in attention
                block = _Block(width + skips.pop(), base * factor, num_emb, attention=attend)
                self.dec[f"{side}x{side}_block{i}"] = block
                width = base * factor
        self.dec[f"{size}x{size}_aux_norm"] = _norm(width)
        self.dec[f"{size}x{size}_aux_conv"] = _Conv(width, 3, 3)

    def embed(self, c_noise, labels, augment):
        half = self.base // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / (half - 1))
        angles = c_noise[:, None] * frequencies
        emb = torch.cat((angles.sin(), angles.cos()), 1)
        if labels is not None:
            emb = emb + self.map_label(labels * labels.shape[1] ** 0.5)
        if augment is not None:
            emb = emb + self.map_augment(augment)
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(emb))))

    def forward(self, x, c_noise, labels, augment):
        emb, skips = self.embed(c_noise, labels, augment), []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, _Block) else module(x)
            skips.append(x)
        for name, module in self.dec.items():
            if isinstance(module, _Block):
                x = module(torch.cat((x, skips.pop()), 1) if "_block" in name else x, emb)
            else:
                x = module(functional.silu(x) if name.endswith("_conv") else x)
        return x


class _Precond(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.model = _SongUNet(**settings)

    def forward(self, x, sigma, labels, augment):
        total = sigma**2 + SIGMA_DATA**2
        raw = self.model(x / total**0.5, torch.full((len(x),), float(np.log(sigma) / 4)), labels, augment)
        return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / total**0.5 * raw


@torch.no_grad()
def randomize(network, seed):
    """Weights that keep activations near one, also where EDM starts near zero, and random norms and biases."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_parameters():
        if value.ndim == 1:
            scale, shift = 0.3, float("norm" in name and name.endswith("weight"))
        else:
            scale, shift = value[0].numel() ** -0.5, 0.0
        value.copy_(torch.randn(value.shape, generator=generator) * scale + shift)
    return network.eval()


def compare(settings, batch, seed):
    """Rows of sigma, max |D_jax - D_torch|, the size of c_out F, and of D."""
    network = randomize(_Precond(**settings), seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edm.pth"
        torch.save(network.state_dict(), path)
        size = {"img_resolution": 32, "img_channels": 3}
        config, params = load_edm_weights(path, config_from_edm(settings | size))
    print(f"{sum(value.numel() for value in network.parameters()):,} parameters")
    apply_fn, _ = split(UNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(seed)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, batch)] if settings["label_dim"] else None
    augment = rng.normal(size=(batch, 9)).astype(np.float32) if settings["augment_dim"] else None

    @jax.jit
    def denoise(params, x, sigma):
        # Table 1 of the paper, written out, so that the comparison rests on the network alone.
        total = sigma**2 + SIGMA_DATA**2
        c_noise = jnp.full(x.shape[0], jnp.log(sigma) / 4)
        raw = apply_fn(params, x / jnp.sqrt(total), c_noise, labels, augment_labels=augment)
        return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / jnp.sqrt(total) * raw

    rows = []
    for sigma in SIGMAS:
        x = rng.normal(size=(batch, 3, 32, 32)) * np.sqrt(SIGMA_DATA**2 + sigma**2)
        x = x.astype(np.float32)
        given = [None if value is None else torch.from_numpy(value) for value in (labels, augment)]
        with torch.no_grad():
            theirs = network(torch.from_numpy(x), sigma, *given).numpy()
        ours = np.asarray(denoise(params, x.transpose(0, 2, 3, 1), np.float32(sigma))).transpose(0, 3, 1, 2)
        by_network = theirs - SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2) * x
        rows.append((sigma, np.abs(ours - theirs).max(), by_network.std(), theirs.std()))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, jax {jax.__version__}, numpy {np.__version__}, {jax.default_backend()}")
    worst = 0.0
    for name, settings in NETWORKS.items():
        with jax.default_matmul_precision("highest"):
            rows = compare(settings, arguments.batch, arguments.seed)
        print(f"{name}\n   sigma  max |D_jax - D_torch|  std of c_out F  std of D")
        for sigma, error, network, size in rows:
            print(f"{sigma:8.3f}  {error:21.2e}  {network:14.3f}  {size:8.3f}")
            worst = max(worst, error)
    passed = bool(worst < TOLERANCE)
    print("agrees" if passed else f"DIFFERS by {worst:.1e}, not below {TOLERANCE}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
