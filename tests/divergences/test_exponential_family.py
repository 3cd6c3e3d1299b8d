"""Exponential families against closed forms in mpmath, quadrature, finite differences and exact finite sums."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from mpmath import mp

from jaxdiv.divergences import exponential_family as ef

FAMILIES = {
    "bernoulli": (ef.bernoulli_log_partition, [0.3], [-1.1]),
    "categorical": (ef.categorical_log_partition, [0.3, -0.8, 1.0], [-1.1, 0.5, 0.2]),
    "poisson": (ef.poisson_log_partition, [0.3], [1.1]),
    "exponential": (ef.exponential_log_partition, [-0.7], [-1.9]),
    "gaussian": (ef.gaussian_log_partition, [0.5, -0.4], [-0.3, -0.9]),
}


def log_partition(name, eta):
    """A in mpmath."""
    if name in ("bernoulli", "categorical"):
        return mpmath.log(1 + sum(mpmath.exp(x) for x in eta))
    if name == "poisson":
        return mpmath.exp(eta[0])
    if name == "exponential":
        return -mpmath.log(-eta[0])
    return -(eta[0] ** 2) / (4 * eta[1]) - mpmath.log(-2 * eta[1]) / 2


def mean(name, eta):
    """grad A in mpmath."""
    if name in ("bernoulli", "categorical"):
        total = 1 + sum(mpmath.exp(x) for x in eta)
        return [mpmath.exp(x) / total for x in eta]
    if name == "poisson":
        return [mpmath.exp(eta[0])]
    if name == "exponential":
        return [-1 / eta[0]]
    first = -eta[0] / (2 * eta[1])
    return [first, first**2 - 1 / (2 * eta[1])]


def exact_kl(name, p, q):
    with mp.workdps(50):
        p, q = ([mpmath.mpf(float(x)) for x in eta] for eta in (p, q))
        slope = sum(m * (y - x) for m, x, y in zip(mean(name, p), p, q, strict=True))
        return float(log_partition(name, q) - log_partition(name, p) - slope)


def exact_renyi(name, a, p, q):
    with mp.workdps(50):
        p, q = ([mpmath.mpf(float(x)) for x in eta] for eta in (p, q))
        a = mpmath.mpf(a)
        between = [a * x + (1 - a) * y for x, y in zip(p, q, strict=True)]
        parts = log_partition(name, between) - a * log_partition(name, p) - (1 - a) * log_partition(name, q)
        return float(parts / (a - 1))


def path(name, dtype):
    """q moving from far to p: (p, q) pairs at shrinking distances."""
    _, p, q = FAMILIES[name]
    p, q = np.array(p), np.array(q)
    steps = np.array([1.0, 0.5, 0.2, 0.05, 1e-2, 1e-3, 1e-4])
    return np.broadcast_to(p, (7, p.size)).astype(dtype), (p + steps[:, None] * (q - p)).astype(dtype)


ORDERS = (0.3, 0.5, 0.999, 1.2)


@functools.cache
def compiled(name):
    """KL, the orders of Renyi's and the means in one program."""
    fn = FAMILIES[name][0]

    def values(p, q):
        both = {"p_natural": p, "q_natural": q}
        renyi = [ef.exponential_family_renyi(a, fn, **both) for a in ORDERS]
        return ef.exponential_family_kl(fn, **both), renyi, ef.mean_parameters(fn, natural=p)

    return jax.jit(values)


@pytest.mark.parametrize("name", FAMILIES)
def test_kl_and_renyi_keep_their_digits_near_equality(name):
    p, q = path(name, np.float32)
    value, orders, _ = compiled(name)(p, q)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, [exact_kl(name, x, y) for x, y in zip(p, q, strict=True)], rtol=5e-6)
    for a, got in zip(ORDERS, orders, strict=True):
        expected = [exact_renyi(name, a, x, y) for x, y in zip(p, q, strict=True)]
        np.testing.assert_allclose(got, expected, rtol=1e-5, err_msg=str(a))


@pytest.mark.parametrize("name", FAMILIES)
def test_float64(x64, name):
    p, q = path(name, np.float64)
    value, orders, means = compiled(name)(p, q)
    np.testing.assert_allclose(value, [exact_kl(name, x, y) for x, y in zip(p, q, strict=True)], rtol=1e-12)
    for a, got in zip(ORDERS, orders, strict=True):
        expected = [exact_renyi(name, a, x, y) for x, y in zip(p, q, strict=True)]
        np.testing.assert_allclose(got, expected, rtol=1e-11, err_msg=str(a))
    np.testing.assert_allclose(means[0], [float(x) for x in mean(name, p[0].tolist())], rtol=1e-13)
    np.testing.assert_array_equal(compiled(name)(p, p)[0], 0.0)


def test_order_one_is_kl_and_orders_mirror(x64):
    p, q = path("bernoulli", np.float64)
    both, swapped = {"p_natural": p, "q_natural": q}, {"p_natural": q, "q_natural": p}
    fn = ef.bernoulli_log_partition
    first = ef.exponential_family_renyi(1.0, fn, **both)
    np.testing.assert_array_equal(first, ef.exponential_family_kl(fn, **both))
    low, high = ef.exponential_family_renyi(0.3, fn, **both), ef.exponential_family_renyi(0.7, fn, **swapped)
    np.testing.assert_allclose(low, 3 / 7 * high, rtol=1e-11)


def test_far_apart_falls_back_to_the_difference():
    """exp and log over segments that no ten-point rule integrates to float32."""
    p, q = jnp.array([[8.0], [-30.0]]), jnp.array([[-20.0], [5.0]])
    expected = [exact_kl("poisson", x, y) for x, y in zip(np.asarray(p), np.asarray(q), strict=True)]
    got = ef.exponential_family_kl(ef.poisson_log_partition, p_natural=p, q_natural=q)
    np.testing.assert_allclose(got, expected, rtol=2e-6)
    p, q = jnp.array([[-1e-4], [-300.0]]), jnp.array([[-300.0], [-1e-4]])
    expected = [exact_kl("exponential", x, y) for x, y in zip(np.asarray(p), np.asarray(q), strict=True)]
    got = ef.exponential_family_kl(ef.exponential_log_partition, p_natural=p, q_natural=q)
    np.testing.assert_allclose(got, expected, rtol=2e-6)


def test_a_bump_between_far_points_is_not_missed():
    """The sigmoid's derivative is 0 to float32 at every node of both rules, on which they agree."""
    p, q = jnp.array([[194.0], [-900.0], [40.0]]), jnp.array([[-106.0], [1000.0], [-45.0]])
    kl = functools.partial(ef.exponential_family_kl, ef.bernoulli_log_partition)
    value, slope = jax.vmap(jax.value_and_grad(lambda q, p: kl(p_natural=p, q_natural=q)))(q, p)
    np.testing.assert_allclose(value, [106.0, 1000.0, 45.0], rtol=1e-5)
    np.testing.assert_allclose(slope[:, 0], [-1.0, 1.0, -1.0], rtol=1e-5)


def test_gaussian_by_quadrature(x64):
    _, p, q = FAMILIES["gaussian"]
    x = np.linspace(-30.0, 30.0, 20001)
    logs = [
        e[0] * x + e[1] * x**2 - float(ef.gaussian_log_partition(jnp.array(e))) - np.log(2 * np.pi) / 2 for e in (p, q)
    ]
    assert np.trapezoid(np.exp(logs[0]), x) == pytest.approx(1.0, rel=1e-12)
    kl = np.trapezoid(np.exp(logs[0]) * (logs[0] - logs[1]), x)
    both = {"p_natural": jnp.array(p), "q_natural": jnp.array(q)}
    assert float(ef.exponential_family_kl(ef.gaussian_log_partition, **both)) == pytest.approx(kl, rel=1e-10)
    half = -2 * np.log(np.trapezoid(np.exp((logs[0] + logs[1]) / 2), x))
    got = ef.exponential_family_renyi(0.5, ef.gaussian_log_partition, **both)
    assert float(got) == pytest.approx(half, rel=1e-10)


def test_renyi_is_infinite_outside_the_domain():
    p, q = jnp.array([-1.0]), jnp.array([-3.0])  # order 2 needs -1 + 2 = 1 < 0

    def value(p):
        return ef.exponential_family_renyi(2.0, ef.exponential_log_partition, p_natural=p, q_natural=q)

    assert value(p) == jnp.inf
    assert np.isfinite(jax.grad(value)(p)).all()
    assert value(jnp.array([-2.0])) == pytest.approx(exact_renyi("exponential", 2, [-2.0], [-3.0]), rel=1e-5)


def test_bregman_of_other_functions(x64):
    rng = np.random.default_rng(0)
    p, q = rng.uniform(0.1, 2.0, size=(2, 5, 4))
    np.testing.assert_allclose(
        ef.bregman_divergence(lambda x: jnp.sum(x**2), p=p, q=q), np.sum((p - q) ** 2, axis=-1), rtol=1e-13
    )
    generalised = np.sum(p * np.log(p / q) - p + q, axis=-1)
    np.testing.assert_allclose(
        ef.bregman_divergence(lambda x: jnp.sum(x * jnp.log(x)), p=p, q=q), generalised, rtol=1e-11
    )
    itakura = np.sum(p / q - np.log(p / q) - 1, axis=-1)
    np.testing.assert_allclose(ef.bregman_divergence(lambda x: -jnp.sum(jnp.log(x)), p=p, q=q), itakura, rtol=1e-11)


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_gradients_by_finite_differences(x64, name):
    """For both sides, near and far, and second derivatives."""
    fn, p, far = FAMILIES[name]
    p, far = jnp.array(p), jnp.array(far)
    dp, dq = 0.1 * np.random.default_rng(1).normal(size=(2, p.size))

    def along(t, q):
        both = {"p_natural": p + t * dp, "q_natural": q + t * dq}
        return jnp.stack([ef.exponential_family_renyi(0.5, fn, **both), ef.exponential_family_kl(fn, **both)])

    def slope(t, q):
        return jax.jacrev(along)(t, q)

    run = jax.jit(lambda t, q: (along(t, q), slope(t, q), jax.jacfwd(slope)(t, q)))
    step = 1e-5
    for q in (far, p + 1e-3 * dq):
        at, plus, minus = (run(t, q) for t in (0.0, step, -step))
        atol = 1e-6 * float(at[0][1]) ** 0.5
        np.testing.assert_allclose(at[1], (plus[0] - minus[0]) / (2 * step), rtol=1e-6, atol=atol)
        np.testing.assert_allclose(at[2], (plus[1] - minus[1]) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", FAMILIES)
def test_projection_finds_the_parameters_of_given_moments(x64, name):
    fn, p, q = FAMILIES[name]
    p, q = jnp.array([p, q]), jnp.array([q, p])
    moments = ef.mean_parameters(fn, natural=p)

    def natural(moments):
        return ef.information_projection(fn, moments=moments, init=q)

    result, slopes = jax.jit(lambda m: (natural(m), jax.jacobian(lambda m: natural(m).natural)(m)))(moments)
    assert result.converged.all() and (result.num_steps < 20).all() and result.natural.shape == p.shape
    np.testing.assert_allclose(result.natural, p, rtol=1e-10)
    hessian = jax.vmap(jax.hessian(fn))(p)
    np.testing.assert_allclose(slopes[0, :, 0], np.linalg.inv(hessian[0]), rtol=1e-8, atol=1e-12)
    np.testing.assert_array_equal(slopes[0, :, 1], 0.0)


def test_projection_from_afar_and_in_float32():
    """Starts from which a full Newton step leaves the domain or overflows."""
    for fn, start, target in (
        (ef.exponential_log_partition, [-1e-3], [-50.0]),
        (ef.exponential_log_partition, [-50.0], [-1e-3]),
        (ef.poisson_log_partition, [-9.0], [4.0]),
        (ef.bernoulli_log_partition, [9.0], [-6.0]),
        (ef.gaussian_log_partition, [0.0, -5.0], [3.0, -0.02]),
    ):
        target = jnp.array(target)
        moments = ef.mean_parameters(fn, natural=target)
        result = ef.information_projection(fn, moments=moments, init=jnp.array(start))
        assert bool(result.converged), (fn, result)
        # Moments near a boundary (Bernoulli's 0.0025) hold fewer digits of their parameters.
        np.testing.assert_allclose(result.natural, target, rtol=2e-3)


def test_projection_is_the_nearest_member_and_differentiates_its_family(x64):
    """Against a search over the family; then a log-partition with a parameter of its own."""
    x = np.linspace(-12.0, 12.0, 4001)
    g = 0.7 * np.exp(-((x - 1) ** 2) / 2) + 0.3 * np.exp(-((x + 2) ** 2) / 0.5) / np.sqrt(0.25)
    g /= np.trapezoid(g, x)
    moments = jnp.array([np.trapezoid(g * x, x), np.trapezoid(g * x**2, x)])
    best = ef.information_projection(ef.gaussian_log_partition, moments=moments, init=jnp.array([0.0, -0.5])).natural

    def cross_entropy(eta):
        return float(ef.gaussian_log_partition(eta) - eta @ moments)

    for way in np.random.default_rng(0).normal(size=(20, 2)) * 1e-3:
        assert cross_entropy(best + way) > cross_entropy(best)

    def natural(scale):
        def fn(eta):
            return scale * jnp.sum(jnp.exp(eta))

        return ef.information_projection(fn, moments=jnp.array([3.0]), init=jnp.zeros(1)).natural[0]

    assert float(natural(2.0)) == pytest.approx(math.log(1.5))
    assert float(jax.grad(natural)(2.0)) == pytest.approx(-0.5)


def test_projection_says_when_it_fails():
    result = ef.information_projection(
        ef.bernoulli_log_partition, moments=jnp.array([[1.5], [0.2]]), init=jnp.zeros((2, 1))
    )
    np.testing.assert_array_equal(result.converged, [False, True])
    short = ef.information_projection(
        ef.poisson_log_partition, moments=jnp.array([50.0]), init=-jnp.ones(1), num_steps=1
    )
    assert not bool(short.converged) and int(short.num_steps) == 1 and float(short.residual) > 1.0
    loose = ef.information_projection(
        ef.poisson_log_partition, moments=jnp.array([2.0]), init=jnp.zeros(1), tolerance=0.1
    )
    assert bool(loose.converged) and float(loose.residual) < 0.3


def test_log_partitions_are_those_of_their_families():
    """By summing or integrating the family itself."""
    eta = np.array([0.4, -1.3, 0.7])
    assert float(ef.categorical_log_partition(jnp.array(eta))) == pytest.approx(np.log1p(np.exp(eta).sum()), rel=1e-6)
    k = np.arange(60)
    total = np.sum(np.exp(0.9 * k - scipy.special.gammaln(k + 1)))
    assert float(ef.poisson_log_partition(jnp.array([0.9]))) == pytest.approx(np.log(total), rel=1e-6)
    x = np.linspace(0.0, 60.0, 60001)
    assert float(ef.exponential_log_partition(jnp.array([-0.8]))) == pytest.approx(
        np.log(np.trapezoid(np.exp(-0.8 * x), x)), rel=1e-5
    )
    assert float(ef.bernoulli_log_partition(jnp.array([1.2]))) == pytest.approx(np.log(1 + np.exp(1.2)), rel=1e-6)
    for outside in (ef.exponential_log_partition(jnp.array([0.5])), ef.gaussian_log_partition(jnp.array([1.0, 0.5]))):
        assert outside == jnp.inf


ETA = np.zeros((2, 3), np.float32)
FN = ef.categorical_log_partition


@pytest.mark.parametrize(
    "call",
    [
        lambda fn, x: ef.bregman_divergence(fn, p=x, q=ETA),
        lambda fn, x: ef.exponential_family_kl(fn, p_natural=x, q_natural=ETA),
        lambda fn, x: ef.exponential_family_renyi(0.5, fn, p_natural=x, q_natural=ETA),
        lambda fn, x: ef.mean_parameters(fn, natural=x),
        lambda fn, x: ef.information_projection(fn, moments=x, init=ETA),
    ],
)
def test_bad_arguments_are_refused(call):
    for bad in (None, "x", ETA.astype(int), ETA.astype(complex), np.float32(1), ETA[:, :0], [[0.0, None]], ETA > 0):
        with pytest.raises(ValueError, match=r"^\w+: (p|p_natural|natural|moments) "):
            call(FN, bad)
    for fn in (None, "kl", 3.0, lambda x: x, lambda x: None, lambda x: "a", lambda x, y: 0.0, lambda x: 1):
        with pytest.raises(ValueError, match=r"^\w+: (potential_fn|log_partition_fn) "):
            call(fn, ETA)


def test_bad_parameters_and_shapes_are_refused():
    for order in (0, -1.0, math.inf, math.nan, None, "1", True, [1.0]):
        with pytest.raises(ValueError, match="exponential_family_renyi: order"):
            ef.exponential_family_renyi(order, FN, p_natural=ETA, q_natural=ETA)
    for shape in ((3,), (2, 2), (1, 3)):
        with pytest.raises(ValueError, match="exponential_family_kl: q_natural has shape"):
            ef.exponential_family_kl(FN, p_natural=ETA, q_natural=np.zeros(shape, np.float32))
    for num_steps in (0, 1.5, None, "3", True):
        with pytest.raises(ValueError, match="information_projection: num_steps"):
            ef.information_projection(FN, moments=ETA, init=ETA, num_steps=num_steps)
    for tolerance in (0.0, -1.0, math.nan, math.inf, "1", True):
        with pytest.raises(ValueError, match="information_projection: tolerance"):
            ef.information_projection(FN, moments=ETA, init=ETA, tolerance=tolerance)
