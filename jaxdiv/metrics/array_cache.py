"""Arrays that are computed once and kept on disk, under a name that says what they were computed from."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np


def digest(*parts: object) -> str:
    """Hexadecimal sha256 of arrays (values, shape and dtype), files (given as ``Path``: their bytes) and plain values.

    >>> digest("v1", np.zeros(3)) == digest("v1", np.zeros(3)), digest("v1", np.zeros(3)) == digest("v1", np.zeros(4))
    (True, False)
    """
    total = hashlib.sha256()
    for part in parts:
        one, kind = hashlib.sha256(), "value"
        if isinstance(part, Path):
            kind = "file"
            with part.open("rb") as file:
                one = hashlib.file_digest(file, "sha256")
        elif isinstance(part, np.ndarray):
            kind = "array"
            one.update(f"{part.shape} {part.dtype.str} ".encode())
            one.update(np.ascontiguousarray(part).data)
        else:
            one.update(repr(part).encode())
        # Parts are hashed one by one, so that two lists never run together to the same bytes.
        total.update(kind.encode() + one.digest())
    return total.hexdigest()


def cached_arrays(
    directory: str | os.PathLike[str] | None, name: str, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of ``directory/name.npz``, or what ``compute`` gives, which is then written there.

    The file appears whole or not at all, so that processes may share the folder; one that cannot be read is computed
    again. No pickles, in or out: object arrays are refused when they are written.

    Args:
        directory: The folder, made if missing; None computes and keeps nothing.
        name: Without the suffix; holds the digest of everything that the arrays depend on.
        compute: Called only if there is no such file.
    """
    if directory is None:
        return compute()
    path = Path(directory).expanduser() / f"{name}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):  # RuntimeError: a flag of zip's, damaged
        path.unlink(missing_ok=True)
    arrays = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return arrays
