"""Arrays by name from the files in which weights are published; nothing in a file is executed."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import fail
from jaxdiv.networks.torch_files import TensorEntry, read_torch_file

_FUNCTION = "read_state_dict"
_SUFFIXES = (".npz", ".safetensors", ".pth", ".pt")
_SAFETENSORS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def read_state_dict(path: str | Path, *, key: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a state_dict by name, from ``.npz``, ``.safetensors``, or what ``torch.save`` writes.

    Both of torch's formats are read (the zip archives since torch 1.6 and the plain ones before), without torch. Their
    pickles may describe tensors in dictionaries and nothing else: the functions and classes that they name are not
    looked up. Files may be untrusted as far as code is concerned; memory is taken as they ask for it.

    Args:
        path: the file; its ending says the format.
        key: where a ``.pth`` or ``.pt`` file is a dictionary of several things, such as ``{"ema": ..., "step": ...}``,
            the one that is the state_dict.

    Returns:
        Arrays with the stored shapes and dtypes (bfloat16 as jax has it), in the stored order; each owns its memory.

    Raises:
        ValueError: no such file, another type, a damaged file, a pickle that asks for anything but tensors (the first
            such class is named), numbers in big-endian order, or a ``key`` that is missing, unknown or not needed; the
            keys that hold state_dicts are listed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/weights.npz", bias=np.zeros(3, np.float32))
    ...     {name: value.shape for name, value in read_state_dict(f"{folder}/weights.npz").items()}
    {'bias': (3,)}

    Source: the formats as ``torch.save`` and the safetensors specification define them.
    """
    path = Path(path)
    if path.suffix == ".pkl":
        # EDM's and StyleGAN's published pickles hold the source text of their network and run it when loaded.
        wanted = "a state_dict: load it once with its own code, if you trust it, and torch.save(net.state_dict(), ...)"
        raise fail(_FUNCTION, "path", f"is {str(path)!r}, a pickle, which executes code stored in the file", wanted)
    if path.suffix not in _SUFFIXES:
        raise fail(_FUNCTION, "path", f"ends in {path.suffix!r}", "one of " + ", ".join(map(repr, _SUFFIXES)))
    if not path.is_file():
        raise fail(_FUNCTION, "path", f"is {str(path)!r}, which is no file", "one of " + ", ".join(_SUFFIXES))
    if path.suffix in (".pth", ".pt"):
        return read_torch_file(path, lambda top: _select(path, top, key))
    if key is not None:
        raise fail(_FUNCTION, "key", f"is {key!r} for {path.suffix}, where arrays are not nested", "None")
    return _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)


def _select(path: Path, top: Any, key: str | None) -> Mapping[str, TensorEntry]:
    """The state_dict in what was saved: all of it, or what stands under ``key``."""
    if _is_state_dict(top):
        if key is not None:
            raise fail(_FUNCTION, "key", f"is {key!r}, but {str(path)!r} is a state_dict itself", "None")
        return top
    nested = [name for name, value in top.items() if _is_state_dict(value) and value] if isinstance(top, dict) else []
    if key is None:
        what = f"a dictionary in which {nested} are state_dicts" if nested else "no state_dict and holds none"
        raise fail(_FUNCTION, "key", f"is None, but {str(path)!r} is {what}", "the key of a state_dict in the file")
    if key not in nested:
        raise fail(_FUNCTION, "key", f"is {key!r}, which is no state_dict in {str(path)!r}", f"one of {nested}")
    return top[key]


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(entry, TensorEntry) for name, entry in value.items()
    )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise fail(_FUNCTION, "path", f"{str(path)!r} cannot be read ({error})", "plain arrays of np.savez") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The format is a little-endian length, a JSON header of that length, and the arrays' bytes."""
    data = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        if not 8 < start <= len(data):
            raise ValueError(f"a header of {start - 8} bytes in a file of {len(data)}")
        header = json.loads(bytes(data[8:start]))
        return {name: _safetensor(entry, data[start:]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        got = f"{str(path)!r} is no valid file ({type(error).__name__}: {error})"
        raise fail(_FUNCTION, "path", got, "the safetensors format") from error


def _safetensor(entry: dict[str, Any], data: memoryview) -> np.ndarray:
    if entry["dtype"] not in _SAFETENSORS:
        raise ValueError(f"dtype {entry['dtype']} is none of {', '.join(_SAFETENSORS)}")
    dtype, shape, (begin, end) = _SAFETENSORS[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
        raise ValueError(f"{entry} has numbers that are no sizes")
    if end > len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry} does not fit its shape or the {len(data)} bytes of arrays")
    return np.frombuffer(data[begin:end], dtype).reshape(shape).copy()
