"""Every function of the mathematical areas, the networks and the optimizer lowers for TPU and for CUDA.

What this machine cannot run it can still translate: an operation without a rule for a platform fails here, as does a
call of a library that only another platform has.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import Decoder, DecoderConfig, UNet, UNetConfig, functional
from jaxdiv.optimizers import MatrixAxes, muon
from tests.malformed import values
from tests.test_not_a_number import CASES

PLATFORMS = ("tpu", "cuda")
# What XLA for TPU provides under the names of custom calls.
OF_TPU = {"Eigh", "Qr", "ProductOfElementaryHouseholderReflectors", "LuDecomposition", "Sharding"}


def _check(function, *args):
    traced = jax.jit(function).trace(*args)
    for platform in PLATFORMS:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        if platform == "tpu":
            assert set(re.findall(r"custom_call @(\w+)", text)) <= OF_TPU


@pytest.mark.parametrize("name", [name for name, (_, arguments) in CASES.items() if arguments])
def test_functions(name):
    function, arguments = CASES[name]
    given = values(arguments)
    traced = {a: v for a, v in given.items() if isinstance(v, jax.Array | np.ndarray) and np.ndim(v) > 0}
    if traced:
        static = {a: v for a, v in given.items() if a not in traced}
        _check(lambda arrays: function(**arrays, **static), traced)


NETWORKS = {
    "unet": (
        lambda: UNet(UNetConfig(image_size=8, num_blocks=1, model_channels=16, channel_mult=(1, 2)), rngs=nnx.Rngs(0)),
        (jnp.zeros((2, 8, 8, 3)), jnp.ones(2)),
    ),
    "decoder": (
        lambda: Decoder(DecoderConfig(width=16, num_heads=2, num_layers=2, hidden=16), rngs=nnx.Rngs(0)),
        (jnp.zeros((2, 8), jnp.int32),),
    ),
    "latent attention and experts": (
        lambda: Decoder(
            DecoderConfig(
                width=16, num_heads=2, num_layers=2, attention="mla", kv_rank=8, rope_dim=4, feed_forward="moe"
            ),
            rngs=nnx.Rngs(0),
        ),
        (jnp.zeros((2, 8), jnp.int32),),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_their_gradients(name):
    make, args = NETWORKS[name]
    apply_fn, params = functional(make())

    def loss(params):
        return jnp.sum(jnp.square(jax.tree.leaves(apply_fn(params, *args))[0].astype(jnp.float32)))

    _check(jax.value_and_grad(loss), params)


@pytest.mark.parametrize("variant", [{}, {"method": "gram", "dtype": "float16"}, {"second_moment": "normuon"}])
def test_muon(variant):
    optimizer = muon(1e-2, routes=MatrixAxes(0, 1), **variant)
    params = {"a": jnp.ones((8, 16)), "b": jnp.ones((8, 16)), "c": jnp.ones((4, 8))}
    _check(functools.partial(optimizer.update, params=params), params, optimizer.init(params))
