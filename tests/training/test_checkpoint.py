"""Checkpoints come back bit for bit or are refused by name."""

import errno
import json
import resource
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv.training import (
    CheckpointError,
    checkpoint_path,
    checkpoint_steps,
    load_leaves,
    newest_intact_step,
    restore_checkpoint,
    save_checkpoint,
)
from jaxdiv.training import checkpoint as checkpoint_module


class Nested(NamedTuple):
    params: dict
    optimizer: object
    key: jax.Array
    other: tuple


def nasty(seed: int = 0) -> Nested:
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "weird / name.": jax.random.normal(keys[0], (3, 4)).at[0, 0].set(jnp.nan).at[0, 1].set(-0.0),
        "bf16": jax.random.normal(keys[1], (5,), jnp.bfloat16),
        "half": jnp.array([6e-8, jnp.inf], jnp.float16),
        "empty": jnp.zeros((0, 3)),
    }
    other = (
        7, 0.1, float("inf"), True, "text", None, np.arange(3, dtype=np.uint64) + np.uint64(2**63),
        np.float64(0.1 + seed),
        jnp.array([True, False]), jnp.int8(3), jnp.asarray(2.5), [jnp.uint32(9)], jax.random.key(1, impl="rbg"),
    )  # fmt: skip
    return Nested(params, optax.adam(1e-3).init(params), jax.random.split(jax.random.key(seed), 2), other)


def bits(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf)).tobytes()
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        kind = np.ndarray if isinstance(leaf, np.ndarray) else type(leaf)
        return kind, leaf.dtype, leaf.shape, getattr(leaf, "weak_type", None), np.asarray(leaf).tobytes()
    return type(leaf), leaf


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path_a, x in jax.tree_util.tree_leaves_with_path(a):
        y = dict((jax.tree_util.keystr(p), v) for p, v in jax.tree_util.tree_leaves_with_path(b))
        assert bits(x) == bits(y[jax.tree_util.keystr(path_a)]), path_a


def test_nasty_state_survives_bit_for_bit(tmp_path):
    state = nasty(3)
    path = save_checkpoint(tmp_path, 42, state, config={"a": (1, 2)})
    assert path == tmp_path / "step_00000042" == checkpoint_path(tmp_path, 42)
    restored = restore_checkpoint(tmp_path, nasty(0), config={"a": (1, 2)})
    assert (restored.step, restored.config, restored.refused) == (42, {"a": [1, 2]}, [])
    assert_same(restored.state, state)
    assert not restored.state.params["bf16"].committed


def test_restores_onto_shapes_alone(tmp_path):
    state = {"w": jnp.arange(3.0), "key": jax.random.key(5), "host": np.arange(2)}
    save_checkpoint(tmp_path, 1, state)
    template = {**jax.eval_shape(lambda: {"w": state["w"], "key": state["key"]}), "host": np.zeros(2, int)}
    assert_same(restore_checkpoint(tmp_path, template).state, state)


def test_state_without_arrays(tmp_path):
    save_checkpoint(tmp_path, 0, {"count": 2**80, "rate": float("nan")})
    state = restore_checkpoint(tmp_path, {"count": 0, "rate": 0.0}).state
    assert state["count"] == 2**80 and np.isnan(state["rate"])


def test_leaves_by_path(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"a": (jnp.arange(2), 3), "key": jax.random.key(4), "none": jnp.zeros((0,))})
    found = load_leaves(path)
    np.testing.assert_array_equal(found["['a'][0]"], [0, 1])
    np.testing.assert_array_equal(found["['key']"], [0, 4])
    assert found["['a'][1]"] == 3 and found["['none']"].shape == (0,)


def test_keeps_the_newest_and_replaces_the_same_step(tmp_path):
    for step in (1, 2, 10, 3, 3):
        save_checkpoint(tmp_path, step, {"x": jnp.full(4, step)}, keep=2)
    assert checkpoint_steps(tmp_path) == [2, 3, 10]  # a newer one is never removed by an older
    assert checkpoint_steps(tmp_path / "absent") == []
    assert {path.name for path in tmp_path.iterdir()} == {f"step_{step:08d}" for step in (2, 3, 10)}


def test_clears_what_a_kill_left(tmp_path):
    (tmp_path / ".unfinished_step_00000003" / "arrays").mkdir(parents=True)
    assert checkpoint_steps(tmp_path) == []
    save_checkpoint(tmp_path, 4, {"x": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]


def two_checkpoints(directory):
    shutil.rmtree(directory, ignore_errors=True)
    for step in (1, 2):
        save_checkpoint(directory, step, {"x": jnp.arange(6.0) + step, "s": step}, config={"lr": 0.1})
    return checkpoint_path(directory, 2)


def assert_falls_back(directory, file, capsys):
    restored = restore_checkpoint(directory, {"x": jnp.zeros(6), "s": 0}, config={"lr": 0.1})
    assert restored.step == 1 and restored.state["s"] == 1
    np.testing.assert_array_equal(restored.state["x"], np.arange(6.0) + 1)
    (message,) = restored.refused
    assert str(checkpoint_path(directory, 2)) in message and file in message
    assert message.split(": ")[0] in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["first bit", "last bit", "truncate", "delete"])
def test_damage_to_any_file_is_refused_by_name(tmp_path, capsys, damage):
    newest = two_checkpoints(tmp_path / "run")
    pristine = tmp_path / "pristine"
    shutil.copytree(newest, pristine)
    names = [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]
    assert len(names) > 5
    for name in names:
        path, content = newest / name, (newest / name).read_bytes()
        if damage == "delete":
            path.unlink()
        elif damage == "truncate":
            path.write_bytes(content[:-1])
        else:
            at = 0 if damage == "first bit" else len(content) - 1
            path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        assert_falls_back(tmp_path / "run", name.name, capsys)
        shutil.copy(pristine / name, path)
    assert restore_checkpoint(tmp_path / "run", {"x": jnp.zeros(6), "s": 0}).step == 2


def test_altered_manifest_is_refused(tmp_path, capsys):
    path = two_checkpoints(tmp_path) / "MANIFEST.json"
    path.write_text(path.read_text().replace('"lr": 0.1', '"lr": 0.2'))
    assert_falls_back(tmp_path, "MANIFEST.json", capsys)
    path.write_text(json.dumps({"content": {}}))
    assert_falls_back(tmp_path, "MANIFEST.json", capsys)


def test_all_damaged_are_listed(tmp_path):
    two_checkpoints(tmp_path)
    for step in (1, 2):
        (checkpoint_path(tmp_path, step) / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match=r"(?s)no usable checkpoint.*step_00000002.*step_00000001"):
        restore_checkpoint(tmp_path, {"x": jnp.zeros(6), "s": 0})
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        restore_checkpoint(tmp_path / "absent", {})


@pytest.mark.parametrize(
    ("template", "config", "messages"),
    [
        ({"x": jnp.zeros(7), "s": 0}, {"lr": 0.1}, [r"state['x']: stored float32[6], asked float32[7]"]),
        ({"x": jnp.zeros(6, jnp.bfloat16), "s": 0}, None, ["stored float32[6], asked bfloat16[6]"]),
        ({"x": jnp.zeros(6), "s": jnp.zeros(())}, None, ["state['s']: stored int, asked float32[]"]),
        ({"x": jax.random.split(jax.random.key(0), 6), "s": 0}, None, ["asked key<fry>[6]"]),
        ({"y": jnp.zeros(6), "s": 0}, None, ["['x']: stored float32[6], asked nothing", "['y']: stored nothing"]),
        ({"x": jnp.zeros(6), "s": 0, "n": None}, None, ["tree: stored"]),
        ({"x": jnp.zeros(6), "s": 0}, {"lr": 0.2}, ["config.lr: stored 0.1, asked 0.2"]),
        ({"x": jnp.zeros(2), "s": 0}, {"net": {"width": 8}}, ["config.lr", "config.net.width", "state['x']"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_error_naming_all(tmp_path, template, config, messages):
    two_checkpoints(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match="does not fit") as error:
        restore_checkpoint(tmp_path, template, config=config)
    for message in messages:
        assert message in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def assert_only_step_one_is_left(directory):
    assert [path.name for path in directory.iterdir()] == ["step_00000001"]
    assert restore_checkpoint(directory, {"x": jnp.zeros(100_000)}).step == 1


def test_no_room_for_the_arrays(tmp_path):
    """A file-size limit stops the write in the middle, as a full disk does."""
    save_checkpoint(tmp_path, 1, {"x": jnp.zeros(100_000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match="400000 bytes are needed") as error:
            save_checkpoint(tmp_path, 2, {"x": jax.random.normal(jax.random.key(0), (100_000,))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)
    assert_only_step_one_is_left(tmp_path)


def test_no_room_for_the_manifest(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": jnp.zeros(100_000)})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_manifest", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(tmp_path, 2, {"x": jnp.zeros(100_000)})
    assert_only_step_one_is_left(tmp_path)


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="is 2; expected 1"):
        save_checkpoint(tmp_path, 0, {"x": 1})


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep is 1"):
        save_checkpoint(tmp_path, 0, {}, keep=1)
    with pytest.raises(ValueError, match=r"state\['f'\] is a function"):
        save_checkpoint(tmp_path, 0, {"f": bits})
    assert list(tmp_path.iterdir()) == []


def test_weak_arrays_stay_weak(tmp_path):
    """They do not widen what they meet: a resumed run would go on in float32 where bfloat16 was."""
    state = {"rate": jnp.full((3,), 0.1), "one": jnp.asarray(0.1), "strong": jnp.ones(3)}
    save_checkpoint(tmp_path, 1, state)
    restored = restore_checkpoint(tmp_path, state).state
    assert [restored[name].weak_type for name in ("rate", "one", "strong")] == [True, True, False]
    np.testing.assert_array_equal(restored["rate"], state["rate"])
    assert (jnp.ones(3, jnp.bfloat16) * restored["rate"]).dtype == jnp.bfloat16


def test_an_empty_array_of_longer_keys(tmp_path):
    state = {"keys": jax.random.split(jax.random.key(0, impl="rbg"), 4)[:0]}
    save_checkpoint(tmp_path, 1, state)
    restored = restore_checkpoint(tmp_path, state).state["keys"]
    assert restored.shape == (0,) and restored.dtype == state["keys"].dtype


def test_the_newest_intact_step(tmp_path):
    assert newest_intact_step(tmp_path) is None
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"x": jnp.zeros(3)})
    assert newest_intact_step(tmp_path) == 2
    (checkpoint_path(tmp_path, 2) / "MANIFEST.json").write_text("{}")
    assert newest_intact_step(tmp_path) == 1
    assert checkpoint_steps(tmp_path) == [1, 2]
