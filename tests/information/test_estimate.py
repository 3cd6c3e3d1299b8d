"""The record that every estimator returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import Estimate
from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.estimate import make_estimate


def test_it_is_a_pytree_whose_kind_is_static():
    def estimate(x):
        return make_estimate(jnp.mean(x), kind="upper bound", local=x, ceiling=3.0, count=jnp.int32(2))

    x = jnp.arange(6.0).reshape(2, 3)
    out = jax.jit(jax.vmap(estimate))(x)
    assert isinstance(out, Estimate)
    assert out.kind == "upper bound"
    np.testing.assert_allclose(out.value, [1.0, 4.0])
    np.testing.assert_allclose(out.stderr, [3**-0.5, 3**-0.5], rtol=1e-6)
    assert out.ceiling.shape == out.info["count"].shape == (2,)
    np.testing.assert_array_equal(out.info["local"], x)


def test_it_prints_on_a_line():
    out = make_estimate(jnp.float32(0.1), kind="plug-in", local=jnp.ones(500), num_ties=jnp.int32(2))
    assert repr(out) == (
        "Estimate(value=0.1, stderr=0.0, kind='plug-in', ceiling=inf, info={'num_ties': 2, 'local': shape (500,)})"
    )


def test_what_is_not_known_is_said():
    out = make_estimate(jnp.float32(1.0), kind="not MI")
    assert np.isnan(out.stderr) and np.isinf(out.ceiling) and out.info == {} and float(out) == 1.0
    one = make_estimate(jnp.float32(1.0), kind="plug-in", local=jnp.ones(1))
    assert np.isnan(one.stderr)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="make_estimate: kind is 'exact'; expected one of 'lower bound'"):
        make_estimate(jnp.float32(1.0), kind="exact")


def test_paired_samples_become_matrices_of_one_dtype(x64):
    x, y = paired_samples("f", x=jnp.ones(3, jnp.bfloat16), y=np.ones((3, 2)))
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((3, 1), (3, 2), np.float64, np.float64)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (jnp.ones((3, 1)), jnp.ones((4, 1)), "f: y has 4 rows; expected the 3 rows of x"),
        (jnp.ones((3, 1, 1)), jnp.ones(3), r"f: x has shape \(3, 1, 1\)"),
        (jnp.ones(0), jnp.ones(0), r"f: x has shape \(0,\)"),
        (jnp.ones(3), jnp.ones((3, 0)), r"f: y has shape \(3, 0\)"),
        (jnp.ones(3), jnp.ones(3, jnp.int32), "f: y has dtype int32"),
    ],
    ids=["rows", "rank", "empty", "no columns", "integers"],
)
def test_samples_that_do_not_pair_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        paired_samples("f", x=x, y=y)


def test_labels():
    assert label_array("f", "labels", [0, 1], 2).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"f: labels has shape \(2,\); expected shape \(3\)"):
        label_array("f", "labels", [0, 1], 3)
    with pytest.raises(ValueError, match="f: labels has dtype float32"):
        label_array("f", "labels", [0.0, 1.0], 2)
