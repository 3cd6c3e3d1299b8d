"""A folded convolution against convolution and normalisation one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics.folded_conv import fold_batch_norm
from tests.metrics.network_oracles import conv


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_folding_changes_nothing(dtype):
    rng = np.random.default_rng(0)
    kernel, x = rng.normal(size=(4, 3, 3, 3)), rng.normal(size=(2, 5, 5, 3))
    gamma, beta, mean, var = rng.normal(size=4), rng.normal(size=4), rng.normal(size=4), rng.uniform(0.1, 2, 4)
    expected = (conv(x, kernel.transpose(2, 3, 1, 0), 1, (1, 1)) - mean) / np.sqrt(var + 1e-3) * gamma + beta
    with jax.enable_x64(dtype == "float64"):
        folded = fold_batch_norm(kernel, gamma, beta, mean, var, eps=1e-3, dtype=dtype)
        assert folded.kernel.dtype == folded.bias.dtype == jnp.dtype(dtype)
        ours = conv(x, np.asarray(folded.kernel), 1, (1, 1)) + np.asarray(folded.bias)
    np.testing.assert_allclose(ours, expected, atol=1e-12 if dtype == "float64" else 2e-5)
