"""Values, gradients and second derivatives between logits against mpmath, for every record and pattern of -inf."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv import divergences as dv
from jaxdiv.divergences.categorical import (
    alpha_divergence,
    chi2_divergence,
    f_divergence,
    f_divergence_from_probs,
    jeffreys_divergence,
    js_divergence,
    kl_divergence,
    reverse_kl_divergence,
    squared_hellinger_distance,
    total_variation_distance,
    value_and_logit_gradients,
)
from tests.divergences.logits_oracle import floats, hessian, value_and_gradients
from tests.divergences.reference import CASES

INF = math.inf
V = 9


def draw_rows(rng):
    """Logits of p and q ``[14, 9]``: moderate, near-equal, wide, each kind of mask, and mixtures of these."""
    a, b = rng.normal(size=(2, 14, V))
    b[1] = a[1] + 1e-3 * rng.normal(size=V)
    b[2] = a[2] + 1e-6 * rng.normal(size=V)
    b[3] = a[3] + 40.0 + 1e-4 * rng.normal(size=V)  # near-equal but for a constant, which rounds the logits
    a[4:7], b[4:7] = rng.uniform(-50, 50, size=(2, 3, V))
    a[7, :3] = b[7, :3] = -INF
    a[8, 3:5] = -INF
    b[9, 5:7] = -INF
    a[10, 0], b[10, 1] = -INF, -INF
    a[11], b[11] = rng.uniform(-30, 30, size=(2, V))  # wide, and the top class of each side absent on the other
    a[11, np.argmax(b[11])], b[11, np.argmax(a[11])] = -INF, -INF
    b[12, 0] = b[12, 1] = 20.0  # tied top classes that p hardly has
    a[12, :2] = -20.0
    a[13, 0], b[13, 0] = -1e9, -1e9  # a finite number as a mask
    return a, b


# Which side's logit makes a record grow as a power of r, and the power.
GROWING = {"neyman_chi2": (0, 1.0), "alpha_-3": (0, 3.0), "pearson_chi2": (1, 1.0), "alpha_2.5": (1, 1.5)}


def rows_near_the_limit(case, rng):
    """Six rows whose value is near float32's largest number: one side's logit of the other's top class is lowered."""
    side, power = GROWING[case]
    rows = rng.uniform(-20, 20, size=(6, 2, V)).astype(np.float32)
    for row, value in zip(rows, (1.1e37, 4e37, 1e38, 2e38, 3.2e38, 1e31), strict=True):
        top = np.argmax(row[1 - side])
        row[side, top] = -80.0 / power
        truth, *_ = value_and_gradients(case, *map(floats, row))
        row[side, top] += (float(mpmath.log(truth)) - math.log(value)) / power
    return rows[:, 0], rows[:, 1]


def check_rows(case, dtype, bound, seed):
    rng = np.random.default_rng(seed)
    a, b = (x.astype(dtype) for x in draw_rows(rng))
    if case in GROWING and dtype == np.float32:
        a, b = (np.concatenate(x) for x in zip((a, b), rows_near_the_limit(case, rng), strict=True))
    d = CASES[case].make()
    value, grad_p, grad_q = (np.asarray(x) for x in jax.jit(functools.partial(value_and_logit_gradients, d))(a, b))
    assert value.dtype == grad_p.dtype == grad_q.dtype == dtype
    assert value.shape == (len(a),) and grad_p.shape == grad_q.shape == (len(a), V)
    top, tiny = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    for i in range(len(a)):
        truth, *gradients = value_and_gradients(case, floats(a[i]), floats(b[i]))
        if truth > top:
            assert value[i] == INF and not grad_p[i].any() and not grad_q[i].any()
            continue
        if i == 14 and case == "alpha_-3":
            bound *= 1.5  # near the limit a power of 3 is a product of five factors, each rounded
        assert abs(float(value[i]) - truth) <= bound * truth, f"row {i}: {value[i]} for {float(truth)}"
        for got, exact in zip((grad_p[i], grad_q[i]), gradients, strict=True):
            size = max(abs(e) for e in exact)
            if tiny / bound < size < top:
                error = max(abs(float(g) - e) for g, e in zip(got, exact, strict=True)) / size
                assert error <= bound, f"row {i}: gradient off by {float(error)}"


QUICK = [
    "kl", "jensen_shannon_09", "jensen_shannon_1e-6", "jeffreys", "alpha_03", "alpha_2.5", "alpha_1-1e-9",
    "neyman_chi2", "total_variation", "softened_reversed", "le_cam", "skew_reversed",
]  # fmt: skip
SLOW = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize("case", SLOW)
def test_float32_against_mpmath(case):
    check_rows(case, np.float32, 2e-6, 0)


@pytest.mark.parametrize("case", ["jensen_shannon_09", "alpha_2.5", "neyman_chi2", "skew_reversed"])
def test_float64_against_mpmath(case, x64):
    check_rows(case, np.float64, 1e-14, 1)


def test_second_derivatives_near_the_limit_are_no_nan():
    """They are beyond the largest float before the gradient is, and count as 0 there."""

    def total(x):
        return f_divergence(dv.neyman_chi2(), p_logits=x[0], q_logits=x[1])

    rows = jnp.stack(rows_near_the_limit("neyman_chi2", np.random.default_rng(6)), 1)
    assert np.isfinite(jax.jit(jax.vmap(jax.hessian(total)))(rows)).all()


@pytest.mark.parametrize("case", ["kl", "pearson_chi2"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_input(case, dtype):
    """Values are those of the rounded logits, float32; gradients come in the input's dtype, rounded once."""
    a, b = (jnp.asarray(np.clip(x, -6e4, 6e4), dtype) for x in draw_rows(np.random.default_rng(2)))
    a, b = (jnp.where(x < -5e4, -jnp.inf, x) for x in (a, b))
    d = CASES[case].make()

    @jax.jit
    def both(a, b):
        def total(a, b):
            value = f_divergence(d, p_logits=a, q_logits=b)
            return jnp.sum(value), value

        return jax.value_and_grad(total, (0, 1), has_aux=True)(a, b)

    (_, value), (grad_p, grad_q) = both(a, b)
    assert value.dtype == jnp.float32 and grad_p.dtype == grad_q.dtype == dtype
    for i in range(len(a)):
        truth, *gradients = value_and_gradients(case, floats(a[i]), floats(b[i]))
        if truth > 3.4e38:
            assert value[i] == INF
            continue
        assert abs(float(value[i]) - truth) <= 1e-6 * truth
        for got, exact in zip((grad_p[i], grad_q[i]), gradients, strict=True):
            size = max(abs(e) for e in exact)
            if 1e-2 < size < 6e4:  # float16 has no digits below 6e-8
                assert max(abs(g - e) for g, e in zip(floats(got), exact, strict=True)) <= 4e-3 * size


@pytest.mark.parametrize("temperature", [0.25, 3.0, 10.0])
def test_temperature_divides_without_rounding(temperature):
    """Also at 3 and near p = q, where logits / 3 would have lost four digits of the difference."""
    a, b = (x[:4].astype(np.float32) for x in draw_rows(np.random.default_rng(3)))
    for case in ("kl", "jensen_shannon"):
        d = CASES[case].make()
        value, grad_p, grad_q = value_and_logit_gradients(d, a, b, temperature=temperature)
        again = f_divergence(d, p_logits=a, q_logits=b, temperature=temperature)
        np.testing.assert_array_equal(value, again)
        for i in range(len(a)):
            truth, *gradients = value_and_gradients(case, floats(a[i]), floats(b[i]), temperature)
            assert abs(float(value[i]) - truth) <= 2e-6 * truth
            for got, exact in zip((grad_p[i], grad_q[i]), gradients, strict=True):
                size = max(abs(e) for e in exact)
                assert max(abs(g - e) for g, e in zip(floats(got), exact, strict=True)) <= 2e-6 * size


SECOND = ["reverse_kl", "jensen_shannon", "neyman_chi2"]
SECOND_SLOW = ["kl", "alpha_03", "pearson_chi2", "softened_reverse_kl", "le_cam", "skew_kl"]
PAIRS = {
    "full": ([0.3, -1.0, 0.7], [0.1, 0.4, -0.2]),
    "both masked": ([0.3, -INF, 0.7], [0.1, -INF, -0.2]),
    "p masked": ([0.3, -INF, 0.7], [0.1, 0.5, -0.2]),
    "q masked": ([0.3, 0.5, 0.7], [0.1, -INF, -0.2]),
    "concentrated": ([9.0, -8.0, 0.7], [-12.0, 3.0, -0.2]),
}


@pytest.mark.parametrize("case", [*SECOND, *(pytest.param(case, marks=pytest.mark.slow) for case in SECOND_SLOW)])
def test_second_derivatives_against_mpmath(case):
    """Forward over reverse, reverse over reverse and forward over forward, float32, masked classes included."""
    d = CASES[case].make()

    def total(x):
        return f_divergence(d, p_logits=x[:3], q_logits=x[3:])

    modes = [jax.jacfwd(jax.grad(total)), jax.jacrev(jax.grad(total)), jax.jacfwd(jax.jacfwd(total))]
    compute = jax.jit(jax.vmap(lambda x: [mode(x) for mode in modes]))
    x = np.array([[*a, *b] for a, b in PAIRS.values()], np.float32)
    for row, matrices in zip(x, zip(*compute(x), strict=True), strict=True):
        truth, *_ = value_and_gradients(case, floats(row[:3]), floats(row[3:]))
        expected = hessian(case, floats(row[:3]), floats(row[3:])) if truth < INF else np.zeros((6, 6))
        for matrix in matrices:
            np.testing.assert_allclose(matrix, expected, rtol=0, atol=4e-6 * max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("case", ["total_variation", "jeffreys", "squared_hellinger", "skew_kl", "skew_reversed"])
def test_derivatives_by_finite_differences(case, x64):
    """jvp and Hessian-vector products in float64 against central differences of the value and of the gradient."""
    d = CASES[case].make()
    rng = np.random.default_rng(4)
    a, b, u, v = rng.normal(size=(4, 6))
    both = case not in ("jeffreys",)
    b[2] = -INF if both else b[2]

    def loss(a, b):
        return f_divergence(d, p_logits=a, q_logits=b)

    def gradient(a, b):
        return jnp.stack(jax.grad(loss, (0, 1))(a, b))

    step = 1e-5
    value, slope = jax.jvp(loss, (a, b), (u, v))
    assert value == loss(a, b)
    ends = [loss(a + s * step * u, b + s * step * v) for s in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-8)
    _, bend = jax.jvp(gradient, (a, b), (u, v))
    ends = [gradient(a + s * step * u, b + s * step * v) for s in (1, -1)]
    np.testing.assert_allclose(bend, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)


def test_short_names():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 3, 6)).astype(np.float32)
    pairs = [
        (kl_divergence, {}, dv.kl()),
        (reverse_kl_divergence, {}, dv.reverse_kl()),
        (js_divergence, {}, dv.jensen_shannon()),
        (js_divergence, {"pi": 0.2}, dv.jensen_shannon(0.2)),
        (jeffreys_divergence, {}, dv.jeffreys()),
        (squared_hellinger_distance, {}, dv.squared_hellinger()),
        (total_variation_distance, {}, dv.total_variation()),
        (chi2_divergence, {}, dv.pearson_chi2()),
        (dv.neyman_chi2_divergence, {}, dv.neyman_chi2()),
        (dv.le_cam_divergence, {}, dv.le_cam()),
        (dv.skew_kl_divergence, {"pi": 0.2}, dv.skew_kl(0.2)),
        (alpha_divergence, {"a": 0.3}, dv.alpha(0.3)),
    ]
    keywords = {"axis": 1, "where": np.arange(6) < 5, "temperature": 2.0}
    for fn, parameters, d in pairs:
        expected = f_divergence(d, p_logits=a, q_logits=b, **keywords)
        np.testing.assert_array_equal(fn(p_logits=a, q_logits=b, **parameters, **keywords), expected)


def test_probabilities():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]), np.array([[0.25, 0.75, 0.0], [2.0, 5.0, 3.0]])
    value = f_divergence_from_probs(dv.kl(), p=p, q=q)
    q = q / q.sum(-1, keepdims=True)
    expected = [sum(x * math.log(x / y) for x, y in zip(u, v, strict=True) if x) for u, v in zip(p, q, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    assert f_divergence_from_probs(dv.kl(), p=q[1], q=p[1]) == INF
    masked = f_divergence_from_probs(dv.kl(), p=q, q=p, axis=-1, where=np.array([True, True, False]))
    marked = [x.at[:, 2].set(-1.0) for x in (jnp.asarray(q), jnp.asarray(p))]  # a class that takes no part may hold any
    again = f_divergence_from_probs(dv.kl(), p=marked[0], q=marked[1], where=np.array([True, True, False]))
    np.testing.assert_array_equal(again, masked)
    assert np.isfinite(masked).all()
    gradient = jax.grad(lambda p: f_divergence_from_probs(dv.jensen_shannon(), p=p, q=jnp.ones(3)))(
        jnp.array([1.0, 2.0, 0.0])
    )
    assert np.isfinite(gradient).all() and gradient[2] == 0.0
    with pytest.raises(ValueError, match="f_divergence_from_probs: q has a negative entry"):
        f_divergence_from_probs(dv.kl(), p=[0.5, 0.5], q=[1.5, -0.5])
    assert np.isnan(
        jax.jit(functools.partial(f_divergence_from_probs, dv.kl()))(p=jnp.ones(2), q=jnp.array([1.5, -0.5]))
    )


@pytest.mark.parametrize(
    ("where", "message"),
    [(np.ones((2, 5), bool), r"has shape \(2, 5\)"), ([[True], [True, False]], "is list of uneven rows")],
)
def test_a_mask_that_does_not_fit_is_told_its_shape(where, message):
    """Of tokens, most often, where one of classes is meant."""
    logits = jnp.zeros((2, 5, 3))
    with pytest.raises(ValueError, match=rf"kl_divergence: where {message}; expected .* \(2, 5, 3\)"):
        kl_divergence(p_logits=logits, q_logits=logits, where=where)
