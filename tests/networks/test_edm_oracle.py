"""The U-Net against an independent float64 implementation of EDM's network, every feature on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import UNet, config_from_edm, convert_edm_state_dict, functional
from tests.networks.edm_oracle import edm_forward, edm_shapes, random_state_dict

NETS = {
    "odd blocks, attention everywhere, labels, augmentation": {
        "img_resolution": 8,
        "img_channels": 2,
        "model_channels": 8,
        "channel_mult": [1, 3],
        "channel_mult_emb": 2,
        "num_blocks": 1,
        "attn_resolutions": [8, 4],
        "label_dim": 3,
        "augment_dim": 2,
    },
    "even blocks, attention at the bottleneck alone": {
        "img_resolution": 4,
        "img_channels": 1,
        "model_channels": 12,
        "channel_mult": [2, 1],
        "channel_mult_emb": 4,
        "num_blocks": 2,
        "attn_resolutions": [],
        "label_dim": 0,
        "augment_dim": 0,
    },
}


@pytest.mark.parametrize("name, dtype, tolerance", list(zip(NETS, ("float64", "float32"), (1e-11, 1e-5), strict=True)))
def test_network_equals_the_oracle(name, dtype, tolerance, x64):
    net = NETS[name]
    state = random_state_dict(net, seed=3)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, net["img_channels"], net["img_resolution"], net["img_resolution"]))
    c_noise = np.array([-1.5, 0.1, 1.1])
    labels = np.eye(net["label_dim"])[[2, 0, 1]] if net["label_dim"] else None
    augment = rng.normal(size=(3, net["augment_dim"])) if net["augment_dim"] else None
    expected = edm_forward(net, state, x, c_noise, labels, augment).transpose(0, 2, 3, 1)
    assert 0.3 < expected.std() < 30  # a network that does something

    config = config_from_edm(net)
    params = convert_edm_state_dict(state, config)
    apply_fn, _ = functional(nnx.eval_shape(lambda: UNet(dataclasses.replace(config, dtype=dtype), rngs=nnx.Rngs(0))))

    def cast(array):
        return None if array is None else jnp.asarray(array, dtype)

    out = jax.jit(apply_fn)(
        jax.tree.map(cast, params),
        cast(x.transpose(0, 2, 3, 1)),
        cast(c_noise),
        cast(labels),
        augment_labels=cast(augment),
    )
    assert out.dtype == dtype
    np.testing.assert_allclose(out, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


def test_oracle_has_edm_cifar10_size():
    """The oracle's own parameter list adds up to the published network's 55.7M."""
    net = NETS["odd blocks, attention everywhere, labels, augmentation"] | {
        "img_resolution": 32,
        "img_channels": 3,
        "model_channels": 128,
        "channel_mult": [2, 2, 2],
        "channel_mult_emb": 4,
        "num_blocks": 4,
        "attn_resolutions": [16],
        "label_dim": 0,
        "augment_dim": 9,
    }
    assert sum(np.prod(shape) for shape in edm_shapes(net).values()) == 55_733_891
