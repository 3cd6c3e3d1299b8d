import dataclasses
import math

import jax
import pytest
from flax import nnx

from jaxdiv.networks import UNet, UNetConfig, cifar10_edm, count_flops, functional, small_8x8


@pytest.mark.parametrize(
    "config, gmac",
    [
        (cifar10_edm(), 21.127),
        (UNetConfig(channel_mult=(1, 2, 2), num_blocks=2), 6.832),
        (UNetConfig(model_channels=64, channel_mult=(1, 2, 2), num_blocks=2), 1.735),
    ],
)
def test_known_networks(config, gmac):
    assert count_flops(config) / 2e9 == pytest.approx(gmac, abs=5e-4)


def traced_flops(jaxpr):
    """Twice the multiply-adds of every product and convolution in a traced program."""
    flops = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            height, width, num_in, _ = eqn.invars[1].aval.shape
            flops += 2 * height * width * num_in * eqn.outvars[0].aval.size
        elif eqn.primitive.name == "dot_general":
            contracting = eqn.params["dimension_numbers"][0][0]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracting)
            flops += 2 * depth * eqn.outvars[0].aval.size
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                flops += traced_flops(inner)
    return flops


@pytest.mark.parametrize("config", [small_8x8(label_dim=5), dataclasses.replace(small_8x8(), attn_resolutions=(8, 4))])
def test_count_equals_what_the_network_traces(config):
    apply_fn, params = functional(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    x = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, config.channels), "float32")
    c_noise = jax.ShapeDtypeStruct((1,), "float32")
    assert traced_flops(jax.make_jaxpr(apply_fn)(params, x, c_noise).jaxpr) == count_flops(config)
