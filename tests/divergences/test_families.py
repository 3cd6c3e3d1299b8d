"""Renyi and its relatives between logits: mpmath with 60 digits in every regime, finite differences, limits, edges."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from mpmath import mp

from jaxdiv import divergences as dv
from jaxdiv.divergences import families as fm
from jaxdiv.divergences.categorical import f_divergence

INF = math.inf
V = 48
ORDERS = (0.0, 1e-3, 0.3, 0.5, 0.999, 1.0, 1.001, 2.0, 5.0, INF)
DIVERGENCES = {
    **{f"renyi_{a}": functools.partial(fm.renyi_divergence, a) for a in ORDERS},
    **{f"tsallis_{a}": functools.partial(fm.tsallis_divergence, a) for a in (0.0, 0.3, 1.0, 2.0)},
    **{f"gamma_{a}": functools.partial(fm.gamma_divergence, a) for a in (0.0, 1e-3, 0.5, 1.0, 3.0)},
    "bhattacharyya": fm.bhattacharyya_distance,
    "cauchy_schwarz": fm.cauchy_schwarz_divergence,
}
ENTROPIES = {
    **{f"renyi_{a}": functools.partial(fm.renyi_entropy, a) for a in ORDERS},
    **{f"tsallis_{a}": functools.partial(fm.tsallis_entropy, a) for a in (0.0, 0.5, 1.0, 2.0)},
}


def power(x, a):
    return mpmath.mpf(0) if x == 0 else x**a


def kl(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mpmath.inf
    return sum(x * mpmath.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)


def powers(p, q, a):
    """sum p^a q^{1-a}."""
    if a > 1 and any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mpmath.inf
    return sum(x**a * y ** (1 - a) for x, y in zip(p, q, strict=True) if x > 0 and y > 0)


def renyi(p, q, a):
    if a == 0:
        inside = sum((y for x, y in zip(p, q, strict=True) if x > 0), mpmath.mpf(0))
        return mpmath.inf if inside == 0 else -mpmath.log(inside)
    if a == 1:
        return kl(p, q)
    if a == INF:
        return max(mpmath.inf if y == 0 else mpmath.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)
    a = mpmath.mpf(a)
    total = powers(p, q, a)
    if total == 0 or total == mpmath.inf:
        return mpmath.inf
    return mpmath.log(total) / (a - 1)


def gamma(p, q, c):
    if c == 0:
        return kl(p, q)
    c = mpmath.mpf(c)
    cross = sum(x * power(y, c) for x, y in zip(p, q, strict=True))
    if cross == 0:
        return mpmath.inf
    return (
        mpmath.log(sum(power(x, 1 + c) for x in p)) / (c * (1 + c))
        - mpmath.log(cross) / c
        + mpmath.log(sum(power(y, 1 + c) for y in q)) / (1 + c)
    )


def tsallis(p, q, a):
    if a == 1:
        return kl(p, q)
    if a == 0:
        return sum((y for x, y in zip(p, q, strict=True) if x == 0), mpmath.mpf(0))
    return (powers(p, q, mpmath.mpf(a)) - 1) / (mpmath.mpf(a) - 1)


def exact(name, p, q):
    kind, _, order = name.partition("_")
    if name == "bhattacharyya":
        return renyi(p, q, 0.5) / 2
    if name == "cauchy_schwarz":
        return 2 * gamma(p, q, 1.0)
    return {"renyi": renyi, "tsallis": tsallis, "gamma": gamma}[kind](p, q, float(order))


def entropy(name, p):
    kind, _, order = name.partition("_")
    order = float(order)
    present = [x for x in p if x > 0]
    if order == 1:
        return -sum(x * mpmath.log(x) for x in present)
    if order == INF:
        return -mpmath.log(max(present))
    a = mpmath.mpf(order)
    total = sum(x**a for x in present)
    return mpmath.log(total) / (1 - a) if kind == "renyi" else (1 - total) / (a - 1)


def softmax(logits):
    e = [mpmath.mpf(0) if x == -INF else mpmath.exp(mpmath.mpf(float(x))) for x in logits]
    return [x / sum(e) for x in e]


def draw(regime, dtype=np.float32):
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 8, V))
    if regime == "near":
        b = a + 1e-3 * rng.normal(size=a.shape) + 3.0
    elif regime == "wide":
        a, b = rng.uniform(-50, 50, size=(2, 8, V))
    elif regime == "sharp":  # both nearly sure of one class, together or apart
        a[:, 0] += 12.0
        b[:4, 0] += 14.0
        b[4:, 1] += 14.0
    elif regime == "p masked":
        a[rng.random(a.shape) < 0.25] = -np.inf
    elif regime == "q masked":
        b[rng.random(a.shape) < 0.25] = -np.inf
    elif regime == "both masked":
        mask = rng.random(a.shape) < 0.25
        a[mask], b[mask] = -np.inf, -np.inf
    elif regime == "apart":
        a[:, ::2], b[:, 1::2] = -np.inf, -np.inf
    return a.astype(dtype), b.astype(dtype)


REGIMES = ("moderate", "near", "wide", "sharp", "p masked", "q masked", "both masked", "apart")


@functools.cache
def compiled():
    """Value and both gradients of everything, in one program per dtype and shape."""

    def one(function):
        def run(a, b):
            return jax.vmap(jax.value_and_grad(lambda a, b: function(p_logits=a, q_logits=b), (0, 1)))(a, b)

        return run

    return jax.jit(lambda a, b: {name: one(function)(a, b) for name, function in DIVERGENCES.items()})


@functools.cache
def compiled_entropies():
    def one(function):
        return jax.vmap(jax.value_and_grad(lambda a: function(logits=a)))

    return jax.jit(lambda a: {name: one(function)(a) for name, function in ENTROPIES.items()})


def errors(got, expected):
    assert not np.isnan(got).any()
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))
    finite = np.isfinite(expected)
    small = np.abs(expected[finite]) < 1e-30
    assert (np.abs(got[finite][small]) < 1e-30).all()
    return np.max(np.abs(got[finite][~small] / expected[finite][~small] - 1), initial=0.0)


@pytest.mark.parametrize("regime", REGIMES)
def test_float32_values_against_mpmath(regime):
    a, b = draw(regime)
    with mp.workdps(60):
        rows = [(softmax(x), softmax(y)) for x, y in zip(a, b, strict=True)]
        expected = {name: np.array([float(exact(name, p, q)) for p, q in rows]) for name in DIVERGENCES}
    largest = float(np.finfo(np.float32).max)
    expected = {name: np.where(value > largest, INF, value) for name, value in expected.items()}
    results = jax.tree.map(np.asarray, compiled()(a, b))
    for name, (value, _) in results.items():
        assert value.dtype == np.float32
        assert (value >= 0).all(), name
        # The power of a ratio of e^100 is as accurate as 100 is representable, as in generators.
        tolerance = 2e-5 if regime == "wide" and name.startswith("tsallis") else 2e-6
        assert errors(np.asarray(value, np.float64), expected[name]) < tolerance, name


@pytest.mark.parametrize("regime", REGIMES)
def test_float32_gradients_against_float64(regime):
    """The float64 gradients are held to finite differences of mpmath below."""
    a, b = draw(regime)
    low = jax.tree.map(np.asarray, compiled()(a, b))
    with jax.enable_x64(True):
        high = jax.tree.map(np.asarray, compiled()(a.astype(np.float64), b.astype(np.float64)))
    for name, (value, grads) in low.items():
        for got, expected in zip(grads, high[name][1], strict=True):
            assert np.isfinite(got).all(), name
            np.testing.assert_array_equal(got[np.isinf(value)], 0.0)
            finite = np.isfinite(value)
            size = np.max(np.abs(expected[finite]), axis=-1)
            error = np.max(np.abs(got[finite] - expected[finite]), axis=-1)
            tolerance = 3e-5 if regime == "wide" else 4e-6
            assert (error <= tolerance * size + 1e-30).all(), (name, np.max(error / (size + 1e-300)))


@pytest.mark.parametrize("regime", ["moderate", "near", "sharp", "p masked"])
def test_float64_gradients_by_differences_of_mpmath(x64, regime):
    a, b = draw(regime, np.float64)
    rng = np.random.default_rng(2)
    da, db = rng.normal(size=(2, V))
    with mp.workdps(60):
        step = mpmath.mpf(10) ** -15
        moved = []
        for sign in (1, -1):
            p = softmax_exact(a[0], da, sign * step)
            q = softmax_exact(b[0], db, sign * step)
            moved.append({name: exact(name, p, q) for name in DIVERGENCES})
        slopes = {n: (moved[0][n] - moved[1][n]) / (2 * step) for n in DIVERGENCES if mpmath.isfinite(moved[0][n])}
    results = compiled()(a, b)
    for name, slope in slopes.items():
        grad_p, grad_q = results[name][1]
        got = float(grad_p[0] @ da + grad_q[0] @ db)
        scale = float(np.max(np.abs(grad_p[0])) + np.max(np.abs(grad_q[0])))
        assert got == pytest.approx(float(slope), rel=1e-9, abs=1e-11 * scale + 1e-30), name


def softmax_exact(logits, way, step):
    e = [
        mpmath.mpf(0) if x == -INF else mpmath.exp(mpmath.mpf(float(x)) + step * mpmath.mpf(float(w)))
        for x, w in zip(logits, way, strict=True)
    ]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("regime", ["moderate", "wide", "sharp", "p masked"])
def test_entropies_against_mpmath(regime):
    a, _ = draw(regime)
    with mp.workdps(60):
        rows = [softmax(x) for x in a]
        expected = {name: np.array([float(entropy(name, p)) for p in rows]) for name in ENTROPIES}
    low = jax.tree.map(np.asarray, compiled_entropies()(a))
    with jax.enable_x64(True):
        high = jax.tree.map(np.asarray, compiled_entropies()(a.astype(np.float64)))
    for name, (value, grad) in low.items():
        assert errors(np.asarray(value, np.float64), expected[name]) < 2e-6, name
        reference = np.asarray(high[name][1])
        size = np.max(np.abs(reference), axis=-1, keepdims=True)
        assert (np.abs(grad - reference) <= 3e-5 * size + 1e-30).all(), name


def test_entropy_gradients_by_finite_differences(x64):
    a, _ = draw("moderate", np.float64)
    way, step = np.random.default_rng(0).normal(size=V), 1e-6
    plus, minus = compiled_entropies()(a + step * way), compiled_entropies()(a - step * way)
    for name, (_, grad) in compiled_entropies()(a).items():
        slope = (plus[name][0] - minus[name][0]) / (2 * step)
        np.testing.assert_allclose(grad @ way, slope, rtol=1e-6, atol=1e-9, err_msg=name)


def test_hessians_by_finite_differences(x64):
    """The gradient's difference along a direction against forward over reverse, for both sides at once."""
    a, b = (x[0, :12] for x in draw("moderate", np.float64))
    da, db = np.random.default_rng(4).normal(size=(2, 12))
    names = ("renyi_0.3", "renyi_2.0", "gamma_0.5", "cauchy_schwarz")  # the others are these or f-divergences

    def values(a, b):
        return jnp.stack([DIVERGENCES[name](p_logits=a, q_logits=b) for name in names])

    run = jax.jit(lambda a, b: jax.jvp(jax.jacrev(values, (0, 1)), (a, b), (da, db)))
    step = 1e-6
    got, plus, minus = run(a, b)[1], run(a + step * da, b + step * db)[0], run(a - step * da, b - step * db)[0]
    for x, y, z in zip(got, plus, minus, strict=True):
        np.testing.assert_allclose(x, (y - z) / (2 * step), rtol=1e-5, atol=1e-8)


def test_identities_and_limits(x64):
    """Between members; what each of them obeys is in `test_family_laws`."""
    a, b = draw("moderate", np.float64)
    both = {"p_logits": a, "q_logits": b}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(fm.renyi_divergence(2, **both), np.log1p(f_divergence(dv.pearson_chi2(), **both)))
    close(fm.cauchy_schwarz_divergence(**both), 2 * fm.gamma_divergence(1, **both))
    close(fm.tsallis_divergence(0.5, **both), f_divergence(dv.squared_hellinger(), **both))
    close(fm.tsallis_entropy(1, logits=a), fm.renyi_entropy(1, logits=a))
    uniform = np.zeros_like(a)
    for order in (0.3, 2.0, INF):
        close(fm.renyi_entropy(order, logits=a), np.log(V) - fm.renyi_divergence(order, p_logits=a, q_logits=uniform))
    close(fm.gamma_divergence(1e-9, **both), fm.gamma_divergence(0, **both), rtol=1e-8)
    close(fm.gamma_divergence(1e-17, **both), fm.gamma_divergence(0, **both))
    assert np.isfinite(jax.grad(lambda p: jnp.sum(fm.gamma_divergence(1e-17, p_logits=p, q_logits=b)))(a)).all()
    close(fm.tsallis_divergence(1e-40, **both), fm.tsallis_divergence(0, **both))
    close(fm.renyi_divergence(1 + 1e-10, **both), fm.renyi_divergence(1, **both), rtol=1e-8)


@pytest.mark.slow
def test_the_record():
    a, b = draw("moderate")
    for order in (0.3, 1.0, 2.0):
        record = fm.Renyi(order)
        value = f_divergence(record.generator, p_logits=a, q_logits=b)
        expected = fm.renyi_divergence(order, p_logits=a, q_logits=b)
        np.testing.assert_allclose(record.from_generator(value), expected, rtol=2e-6)
    assert fm.Renyi(2) == fm.Renyi(2.0) and hash(fm.Renyi(2)) == hash(fm.Renyi(2.0))
    assert jax.jit(lambda record, x: record.from_generator(x), static_argnums=0)(fm.Renyi(1), 3.0) == 3.0
    assert jax.tree.leaves(fm.Renyi(0.5)) == []
    for order in (0, -1, INF, math.nan, None, "2", True, np.ones(1)):
        with pytest.raises(ValueError, match="Renyi: order"):
            fm.Renyi(order)


def test_axis_where_and_dtypes():
    a, b = draw("moderate")
    mask = np.random.default_rng(0).random(a.shape) < 0.7
    for name in ("renyi_2.0", "tsallis_0.3", "gamma_0.5", "cauchy_schwarz", "bhattacharyya", "renyi_1.0"):
        function = DIVERGENCES[name]
        masked = function(p_logits=np.where(mask, a, -np.inf), q_logits=np.where(mask, b, -np.inf))
        np.testing.assert_array_equal(function(p_logits=a, q_logits=b, where=mask), masked)
        turned = function(p_logits=a.T, q_logits=b.T, where=mask.T, axis=0)
        np.testing.assert_allclose(turned, masked, rtol=1e-6)
        one = np.where(mask[0], a, -np.inf), np.where(mask[0], b, -np.inf)
        broadcast = function(p_logits=a, q_logits=b, where=mask[0])
        np.testing.assert_array_equal(broadcast, function(p_logits=one[0], q_logits=one[1]))
        grad = jax.grad(lambda a, f=function: f(p_logits=a, q_logits=b, where=mask).sum())(jnp.asarray(a))
        np.testing.assert_array_equal(grad[~mask], 0.0)
        half = [jnp.asarray(x, jnp.bfloat16) for x in (a, b)]
        value = function(p_logits=half[0], q_logits=half[1])
        assert value.dtype == jnp.float32
        wide = [x.astype(jnp.float32) for x in half]
        np.testing.assert_array_equal(value, function(p_logits=wide[0], q_logits=wide[1]))
    entropies = fm.renyi_entropy(2, logits=a, where=mask)
    np.testing.assert_array_equal(entropies, fm.renyi_entropy(2, logits=np.where(mask, a, -np.inf)))


def test_identical_logits_give_zero_and_empty_rows_follow_the_rules():
    a, _ = draw("wide")
    for name, (value, grads) in compiled()(a, a).items():
        np.testing.assert_array_equal(value, 0.0, err_msg=name)
        assert all((np.abs(grad) < 1e-6).all() for grad in grads), name
    none = np.full_like(a, -np.inf)
    bad = a.copy()
    bad[:, 0] = np.inf
    for name in DIVERGENCES:
        both = compiled()(none, none)[name]
        assert (both[0] == 0).all() and all((grad == 0).all() for grad in both[1]), name
        assert np.isnan(compiled()(none, a)[name][0]).all() and np.isnan(compiled()(a, none)[name][0]).all(), name
        assert np.isnan(compiled()(bad, a)[name][0]).all() and np.isnan(compiled()(a, bad)[name][0]).all(), name


LOGITS = np.zeros((2, 3), np.float32)
BAD = [
    (LOGITS.astype(int), LOGITS, {}, "p_logits"),
    (LOGITS, LOGITS.astype(complex), {}, "q_logits"),
    (LOGITS, None, {}, "q_logits"),
    ("text", LOGITS, {}, "p_logits"),
    ([[0.0, None]], LOGITS, {}, "p_logits"),
    (LOGITS, LOGITS[:1], {}, "q_logits"),
    (LOGITS, LOGITS[0], {}, "q_logits"),
    (np.float32(1), np.float32(1), {}, "axis"),
    (LOGITS[:, :0], LOGITS[:, :0], {}, "axis"),
    (LOGITS, LOGITS, {"axis": 2}, "axis"),
    (LOGITS, LOGITS, {"axis": "last"}, "axis"),
    (LOGITS, LOGITS, {"axis": None}, "axis"),
    (LOGITS, LOGITS, {"where": LOGITS}, "where"),
    (LOGITS, LOGITS, {"where": np.ones(2, bool)}, "where"),
    (LOGITS, LOGITS, {"where": "all"}, "where"),
    (LOGITS, LOGITS, {"where": [[True], [True, False]]}, "where"),
]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bad_logits_are_refused(name):
    for p, q, keywords, argument in BAD:
        with pytest.raises(ValueError, match=rf"^\w+: {argument}"):
            DIVERGENCES[name](p_logits=p, q_logits=q, **keywords)


def test_bad_orders_are_refused():
    orders = (-0.1, math.nan, None, "1", True, [1.0], 1j, np.ones(1))
    for order in orders:
        for function in (fm.renyi_divergence, fm.tsallis_divergence):
            with pytest.raises(ValueError, match=rf"{function.__name__}: order"):
                function(order, p_logits=LOGITS, q_logits=LOGITS)
        for function in (fm.renyi_entropy, fm.tsallis_entropy):
            with pytest.raises(ValueError, match=rf"{function.__name__}: order"):
                function(order, logits=LOGITS)
        with pytest.raises(ValueError, match="gamma_divergence: gamma"):
            fm.gamma_divergence(order, p_logits=LOGITS, q_logits=LOGITS)
    for function in (fm.tsallis_divergence, fm.gamma_divergence):
        with pytest.raises(ValueError, match=r"\[0.0, "):
            function(INF, p_logits=LOGITS, q_logits=LOGITS)
    for bad in (None, "x", LOGITS.astype(int), np.float32(1)):
        with pytest.raises(ValueError, match="renyi_entropy: (logits|axis)"):
            fm.renyi_entropy(2, logits=bad)
