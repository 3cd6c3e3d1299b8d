"""Laws that hold for every estimator of dependence between two samples, one table of estimators by laws.

What is special to one of them (closed forms, bias, ceilings, errors) stands in its own file, and what every exported
function refuses in `test_malformed_calls`.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdiv import information as inf
from jaxdiv.divergences.two_sample import gaussian_kernel
from jaxdiv.information.estimate import KINDS

COUNT = 60
KEY = jax.random.key(0)
KERNEL = gaussian_kernel(1.0)


def labelled(x, y):
    return inf.ross(x, jnp.where(jnp.isnan(y[:, 0]), 0, y[:, 0] > 0).astype(jnp.int32))


def given_nothing(x, y):
    return inf.frenzel_pompe(x, y, jnp.zeros(x.shape[0]))


def scores(x, y):
    """A log-ratio that is right for no law here; its bounds are what is tested."""
    return -0.5 * jnp.sum(jnp.square(x[:, None] - y), axis=-1)


def of_scores(bound, x, y):
    return bound(scores(x, y))


class Entry(NamedTuple):
    fn: Callable
    symmetric: bool = True
    """I(x; y) = I(y; x), to rounding."""
    at_constant: float | None = 0.0
    """What it says where x is constant; None where that depends on y."""
    independent: float = 0.1
    """Not above this, in the mean of four data sets of 60 rows, where x and y are independent."""


ESTIMATORS = {
    "ksg_1": Entry(inf.ksg),
    "ksg_2": Entry(partial(inf.ksg, form=2)),
    "ksg_euclidean": Entry(partial(inf.ksg, norm="euclidean")),
    "lnc": Entry(partial(inf.lnc, k=10, threshold=0.05)),
    "mixed_ksg": Entry(inf.mixed_ksg),
    "frenzel_pompe": Entry(given_nothing),
    "ross": Entry(labelled, symmetric=False),
    "latent": Entry(partial(inf.latent_mutual_information, encode_x=1, encode_y=1)),
    "entropies": Entry(partial(inf.latent_mutual_information, estimator="entropies"), independent=0.5),
    "gaussian": Entry(inf.gaussian_mutual_information),
    "binned": Entry(partial(inf.binned_mutual_information, bins=2)),
    "sliced": Entry(partial(inf.sliced_mutual_information, key=KEY, num_projections=8), symmetric=False),
    "renyi": Entry(partial(inf.matrix_renyi_mutual_information, x_kernel=KERNEL, y_kernel=KERNEL), independent=1.5),
    "hsic": Entry(inf.hsic),
    "cka": Entry(inf.cka),
    "normalized_hsic": Entry(partial(inf.normalized_hsic, ridge=1.0), independent=0.2),
    "cs_qmi": Entry(inf.cs_qmi),
    "kolchinsky_tracey": Entry(
        lambda x, y: inf.kolchinsky_tracey_bounds(x, variance=1.0, labels=(y[:, 0] > 0).astype(jnp.int32))[0],
        symmetric=False,
    ),
    "info_nce": Entry(partial(of_scores, inf.info_nce), at_constant=None, symmetric=False),
    "nwj": Entry(partial(of_scores, inf.nwj), at_constant=None),
    "donsker_varadhan": Entry(partial(of_scores, inf.donsker_varadhan), at_constant=None),
    "smile": Entry(partial(of_scores, inf.smile), at_constant=None),
    "jensen_shannon": Entry(partial(of_scores, inf.jensen_shannon_bound), at_constant=None),
    "club": Entry(partial(of_scores, inf.club), at_constant=None),
    "leave_one_out": Entry(partial(of_scores, inf.leave_one_out), at_constant=None, symmetric=False),
}


@cache
def compiled(name):
    """One program per estimator, for all laws: their data have one shape."""
    return jax.jit(ESTIMATORS[name].fn)


def draw(seed, rho=0.0):
    x, noise = np.random.default_rng(seed).normal(size=(2, COUNT, 2)).astype(np.float32)
    return x, (rho * x + (1 - rho**2) ** 0.5 * noise).astype(np.float32)


def names(keep=lambda entry: True):
    return pytest.mark.parametrize("name", [name for name, entry in ESTIMATORS.items() if keep(entry)])


@names()
def test_it_says_what_it_is(name):
    out = compiled(name)(*draw(0, 0.8))
    assert out.kind in KINDS
    assert out.value.shape == out.stderr.shape == out.ceiling.shape == ()
    assert out.value.dtype == jnp.float32
    assert float(out.value) <= float(out.ceiling) + 1e-5
    if "local" in out.info and out.kind == "plug-in":
        assert float(out.value) == pytest.approx(float(jnp.mean(out.info["local"])), abs=1e-5)


@names()
def test_dependence_is_more_than_independence(name):
    independent = np.mean([float(compiled(name)(*draw(seed))) for seed in range(4)])
    dependent = np.mean([float(compiled(name)(*draw(seed, 0.95))) for seed in range(4)])
    assert dependent > independent + 0.01
    assert independent < ESTIMATORS[name].independent


@names(lambda entry: entry.symmetric)
def test_it_is_symmetric(name):
    x, y = draw(1, 0.7)
    np.testing.assert_allclose(float(compiled(name)(x, y)), float(compiled(name)(y, x)), rtol=2e-5, atol=2e-6)


@names()
def test_the_order_of_the_samples_does_not_matter(name):
    x, y = draw(2, 0.7)
    order = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_allclose(
        float(compiled(name)(x, y)), float(compiled(name)(x[order], y[order])), rtol=5e-5, atol=5e-6
    )


@names(lambda entry: entry.at_constant is not None)
def test_a_constant_says_nothing(name):
    x, y = draw(3)
    assert float(compiled(name)(np.full_like(x, 2.5), y)) == pytest.approx(ESTIMATORS[name].at_constant, abs=2e-5)


@names()
def test_duplicates_give_a_number(name):
    x, y = draw(4, 0.7)
    x[1::2], y[1::2] = x[::2], y[::2]
    value = float(compiled(name)(x, y))
    assert np.isfinite(value)


@names()
def test_nan_is_not_hidden(name):
    for side in (0, 1):
        data = draw(5, 0.7)
        data[side][3, 0] = np.nan
        value = float(compiled(name)(*data))
        # Labels, made here from y, are integers, which know no NaN.
        assert np.isnan(value) or (name in ("ross", "kolchinsky_tracey") and side == 1)


@names()
def test_vmap_and_shard_map_are_the_same_function(name):
    data = [np.stack(z) for z in zip(draw(6, 0.7), draw(7, 0.3), strict=True)]
    alone = [float(compiled(name)(x, y)) for x, y in zip(*data, strict=True)]
    batched = jax.vmap(lambda x, y: ESTIMATORS[name].fn(x, y).value)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = PartitionSpec("data")
    mapped = jax.jit(jax.shard_map(batched, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False))
    np.testing.assert_allclose(mapped(*data), alone, rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("name", ["entropies"])
def test_entropies_know_no_atoms(name):
    """k duplicates: a density has none, so NaN, as its docstring says."""
    x, y = draw(8)
    assert np.isnan(float(compiled(name)(np.repeat(x[:6], 10, axis=0), np.repeat(y[:6], 10, axis=0))))
