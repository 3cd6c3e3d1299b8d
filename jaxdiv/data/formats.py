"""Readers of the files that ``jaxdiv.data.prepare`` starts from: two forms of CIFAR-10, and idx files.

The xz form of CIFAR-10 is a folder with a ``manifest.json`` and a ``labels.npz``, and per shard one ``NAME.xz``.
A shard is an LZMA stream of bytes ``[3, N, 32, 32]``: the planes G, R-G+128 and B-G+128 (mod 256), each pixel the
zigzag-coded residual of the LOCO-I predictor (Weinberger, Seroussi, Sapiro, IEEE Trans. Image Process. 9(8), 2000,
eq. 1). The manifest has for each shard the count ``n`` and ``sha256_pixels``, of the decoded uint8 NHWC RGB bytes.

The binary form is the one that its authors publish for C programs: ``data_batch_1.bin`` to ``data_batch_5.bin`` and
``test_batch.bin``, records of a label byte and the planes R, G, B of 32 x 32 bytes.
"""

import gzip
import hashlib
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]

_SIDE = 32
_BINARY_FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def decode_residuals(data: bytes) -> np.ndarray:
    """Pixels of one decompressed shard, uint8 ``[N, 32, 32, 3]`` RGB.

    Each pixel is its residual plus ``median(left, above, left + above - corner)``, mod 256. A border of zeros above
    and to the left makes that the left pixel in the first row and the one above in the first column.

    Raises:
      ValueError: the length is not a multiple of one image's.

    >>> decode_residuals(bytes(2 * 3 * 32 * 32)).shape
    (2, 32, 32, 3)
    """
    size = 3 * _SIDE * _SIDE
    if len(data) % size:
        raise ValueError(f"decode_residuals: data has {len(data)} bytes; expected a multiple of {size}")
    # Rows and columns lead, so that one pixel of all images and planes is one contiguous vector.
    coded = np.frombuffer(data, np.uint8).reshape(3, -1, _SIDE, _SIDE).transpose(2, 3, 1, 0)
    coded = np.ascontiguousarray(coded).astype(np.int16)
    residual = (coded >> 1) ^ -(coded & 1)
    planes = np.zeros((_SIDE + 1, _SIDE + 1, *coded.shape[2:]), np.int16)
    for i in range(_SIDE):
        for j in range(_SIDE):
            left, above, corner = planes[i + 1, j], planes[i, j + 1], planes[i, j]
            low, high = np.minimum(left, above), np.maximum(left, above)
            # The median of three, as one clip.
            predicted = np.clip(left + above - corner, low, high)
            planes[i + 1, j + 1] = (residual[i, j] + predicted) & 255
    green, red, blue = np.moveaxis(planes[1:, 1:].transpose(2, 0, 1, 3).astype(np.uint8), -1, 0)
    # uint8 sums wrap, which is the mod 256.
    return np.stack([red + green - np.uint8(128), green, blue + green - np.uint8(128)], axis=-1)


def read_cifar10(directory: str | os.PathLike[str], *, shards: Sequence[str] | None = None) -> dict[str, Arrays]:
    """Decode shards of the xz form and check each against the manifest; or read the binary form, if that is there.

    Shards are decoded in threads, one for each processor: lzma and numpy let others run meanwhile.

    Args:
      directory: the folder with ``manifest.json``, ``labels.npz`` and the ``NAME.xz``; or with ``data_batch_1.bin``.
      shards: names of the shards to read, None for all of the manifest. Those that begin with ``train`` are joined.
        The binary form has none.

    Returns:
      Per split (``train``, ``test``) images uint8 ``[N, 32, 32, 3]`` and labels int32 ``[N]``.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a shard is not in the manifest, is damaged, or its pixels do not have the manifest's sha256.
    """
    directory = Path(directory)
    if not (directory / "manifest.json").exists() and (directory / _BINARY_FILES["train"][0]).exists():
        if shards is not None:
            raise ValueError(f"read_cifar10: shards is {list(shards)}; expected None: {directory} has the binary form")
        return _read_binary(directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    names = list(manifest) if shards is None else list(shards)
    if unknown := [name for name in names if name not in manifest]:
        raise ValueError(f"read_cifar10: shards has {unknown}; expected names out of {list(manifest)}")
    try:
        with np.load(directory / "labels.npz", allow_pickle=False) as archive:
            labels = {name: archive[name].astype(np.int32) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"read_cifar10: {directory / 'labels.npz'} is damaged ({error})") from error
    if missing := [name for name in names if not (directory / f"{name}.xz").is_file()]:
        raise FileNotFoundError(f"read_cifar10: {missing} are not in {directory}; name the shards that are (--shards)")
    with ThreadPoolExecutor(max(1, min(len(names), os.cpu_count() or 1))) as pool:
        read = pool.map(lambda name: _read_shard(directory / f"{name}.xz", manifest[name]), names)
        images = dict(zip(names, read, strict=True))
    for name in names:
        if labels[name].shape != (len(images[name]),):
            raise ValueError(
                f"read_cifar10: labels.npz has {labels[name].shape} labels for {name}.xz of {len(images[name])}"
            )
    splits = {}
    for split in ("train", "test"):
        parts = [name for name in names if name.startswith(split)]
        if parts:
            splits[split] = (np.concatenate([images[p] for p in parts]), np.concatenate([labels[p] for p in parts]))
    return splits


def _read_shard(path: Path, entry: Mapping[str, object]) -> np.ndarray:
    try:
        images = decode_residuals(lzma.decompress(path.read_bytes()))
    except (lzma.LZMAError, ValueError) as error:
        raise ValueError(f"read_cifar10: {path} is damaged ({error})") from error
    found = hashlib.sha256(images.tobytes()).hexdigest()
    if len(images) != entry["n"] or found != entry["sha256_pixels"]:
        raise ValueError(
            f"read_cifar10: {path} has {len(images)} images with sha256 {found}; expected {entry['n']} with "
            f"{entry['sha256_pixels']} (manifest.json)"
        )
    return images


def _read_binary(directory: Path) -> dict[str, Arrays]:
    size, splits = 1 + 3 * _SIDE * _SIDE, {}
    for split, names in _BINARY_FILES.items():
        if missing := [name for name in names if not (directory / name).is_file()]:
            raise FileNotFoundError(f"read_cifar10: {missing} are not in {directory}")
        data = [np.fromfile(directory / name, np.uint8) for name in names]
        for name, values in zip(names, data, strict=True):
            if values.size == 0 or values.size % size or values[::size].max() > 9:
                raise ValueError(
                    f"read_cifar10: {directory / name} is not records of a label from 0 to 9 and 3072 bytes"
                )
        records = np.concatenate(data).reshape(-1, size)
        images = records[:, 1:].reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        splits[split] = (np.ascontiguousarray(images), records[:, 0].astype(np.int32))
    return splits


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """One idx file of unsigned bytes, gzipped if its name ends in ``.gz``: uint8 of the shape in its header.

    The header is two zero bytes, the type (8: unsigned byte), the rank, and each size as a big-endian 32-bit integer.

    Raises:
      ValueError: the file is not a whole idx file of unsigned bytes.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"read_idx: {path} is damaged ({error})") from error
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise ValueError(
            f"read_idx: {path} begins with {data[:4].hex()}; expected an idx header of unsigned bytes, 000008"
        )
    rank = data[3]
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"read_idx: {path} has {values.size} values; expected {shape} from its header")
    return values.reshape(shape)


def read_idx_dataset(directory: str | os.PathLike[str]) -> dict[str, Arrays]:
    """MNIST's four files, ``{train,t10k}-{images-idx3,labels-idx1}-ubyte`` with or without ``.gz``.

    Returns:
      Per split (``train``, ``test``) images uint8 ``[N, H, W, 1]`` and labels int32 ``[N]``.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged.
    """
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(_either(Path(directory), f"{prefix}-images-idx3-ubyte"))
        labels = read_idx(_either(Path(directory), f"{prefix}-labels-idx1-ubyte"))
        splits[split] = (images[..., None], labels.astype(np.int32))
    return splits


def _either(directory: Path, name: str) -> Path:
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"read_idx_dataset: neither {name}.gz nor {name} is in {directory}")
