"""Heads sharded over one mesh axis and tokens over another give what one device gives."""

import os
import subprocess
import sys

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxdiv.divergences import Renyi, jensen_shannon
from jaxdiv.divergences.linear_head import linear_head_divergence
from tests.divergences.linear_head.cases import arrays, relative_errors

assert jax.device_count() == 8
data = arrays(tokens=32, vocab=64, p_rows=64)
mesh = jax.make_mesh((2, 4), ("tokens", "vocab"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
specs = {name: P("tokens") if name.endswith("hidden") else P("vocab") for name in data}
sharded = {name: jax.device_put(x, NamedSharding(mesh, specs[name])) for name, x in data.items()}
for form in ({}, {"token_block": 8}, {"vocab_block": 16}):
    def step(d):
        return jax.value_and_grad(lambda d: linear_head_divergence(jensen_shannon(), **d, **form))(d)

    compiled = jax.jit(step).lower(sharded).compile()
    value, grads = compiled(sharded)
    expected, wanted = jax.jit(step)(data)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for name in ("q_hidden", "q_head", "q_bias"):
        assert relative_errors(grads[name], np.asarray(wanted[name])) < 3e-6, (form, name)
    if "vocab_block" not in form:
        # No device gathers a head: every array of the program is at most a quarter of the vocabulary wide.
        assert "f32[64,5]" not in compiled.as_text(), form
        assert grads["q_head"].sharding.spec == P("vocab"), grads["q_head"].sharding

# Under `shard_map` with sharded tokens and replicated heads, whose gradients are summed over the devices.
line = jax.sharding.Mesh(np.array(jax.devices()), ("tokens",))
specs = {name: P("tokens") if name.endswith("hidden") else P() for name in data}
labels = jnp.arange(32) % 64
forms = ({}, {"token_block": 2}, {"token_block": 1, "memory_limit": 1}, {"vocab_block": 24}, {"reduction": "none"})
for divergence in (jensen_shannon(), Renyi(2.0)):
    def step(d, labels):
        def loss(d, form):
            options = {"reduction": "sum", "labels": labels, "label_weight": 0.2, "differentiate_p": True} | form
            return linear_head_divergence(divergence, **d, **options).sum()

        return [jax.grad(loss)(d, form) for form in forms]

    local = jax.shard_map(step, mesh=line, in_specs=(specs, P("tokens")), out_specs=[specs] * len(forms))
    expected = jax.jit(step)(data, labels)[0]
    for form, grads in zip(forms, jax.jit(local)(data, labels), strict=True):
        assert relative_errors(grads, jax.tree.map(np.asarray, expected)) < 3e-6, form
print("equal")
"""


def test_eight_devices():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"  # the last level counts
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr
