"""Files of arrays by name: what is read, and that nothing in them is run."""

import json
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.networks.state_dicts import read_state_dict
from tests.networks.torch_writer import (
    STORAGES,
    Build,
    Call,
    Global,
    Ordered,
    Persistent,
    Saved,
    pickled,
    view,
    write_pth,
)

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "norm.running_var": np.array([0.5, 2.0], np.float64),
    "count": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype and actual[name].shape == value.shape
        np.testing.assert_array_equal(actual[name], value)


def write_safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


@BOTH
@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_torch_files(tmp_path, legacy, suffix):
    path = tmp_path / f"weights.{suffix}"
    write_pth(path, ARRAYS, legacy)
    read = read_state_dict(path)
    assert_same(read, ARRAYS)
    read["conv.weight"][:] = 0  # the reader's own memory


@BOTH
@pytest.mark.parametrize("dtype", STORAGES)
def test_every_storage_type(tmp_path, legacy, dtype):
    values = np.array([0, 1, 1, 100]).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    write_pth(tmp_path / "a.pth", {"x": values}, legacy)
    assert_same(read_state_dict(tmp_path / "a.pth"), {"x": values})


@BOTH
def test_views_of_one_storage(tmp_path, legacy):
    base = np.arange(60, dtype=np.float32)
    saved = Saved(legacy)
    storage = saved.storage(base)
    top = {
        "all": view(storage, 0, (3, 4, 5), (20, 5, 1)),
        "transposed": view(storage, 0, (5, 4, 3), (1, 5, 20)),
        "part": view(storage, 22, (2, 2), (20, 2)),
        "scalar": view(storage, 59, (), ()),
    }
    saved.write(tmp_path / "a.pth", top)
    cube = base.reshape(3, 4, 5)
    expected = {
        "all": cube,
        "transposed": cube.transpose(2, 1, 0),
        "part": cube[1:, 0, 2::2],
        "scalar": base[59],
    }
    read = read_state_dict(tmp_path / "a.pth")
    assert_same(read, expected)
    assert not np.shares_memory(read["all"], read["transposed"])


@BOTH
def test_parameters_and_metadata(tmp_path, legacy):
    saved = Saved(legacy)
    tensor = saved.tensor(np.ones(2, np.float32))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor, True, Ordered({})))
    saved.write(tmp_path / "a.pth", Ordered({"p": parameter}, {"_metadata": Ordered({"": {"version": 1}})}))
    assert_same(read_state_dict(tmp_path / "a.pth"), {"p": np.ones(2, np.float32)})


@BOTH
def test_nested_state_dicts_need_a_key(tmp_path, legacy):
    path, saved = tmp_path / "a.pth", Saved(legacy)
    ema, model = saved.tensors({"w": np.full(2, 2.0)}), saved.tensors({"w": np.ones(2)})
    saved.write(path, {"step": 10, "lr": 1e-3, "big": 2**40, "log": [None, True, (1, 2)], "model": model, "ema": ema})
    assert_same(read_state_dict(path, key="ema"), {"w": np.full(2, 2.0)})
    with pytest.raises(ValueError, match=r"key is None, but .* \['model', 'ema'\] are state_dicts"):
        read_state_dict(path)
    with pytest.raises(ValueError, match=r"key is 'step', .* one of \['model', 'ema'\]"):
        read_state_dict(path, key="step")
    write_pth(path, {"w": np.ones(2)}, legacy)
    with pytest.raises(ValueError, match="key is 'ema', but .* is a state_dict itself"):
        read_state_dict(path, key="ema")
    Saved(legacy).write(path, [1, 2])
    with pytest.raises(ValueError, match="is no state_dict and holds none"):
        read_state_dict(path)


@BOTH
def test_storages_that_are_not_asked_for_are_not_read(tmp_path, legacy):
    path, saved = tmp_path / "a.pth", Saved(legacy)
    kept, other = saved.tensors({"w": np.ones(2)}), saved.tensors({"m": np.ones(3)})
    saved.write(path, {"model": kept, "optimizer": {"state": other}})
    if not legacy:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if name != "archive/data/1"}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    assert_same(read_state_dict(path, key="model"), {"w": np.ones(2)})


@BOTH
@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("collections", "Counter"),
        ("torch", "load"),
        ("torch", "ComplexFloatStorage"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ("numpy._core.multiarray", "scalar"),
    ],
)
def test_other_classes_are_refused_by_name(tmp_path, legacy, module, name):
    marker = tmp_path / "ran"
    Saved(legacy).write(tmp_path / "a.pth", {"x": Call(Global(module, name), (f"touch {marker}",))})
    with pytest.raises(ValueError, match=f"read_state_dict: path .* asks for {module}.{name};"):
        read_state_dict(tmp_path / "a.pth")
    assert not marker.exists()


@BOTH
@pytest.mark.parametrize(
    "state", [{"fromkeys": 1}, (None, {"fromkeys": 1, "shape": 1, "__call__": 1})], ids=["dict", "slots"]
)
@pytest.mark.parametrize("name", ["rebuild", "parameter", "storage type", "dictionary", "tensor", "storage"])
def test_what_a_pickle_gets_hold_of_cannot_be_changed(tmp_path, legacy, name, state):
    """BUILD sets attributes of whatever is on the stack, and would call its ``__setstate__``."""
    saved = Saved(legacy)
    storage = saved.storage(np.ones(1, np.float32))
    targets = {
        "rebuild": Global("torch._utils", "_rebuild_tensor_v2"),
        "parameter": Global("torch._utils", "_rebuild_parameter"),
        "storage type": Global("torch", "FloatStorage"),
        "dictionary": Global("collections", "OrderedDict"),
        "tensor": view(storage, 0, (1,), (1,)),
        "storage": storage,
    }
    saved.write(tmp_path / "a.pth", {"x": Build(targets[name], state)})
    with pytest.raises(ValueError, match="has a pickle that cannot be read"):
        read_state_dict(tmp_path / "a.pth")


@BOTH
@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (5, (2,), (1,)),
        (6, (), ()),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (1,)),
        (0, (2, 4), (3, 1)),
        (0, (7,), (0,)),
        (0, (2**40, 2**40), (0, 0)),
        (0.0, (1,), (1,)),
        (0, (True,), (1,)),
    ],
)
def test_views_outside_their_storage_are_refused(tmp_path, legacy, offset, shape, strides):
    saved = Saved(legacy)
    saved.write(tmp_path / "a.pth", {"inside": view(saved.storage(np.ones(6)), offset, shape, strides)})
    with pytest.raises(ValueError, match="has inside as .* inside the storage, without repetition"):
        read_state_dict(tmp_path / "a.pth")


@BOTH
def test_malformed_tensors(tmp_path, legacy):
    for fake in (3, Ordered({}), Global("torch", "FloatStorage")):
        Saved(legacy).write(tmp_path / "a.pth", {"x": view(fake, 0, (1,), (1,))})
        with pytest.raises(ValueError, match="has x as"):
            read_state_dict(tmp_path / "a.pth")
    kind = Global("torch", "FloatStorage")
    pids = [("module", kind, "0", "cpu", 1), ("storage", "Float", "0", "cpu", 1), ("storage", kind, 0, "cpu", 1)]
    for pid in [*pids, ("storage", kind, "0", "cpu", -1), ("storage", kind, "0", "cpu", 1, ("0", 0, 1))]:
        Saved(legacy).write(tmp_path / "a.pth", {"x": view(Persistent(pid), 0, (1,), (1,))})
        with pytest.raises(ValueError, match="refers to .* storages of a known type"):
            read_state_dict(tmp_path / "a.pth")
    saved = Saved(legacy)
    first, second = (saved.storage(np.ones(1, dtype), key="0") for dtype in (np.float32, np.int32))
    saved.write(tmp_path / "a.pth", {"x": view(first, 0, (1,), (1,)), "y": view(second, 0, (1,), (1,))})
    with pytest.raises(ValueError, match="one dtype and length for each storage"):
        read_state_dict(tmp_path / "a.pth")


@BOTH
@pytest.mark.parametrize("byteorder", ["big", "little"])
def test_byte_order(tmp_path, legacy, byteorder):
    saved = Saved(legacy)
    saved.write(tmp_path / "a.pth", saved.tensors(ARRAYS), byteorder=byteorder)
    if byteorder == "little":
        assert_same(read_state_dict(tmp_path / "a.pth"), ARRAYS)
    else:
        with pytest.raises(ValueError, match="written in big-endian byte order"):
            read_state_dict(tmp_path / "a.pth")


def test_older_zip_files_have_no_byteorder(tmp_path):
    saved = Saved()
    saved.write(tmp_path / "a.pth", saved.tensors(ARRAYS), byteorder=None, root="a name of its own")
    assert_same(read_state_dict(tmp_path / "a.pth"), ARRAYS)


def test_zip_files_that_are_no_state_dict(tmp_path):
    path = tmp_path / "a.pt"
    Saved().write(path, {}, extra=["constants.pkl"])
    with pytest.raises(ValueError, match="is a TorchScript program"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(ValueError, match="has 0 members"):
        read_state_dict(path)
    saved = Saved()
    tensors = saved.tensors({"x": np.ones(3, np.float32)})
    saved.data["0"] = saved.data["0"][:2]
    saved.write(path, tensors)
    with pytest.raises(ValueError, match="has 8 bytes in archive/data/0; expected the 12 of a FloatStorage"):
        read_state_dict(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.pth"
    for content in (b"", b"PK not a zip", pickle.dumps({"x": 1}), pickle.dumps({"x": 1}, protocol=4)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pth' is not what torch\.save writes"):
            read_state_dict(path)
    write_pth(path, ARRAYS)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(ARRAYS["conv.weight"].tobytes(), bytes(ARRAYS["conv.weight"].nbytes)))
    with pytest.raises(ValueError, match="is damaged"):
        read_state_dict(path)
    write_pth(path, ARRAYS, legacy=True)
    whole = path.read_bytes()
    for length in range(15, len(whole), 11):  # the magic number and something of the rest
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"read_state_dict: path .*a\.pth'"):
            read_state_dict(path)


def test_legacy_storages_must_be_those_of_the_tensors(tmp_path):
    path, saved = tmp_path / "a.pth", Saved(legacy=True)
    tensors = saved.tensors({"x": np.ones(3, np.float32)})
    saved.storage(np.ones(1))
    saved.write(path, tensors)
    with pytest.raises(ValueError, match="lists other storages than its tensors use"):
        read_state_dict(path)
    del saved.data["1"]
    saved.data["0"] = saved.data["0"][:2]
    saved.write(path, tensors)
    with pytest.raises(ValueError, match="has 2 entries in storage 0"):
        read_state_dict(path)
    magic = pickled(0x1950A86A20F9469CFC6C)
    path.write_bytes(magic + pickled(1000) + pickled({}))
    with pytest.raises(ValueError, match="has protocol 1000"):
        read_state_dict(path)


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    assert_same(read_state_dict(str(tmp_path / "a.npz")), ARRAYS)
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    for content in (None, b"", b"no archive", pickle.dumps(3)):
        if content is not None:
            (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz' cannot be read"):
            read_state_dict(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "int8", "uint16", "bool", "bfloat16"])
def test_safetensors(tmp_path, dtype):
    kinds = {"bfloat16": "BF16", "bool": "BOOL", "float64": "F64", "float32": "F32", "float16": "F16"}
    kind = kinds.get(dtype, dtype.upper().replace("UINT", "U").replace("INT", "I"))
    x = np.array([[0, 1, 1], [0, 100, 1]]).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    header = {"__metadata__": {"format": "pt"}, "x": {"dtype": kind, "shape": [2, 3], "data_offsets": [0, x.nbytes]}}
    write_safetensors(tmp_path / "a.safetensors", header, x.tobytes())
    read = read_state_dict(tmp_path / "a.safetensors")
    assert_same(read, {"x": x})
    read["x"][:] = 0


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}, "dtype F8_E4M3"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "does not fit its shape"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "or the 4 bytes of arrays"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}, "numbers that are no sizes"),
        ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "numbers that are no sizes"),
        ({"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}, "TypeError"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "ValueError"),
        ({"dtype": "F32", "shape": [1]}, "KeyError: 'data_offsets'"),
        (["F32"], "TypeError"),
    ],
)
def test_malformed_safetensors_entries(tmp_path, entry, message):
    write_safetensors(tmp_path / "a.safetensors", {"x": entry}, bytes(4))
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(tmp_path / "a.safetensors")
    assert "a.safetensors' is no valid file" in str(error.value)


def test_malformed_safetensors_headers(tmp_path):
    path = tmp_path / "a.safetensors"
    for header, length in ((b"", None), (b"{}", 3), (b"{}", 2**63), (b"{", None), (b"[]", None), (b"\xff\xfe", None)):
        write_safetensors(path, header, length=length)
        with pytest.raises(ValueError, match=r"a\.safetensors' is no valid file"):
            read_state_dict(path)
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="is no valid file"):
        read_state_dict(path)


def test_other_paths_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a pickle, which executes code stored in the file; .*state_dict\(\)"):
        read_state_dict(tmp_path / "edm.pkl")
    with pytest.raises(ValueError, match="ends in '.h5'"):
        read_state_dict("weights.h5")
    with pytest.raises(ValueError, match="which is no file"):
        read_state_dict(tmp_path / "absent.pth")
    np.savez(tmp_path / "a.npz", x=1)
    with pytest.raises(ValueError, match="key is 'ema' for .npz"):
        read_state_dict(tmp_path / "a.npz", key="ema")


@BOTH
def test_torch_reads_what_the_tests_write_and_writes_what_is_read(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    write_pth(path, ARRAYS, legacy)
    assert_same({name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}, ARRAYS)
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {"a": base, "b": base.transpose(0, 2), "c": base[1, ::2], "half": base.bfloat16()}
    torch.save({"ema": state, "step": 1}, path, _use_new_zipfile_serialization=not legacy)
    read = read_state_dict(path, key="ema")
    assert read["half"].dtype == jnp.bfloat16
    assert_same(
        {name: value.astype(np.float32) for name, value in read.items()},
        {n: v.float().numpy() for n, v in state.items()},
    )
