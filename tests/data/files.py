"""Writers of the original file formats, for tests: the inverses of jaxdiv.data.formats, one pixel at a time."""

import gzip
import hashlib
import json
import lzma

import numpy as np


def predict(plane, i, j):
    """The LOCO-I predictor as published: three cases inside, the neighbour on the border."""
    if i == 0 or j == 0:
        return plane[i, j - 1] if j else (plane[i - 1, j] if i else 0)
    left, above, corner = plane[i, j - 1], plane[i - 1, j], plane[i - 1, j - 1]
    if corner >= max(left, above):
        return min(left, above)
    if corner <= min(left, above):
        return max(left, above)
    return left + above - corner


def encode_residuals(images):
    """uint8 [N, 32, 32, 3] RGB -> the bytes that ``decode_residuals`` reads."""
    red, green, blue = np.moveaxis(images.astype(int), -1, 0)
    coded = np.zeros((3, len(images), 32, 32), np.uint8)
    for p, planes in enumerate((green, (red - green + 128) % 256, (blue - green + 128) % 256)):
        for n, plane in enumerate(planes):
            for i in range(32):
                for j in range(32):
                    residual = (plane[i, j] - predict(plane, i, j) + 128) % 256 - 128
                    coded[p, n, i, j] = 2 * residual if residual >= 0 else -2 * residual - 1
    return coded.tobytes()


def write_cifar10(directory, shards):
    """``shards``: name -> (images, labels)."""
    manifest = {}
    for name, (images, _) in shards.items():
        (directory / f"{name}.xz").write_bytes(lzma.compress(encode_residuals(images)))
        manifest[name] = {"n": len(images), "sha256_pixels": hashlib.sha256(images.tobytes()).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    np.savez(directory / "labels.npz", **{name: labels.astype(np.uint8) for name, (_, labels) in shards.items()})


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx_dataset(directory, splits, *, compressed=True):
    """``splits``: "train" and "t10k" -> (images [N, H, W], labels)."""
    for prefix, (images, labels) in splits.items():
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx_bytes(array)
            path = directory / (f"{prefix}-{kind}-ubyte" + (".gz" if compressed else ""))
            path.write_bytes(gzip.compress(data) if compressed else data)


def random_cifar10(count, seed):
    """Half noise, half smooth, so that every branch of the predictor is taken."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, 32, 32, 3))
    smooth = np.add.outer(np.arange(32), 3 * np.arange(32))[None, :, :, None] + noise % 5
    images = np.where(np.arange(count)[:, None, None, None] % 2, smooth % 256, noise).astype(np.uint8)
    return images, rng.integers(0, 10, count)
