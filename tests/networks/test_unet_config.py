import jax
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import UNet, UNetConfig, cifar10_edm, small_8x8
from jaxdiv.networks.unet_config import decoder_blocks, encoder_blocks


@pytest.mark.parametrize(
    "config, parameters",
    [
        (cifar10_edm(), 55_732_739),
        (cifar10_edm(augment_dim=9), 55_733_891),  # the published network
        (UNetConfig(channel_mult=(1, 2, 2), num_blocks=2), 27_906_179),
        (small_8x8(), 748_737),
    ],
)
def test_parameter_counts(config, parameters):
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model))) == parameters


def test_attention_is_where_edm_has_it():
    encoder = [block.name for block in encoder_blocks(cifar10_edm()) if block.attention]
    decoder = [block.name for block in decoder_blocks(cifar10_edm()) if block.attention]
    assert encoder == [f"16x16_block{i}" for i in range(4)]  # every block at 16x16
    assert decoder == ["8x8_in0", "16x16_block4"]  # the bottleneck, and the last block alone


def test_blocks_of_a_small_network():
    config = UNetConfig(image_size=8, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())
    names = [(b.name, b.num_in, b.num_out, b.resolution, b.resample) for b in encoder_blocks(config)]
    assert names == [("8x8_block0", 8, 8, 8, None), ("4x4_down", 8, 8, 4, "down"), ("4x4_block0", 8, 16, 4, None)]
    assert [(b.name, b.num_in, b.num_out) for b in decoder_blocks(config)] == [
        ("4x4_in0", 16, 16),
        ("4x4_in1", 16, 16),
        ("4x4_block0", 16 + 16, 16),
        ("4x4_block1", 16 + 8, 16),
        ("8x8_up", 16, 16),
        ("8x8_block0", 16 + 8, 8),
        ("8x8_block1", 8 + 8, 8),
    ]


def test_compute_dtype():
    assert UNetConfig(dtype="bfloat16").compute_dtype() == "bfloat16"
    assert UNetConfig().compute_dtype() == "float32"  # on the CPU that runs the tests


@pytest.mark.parametrize(
    "field, value",
    [
        ("image_size", 0),
        ("image_size", 30),
        ("channels", 0),
        ("num_blocks", 0),
        ("channel_mult", ()),
        ("channel_mult", (1, 0)),
        ("model_channels", 6),
        ("label_dim", -1),
        ("dropout", 1.0),
        ("dtype", "int8"),
    ],
)
def test_config_is_checked(field, value):
    with pytest.raises(ValueError, match=f"UNetConfig: {field} is"):
        UNetConfig(**{field: value})
