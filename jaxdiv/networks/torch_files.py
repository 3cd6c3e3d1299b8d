"""What `torch.save` writes, read without torch and without running anything that the file asks for.

A file is a pickle that describes the tensors and, beside it, the bytes of their storages: since torch 1.6 as members of
a zip archive, before that one after the other behind the pickle. A pickle can name any function of any module to be
called. Here it may name only the handful that describe tensors, and those names stand for records of this module.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import fail

_FUNCTION = "read_state_dict"
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = pickle.dumps(_LEGACY_MAGIC, protocol=2)
_LEGACY_PROTOCOL = 1001


class StorageEntry(NamedTuple):
    """A flat piece of memory that tensors are views of."""

    key: str
    dtype: str
    numel: int


class TensorEntry(NamedTuple):
    """A view: entry (i, j, ...) is number ``offset + i strides[0] + j strides[1] + ...`` of its storage."""

    storage: StorageEntry
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ReadStorage = Callable[[StorageEntry], np.ndarray]
Select = Callable[[Any], Mapping[str, TensorEntry]]


# What a pickle gets hold of, it may also try to change. These have no attributes, and neither have the records above.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *unused: Any) -> TensorEntry:
        return TensorEntry(storage, offset, size, stride)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, data: Any, *unused: Any) -> Any:
        return data


class _RefusedError(ValueError):
    """Says itself what is wrong, unlike the errors of a damaged pickle."""


class _TensorUnpickler(pickle.Unpickler):
    """Admits dictionaries, numbers, strings and tensors; the storages that it met are in ``storages``."""

    def __init__(self, file: Any, path: Path):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.storages: dict[str, StorageEntry] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if module == "torch" and name in _DTYPES:
            return name
        wanted = "tensors in dictionaries; what else a pickle names could run any code. Save a state_dict alone"
        raise _RefusedError(str(fail(_FUNCTION, "path", f"{str(self.path)!r} asks for {module}.{name}", wanted)))

    def persistent_load(self, pid: Any) -> StorageEntry:
        kind, dtype, key, _, numel, *view = pid
        known = kind == "storage" and dtype in _DTYPES and isinstance(key, str) and type(numel) is int and numel >= 0
        if not known or view not in ([], [None]):
            wanted = "storages of a known type without views of storages"
            raise _RefusedError(str(fail(_FUNCTION, "path", f"{str(self.path)!r} refers to {pid!r}", wanted)))
        storage = StorageEntry(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            got = f"{str(self.path)!r} has {self.storages[key]} as {storage} also"
            raise _RefusedError(str(fail(_FUNCTION, "path", got, "one dtype and length for each storage")))
        return storage


def read_torch_file(path: Path, select: Select) -> dict[str, np.ndarray]:
    """The tensors that ``select`` picks from what was saved, where each is a `TensorEntry`; only they are read.

    Raises:
        ValueError: the file is damaged, big-endian, TorchScript, or asks for anything but tensors in dictionaries.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path, select)
    with path.open("rb") as file:
        if file.read(len(_LEGACY_START)) == _LEGACY_START:
            return _read_legacy(file, path, select)
    raise fail(_FUNCTION, "path", f"{str(path)!r} is not what torch.save writes", "a .pth or .pt file of torch.save")


def _read_zip(path: Path, select: Select) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise fail(_FUNCTION, "path", f"{str(path)!r} has {len(roots)} members */data.pkl", "1, as torch.save has")
        (root,) = roots
        if f"{root}constants.pkl" in sizes:
            raise fail(_FUNCTION, "path", f"{str(path)!r} is a TorchScript program", "a state_dict saved by torch.save")
        byteorder = archive.read(f"{root}byteorder") if f"{root}byteorder" in sizes else b"little"
        _check_byteorder(path, byteorder.decode("ascii", "replace").strip())

        def read_storage(storage: StorageEntry) -> np.ndarray:
            name = f"{root}data/{storage.key}"
            dtype = _DTYPES[storage.dtype]
            if sizes.get(name) != storage.numel * dtype.itemsize:
                got = f"{str(path)!r} has {sizes.get(name)} bytes in {name}"
                raise fail(_FUNCTION, "path", got, f"the {storage.numel * dtype.itemsize} of a {storage.dtype}")
            return np.frombuffer(archive.read(name), dtype)

        try:
            top, _ = _unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), path)
            return _read_tensors(path, select(top), read_storage)
        except zipfile.BadZipFile as error:
            raise fail(_FUNCTION, "path", f"{str(path)!r} is damaged ({error})", "a file of torch.save") from error


def _read_legacy(file: Any, path: Path, select: Select) -> dict[str, np.ndarray]:
    """Pickles of a protocol number, of the writer's system, of the object and of its storages' keys; then their bytes.

    Each storage is its number of entries as a 64-bit integer and the entries.
    """
    protocol, _ = _unpickle(file, path)
    system, _ = _unpickle(file, path)
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
        raise fail(_FUNCTION, "path", f"{str(path)!r} has protocol {protocol!r}", f"{_LEGACY_PROTOCOL}")
    _check_byteorder(path, "little" if system.get("little_endian") is True else "big")
    top, storages = _unpickle(file, path)
    keys, _ = _unpickle(file, path)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise fail(_FUNCTION, "path", f"{str(path)!r} lists other storages than its tensors use", "the same")
    starts = {}
    for key in keys:
        dtype, length = _DTYPES[storages[key].dtype], file.read(8)
        numel = int.from_bytes(length, "little")
        if len(length) != 8 or numel != storages[key].numel:
            raise fail(_FUNCTION, "path", f"{str(path)!r} has {numel} entries in storage {key}", f"{storages[key]}")
        starts[key] = file.tell()
        file.seek(numel * dtype.itemsize, io.SEEK_CUR)

    def read_storage(storage: StorageEntry) -> np.ndarray:
        dtype = _DTYPES[storage.dtype]
        file.seek(starts[storage.key])
        data = file.read(storage.numel * dtype.itemsize)
        if len(data) != storage.numel * dtype.itemsize:
            raise fail(_FUNCTION, "path", f"{str(path)!r} ends inside storage {storage.key}", "a whole file")
        return np.frombuffer(data, dtype)

    return _read_tensors(path, select(top), read_storage)


def _check_byteorder(path: Path, byteorder: str) -> None:
    if byteorder != "little":
        wanted = "little-endian numbers; load and save it again on such a machine"
        raise fail(_FUNCTION, "path", f"{str(path)!r} was written in {byteorder}-endian byte order", wanted)


def _unpickle(file: Any, path: Path) -> tuple[Any, dict[str, StorageEntry]]:
    unpickler = _TensorUnpickler(file, path)
    try:
        return unpickler.load(), unpickler.storages
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a damaged pickle can end in almost any of them
        got = f"{str(path)!r} has a pickle that cannot be read ({type(error).__name__}: {error})"
        raise fail(_FUNCTION, "path", got, "tensors in dictionaries, as torch.save writes a state_dict") from error


def _read_tensors(path: Path, entries: Mapping[str, TensorEntry], read_storage: ReadStorage) -> dict[str, np.ndarray]:
    """Every tensor as an array of its own; a storage that several share is read once."""
    cache: dict[StorageEntry, np.ndarray] = {}
    arrays = {}
    for name, entry in entries.items():
        _check_entry(path, name, entry)
        storage, offset, shape, strides = entry
        if storage not in cache:
            cache[storage] = read_storage(storage)
        flat = cache[storage]
        steps = [stride * flat.itemsize for stride in strides]
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps) if math.prod(shape) else np.zeros(shape)
        arrays[name] = view.astype(flat.dtype, order="C")
    return arrays


def _check_entry(path: Path, name: str, entry: TensorEntry) -> None:
    """The view lies inside its storage and repeats none of it: no index of a file reaches foreign memory."""
    storage, offset, shape, strides = entry
    fits = isinstance(storage, StorageEntry) and isinstance(shape, tuple) and isinstance(strides, tuple)
    fits = fits and len(shape) == len(strides)
    fits = fits and all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    if fits and math.prod(shape):
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        fits = last < storage.numel and math.prod(shape) <= storage.numel
    if not fits:
        got = f"{str(path)!r} has {name} as {tuple(entry)!r}"
        raise fail(_FUNCTION, "path", got, "offset, shape and strides inside the storage, without repetition")
