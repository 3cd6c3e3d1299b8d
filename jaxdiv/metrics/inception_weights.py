"""The public weights of FID's Inception-v3: their names, their layout, and the one file whose result is called FID."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiv import checks
from jaxdiv.metrics.folded_conv import FoldedConv, fold_batch_norm
from jaxdiv.metrics.inception import BLOCKS, NUM_FEATURES, Conv, InceptionParams
from jaxdiv.networks.state_dicts import read_state_dict

PINNED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of ``pt_inception-2015-12-05-6726825d.pth`` (pytorch-fid), and of torch-fidelity's copy of it.

The file was not at hand when this was written. Its name carries the first eight digits; all of them stand in several
public projects, beside pytorch-fid's address and beside torch-fidelity's. Its size as published, 95,628,359 bytes, is
below that of a zip archive of these arrays, so it is in the format that torch wrote before 1.6.
"""
_BN_EPS = 1e-3
_NUM_CLASSES = 1008
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


class InceptionWeights(NamedTuple):
    """Parameters and the file that they came from."""

    params: InceptionParams
    """For ``inception_features``."""
    sha256: str
    """Of the file, 64 hexadecimal digits."""

    @property
    def pinned(self) -> bool:
        """Whether the file is the one that published FIDs use."""
        return self.sha256 == PINNED_SHA256


def conv_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Shape ``(C_out, C_in, height, width)`` of each convolution's stored weight, in the network's order."""
    shapes: dict[str, tuple[int, int, int, int]] = {}

    def add(prefix: str, conv: Conv, channels: int) -> int:
        shapes[prefix + conv.name] = (conv.width, channels, *conv.size)
        return conv.width

    channels = 3
    for prefix, branches in BLOCKS.items():
        ends = []
        for branch in branches:
            width = channels
            for step in branch:
                if isinstance(step, Conv):
                    width = add(prefix, step, width)
                elif isinstance(step, tuple) and isinstance(step[0], Conv):
                    width = sum(add(prefix, part, width) for part in step)
            ends.append(width)
        channels = sum(ends)
    return shapes


def _expected(convs: Mapping[str, tuple[int, int, int, int]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in convs.items():
        shapes[f"{name}.conv.weight"] = shape
        shapes |= {f"{name}.bn.{part}": shape[:1] for part in _NORM_PARTS}
    return shapes | {"fc.weight": (_NUM_CLASSES, NUM_FEATURES), "fc.bias": (_NUM_CLASSES,)}


def convert_inception_state_dict(
    state_dict: Mapping[str, np.ndarray], *, dtype: DTypeLike = jnp.float32
) -> InceptionParams:
    """Parameters of ``inception_features`` from PyTorch's arrays, with batch normalisation folded in, in float64.

    Args:
        state_dict: Arrays by public name (``Mixed_5b.branch1x1.conv.weight``, ``Mixed_5b.branch1x1.bn.running_var``,
            ...), convolutions ``[C_out, C_in, height, width]``. The classifier ``fc`` is checked and not kept; buffers
            ``num_batches_tracked`` may be there.
        dtype: Of the result.

    Raises:
        ValueError: Listing every name that is missing, left over or of the wrong shape.
    """
    convs = conv_shapes()
    expected = _expected(convs)
    problems = [f"missing {name}" for name in expected if name not in state_dict]
    problems += [
        f"unexpected {name}"
        for name in state_dict
        if name not in expected and not name.endswith(".bn.num_batches_tracked")
    ]
    problems += [
        f"{name} has shape {state_dict[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in state_dict and state_dict[name].shape != shape
    ]
    if problems:
        got = "does not fit: " + "; ".join(problems)
        raise checks.fail("convert_inception_state_dict", "state_dict", got, "FID's Inception-v3 with 1008 classes")
    return {name: _fold(state_dict, name, dtype) for name in convs}


def _fold(state_dict: Mapping[str, np.ndarray], name: str, dtype: DTypeLike) -> FoldedConv:
    norm = (state_dict[f"{name}.bn.{part}"] for part in _NORM_PARTS)
    return fold_batch_norm(state_dict[f"{name}.conv.weight"], *norm, eps=_BN_EPS, dtype=dtype)


def load_inception(path: str | Path, *, key: str | None = None) -> InceptionWeights:
    """Reads weights of FID's Inception-v3 (``.pth``, ``.pt``, ``.npz``, ``.safetensors``); nothing in them is executed.

    Only pytorch-fid's ``pt_inception-2015-12-05-6726825d.pth`` as it was published, recognised by its SHA-256, makes
    ``fid`` call its result FID. The same numbers in another file give the same distance under another label.

    Args:
        path: The weights; this library downloads none.
        key: Where the state_dict is one of several things in a ``.pth`` or ``.pt`` file, its key.

    Returns:
        The parameters, float32, and the file's digest.

    Raises:
        ValueError: What ``read_state_dict`` refuses, or names and shapes that do not fit.
    """
    path = Path(path)
    params = convert_inception_state_dict(read_state_dict(path, key=key))
    with path.open("rb") as file:
        return InceptionWeights(params, hashlib.file_digest(file, "sha256").hexdigest())
