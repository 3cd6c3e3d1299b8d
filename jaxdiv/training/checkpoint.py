"""Checkpoints that are whole or refused: orbax writes the arrays, a manifest vouches for them, a rename publishes.

This is the only module that knows orbax. A checkpoint of step 42 is the directory ``step_00000042``; it appears in
one rename after all of it has reached the disk, so a kill at any moment leaves the earlier ones and nothing half done.
One process, any number of its devices: runs of several processes are not supported yet and are refused.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiv.checks import check_range, fail
from jaxdiv.training import leaves
from jaxdiv.training.manifest import DamagedCheckpoint, as_json, fsync_directory, verify_manifest, write_manifest
from jaxdiv.typing import PyTree

_STEP, _TEMPORARY, _ARRAYS = "step_", ".unfinished_", "arrays"


class CheckpointError(Exception):
    """A checkpoint could not be written, or none of those there can be used."""


class Restored(NamedTuple):
    """What ``restore_checkpoint`` found: the newest usable checkpoint and the names of those it had to refuse."""

    step: int
    state: PyTree
    config: dict[str, Any]
    refused: list[str]


def checkpoint_steps(directory: str | Path) -> list[int]:
    """The steps that have a checkpoint directory, oldest first; whether they are intact is not looked at."""
    names = [path.name for path in Path(directory).glob(f"{_STEP}*") if path.is_dir()]
    return sorted(int(name.removeprefix(_STEP)) for name in names if name.removeprefix(_STEP).isdigit())


def newest_intact_step(directory: str | Path) -> int | None:
    """The step that a run would go on from: of the newest checkpoint whose every file is as promised, or None."""
    for step in reversed(checkpoint_steps(directory)):
        try:
            verify_manifest(checkpoint_path(directory, step))
        except DamagedCheckpoint:
            continue
        return step
    return None


def checkpoint_path(directory: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies.

    >>> checkpoint_path("run", 42).name
    'step_00000042'
    """
    return Path(directory) / f"{_STEP}{step:08d}"


def save_checkpoint(
    directory: str | Path, step: int, state: PyTree, *, config: dict[str, Any] | None = None, keep: int = 2
) -> Path:
    """Writes ``state`` atomically as the checkpoint of ``step`` and removes the oldest beyond ``keep``.

    Args:
        directory: made if it is not there.
        step: the number of steps done; a checkpoint of the same step is replaced.
        state: a pytree of arrays (any dtype, any sharding of this process), typed PRNG keys and Python numbers.
        config: JSON-like values that a later ``restore_checkpoint`` compares; name only what must not change.
        keep: how many checkpoints up to ``step`` stay, at least 2, so that a damaged newest one has a predecessor.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: the disk is full or the directory cannot be written; earlier checkpoints are as they were.
        ValueError: a leaf is neither array, key nor Python number, or JAX runs on several processes.
    """
    check_range("save_checkpoint", "keep", keep, 2)
    if jax.process_count() > 1:  # orbax would wait for the others at a barrier
        raise fail("save_checkpoint", "jax.process_count()", f"is {jax.process_count()}", "1")
    directory, final = Path(directory), checkpoint_path(directory, step)
    paths, values, treedef = leaves.flatten(state)
    records = [leaves.describe(path, value) for path, value in zip(paths, values, strict=True)]
    arrays = {_name(i): leaves.to_host(v) for i, (r, v) in enumerate(zip(records, values, strict=True)) if "shape" in r}
    content = {
        "step": step,
        "config": config or {},
        "tree": _structure(treedef),
        "leaves": records,
        "extras": [leaves.extras(value) for value in values],
    }
    temporary = directory / f"{_TEMPORARY}{final.name}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(directory)
        temporary.mkdir()
        _store(temporary / _ARRAYS, {name: value for name, value in arrays.items() if value.size})
        write_manifest(temporary, content)
        if final.exists():  # a damaged one of the same step; it disappears with the unfinished ones if we die here
            final.rename(directory / f"{_TEMPORARY}old_{final.name}")
        temporary.rename(final)
        fsync_directory(directory)
    except Exception as error:  # tensorstore reports a full disk as ValueError, the file system as OSError
        shutil.rmtree(temporary, ignore_errors=True)
        needed = sum(value.nbytes for value in arrays.values())
        raise CheckpointError(
            f"could not write the checkpoint of step {step} into {directory}: {needed} bytes are needed and "
            f"{_free_bytes(directory)} are free; earlier checkpoints are untouched. Cause: {error}"
        ) from error
    _remove_unfinished(directory)
    for old in [s for s in checkpoint_steps(directory) if s <= step][:-keep]:
        shutil.rmtree(checkpoint_path(directory, old))
    return final


def restore_checkpoint(directory: str | Path, template: PyTree, *, config: dict[str, Any] | None = None) -> Restored:
    """The newest intact checkpoint, leaf by leaf in the form and on the sharding of ``template``.

    Args:
        directory: where ``save_checkpoint`` wrote; nothing in it is changed.
        template: a state of the wanted structure, shapes, dtypes and shardings (arrays or ``jax.ShapeDtypeStruct``).
        config: compared with the stored one if given.

    Returns:
        ``Restored(step, state, config, refused)``; each refused checkpoint is also named on stderr.

    Raises:
        CheckpointError: there is none, or none is intact (all are listed).
        ValueError: template or config differ from what is stored; every difference is named.
    """
    refused: list[str] = []
    for step in reversed(checkpoint_steps(directory)):
        path = checkpoint_path(directory, step)
        try:
            content = verify_manifest(path)
            _check_fit(path, content, template, config)
            return Restored(step, _rebuild(path / _ARRAYS, content, template), content["config"], refused)
        except DamagedCheckpoint as damage:
            refused.append(f"{path}: {damage}")
            print(f"refused checkpoint {path}: {damage}; trying the one before it", file=sys.stderr, flush=True)
    if refused:
        raise CheckpointError(f"no usable checkpoint in {directory}:\n  " + "\n  ".join(refused))
    raise CheckpointError(f"no checkpoint in {directory}")


def load_leaves(path: str | Path) -> dict[str, Any]:
    """The leaves of one intact checkpoint by their path in the state, as numpy arrays and Python numbers.

    For inspection and comparison without the code that made the state; a typed key gives its words.

    Raises:
        DamagedCheckpoint: naming the damaged file.
    """
    content = verify_manifest(Path(path))
    arrays = _stored_arrays(Path(path) / _ARRAYS, content["leaves"], content["extras"])
    pairs = zip(content["leaves"], content["extras"], strict=True)
    return {r["path"]: extra["value"] if "value" in extra else arrays[i] for i, (r, extra) in enumerate(pairs)}


def _store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if arrays:  # orbax refuses an empty tree
        with _checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays))


def _stored_arrays(
    path: Path, records: list[dict[str, Any]], extras: list[dict[str, Any]]
) -> dict[int, np.ndarray]:  # fmt: skip
    """The arrays by the position of their leaf; empty ones are made anew, since orbax stores none."""
    shaped = [(i, record) for i, record in enumerate(records) if "shape" in record]
    names = [_name(i) for i, record in shaped if 0 not in record["shape"]]
    arrays = {}
    if names:
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        try:
            with _checkpointer() as checkpointer:
                args = ocp.args.PyTreeRestore(item=dict.fromkeys(names, 0), restore_args=as_numpy)
                arrays = checkpointer.restore(path.absolute(), args=args)
        except Exception as error:
            raise DamagedCheckpoint(f"orbax cannot read {path.name} ({type(error).__name__}: {error})") from error
    return {i: arrays[_name(i)] if _name(i) in arrays else leaves.empty(record, extras[i]) for i, record in shaped}


def _checkpointer() -> ocp.Checkpointer:
    # Weights do not compress; uncompressed they are written at the disk's speed.
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False))


def _rebuild(path: Path, content: dict[str, Any], template: PyTree) -> PyTree:
    _, like, treedef = leaves.flatten(template)
    arrays = _stored_arrays(path, content["leaves"], content["extras"])
    stored = enumerate(zip(content["extras"], like, strict=True))
    return treedef.unflatten([leaves.rebuild(extra, arrays.get(i), leaf) for i, (extra, leaf) in stored])


def _check_fit(path: Path, content: dict[str, Any], template: PyTree, config: dict[str, Any] | None) -> None:
    paths, values, treedef = leaves.flatten(template)
    asked = {p: leaves.describe(p, value) for p, value in zip(paths, values, strict=True)}
    stored = {record["path"]: record for record in content["leaves"]}
    differences = _differences(stored, asked, lambda name: f"state{name}")
    if not differences and _structure(treedef) != content["tree"]:
        differences.append(f"tree: stored {content['tree']}, asked {_structure(treedef)}")
    if config is not None:
        asked_config = _flat("config", as_json(config))
        differences += _differences(_flat("config", content["config"]), asked_config, str)
    if differences:
        raise ValueError(f"restore_checkpoint: {path} does not fit:\n  " + "\n  ".join(differences))


def _structure(treedef: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(treedef))  # an address of a static function differs in every process


def _differences(stored: dict[str, Any], asked: dict[str, Any], label: Callable[[str], str]) -> list[str]:
    names = [*stored, *(name for name in asked if name not in stored)]
    return [
        f"{label(name)}: stored {_words(stored.get(name, 'nothing'))}, asked {_words(asked.get(name, 'nothing'))}"
        for name in names
        if name not in stored or name not in asked or _same_text(stored[name]) != _same_text(asked[name])
    ]


def _same_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # as text NaN equals itself and True is not 1


def _words(value: Any) -> str:
    if isinstance(value, dict) and "kind" in value:
        return f"{value['dtype']}{value['shape']}" if "shape" in value else value["kind"]
    return str(value)


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: leaf for part, inner in value.items() for key, leaf in _flat(f"{name}.{part}", inner).items()}


def _name(index: int) -> str:
    return f"leaf_{index:05d}"


def _remove_unfinished(directory: Path) -> None:
    for path in directory.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _free_bytes(directory: Path) -> int | str:
    return shutil.disk_usage(directory).free if directory.exists() else "none"
