"""One entry that is not a number, in any array of any exported function of the mathematical areas: the result says so.

A finite answer would be believed. The calls are the valid ones of the tables of malformed calls, which are complete.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.divergences.test_malformed_calls import CASES as OF_DIVERGENCES
from tests.information.test_malformed_calls import CASES as OF_INFORMATION

CASES = OF_DIVERGENCES | OF_INFORMATION


def _is_floating(x) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _spoiled(x):
    return jnp.asarray(x).reshape(-1).at[0].set(jnp.nan).reshape(x.shape)


@pytest.mark.parametrize("name", [name for name, (_, arguments) in CASES.items() if arguments])
def test_a_nan_is_not_lost(name):
    function, arguments = CASES[name]
    values = {argument: case.value for argument, case in arguments.items()}
    for argument, value in values.items():
        if _is_floating(value) and np.ndim(value) > 0:
            result = [x for x in jax.tree.leaves(function(**values | {argument: _spoiled(value)})) if _is_floating(x)]
            assert not result or any(np.isnan(x).any() for x in result), f"{argument}: {result}"
