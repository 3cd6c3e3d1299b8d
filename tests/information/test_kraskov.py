"""KSG against k-d trees in float64, against closed forms, and under the laws of a mutual information."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.special import digamma

from jaxdiv.information import ksg


def tree_ksg(x, y, k, form, norm="chebyshev"):
    """Both forms by scipy's trees in float64, for continuous data."""
    p = np.inf if norm == "chebyshev" else 2.0
    count = len(x)
    tree_x, tree_y = cKDTree(x), cKDTree(y)
    if norm == "chebyshev":
        distances, chosen = cKDTree(np.hstack([x, y])).query(np.hstack([x, y]), k + 1, p=np.inf)
    else:
        joint = np.maximum(*(np.linalg.norm(z[:, None] - z, axis=-1) for z in (x, y)))
        chosen = np.argsort(joint, axis=1)[:, : k + 1]
        distances = np.take_along_axis(joint, chosen, 1)

    def number(tree, points, radius):
        return tree.query_ball_point(points, radius, p=p, return_length=True) - 1

    if form == 1:
        below = np.nextafter(distances[:, -1], 0)
        terms = digamma(number(tree_x, x, below) + 1) + digamma(number(tree_y, y, below) + 1)
        return digamma(k) + digamma(count) - terms.mean()
    terms = 0.0
    for tree, points in ((tree_x, x), (tree_y, y)):
        extent = np.linalg.norm(points[chosen] - points[:, None], ord=np.inf if p > 2 else 2, axis=-1).max(1)
        terms = terms + digamma(number(tree, points, np.nextafter(extent, np.inf)))
    return digamma(k) - 1 / k + digamma(count) - terms.mean()


def settings():
    rng = np.random.default_rng(0)
    for i in range(30):
        d_x, d_y = rng.integers(1, 6, 2)
        yield i, int(rng.integers(30, 700)), int(d_x), int(d_y), int(rng.integers(1, 9)), 1 + i % 2


ALL = [pytest.param(s, id="-".join(map(str, s)), marks=[pytest.mark.slow] if s[0] > 3 else []) for s in settings()]


@pytest.mark.parametrize("setting", ALL)
def test_equals_a_tree(setting, x64):
    """The float32 draw as float64, and as it is: the same neighbours up to its rounding."""
    seed, count, d_x, d_y, k, form = setting
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, d_x))
    y = rng.normal(size=(count, d_y)) + 2 * x[:, :1] * rng.uniform(0, 1)
    expected = tree_ksg(x, y, k, form)
    fn = jax.jit(partial(ksg, k=k, form=form))
    assert abs(float(fn(x, y)) - expected) < 1e-4
    single = fn(x.astype(np.float32), y.astype(np.float32))
    assert single.value.dtype == jnp.float32
    assert abs(float(single) - expected) < 1e-3


@pytest.mark.parametrize("form", [1, 2])
def test_euclidean_equals_its_definition(form, x64):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 3)), rng.normal(size=(400, 2))
    y[:, 0] += x[:, 0]
    found = ksg(x, y, k=4, form=form, norm="euclidean")
    assert abs(float(found) - tree_ksg(x, y, 4, form, "euclidean")) < 1e-9
    assert abs(float(found) - float(ksg(x, y, k=4, form=form))) > 1e-3


FAST = {form: jax.jit(partial(ksg, k=4, form=form)) for form in (1, 2)}
"""One compilation per form for all tests at the shape of `bivariate`."""
COUNT = 300


def bivariate(seed, count, rho):
    x, z = jax.random.normal(jax.random.key(seed), (2, count, 1))
    return x, rho * x + (1 - rho**2) ** 0.5 * z


@pytest.mark.parametrize("form", [1, 2])
def test_gaussians_have_their_closed_form(form):
    """Eight draws of N = 1000 at three correlations, within four standard errors of the mean plus the known bias."""
    fn = jax.jit(jax.vmap(lambda x, y: ksg(x, y, k=4, form=form).value))
    for rho in (0.0, 0.6, 0.9):
        values = fn(*jax.vmap(lambda seed, rho=rho: bivariate(seed, 1000, rho))(jnp.arange(8)))
        truth = -0.5 * np.log(1 - rho**2)
        assert abs(values.mean() - truth) < 4 * values.std() / 8**0.5 + 0.01


@pytest.mark.parametrize("form", [1, 2])
def test_laws(form):
    x, y = bivariate(0, COUNT, 0.7)
    fn = FAST[form]
    base = fn(x, y)
    order = jax.random.permutation(jax.random.key(1), COUNT)
    np.testing.assert_allclose(fn(y, x).value, base.value, atol=1e-6)
    np.testing.assert_allclose(fn(x[order], y[order]).value, base.value, atol=1e-6)
    np.testing.assert_allclose(fn(4.0 * x, -4.0 * y).value, base.value, atol=1e-6)  # a power of two rounds nothing
    np.testing.assert_allclose(fn(x + 0.5, y - 0.25).value, base.value, atol=2e-3)
    np.testing.assert_allclose(jnp.mean(base.info["local"]), base.value, rtol=1e-5)
    assert base.kind == "plug-in" and base.info["num_ties"] == 0 and base.stderr > 0


@pytest.mark.parametrize("form", [1, 2])
def test_the_ceiling_is_reached_by_a_copy(form):
    x, _ = bivariate(0, COUNT, 0.0)
    out = FAST[form](x, x)
    np.testing.assert_allclose(out.value, out.ceiling, rtol=1e-6)
    np.testing.assert_allclose(out.ceiling, digamma(COUNT) - digamma(4) - (form == 2) / 4, rtol=1e-6)


@pytest.mark.parametrize("form", [1, 2])
def test_constant_columns_and_atoms(form):
    x, y = bivariate(0, COUNT, 0.8)
    fn = FAST[form]
    flat = jnp.full((COUNT, 1), 2.5)
    both_flat = fn(flat, flat)
    assert float(fn(flat, y)) == pytest.approx(0.0, abs=1e-5) and float(fn(x, flat)) == pytest.approx(0.0, abs=1e-5)
    assert float(both_flat) == pytest.approx(0.0, abs=1e-5) and both_flat.info["num_ties"] == COUNT
    # A constant column beside others changes nothing.
    np.testing.assert_allclose(fn(jnp.hstack([x, flat]), y).value, fn(x, y).value, rtol=1e-6)
    # Bits: the discrete entropy of eight values, and independence.
    bits = jax.random.randint(jax.random.key(2), (2, COUNT), 0, 8).astype(jnp.float32)
    counts = np.bincount(np.asarray(bits[0], int)) / COUNT
    bits = bits[:, :, None]
    copy = fn(bits[0], bits[0])
    assert copy.info["num_ties"] == COUNT
    assert float(copy) == pytest.approx(-(counts * np.log(counts)).sum(), abs=0.02)
    # A class label and a continuous value: three classes far apart share ln 3.
    label = (jnp.arange(COUNT) % 3).astype(jnp.float32)
    value = 10.0 * label + jax.random.uniform(jax.random.key(3), (COUNT,))
    assert float(fn(label[:, None], value[:, None])) == pytest.approx(np.log(3), abs=0.02)
    assert abs(float(fn(label[:, None], y))) < 0.08


def test_duplicated_samples_are_counted():
    x, y = bivariate(0, COUNT // 5, 0.5)
    x, y = jnp.repeat(x, 5, axis=0), jnp.repeat(y, 5, axis=0)
    out = FAST[1](x, y)
    # Every pair occurs five times and nothing else agrees: psi(5) + psi(300) - 2 psi(5).
    assert out.info["num_ties"] == 300
    np.testing.assert_allclose(out.value, digamma(COUNT) - digamma(5), rtol=1e-5)
    first = jnp.arange(COUNT) % 5 > 0  # four copies: fewer than k duplicates each
    assert FAST[1](x + 9.0 * ~first[:, None], y).info["num_ties"] == 0


@pytest.mark.parametrize("form", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan(bad, form):
    x, y = bivariate(0, COUNT, 0.5)
    assert np.isnan(float(FAST[form](x.at[3, 0].set(bad), y)))
    assert np.isnan(float(FAST[form](x, y.at[3, 0].set(bad))))


def test_half_precision_is_computed_in_float32():
    x, y = bivariate(0, COUNT, 0.5)
    low = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    out = jax.jit(partial(ksg, k=4))(low[0], low[1][:, 0])
    assert out.value.dtype == jnp.float32
    assert float(out) == float(FAST[1](*(z.astype(jnp.float32) for z in low)))


def test_malformed_calls():
    x = jnp.zeros((5, 2))
    for arguments, match in [
        (dict(x=x, y=x), "ksg: x has 5 rows; expected more than k = 5"),
        (dict(x=x, y=x, k=7), "ksg: x has 5 rows; expected more than k = 7"),
        (dict(x=x, y=x[:4], k=1), "ksg: y has 4 rows"),
        (dict(x=x[:1], y=x[:1], k=1), "ksg: x has 1 rows"),
        (dict(x=x, y=x, k=0), "ksg: k is 0"),
        (dict(x=x, y=x, k=2.0), "ksg: k is 2.0; expected an integer"),
        (dict(x=x, y=x, k=1, form=3), "ksg: form is 3; expected one of 1, 2"),
        (dict(x=x, y=x, k=1, norm="max"), "ksg: norm is 'max'"),
        (dict(x=x, y=x, k=1, tile=-1), "ksg: tile is -1"),
        (dict(x=x, y=jnp.zeros(5, int), k=1), "ksg: y has dtype int32; expected a floating dtype"),
        (dict(x=x, y=jnp.zeros((5, 1, 1)), k=1), "ksg: y has shape"),
        (dict(x=x, y=None, k=1), "ksg: y is None"),
    ]:
        with pytest.raises(ValueError, match=match):
            ksg(**arguments)
