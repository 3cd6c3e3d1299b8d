"""CS-QMI against its closed form for smoothed Gaussians, the conditional divergence against its definition in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import conditional_cauchy_schwarz, cs_qmi
from jaxdiv.information.arguments import check_positive, check_rows


def closed_form(correlation, sigma=0.0):
    """D_CS of two centred Gaussians, log |S1 + S2| - (log |2 S1| + log |2 S2|) / 2, of the smoothed law."""
    joint = np.array([[1.0 + sigma**2 / 2.0, correlation], [correlation, 1.0 + sigma**2 / 2.0]])
    product = np.diag(np.diag(joint))
    logdet = [np.linalg.slogdet(m)[1] for m in (joint + product, 2.0 * joint, 2.0 * product)]
    return logdet[0] - 0.5 * (logdet[1] + logdet[2])


def pair(count, correlation, seed=0):
    x, noise = np.random.default_rng(seed).normal(size=(2, count))
    return x, correlation * x + np.sqrt(1.0 - correlation**2) * noise


def gram(a, b, sigma):
    a, b = np.asarray(a, np.float64).reshape(len(a), -1), np.asarray(b, np.float64).reshape(len(b), -1)
    return np.exp(-np.sum((a[:, None] - b[None]) ** 2, axis=-1) / (2.0 * sigma**2))


def dense_qmi(x, y, sx, sy):
    k, q, n = gram(x, x, sx), gram(y, y, sy), len(x)
    ones = np.ones(n)
    joint, marginals = np.trace(k @ q) / n**2, (ones @ k @ ones) * (ones @ q @ ones) / n**4
    return np.log(joint) + np.log(marginals) - 2.0 * np.log(ones @ k @ q @ ones / n**3)


def test_closed_forms_of_the_literature():
    np.testing.assert_allclose([closed_form(r) for r in (0.5, 0.75, 0.9)], [0.0793025, 0.2617894, 0.6040922], atol=1e-6)
    np.testing.assert_allclose(closed_form(0.75, 1.0), closed_form(0.5), rtol=1e-12)  # only 0.75 / 1.5 counts
    np.testing.assert_allclose([closed_form(0.75, s) for s in (0.25, 0.5)], [0.23454, 0.17611], atol=6e-6)


def test_the_plug_in_is_the_qmi_of_the_smoothed_law():
    x, y = pair(4000, 0.75)
    values = jax.jit(jax.vmap(lambda s: cs_qmi(x, y, sigma=s, chunk_size=500).value))(jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(values, [closed_form(0.75, 0.5), closed_form(0.75, 1.0)], atol=0.012)


def test_it_equals_the_dense_definition_whatever_the_chunks(x64):
    x, y = np.random.default_rng(1).normal(size=(2, 23, 3))
    y = y + x
    expected = dense_qmi(x, y, 0.7, 1.3)
    for chunk_size in (5, 23, 1000):
        np.testing.assert_allclose(cs_qmi(x, y, sigma=(0.7, 1.3), chunk_size=chunk_size).value, expected, rtol=1e-12)
    estimate = cs_qmi(x, y, sigma=(0.7, 1.3))
    assert estimate.kind == "not MI"
    np.testing.assert_array_equal(estimate.info["sigma"], [0.7, 1.3])
    norm = np.sqrt(dense_qmi(x, x, 0.7, 0.7) * dense_qmi(y, y, 1.3, 1.3))
    np.testing.assert_allclose(cs_qmi(x, y, sigma=(0.7, 1.3), normalized=True).value, expected / norm, rtol=1e-12)


def test_it_vanishes_for_constants_and_products_and_is_one_for_itself():
    x = jnp.linspace(0.0, 2.0, 12)
    grid = jnp.stack(jnp.meshgrid(x[:4], x[:3]), -1).reshape(-1, 2)  # an exact product law
    twice = jnp.concatenate([x, x])

    @jax.jit
    def values(x, grid, twice):
        ones = jnp.full_like(x, 3.0)
        zero = [cs_qmi(x, ones), cs_qmi(ones, ones), cs_qmi(x, ones, normalized=True), cs_qmi(grid[:, 0], grid[:, 1])]
        equal = [cs_qmi(x, x**2), cs_qmi(twice, twice**2)]  # every point twice is the same law
        return zero, equal, cs_qmi(x, x, normalized=True)

    zero, equal, one = values(x, grid, twice)
    np.testing.assert_allclose([float(z) for z in zero], 0.0, atol=5e-7)
    np.testing.assert_allclose(float(equal[0]), float(equal[1]), rtol=1e-5)
    assert float(equal[0]) > 0.1 and abs(float(one) - 1.0) < 1e-6


def dense_conditional(x, y, prediction, sx, sy, variant):
    k, n = gram(x, x, sx), len(x)
    sums = []
    for left, right in ((y, y), (prediction, prediction), (prediction, y)):
        g, total = gram(left, right, sy), 0.0
        for j in range(n):
            square = sum(k[j, i] for i in range(n)) ** 2 if variant == "published" else sum(k[j] ** 2)
            total += sum(k[j, i] * g[j, i] for i in range(n)) / square
        sums.append(total)
    return np.log(sums[0]) + np.log(sums[1]) - 2.0 * np.log(sums[2])


@pytest.mark.parametrize("variant", ["published", "released"])
def test_the_conditional_divergence_is_its_definition(x64, variant):
    x, y = pair(17, 0.6, seed=2)
    prediction = np.sin(3.0 * y)
    estimate = conditional_cauchy_schwarz(x, y, prediction, sigma=(0.5, 0.8), variant=variant, chunk_size=4)
    np.testing.assert_allclose(estimate.value, dense_conditional(x, y, prediction, 0.5, 0.8, variant), rtol=1e-12)
    assert estimate.kind == "not MI"
    assert abs(float(conditional_cauchy_schwarz(x, y, y, variant=variant))) < 1e-14
    shifted = conditional_cauchy_schwarz(jnp.zeros(17), y, y + 1.0, variant=variant).value
    expected = 2.0 * (np.log(gram(y, y, 1.0).sum()) - np.log(gram(y + 1.0, y, 1.0).sum()))
    np.testing.assert_allclose(shifted, expected, rtol=1e-12)  # a constant x leaves the unconditional divergence


def test_it_orders_predictions_and_the_variants_differ():
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    y = np.sin(2.0 * x) + 0.2 * rng.normal(size=400)
    guesses = jnp.stack([jnp.sin(2.0 * x), jnp.zeros(400), y + 1.0])

    def values(variant):
        return jax.vmap(lambda guess: conditional_cauchy_schwarz(x, y, guess, variant=variant).value)(guesses)

    published, released = (np.asarray(values(v)) for v in ("published", "released"))
    for mean, constant, shifted in (published, released):
        assert abs(mean) < 0.02 < 0.08 < constant < 0.25 < 0.4 < shifted < 0.6
    assert np.max(np.abs(published - released)) > 5e-3


def test_gradients(x64):
    x, y = (jnp.asarray(z) for z in pair(9, 0.5))
    args = (x, y, 0.5 * y, jnp.float64(0.8))
    for fn in (
        lambda x, y, p, s: cs_qmi(x, y + p**2, sigma=s, normalized=True, chunk_size=4).value,
        lambda x, y, p, s: conditional_cauchy_schwarz(x, y, p, sigma=(s, 1.0), chunk_size=4).value,
    ):
        direction = [jnp.cos(3.0 * jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in args]
        fn = jax.jit(fn)
        moved = [fn(*(a + h * d for a, d in zip(args, direction, strict=True))) for h in (1e-5, -1e-5)]
        slope = sum(jnp.vdot(g, d) for g, d in zip(jax.grad(fn, (0, 1, 2, 3))(*args), direction, strict=True))
        np.testing.assert_allclose(slope, (moved[0] - moved[1]) / 2e-5, rtol=1e-7)


def test_nan_stays_and_dtypes_are_promoted():
    x = jnp.array([0.0, jnp.nan, 1.0], jnp.bfloat16)
    y = jnp.arange(3.0, dtype=jnp.float16)
    for estimate in (cs_qmi(x, y), cs_qmi(y, x, normalized=True), conditional_cauchy_schwarz(y, x, y)):
        assert jnp.isnan(estimate.value) and estimate.value.dtype == jnp.float32


X = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cs_qmi(X, X[:2]), "cs_qmi: y has 2 rows; expected the 3 rows of x"),
        (lambda: cs_qmi(X[:1], X[:1]), "cs_qmi: x has 1 rows; expected at least 2"),
        (lambda: cs_qmi(X, X, sigma=0.0), r"cs_qmi: sigma is 0.0; expected a number in \(0.0, inf\)"),
        (lambda: cs_qmi(X, X, sigma=(1.0, 2.0, 3.0)), "cs_qmi: sigma has 3 entries"),
        (lambda: cs_qmi(X, X, sigma="median"), "cs_qmi: sigma is 'median'; expected a real Python number"),
        (lambda: cs_qmi(X, X, normalized=1), "cs_qmi: normalized is 1; expected True or False"),
        (lambda: cs_qmi(X, X, chunk_size=0), "cs_qmi: chunk_size is 0"),
        (lambda: cs_qmi(X.astype(int), X), "cs_qmi: x has dtype"),
        (lambda: conditional_cauchy_schwarz(X, X, X[:, 0]), "conditional_cauchy_schwarz: prediction has shape"),
        (lambda: conditional_cauchy_schwarz(X, X, X, variant="code"), "conditional_cauchy_schwarz: variant is 'code'"),
        (lambda: check_rows("f", "x", X, 4), "f: x has 3 rows; expected at least 4"),
        (lambda: check_positive("f", "v", jnp.ones(2)), r"f: v has shape \(2,\); expected shape \(\)"),
        (lambda: check_positive("f", "v", jnp.int32(2)), "f: v has dtype int32"),
        (lambda: check_positive("f", "v", float("inf")), "f: v is inf"),
    ],
    ids=[
        "rows",
        "one",
        "zero",
        "three",
        "word",
        "flag",
        "chunk",
        "ints",
        "shape",
        "variant",
        "few",
        "rank",
        "int",
        "inf",
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
