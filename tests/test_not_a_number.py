"""One entry that is not a number, in any array of any exported function of the mathematical areas: the result says so.

A finite answer would be believed. The calls are the valid ones of the tables of malformed calls, which are complete.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.divergences.test_malformed_calls import CASES as OF_DIVERGENCES
from tests.information.test_malformed_calls import CASES as OF_INFORMATION
from tests.malformed import values

CASES = OF_DIVERGENCES | OF_INFORMATION


def _is_floating(x) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _spoiled(x):
    return jnp.asarray(x).reshape(-1).at[0].set(jnp.nan).reshape(x.shape)


def _result(function, given):
    return [x for x in jax.tree.leaves(function(**given)) if _is_floating(x)]


@pytest.mark.parametrize("name", [name for name, (_, arguments) in CASES.items() if arguments])
def test_a_nan_is_not_lost(name):
    function, arguments = CASES[name]
    given = values(arguments)
    spoiled = {a: _spoiled(v) for a, v in given.items() if _is_floating(v) and np.ndim(v) > 0}
    # A result may have a NaN of its own, such as a standard error that is not known: more of them are asked for.
    clean = _result(function, given) if spoiled else []
    for argument, value in spoiled.items():
        result = _result(function, given | {argument: value})
        pairs = zip(result, clean, strict=True)
        assert not clean or any(np.isnan(x).sum() > np.isnan(y).sum() for x, y in pairs), f"{argument}: {result}"
