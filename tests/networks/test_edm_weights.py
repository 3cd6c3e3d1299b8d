import importlib.util
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import (
    UNet,
    config_from_edm,
    convert_edm_state_dict,
    edm_state_dict,
    functional,
    load_edm_weights,
    save_edm_weights,
)
from tests.networks.edm_oracle import edm_denoise, random_state_dict
from tests.networks.torch_writer import Saved, write_pth

NET = {
    "img_resolution": 4,
    "img_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "channel_mult_emb": 2,
    "num_blocks": 1,
    "attn_resolutions": [],
    "label_dim": 0,
    "augment_dim": 0,
}
CONFIG = config_from_edm(NET)


def to_edm(params):
    """The inverse conversion, by writing every row where EDM has it."""
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *modules, name = (entry.key for entry in path)
        value = np.asarray(leaf)
        if name == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        if modules[-1] == "qkv":
            channels = len(value) // 3
            value = np.stack([value[part * channels + c] for c in range(channels) for part in range(3)])
        if name == "kernel" and modules[-1] in ("skip", "qkv", "proj"):
            value = value[:, :, None, None]
        state[".".join(["model", *modules, "bias" if name == "bias" else "weight"])] = value
    return state


def write_safetensors(path, state):
    header, data = {"__metadata__": {"format": "np"}}, b""
    for name, value in state.items():
        kind = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[value.dtype.name]
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": offsets}
        data += np.ascontiguousarray(value).tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def folder(tmp_path):
    """A teacher as a user has it: weights, settings, recorded outputs (of the oracle)."""
    state = random_state_dict(NET, seed=0)
    np.savez(tmp_path / "weights.npz", **state)
    (tmp_path / "config.json").write_text(json.dumps({"EDMPrecond": NET}))
    x = np.random.default_rng(1).normal(size=(2, 3, 1, 4, 4)).astype(np.float32)
    sigma = np.array([0.1, 5.0], np.float32)
    outputs = [edm_denoise(NET, state, x, float(s)) for x, s in zip(x, sigma, strict=True)]
    np.savez(tmp_path / "check.npz", x=x, sigma=sigma, D=np.stack(outputs).astype(np.float32))
    return tmp_path


@pytest.fixture(scope="module")
def check_teacher():
    path = Path(__file__).parents[2] / "benchmarks" / "check_teacher.py"
    spec = importlib.util.spec_from_file_location("check_teacher", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check_teacher


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(dtype):
    _, shapes = functional(nnx.eval_shape(lambda: UNet(CONFIG, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(dtype).astype(np.float32), shapes)
    state = {name: value.astype(dtype) for name, value in to_edm(params).items()}
    loaded = convert_edm_state_dict(state, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(loaded))


RICH = NET | {"channel_mult": [1, 2], "attn_resolutions": [4], "label_dim": 3, "augment_dim": 2}


def test_what_is_written_has_edms_names_and_is_read_back(tmp_path):
    config = config_from_edm(RICH)
    state = random_state_dict(RICH, seed=3)
    params = convert_edm_state_dict(state, config)
    ours = edm_state_dict(params, config)
    assert set(ours) == set(state)  # the buffers too, so that PyTorch loads it strictly
    for name, value in state.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    save_edm_weights(tmp_path / "new" / "my_teacher.npz", params, config, sigma_data=0.7)
    again, loaded = load_edm_weights(tmp_path / "new" / "my_teacher.npz")
    assert again == config
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded), strict=True))
    assert json.loads((tmp_path / "new" / "config.json").read_text())["EDMPrecond"]["sigma_data"] == 0.7
    with pytest.raises(ValueError, match=r"save_edm_weights: path is '.*x.pth'; expected a name that ends in .npz"):
        save_edm_weights(tmp_path / "x.pth", params, config)


def test_interleaved_channels_of_q_k_v():
    state = random_state_dict(NET, seed=0)
    rows = state["model.dec.2x2_in0.qkv.bias"]
    rows[:6] = [10, 20, 30, 11, 21, 31]  # q0 k0 v0 q1 k1 v1
    bias = convert_edm_state_dict(state, CONFIG)["dec"]["2x2_in0"]["qkv"]["bias"]
    np.testing.assert_array_equal(bias.reshape(3, -1)[:, :2], [[10, 11], [20, 21], [30, 31]])


def test_every_misfit_is_listed():
    state = random_state_dict(NET, seed=0)
    del state["model.map_layer0.weight"]
    state["model.map_label.weight"] = np.zeros((8, 3))
    state["model.enc.4x4_conv.weight"] = np.zeros((8, 3, 3, 3))
    with pytest.raises(ValueError) as error:
        convert_edm_state_dict(state, CONFIG)
    for part in (
        "missing model.map_layer0.weight",
        "unexpected model.map_label.weight",
        "model.enc.4x4_conv.weight has shape (8, 3, 3, 3) instead of (8, 1, 3, 3)",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth", "pt"])
def test_load_infers_the_config(folder, suffix):
    state = random_state_dict(NET, seed=0)
    path = folder / f"weights.{suffix}"
    if suffix in ("pth", "pt"):
        write_pth(path, state, legacy=suffix == "pt")
    if suffix == "safetensors":
        state = {name: value.astype(jnp.bfloat16) for name, value in state.items()}
        write_safetensors(path, state)
    config, params = load_edm_weights(path)
    assert config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, params, convert_edm_state_dict(state, CONFIG))


def test_load_takes_a_config(folder):
    (folder / "config.json").unlink()
    config, _ = load_edm_weights(folder / "weights.npz", CONFIG)
    assert config is CONFIG
    with pytest.raises(ValueError, match="config is None"):
        load_edm_weights(folder / "weights.npz")


def test_load_takes_a_key(folder):
    state, saved = random_state_dict(NET, seed=0), Saved()
    saved.write(folder / "weights.pth", {"step": 1, "ema": saved.tensors(state)})
    _, params = load_edm_weights(folder / "weights.pth", key="ema")
    jax.tree.map(np.testing.assert_array_equal, params, convert_edm_state_dict(state, CONFIG))
    with pytest.raises(ValueError, match=r"\['ema'\] are state_dicts"):
        load_edm_weights(folder / "weights.pth")


def test_load_refuses_what_it_cannot_read(folder):
    with pytest.raises(ValueError, match="which is no file"):
        load_edm_weights(folder / "absent.npz")
    with pytest.raises(ValueError, match="a pickle, which executes code stored in the file"):
        load_edm_weights(folder / "edm-cifar10-32x32-uncond-vp.pkl")
    header = json.dumps({"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}).encode()
    (folder / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="dtype F4"):
        load_edm_weights(folder / "weights.safetensors")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="lacks 'EDMPrecond'"):
        load_edm_weights(folder / "weights.npz")


@pytest.mark.parametrize("name, value", [("model_type", "DhariwalUNet"), ("encoder_type", "residual")])
def test_other_architectures_are_refused(name, value):
    with pytest.raises(ValueError, match=f"config_from_edm: {name} is '{value}'"):
        config_from_edm(NET | {name: value})


def test_check_teacher_compares_with_recorded_outputs(folder, check_teacher):
    errors = check_teacher(folder)
    assert list(errors) == pytest.approx([0.1, 5.0])
    assert max(errors.values()) < 1e-4
    state = random_state_dict(NET, seed=0)
    state["model.dec.4x4_aux_conv.bias"] += 0.1
    np.savez(folder / "weights.npz", **state)
    assert max(check_teacher(folder).values()) > 1e-2


@pytest.mark.skipif("JAXDIV_TEACHER" not in os.environ, reason="JAXDIV_TEACHER names no folder with a teacher")
def test_real_teacher_gives_its_recorded_outputs(check_teacher):
    errors = check_teacher(Path(os.environ["JAXDIV_TEACHER"]))
    assert len(errors) >= 5 and max(errors.values()) <= 1e-4
