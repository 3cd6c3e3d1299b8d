import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics.pixels import float_pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16, np.float16])
def test_values_are_kept(dtype):
    out = float_pixels("f", np.array([0, 3, 255, 128, 1, 2]).reshape(1, 1, 2, 3).astype(dtype))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out.ravel(), [0, 3, 255, 128, 1, 2])


@pytest.mark.parametrize("shape", [(32, 32, 3), (2, 32, 32, 1), (2, 3, 32, 32)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"f: images has shape .*; expected shape \(any, any, any, 3\)"):
        float_pixels("f", np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, np.int8, bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="f: images has dtype"):
        float_pixels("f", np.zeros((1, 2, 2, 3), dtype))
