"""Gaussian divergences against mpmath with 50 digits, quadrature, finite differences and their own laws."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.linalg
from mpmath import mp

from jaxdiv.divergences import gaussian as g
from jaxdiv.divergences.gaussian_pair import Gaussian, cholesky_excess

D = 3
ORDERS = (0.2, 0.5, 1.0, 1.5)
FUNCTIONS = {
    "kl": g.gaussian_kl,
    "jeffreys": g.gaussian_jeffreys,
    **{f"renyi_{a}": functools.partial(g.gaussian_renyi, a) for a in ORDERS},
    "bhattacharyya": g.gaussian_bhattacharyya,
    "squared_hellinger": g.gaussian_squared_hellinger,
    "cauchy_schwarz": g.gaussian_cauchy_schwarz,
    "fisher": g.gaussian_fisher_divergence,
    "squared_wasserstein": g.gaussian_squared_wasserstein,
}
SYMMETRIC = ("jeffreys", "bhattacharyya", "squared_hellinger", "cauchy_schwarz", "squared_wasserstein", "renyi_0.5")


def matrix(x):
    return mpmath.matrix([[mpmath.mpf(float(v)) for v in row] for row in np.atleast_2d(x)])


def trace(x):
    return sum(x[i, i] for i in range(x.rows))


def root(x):
    values, vectors = mpmath.eigsy(x)
    return vectors * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors.T


def exact(mean_p, cov_p, mean_q, cov_q):
    """Every divergence by its textbook formula, from matrices of mpmath numbers."""
    d, n = mean_p - mean_q, mean_p.rows

    def kl(a, b):
        return (trace(b**-1 * a) - n + (d.T * b**-1 * d)[0] + mpmath.log(mpmath.det(b) / mpmath.det(a))) / 2

    def renyi(a):
        if a == 1:
            return kl(cov_p, cov_q)
        a = mpmath.mpf(a)
        mixed = a * cov_q + (1 - a) * cov_p
        if min(mpmath.eigsy(mixed, eigvals_only=True)) <= 0:
            return mpmath.inf
        logs = mpmath.log(mpmath.det(mixed)) - (1 - a) * mpmath.log(mpmath.det(cov_p))
        logs -= a * mpmath.log(mpmath.det(cov_q))
        return a / 2 * (d.T * mixed**-1 * d)[0] - logs / (2 * (a - 1))

    half = renyi(0.5) / 2
    mid = (cov_p + cov_q) / 2
    logs = mpmath.log(mpmath.det(mid)) - mpmath.log(mpmath.det(cov_p)) / 2 - mpmath.log(mpmath.det(cov_q)) / 2
    precisions = cov_q**-1 - cov_p**-1
    shift = cov_q**-1 * d
    r = root(cov_q)
    return {
        "kl": kl(cov_p, cov_q),
        "jeffreys": kl(cov_p, cov_q) + kl(cov_q, cov_p),
        **{f"renyi_{a}": renyi(a) for a in ORDERS},
        "bhattacharyya": half,
        "squared_hellinger": -2 * mpmath.expm1(-half),
        "cauchy_schwarz": logs + (d.T * mid**-1 * d)[0] / 2,
        "fisher": trace(precisions * cov_p * precisions) + (shift.T * shift)[0],
        "squared_wasserstein": (d.T * d)[0] + trace(cov_p + cov_q) - 2 * trace(root(r * cov_p * r)),
    }


def factor(rng, sizes=(1.0, 0.7, 1.6)):
    return np.tril(rng.normal(size=(D, D)), -1) * 0.4 + np.diag(sizes)


def draw(regime, dtype):
    """Means and factors of 6 pairs, rounded to the dtype."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(6):
        lq, mq = factor(rng), rng.normal(size=D)
        if regime == "near":
            lp, mp_ = lq * (1 + 1e-3 * np.tril(rng.normal(size=(D, D)))), mq + 1e-3 * rng.normal(size=D)
        elif regime == "thin":  # condition number 1e8 of p's covariance, 1e6 of q's
            lp, mp_ = factor(rng, (1e-4, 1.0, 0.5)), mq + 1e-3 * rng.normal(size=D)
            lq = factor(rng, (1.0, 1.0, 1e-3))
        else:
            lp, mp_ = 0.8 * factor(rng), rng.normal(size=D)
        rows.append([np.asarray(x, dtype) for x in (mp_, lp, mq, lq)])
    return [np.stack(x) for x in zip(*rows, strict=True)]


@jax.jit
def evaluate(p, q):
    """All of them, in one program."""
    return {name: function(p=p, q=q) for name, function in FUNCTIONS.items()}


fisher_rao = jax.jit(lambda p, q: g.gaussian_squared_fisher_rao(p=p, q=q))


def reference(arrays, kind):
    def covariance(x):
        x = matrix(x)
        return x * x.T if kind == "scale_tril" else (x + x.T) / 2

    with mp.workdps(50):
        rows = [
            exact(matrix(a).T, covariance(b), matrix(c).T, covariance(d)) for a, b, c, d in zip(*arrays, strict=True)
        ]
    return {name: np.array([float(row[name]) for row in rows]) for name in FUNCTIONS}


@pytest.mark.parametrize(
    ("regime", "kind", "tolerance"),
    [
        ("far", "scale_tril", 2e-6),
        ("far", "covariance", 3e-6),
        ("near", "scale_tril", 3e-6),
        ("near", "covariance", 1e-5),
        ("thin", "scale_tril", 2e-4),
    ],
)
def test_float32_against_mpmath(regime, kind, tolerance):
    arrays = draw(regime, np.float32)
    if kind == "covariance":
        arrays[1], arrays[3] = (np.asarray(x @ x.transpose(0, 2, 1), np.float32) for x in (arrays[1], arrays[3]))
    expected = reference(arrays, kind)
    p, q = Gaussian(arrays[0], **{kind: arrays[1]}), Gaussian(arrays[2], **{kind: arrays[3]})
    for name, got in evaluate(p, q).items():
        assert got.dtype == jnp.float32 and got.shape == (6,)
        finite = np.isfinite(expected[name])
        np.testing.assert_allclose(got[finite], expected[name][finite], rtol=tolerance, err_msg=name)


@pytest.mark.parametrize("regime", ["far", "near"])
def test_float64_against_mpmath(x64, regime):
    arrays = draw(regime, np.float64)
    expected = reference(arrays, "scale_tril")
    p, q = Gaussian(arrays[0], scale_tril=arrays[1]), Gaussian(arrays[2], scale_tril=arrays[3])
    for name, got in evaluate(p, q).items():
        np.testing.assert_allclose(got, expected[name], rtol=2e-12, err_msg=name)


def test_kinds_of_spread_agree(x64):
    """A diagonal Gaussian as variance, covariance, factor, and mixed: one value."""
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(2, 4, D))
    variance = np.exp(rng.normal(size=(2, 4, D)) / 4)
    full = variance[..., None] * np.eye(D)
    kinds = [
        {"variance": variance},
        {"covariance": full},
        {"scale_tril": np.sqrt(full)},
    ]
    first = evaluate(Gaussian(mean[0], variance=variance[0]), Gaussian(mean[1], variance=variance[1]))
    for one, other in ((1, 1), (0, 2)):
        p = Gaussian(mean[0], **{k: v[0] for k, v in kinds[one].items()})
        q = Gaussian(mean[1], **{k: v[1] for k, v in kinds[other].items()})
        for name, got in evaluate(p, q).items():
            assert got.shape == (4,)
            np.testing.assert_allclose(got, first[name], rtol=1e-11, err_msg=name)


def test_zero_at_equality_and_never_negative():
    rng = np.random.default_rng(5)
    scale = np.stack([factor(rng) for _ in range(6)]).astype(np.float32)
    covariance = scale @ scale.transpose(0, 2, 1)
    mean = rng.normal(size=(6, D)).astype(np.float32)
    nudged = (covariance * (1 + 1e-6 * rng.normal(size=(6, 1, 1)))).astype(np.float32)
    p = Gaussian(mean, covariance=covariance)
    near = evaluate(p, Gaussian(mean, covariance=nudged))
    for name, value in evaluate(p, p).items():
        np.testing.assert_array_equal(value, 0.0, err_msg=name)
        assert (near[name] >= 0).all() and (near[name] < 1e-9).all(), name


def test_symmetric_ones_are_and_transformations_leave_densities_alone(x64):
    arrays = draw("far", np.float64)
    p, q = Gaussian(arrays[0], scale_tril=arrays[1]), Gaussian(arrays[2], scale_tril=arrays[3])
    values, swapped = evaluate(p, q), evaluate(q, p)
    for name in SYMMETRIC:
        np.testing.assert_allclose(values[name], swapped[name], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(values["renyi_0.2"], 0.25 * g.gaussian_renyi(0.8, p=q, q=p), rtol=1e-12)
    change = np.tril(np.random.default_rng(0).normal(size=(D, D))) + 3 * np.eye(D)
    moved = [Gaussian(m @ change.T, scale_tril=change @ s) for m, s in ((p.mean, p.scale_tril), (q.mean, q.scale_tril))]
    for name in ("kl", "jeffreys", "renyi_0.2", "renyi_1.5", "bhattacharyya", "squared_hellinger", "cauchy_schwarz"):
        np.testing.assert_allclose(evaluate(*moved)[name], values[name], rtol=1e-10, err_msg=name)


def test_renyi_is_continuous_in_its_order_and_increases(x64):
    arrays = draw("far", np.float64)
    p, q = Gaussian(arrays[0], scale_tril=arrays[1]), Gaussian(arrays[2], scale_tril=arrays[3])
    values = np.array([g.gaussian_renyi(a, p=p, q=q) for a in (1e-3, 0.3, 0.499999, 0.5, 0.999999, 1, 1.000001, 1.2)])
    assert (np.diff(values, axis=0) >= 0).all()
    np.testing.assert_allclose(values[2], values[3], rtol=1e-5)
    np.testing.assert_allclose(values[4:7], np.broadcast_to(values[5], (3, 6)), rtol=1e-5)
    np.testing.assert_allclose(values[0], 1e-3 * g.gaussian_kl(p=q, q=p), rtol=2e-2)


def test_one_dimension_by_quadrature(x64):
    """Integrals of the densities themselves by the trapezoidal rule."""
    x = np.linspace(-25.0, 25.0, 20001)
    m, s = (0.3, -0.6), (0.8, 1.1)
    log_p, log_q = (-(((x - a) / b) ** 2) / 2 - np.log(b * np.sqrt(2 * np.pi)) for a, b in zip(m, s, strict=True))

    def integral(y):
        return np.trapezoid(y, x)

    p_, q_ = np.exp(log_p), np.exp(log_q)
    scores = -(x - m[0]) / s[0] ** 2 + (x - m[1]) / s[1] ** 2
    expected = {
        "kl": integral(p_ * (log_p - log_q)),
        "jeffreys": integral((p_ - q_) * (log_p - log_q)),
        "renyi_0.2": np.log(integral(np.exp(0.2 * log_p + 0.8 * log_q))) / -0.8,
        "renyi_1.5": np.log(integral(np.exp(1.5 * log_p - 0.5 * log_q))) / 0.5,
        "bhattacharyya": -np.log(integral(np.sqrt(p_ * q_))),
        "squared_hellinger": integral((np.sqrt(p_) - np.sqrt(q_)) ** 2),
        "cauchy_schwarz": -np.log(integral(p_ * q_) ** 2 / (integral(p_**2) * integral(q_**2))),
        "fisher": integral(p_ * scores**2),
        "squared_wasserstein": (m[0] - m[1]) ** 2 + (s[0] - s[1]) ** 2,
    }
    p, q = (Gaussian(np.array([a]), variance=np.array([b**2])) for a, b in zip(m, s, strict=True))
    for name, value in expected.items():
        assert float(FUNCTIONS[name](p=p, q=q)) == pytest.approx(value, rel=1e-10), name


def test_renyi_of_large_order_is_infinite_where_the_integral_is():
    q = Gaussian(jnp.zeros(2), variance=jnp.array([1.0, 1.0]))
    p = Gaussian(jnp.ones(2), variance=jnp.array([1.0, 3.0]))  # 1.5 q's precision - 0.5: fails for a >= 1.5
    assert g.gaussian_renyi(2.0, p=p, q=q) == jnp.inf
    assert jnp.isfinite(g.gaussian_renyi(1.4, p=p, q=q))
    wide = Gaussian(jnp.ones(2), covariance=jnp.array([[3.0, 0.5], [0.5, 1.0]]))
    plain = Gaussian(jnp.zeros(2), covariance=jnp.eye(2))
    value, slopes = jax.jit(jax.value_and_grad(lambda p: g.gaussian_renyi(2.0, p=p, q=plain)))(wide)
    assert value == jnp.inf
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert np.isnan(g.gaussian_renyi(2.0, p=plain._replace(covariance=jnp.full((2, 2), jnp.nan)), q=plain))


def test_gradients_by_finite_differences(x64):
    """Along one random direction of all means and factors: forward, reverse, and second derivatives of each kind."""
    rng = np.random.default_rng(7)
    point = [x[0] for x in draw("far", np.float64)]
    ways = [rng.normal(size=x.shape) * (np.tril(np.ones((D, D))) if x.ndim == 2 else 1) for x in point]
    weights = rng.normal(size=len(FUNCTIONS))

    def along(t):
        a, b, c, d = (x + t * w for x, w in zip(point, ways, strict=True))
        values = evaluate(Gaussian(a, scale_tril=b), Gaussian(c, covariance=d @ d.T))
        return jnp.stack(list(values.values()))

    def forward(t):
        return jax.jvp(along, (t,), (jnp.ones_like(t),))[1]

    def reverse(t):
        return jax.grad(lambda t: along(t) @ weights)(t)

    @jax.jit
    def everything(t):
        bend = jax.jvp(forward, (t,), (jnp.ones_like(t),))[1]
        return along(t), forward(t), bend, reverse(t)

    step = 1e-5
    _, slope, bend, back = everything(jnp.float64(0.0))
    plus, minus = everything(jnp.float64(step)), everything(jnp.float64(-step))
    np.testing.assert_allclose(slope, (plus[0] - minus[0]) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(bend, (plus[1] - minus[1]) / (2 * step), rtol=1e-6)
    assert float(back) == pytest.approx(float(slope @ weights), rel=1e-11)


def test_gradient_is_zero_where_equal_and_finite_where_degenerate():
    same = Gaussian(jnp.ones(D), covariance=2.0 * jnp.eye(D))
    slopes = jax.jit(jax.jacrev(evaluate))
    for name, slope in slopes(same, same).items():
        assert all((np.abs(leaf) < 1e-12).all() for leaf in jax.tree.leaves(slope)), name
    commuting = Gaussian(jnp.zeros(D), covariance=1.5 * jnp.eye(D))  # all eigenvalues equal
    for name, slope in slopes(commuting, same).items():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope)), name


def test_wasserstein_gradient_is_that_of_transport(x64):
    """d/dC_p = I - T with T from p to q, by scipy's matrix square root; Hessian at equal spherical covariances."""
    a, b, c, d = (x[1] for x in draw("far", np.float64))
    cov_p, cov_q = b @ b.T, d @ d.T
    q = Gaussian(c, covariance=cov_q)
    slope = jax.jit(jax.grad(lambda x: g.gaussian_squared_wasserstein(p=Gaussian(a, covariance=x), q=q)))
    half = np.real(scipy.linalg.sqrtm(cov_p))
    inverse = np.linalg.inv(half)
    transport = inverse @ np.real(scipy.linalg.sqrtm(half @ cov_q @ half)) @ inverse
    got = slope(cov_p)
    np.testing.assert_allclose((got + got.T) / 2, np.eye(D) - transport, rtol=1e-9, atol=1e-12)
    one = Gaussian(jnp.zeros(1), variance=jnp.ones(1))
    bend = jax.jit(jax.hessian(lambda v: g.gaussian_squared_wasserstein(p=Gaussian(jnp.zeros(1), variance=v), q=one)))
    assert float(bend(jnp.ones(1))[0, 0]) == pytest.approx(0.5)  # (sqrt v - 1)^2 at v = 1
    eye = jnp.eye(2)

    def spherical(t):
        p = Gaussian(jnp.zeros(2), covariance=(1.0 + t) * eye)
        return g.gaussian_squared_wasserstein(p=p, q=Gaussian(jnp.zeros(2), covariance=eye))

    assert float(jax.jit(jax.grad(jax.grad(spherical)))(0.0)) == pytest.approx(1.0)


def test_wasserstein_of_singular_factors():
    """Points and line segments: diag(3, 0) against diag(0, 2)."""
    p = Gaussian(jnp.zeros(2), scale_tril=jnp.diag(jnp.array([3.0, 0.0])))
    q = Gaussian(jnp.array([1.0, 0.0]), scale_tril=jnp.diag(jnp.array([0.0, 2.0])))
    assert float(g.gaussian_squared_wasserstein(p=p, q=q)) == pytest.approx(14.0)
    assert float(g.gaussian_squared_wasserstein(p=p, q=p)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1e-10, 1e10, 1e15])
def test_wasserstein_at_any_scale(scale):
    """Standard deviations s and 2 s: s^2, and -2 s in s of p."""

    def distance(factor):
        p = Gaussian(jnp.zeros(1), scale_tril=factor * jnp.full((1, 1), scale, jnp.float32))
        return g.gaussian_squared_wasserstein(p=p, q=Gaussian(jnp.zeros(1), scale_tril=jnp.full((1, 1), 2 * scale)))

    value, slope = jax.value_and_grad(distance)(jnp.float32(1.0))
    np.testing.assert_allclose(value / np.float32(scale) / np.float32(scale), 1.0, rtol=1e-5)
    np.testing.assert_allclose(slope / np.float32(scale) / np.float32(scale), -2.0, rtol=1e-5)


def test_fisher_rao_against_its_geodesics(x64):
    """2 asinh form against scipy-free integrals: along a mean-free path, and the metric for short ones."""
    one = Gaussian(jnp.array([0.2]), variance=jnp.array([0.5]))
    scaled = one._replace(variance=one.variance * jnp.exp(3.0))
    assert float(fisher_rao(one, scaled)) == pytest.approx(2 * 1.5**2, rel=1e-12)
    for size in (1e-2, 1e-4, 1e-7):
        near = Gaussian(one.mean + size, variance=jnp.square(jnp.sqrt(one.variance) + size))
        short = size**2 / 0.5 + 2 * size**2 / 0.5
        assert float(fisher_rao(near, one)) == pytest.approx(short, rel=3 * size + 1e-8)
    far = Gaussian(jnp.array([3.0]), variance=jnp.array([2.0]))
    poincare = np.hypot((0.2 - 3.0) / np.sqrt(2), np.sqrt(0.5) - np.sqrt(2.0)) ** 2 / (2 * np.sqrt(0.5 * 2.0))
    assert float(fisher_rao(one, far)) == pytest.approx(2 * np.arccosh(1 + poincare) ** 2)
    both = Gaussian(jnp.array([0.2, 0.2]), variance=jnp.array([0.5, 0.5]))
    two = Gaussian(jnp.array([3.0, 3.0]), variance=jnp.array([2.0, 2.0]))
    assert float(fisher_rao(both, two)) == pytest.approx(4 * np.arccosh(1 + poincare) ** 2)
    slope = jax.jit(jax.grad(lambda v: fisher_rao(one._replace(variance=v), one)))
    bend = jax.jit(jax.grad(lambda v: slope(v)[0]))(one.variance)
    assert float(slope(one.variance)[0]) == 0.0
    assert float(bend[0]) == pytest.approx(2 * 1 / (2 * 0.5**2))  # twice the Fisher information of a variance


def test_cholesky_excess_keeps_small_numbers(x64):
    rng = np.random.default_rng(0)
    for size in (1e-12, 1e-6, 1e-2, 3.0):
        low = np.tril(rng.normal(size=(D, D))) * size + (np.eye(D) * 2 if size > 1 else 0)
        s = low + low.T + low @ low.T
        factor = np.linalg.cholesky(np.eye(D) + s)
        np.testing.assert_allclose(cholesky_excess(jnp.asarray(s), factor), low, rtol=1e-9, atol=1e-15 * size)


def test_transforms_and_dtypes():
    arrays = draw("far", np.float32)
    p, q = Gaussian(arrays[0], scale_tril=arrays[1]), Gaussian(arrays[2], scale_tril=arrays[3])
    rows = jax.vmap(lambda p, q: g.gaussian_kl(p=p, q=q))(p, q)
    np.testing.assert_allclose(rows, g.gaussian_kl(p=p, q=q), rtol=1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (p, q))
    value = g.gaussian_kl(p=half[0], q=half[1])
    assert value.dtype == jnp.float32
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    np.testing.assert_array_equal(value, g.gaussian_kl(p=wide[0], q=wide[1]))


GOOD = Gaussian(np.zeros(2, np.float32), variance=np.ones(2, np.float32))
BAD = {
    "a string": "p",
    "None": None,
    "an array": np.zeros(2, np.float32),
    "no spread": Gaussian(np.zeros(2, np.float32)),
    "two spreads": GOOD._replace(scale_tril=np.eye(2, dtype=np.float32)),
    "a scalar mean": Gaussian(0.0, variance=1.0),
    "integers": Gaussian(np.zeros(2, int), variance=np.ones(2, np.float32)),
    "complex": GOOD._replace(variance=np.ones(2, complex)),
    "a wrong shape": GOOD._replace(variance=np.ones(3, np.float32)),
    "a flat covariance": Gaussian(np.zeros(2, np.float32), covariance=np.ones(2, np.float32)),
    "an empty axis": Gaussian(np.zeros((2, 0), np.float32), variance=np.zeros((2, 0), np.float32)),
    "a list with None": GOOD._replace(mean=[None, 1.0]),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(
    "function", [*FUNCTIONS.values(), g.gaussian_squared_fisher_rao], ids=[*FUNCTIONS, "squared_fisher_rao"]
)
def test_bad_gaussians_are_refused(function, what):
    for side in "pq":
        with pytest.raises(ValueError, match=rf"gaussian_\w+: {side}"):
            function(**{"p": GOOD, "q": GOOD, side: BAD[what]})


def test_bad_orders_and_pairs_are_refused():
    for order in (0, -1.0, float("nan"), float("inf"), "2", None, True, [2.0], 1j):
        with pytest.raises(ValueError, match="gaussian_renyi: order"):
            g.gaussian_renyi(order, p=GOOD, q=GOOD)
    with pytest.raises(ValueError, match="gaussian_kl: q.mean has shape"):
        g.gaussian_kl(p=GOOD, q=Gaussian(np.zeros((1, 2), np.float32), variance=np.ones((1, 2), np.float32)))
    with pytest.raises(ValueError, match="gaussian_squared_fisher_rao: q has a full covariance"):
        full = Gaussian(np.zeros(2, np.float32), covariance=np.eye(2, dtype=np.float32))
        g.gaussian_squared_fisher_rao(p=GOOD, q=full)
