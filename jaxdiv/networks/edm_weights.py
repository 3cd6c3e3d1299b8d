"""EDM state_dicts into the U-Net's parameters.

The names are those of the public EDM code (Karras et al., arXiv 2206.00364, ``SongUNet`` inside ``EDMPrecond``), the
layouts PyTorch's: convolutions [out, in, height, width], dense layers [out, in].
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv.checks import fail
from jaxdiv.networks.state_dicts import read_state_dict
from jaxdiv.networks.unet import UNet
from jaxdiv.networks.unet_config import UNetConfig, decoder_blocks, encoder_blocks
from jaxdiv.typing import PyTree

_FUNCTION = "load_edm_weights"
_BUFFER = ".resample_filter"
# Settings of EDMPrecond that select another architecture than the one implemented here.
_REQUIRED = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}


def config_from_edm(settings: dict[str, Any]) -> UNetConfig:
    """The configuration that EDM's constructor arguments describe.

    Args:
        settings: arguments of ``EDMPrecond`` by name; those left out have EDM's defaults for CIFAR-10's DDPM++.

    Raises:
        ValueError: a setting that selects another architecture.
    """
    for name, wanted in _REQUIRED.items():
        if settings.get(name, wanted) != wanted:
            raise fail("config_from_edm", name, f"is {settings[name]!r}", f"{wanted!r}")
    default = UNetConfig()
    return UNetConfig(
        image_size=settings["img_resolution"],
        channels=settings["img_channels"],
        model_channels=settings.get("model_channels", default.model_channels),
        channel_mult=tuple(settings.get("channel_mult", default.channel_mult)),
        num_blocks=settings.get("num_blocks", default.num_blocks),
        attn_resolutions=tuple(settings.get("attn_resolutions", default.attn_resolutions)),
        dropout=settings.get("dropout", default.dropout),
        label_dim=settings.get("label_dim", default.label_dim),
        augment_dim=settings.get("augment_dim", default.augment_dim),
        channel_mult_emb=settings.get("channel_mult_emb", default.channel_mult_emb),
    )


def _edm_name(path: tuple[Any, ...]) -> str:
    """``model.enc.32x32_conv.weight`` for the path of a parameter in our tree."""
    *modules, leaf = (entry.key for entry in path)
    return ".".join(["model", *modules, "bias" if leaf == "bias" else "weight"])


def _edm_shape(path: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored shape of a parameter: [k, k, in, out] is [out, in, k, k] there, also where k = 1 has no axes here."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    if len(shape) == 2:
        is_convolution = path[-2].key in ("skip", "qkv", "proj")
        return (shape[1], shape[0], 1, 1) if is_convolution else (shape[1], shape[0])
    return shape


def _from_edm(path: tuple[Any, ...], value: np.ndarray) -> np.ndarray:
    """One stored array in our layout, float32."""
    value = np.asarray(value, np.float32)
    if path[-2].key == "qkv":
        # Stored rows go q, k, v, q, k, v, ... over channels; ours are all of q, then k, then v.
        value = value.reshape(-1, 3, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value[0, 0] if value.shape[:2] == (1, 1) else value
    return value.T if value.ndim == 2 else value


def _to_edm(path: tuple[Any, ...], value: Any) -> np.ndarray:
    """The inverse of `_from_edm`, float32."""
    value = np.asarray(value, np.float32)
    shape = _edm_shape(path, value.shape)
    if value.ndim > 1:
        value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
    if path[-2].key == "qkv":
        value = value.reshape(3, -1, *value.shape[1:]).swapaxes(0, 1)
    return value.reshape(shape)


def edm_state_dict(params: PyTree, config: UNetConfig) -> dict[str, np.ndarray]:
    """The inverse of `convert_edm_state_dict`: parameters of ``UNet(config)`` under EDM's names, in PyTorch's layouts.

    Buffers are among them, so EDM's own network loads the arrays with ``strict=True``.

    >>> from jaxdiv.networks import functional, small_8x8
    >>> _, params = functional(UNet(small_8x8(), rngs=nnx.Rngs(0)))
    >>> edm_state_dict(params, small_8x8())["model.enc.8x8_conv.weight"].shape
    (32, 1, 3, 3)
    """
    arrays = {_edm_name(path): _to_edm(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for part, blocks in (("enc", encoder_blocks(config)), ("dec", decoder_blocks(config))):
        for block in blocks:
            for conv in ("conv0", "skip") if block.resample else ():
                arrays[f"model.{part}.{block.name}.{conv}{_BUFFER}"] = np.full((1, 1, 2, 2), 0.25, np.float32)
    return arrays


def save_edm_weights(path: str | Path, params: PyTree, config: UNetConfig, *, sigma_data: float = 0.5) -> None:
    """Writes what `load_edm_weights` reads: the arrays as ``.npz``, EDM's settings as ``config.json`` beside it.

    Args:
        path: of the ``.npz``; its folder is made.
        params: parameters of ``UNet(config)``.
        config: sizes of the network.
        sigma_data: of the preconditioning, kept among the settings.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise fail("save_edm_weights", "path", f"is {str(path)!r}", "a name that ends in .npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"img_resolution": config.image_size, "img_channels": config.channels, "sigma_data": sigma_data}
    sizes = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "dropout", "label_dim", "augment_dim")
    settings |= _REQUIRED | {name: getattr(config, name) for name in (*sizes, "channel_mult_emb")}
    np.savez(path, allow_pickle=False, **edm_state_dict(params, config))
    path.with_name("config.json").write_text(json.dumps({"EDMPrecond": settings}, indent=1) + "\n")


def convert_edm_state_dict(state_dict: dict[str, np.ndarray], config: UNetConfig) -> PyTree:
    """Parameters of ``UNet(config)`` from an EDM state_dict.

    Args:
        state_dict: arrays by name, of any floating dtype. Buffers named ``*.resample_filter`` are constants that the
            network has built in; they are accepted and not used.
        config: sizes of the network.

    Returns:
        The parameters as ``functional`` gives them, float32.

    Raises:
        ValueError: listing every name that is missing, left over or of the wrong shape.
    """
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    wanted, treedef = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model)))
    names = [_edm_name(path) for path, _ in wanted]
    problems = [f"missing {name}" for name in names if name not in state_dict]
    problems += [f"unexpected {name}" for name in state_dict if name not in set(names) and not name.endswith(_BUFFER)]
    for name, (path, leaf) in zip(names, wanted, strict=True):
        shape = _edm_shape(path, leaf.shape)
        if name in state_dict and state_dict[name].shape != shape:
            problems.append(f"{name} has shape {state_dict[name].shape} instead of {shape}")
    if problems:
        raise fail(_FUNCTION, "state_dict", "does not fit: " + "; ".join(problems), f"the parameters of {config}")
    leaves = [jnp.asarray(_from_edm(path, state_dict[name])) for name, (path, _) in zip(names, wanted, strict=True)]
    return jax.tree_util.tree_unflatten(treedef, leaves)


def load_edm_weights(
    path: str | Path, config: UNetConfig | None = None, *, key: str | None = None
) -> tuple[UNetConfig, PyTree]:
    """Reads an EDM network's state_dict (``.npz``, ``.safetensors``, ``.pth``, ``.pt``); nothing in it is executed.

    EDM's published ``.pkl`` files are refused: unpickling one runs the network's source code, which is stored inside.
    Where that is trusted, EDM's own code makes a file that is read here:
    ``torch.save(pickle.load(file)["ema"].state_dict(), "weights.pth")``.

    Args:
        path: the weights.
        config: sizes of the network; None reads ``EDMPrecond``'s arguments from ``config.json`` beside the file.
        key: where the state_dict is one of several things in a ``.pth`` or ``.pt`` file, its key.

    Returns:
        config: the sizes used, to build ``UNet(config)`` with.
        params: parameters for the ``apply_fn`` of ``functional(UNet(config))``, float32.

    Raises:
        ValueError: what `read_state_dict` refuses, no config, another architecture, or names and shapes that do not
            fit.
    """
    path = Path(path)
    state_dict = read_state_dict(path, key=key)
    if config is None:
        settings = path.with_name("config.json")
        if not settings.is_file():
            raise fail(_FUNCTION, "config", f"is None and {str(settings)!r} does not exist", "a UNetConfig")
        stored = json.loads(settings.read_text())
        if "EDMPrecond" not in stored:
            raise fail(_FUNCTION, "config", f"is None and {str(settings)!r} lacks 'EDMPrecond'", "a UNetConfig")
        config = config_from_edm(stored["EDMPrecond"])
    return config, convert_edm_state_dict(state_dict, config)
