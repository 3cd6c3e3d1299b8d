"""Numbers per example against batches."""

import jax.numpy as jnp
import pytest

from jaxdiv.diffusion.batching import compute_dtype, per_example


@pytest.mark.parametrize(
    ("shape", "x_shape", "expected"),
    [((3,), (3, 4, 5), (3, 1, 1)), ((3,), (3,), (3,)), ((), (3, 4), (1, 1)), ((2, 3), (2, 3, 4), (2, 3, 1))],
)
def test_reshapes_to_multiply(shape, x_shape, expected):
    assert per_example("f", "sigma", jnp.ones(shape), jnp.ones(x_shape)).shape == expected


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (3, 4, 5, 1)])
def test_refuses_what_would_broadcast_by_accident(shape):
    with pytest.raises(ValueError, match="f: sigma has shape"):
        per_example("f", "sigma", jnp.ones(shape), jnp.ones((3, 4, 5)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_arithmetic_is_at_least_float32(dtype):
    assert compute_dtype(jnp.ones(2, dtype)) == jnp.float32
    assert compute_dtype(jnp.ones(2, dtype), 0.5) == jnp.float32


def test_float64_wins(x64):
    assert compute_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2)) == jnp.float64
    assert compute_dtype(jnp.ones(2, jnp.float32), 0.5) == jnp.float32
