"""What makes a checkpoint directory trustworthy: a manifest that names, measures and hashes every file in it.

The manifest is canonical JSON with a hash of its own content, so a flipped bit anywhere shows, also in itself.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"


class DamagedCheckpoint(Exception):
    """A checkpoint directory whose files are not those its manifest promises; the message names the file."""


def as_json(value: Any) -> Any:
    """The value as JSON would give it back: tuples become lists, unknown objects their ``str``.

    >>> as_json({"channels": (1, 2), "dtype": bool})
    {'channels': [1, 2], 'dtype': "<class 'bool'>"}
    """
    return json.loads(json.dumps(value, default=str))


def write_manifest(directory: Path, content: dict[str, Any]) -> None:
    """Lists every file of ``directory`` with size and sha256, adds ``content``, and forces all of it to disk.

    Args:
        directory: a finished but not yet published checkpoint.
        content: JSON values to keep next to the list of files.
    """
    files = {}
    for path in _files(directory):
        files[path.relative_to(directory).as_posix()] = {"bytes": path.stat().st_size, "sha256": _file_digest(path)}
        _fsync(path)
    (directory / MANIFEST).write_bytes(_encode({**as_json(content), "files": files}))
    _fsync(directory / MANIFEST)
    for folder in [path for path in directory.rglob("*") if path.is_dir()]:
        _fsync(folder)
    _fsync(directory)


def verify_manifest(directory: Path) -> dict[str, Any]:
    """The manifest's content, once every file has been read and found as promised.

    Raises:
        DamagedCheckpoint: naming the file that is missing, truncated or altered. Other files are not looked at.
    """
    try:
        raw = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise DamagedCheckpoint(f"{MANIFEST} is missing: the checkpoint was never finished ({error})") from error
    try:
        content = json.loads(raw)["content"]
        intact = _encode(content) == raw
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{MANIFEST} cannot be read ({error})") from error
    if not intact:
        raise DamagedCheckpoint(f"{MANIFEST} does not have the hash it states")
    for name, promised in content["files"].items():
        path = directory / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        size = path.stat().st_size
        if size != promised["bytes"]:
            raise DamagedCheckpoint(f"{name} has {size} bytes; the manifest promises {promised['bytes']}")
        if _file_digest(path) != promised["sha256"]:
            raise DamagedCheckpoint(f"{name} does not have the sha256 the manifest promises")
    return content


def fsync_directory(directory: Path) -> None:
    """Forces a directory's own entries (a rename in it) to disk."""
    _fsync(directory)


def _encode(content: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({"content": content, "sha256": digest}, sort_keys=True, indent=1).encode()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
