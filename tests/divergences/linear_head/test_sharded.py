"""Heads sharded over one mesh axis and tokens over another give what one device gives."""

import os
import subprocess
import sys

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

from jaxdiv.divergences import jensen_shannon
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
print("equal")
"""


def test_eight_devices():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr
