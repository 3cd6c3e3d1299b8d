"""Estimates and their gradients against enumeration over categories, mpmath and quadrature; nothing here is random but
the sampling distribution of the standard error."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv import divergences as dv
from jaxdiv.divergences.monte_carlo import PAIRINGS, monte_carlo_divergence, monte_carlo_loss
from tests.divergences.reference import CASES, SMOOTH, exact, relative_error

THETA_P = np.array([0.5, -0.3, 1.1, 0.2])
THETA_Q = np.array([-0.4, 0.6, 0.1, 0.9])
LOG_P, LOG_Q = (np.asarray(t - np.log(np.exp(t).sum())) for t in (THETA_P, THETA_Q))
KINDS = [pairing for pairing in PAIRINGS if pairing[2] != "reparametrized"]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def between(f, theta_p, theta_q):
    """D_f(p || q) between softmaxes, from the definition in r."""
    p, q = ([mpmath.exp(t) for t in theta] for theta in (theta_p, theta_q))
    p, q = ([x / mpmath.fsum(side) for x in side] for side in (p, q))
    return mpmath.fsum(b * f(a / b) for a, b in zip(p, q, strict=True))


@functools.cache
def exact_gradient(case, side):
    """The derivatives of D_f in the logits of one side, by mpmath's finite differences with 60 digits."""
    thetas = {"p": exact(THETA_P), "q": exact(THETA_Q)}

    def along(i, t):
        moved = {**thetas, side: [*thetas[side][:i], t, *thetas[side][i + 1 :]]}
        return between(CASES[case].f, moved["p"], moved["q"])

    return np.array([float(mpmath.diff(functools.partial(along, i), thetas[side][i])) for i in range(4)])


def enumerated(d, theta_p, theta_q, gradient_of, samples_from, estimator, **options):
    """The expectation of the surrogate over one sample: every category is a row, its probability stands still."""
    log_p, log_q = jax.nn.log_softmax(theta_p), jax.nn.log_softmax(theta_q)
    law = jnp.exp(jax.lax.stop_gradient(log_p if samples_from == "p" else log_q))
    rows = monte_carlo_loss(
        d,
        p_log_probs=log_p[:, None],
        q_log_probs=log_q[:, None],
        gradient_of=gradient_of,
        samples_from=samples_from,
        estimator=estimator,
        **options,
    )
    return jnp.sum(law * rows)


@pytest.mark.parametrize("case", CASES)
def test_expected_gradient_of_every_pairing(case):
    """Score function and frozen samples, both sides, against the gradient of the divergence itself."""
    d = CASES[case].make()
    for pairing in KINDS:
        both = jax.grad(functools.partial(enumerated, d), argnums=(0, 1))(
            THETA_P, THETA_Q, gradient_of=pairing[0], samples_from=pairing[1], estimator=pairing[2]
        )
        mine, other = both if pairing[0] == "p" else both[::-1]
        np.testing.assert_allclose(mine, exact_gradient(case, pairing[0]), rtol=1e-9, atol=1e-13, err_msg=str(pairing))
        np.testing.assert_array_equal(other, 0.0)  # the side without gradient is stopped


@pytest.mark.parametrize("case", CASES)
def test_value_by_enumeration(case):
    """With log-probabilities as log-weights, all categories at once are their own expectation, in every gauge."""
    d, rho = CASES[case].make(), LOG_P - LOG_Q
    want = float(between(CASES[case].f, exact(THETA_P), exact(THETA_Q)))
    for samples_from, log_weights in (("p", LOG_P), ("q", LOG_Q)):
        for gauge in ("nonnegative", "fitted"):
            got = monte_carlo_divergence(d, rho, samples_from=samples_from, log_weights=log_weights + 3.0, gauge=gauge)
            assert float(got.value) == pytest.approx(want, rel=1e-9)
    for pairing in PAIRINGS:
        names = dict(zip(("gradient_of", "samples_from", "estimator"), pairing, strict=True))
        weights = LOG_P if pairing[1] == "p" else LOG_Q
        loss = monte_carlo_loss(d, p_log_probs=LOG_P, q_log_probs=LOG_Q, log_weights=weights, **names)
        assert float(loss) == pytest.approx(want, rel=1e-9)


def test_the_two_gauges_of_schulman():
    """k1 and k3 of KL(q || p) from q and of KL(p || q) from p, term by term; both have the same mean."""
    rho = LOG_P - LOG_Q
    for d, samples_from, log_weights, x in ((dv.reverse_kl(), "q", LOG_Q, rho), (dv.kl(), "p", LOG_P, -rho)):
        estimate = functools.partial(monte_carlo_divergence, d, samples_from=samples_from)
        one = estimate(rho[:, None], gauge="log_ratio").value
        three = estimate(rho[:, None]).value
        np.testing.assert_allclose(one, -x, rtol=1e-14)
        np.testing.assert_allclose(three, np.expm1(x) - x, rtol=1e-12)
        assert float(estimate(rho, gauge="log_ratio", log_weights=log_weights).value) == pytest.approx(
            float(estimate(rho, log_weights=log_weights).value), rel=1e-13
        )
    same = monte_carlo_divergence(dv.alpha(0.0), rho, samples_from="q", gauge="log_ratio")
    assert float(same.value) == pytest.approx(-rho.mean())


@pytest.mark.parametrize("d, samples_from", [(dv.kl(), "q"), (dv.reverse_kl(), "p"), (dv.jensen_shannon(), "q")])
def test_the_log_ratio_gauge_is_refused_where_it_estimates_something_else(d, samples_from):
    with pytest.raises(ValueError, match="gauge is 'log_ratio'"):
        monte_carlo_divergence(d, LOG_P, samples_from=samples_from, gauge="log_ratio")


def test_differentiating_k3_on_its_own_samples_is_another_divergence():
    """Why pairings are refused: E_p of the gradient of k3 for KL(p || q) is the gradient of KL(q || p)."""

    def naive(theta):
        log_p = jax.nn.log_softmax(theta)
        return jnp.sum(jnp.exp(jax.lax.stop_gradient(log_p)) * dv.kl().reversed().value(LOG_Q - log_p))

    got = jax.grad(naive)(THETA_P)
    np.testing.assert_allclose(got, exact_gradient("reverse_kl", "p"), rtol=1e-9)
    assert np.max(np.abs(got - exact_gradient("kl", "p"))) > 0.03
    for d in (dv.kl(), dv.pearson_chi2()):
        with pytest.raises(ValueError, match="estimator is 'frozen' with gradient_of='p' and samples_from='p'"):
            enumerated(d, THETA_P, THETA_Q, "p", "p", "frozen")


def test_all_other_pairings_raise():
    sides, kinds = ("p", "q"), ("score_function", "frozen", "reparametrized")
    refused = [triple for triple in itertools.product(sides, sides, kinds) if triple not in PAIRINGS]
    assert len(refused) == 6
    for triple in refused:
        with pytest.raises(ValueError, match="monte_carlo_loss: estimator is .*; expected samples from"):
            enumerated(dv.kl(), THETA_P, THETA_Q, *triple)


@pytest.mark.parametrize(
    "d", [dv.kl(), dv.jensen_shannon(0.3), dv.squared_hellinger(), dv.le_cam()], ids=lambda d: d.name
)
@pytest.mark.parametrize("side", ["p", "q"])
def test_reparametrized_and_score_function_agree_on_gaussians(d, side):
    """Both against differentiating the integral on a fixed grid; the trained side is N(m, s), the other N(0.4, 1.3)."""
    nodes = np.linspace(-14.0, 14.0, 1201)
    log_weights = -(nodes**2) / 2

    def log_normal(x, mean, scale):
        return -(((x - mean) / scale) ** 2) / 2 - jnp.log(scale) - math.log(2 * math.pi) / 2

    def surrogate(theta, estimator):
        x = theta[0] + theta[1] * nodes
        x = x if estimator == "reparametrized" else jax.lax.stop_gradient(x)
        mine, other = log_normal(x, *theta), log_normal(x, 0.4, 1.3)
        p, q = (mine, other) if side == "p" else (other, mine)
        sides = dict(gradient_of=side, samples_from=side, estimator=estimator)
        return monte_carlo_loss(d, p_log_probs=p, q_log_probs=q, log_weights=log_weights, **sides)

    def integral(theta):
        x = np.linspace(-14.0, 14.0, 6001)
        mine, other = log_normal(x, *theta), log_normal(x, 0.4, 1.3)
        p, q = (mine, other) if side == "p" else (other, mine)
        return jnp.sum(jnp.exp(q) * d.value(p - q)) * (x[1] - x[0])

    theta = np.array([-0.3, 0.9])
    want = jax.grad(integral)(theta)
    for estimator in ("reparametrized", "score_function"):
        value, got = jax.value_and_grad(surrogate)(theta, estimator)
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9, err_msg=estimator)
        assert float(value) == pytest.approx(float(integral(theta)), rel=1e-8)
    if d == dv.kl():
        ratio = (theta[1] / 1.3) ** 2
        closed = (ratio + (theta[0] - 0.4) ** 2 / 1.69 - 1 - math.log(ratio)) / 2  # KL(N(m, s) || N(0.4, 1.3))
        back = (1 / ratio + (theta[0] - 0.4) ** 2 / theta[1] ** 2 - 1 + math.log(ratio)) / 2
        assert float(integral(theta)) == pytest.approx(closed if side == "p" else back, rel=1e-9)


@pytest.mark.parametrize("gradient_of", ["p", "q"])
@pytest.mark.parametrize("masked", [False, True])
def test_leave_one_out_keeps_the_mean_and_takes_off_an_offset(gradient_of, masked):
    """All 64 triples of samples over 4 categories, with their probabilities; a masked sample is as good as none.

    The side without parameters is e^-5 as likely on these categories: the coefficients of KL are off by 5, and their
    expected gradient is what it was.
    """
    case, offset = ("kl", (0.0, 5.0)) if gradient_of == "p" else ("reverse_kl", (5.0, 0.0))
    triples = np.array(list(itertools.product(range(4), repeat=3)))
    law = np.exp((LOG_P if gradient_of == "p" else LOG_Q)[triples].sum(-1))
    where = np.broadcast_to([True, not masked, True], triples.shape)

    def rows(theta, baseline):
        log_p = jax.nn.log_softmax(theta) if gradient_of == "p" else LOG_P
        log_q = jax.nn.log_softmax(theta) if gradient_of == "q" else LOG_Q
        sides = dict(gradient_of=gradient_of, samples_from=gradient_of, estimator="score_function", baseline=baseline)
        log_p, log_q = (x[triples] - shift for x, shift in zip((log_p, log_q), offset, strict=True))
        return monte_carlo_loss(CASES[case].make(), p_log_probs=log_p, q_log_probs=log_q, where=where, **sides)

    theta = THETA_P if gradient_of == "p" else THETA_Q
    plain, reduced = (jax.jacobian(rows)(theta, baseline) for baseline in (None, "leave_one_out"))
    want = exact_gradient(case, gradient_of)
    np.testing.assert_allclose(law @ plain, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(law @ reduced, want, rtol=1e-9, atol=1e-12)

    def spread(rows):
        return float(np.sum(law @ np.square(rows - want)))

    assert spread(reduced) < 0.3 * spread(plain)


def test_hessian_with_frozen_samples():
    for gradient_of, samples_from in (("p", "q"), ("q", "p")):
        argnum = "pq".index(gradient_of)
        loss = functools.partial(
            enumerated, dv.jeffreys(), gradient_of=gradient_of, samples_from=samples_from, estimator="frozen"
        )

        def plain(theta_p, theta_q):
            log_p, log_q = jax.nn.log_softmax(theta_p), jax.nn.log_softmax(theta_q)
            return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q))

        got = jax.hessian(loss, argnums=argnum)(THETA_P, THETA_Q)
        np.testing.assert_allclose(got, jax.hessian(plain, argnums=argnum)(THETA_P, THETA_Q), rtol=1e-9, atol=1e-12)


WIDE = np.array([-300, -150, -95, -88, -60, -20, -1, 0, 0.5, 30, 60, 88, 150, 300], np.float32)


def agree(got, want, floor=0.0):
    """3e-4 relative, for exp(a rho) has |a rho| roundings, or the floor absolute; inf within e^20 of the largest."""
    got, largest = np.asarray(got).ravel(), mpmath.mpf(float(np.finfo(np.float32).max))
    over = np.array([np.isinf(g) and abs(w) > largest * mpmath.exp(-20) for g, w in zip(got, want, strict=True)])
    near = np.array([abs(mpmath.mpf(float(g)) - w) <= floor for g, w in zip(got, want, strict=True)])
    bad = ~over & ~near & (relative_error(got, want) > 3e-4)
    assert not bad.any(), (WIDE[bad], got[bad], [float(w) for w in np.array(want)[bad]])


@pytest.mark.parametrize("case", CASES)
def test_float32_at_wide_log_ratios(case):
    """Term, r f'(r) and (f - r f') / r in float32 against mpmath up to |rho| = 300; beyond the range they are inf."""
    d, f, slope, _ = CASES[case].make(), *CASES[case][1:]
    rho, zero = jnp.asarray(WIDE)[:, None], jnp.zeros((len(WIDE), 1), jnp.float32)
    r = [mpmath.exp(x) for x in exact(WIDE)]
    values = monte_carlo_divergence(d, rho, samples_from="q")
    assert values.value.dtype == jnp.float32 and not np.isnan(values.value).any()
    agree(values.value, [f(x) for x in r])
    assert (values.stderr == np.inf).all()
    duals = monte_carlo_divergence(d, rho, samples_from="p").value
    agree(duals, [f(x) / x for x in r])

    def loss(log_p, log_q, *pairing):
        names = dict(zip(("gradient_of", "samples_from", "estimator"), pairing, strict=True))
        return jnp.sum(monte_carlo_loss(d, p_log_probs=log_p, q_log_probs=log_q, **names))

    frozen_p = jax.grad(loss, 0)(rho, zero, "p", "q", "frozen")
    frozen_q = jax.grad(loss, 1)(rho, zero, "q", "p", "frozen")
    tv = case == "total_variation"
    slopes = [mpmath.mpf(0) if tv and x == 1 else slope(x) for x in r]
    # Where f' is beyond the range, r f' is f - score, to the rounding of f(0).
    floors = [3e-7 * end if math.isfinite(end) else 0.0 for end in (d.at_zero, d.dual_at_zero)]
    agree(frozen_p, [x * s for x, s in zip(r, slopes, strict=True)], floors[0])
    agree(frozen_q, [(f(x) - x * s) / x for x, s in zip(r, slopes, strict=True)], floors[1])
    for pairing in KINDS:
        grads = jax.grad(loss, (0, 1))(rho, zero, *pairing)
        assert not any(np.isnan(g).any() for g in grads), pairing


@pytest.mark.parametrize("case", CASES)
def test_a_wide_row_makes_no_nan(case):
    """All those log-ratios in one row, with infinite ones, in every gauge and with the baseline."""
    d = CASES[case].make()
    rho = jnp.concatenate([jnp.asarray(WIDE), jnp.array([-jnp.inf, jnp.inf], jnp.float32)])
    for samples_from, gauge in itertools.product("pq", ("nonnegative", "fitted")):
        got = monte_carlo_divergence(d, rho, samples_from=samples_from, gauge=gauge)
        assert not np.isnan(got.value) and not np.isnan(got.stderr)
    for side in "pq":

        def loss(log_p, side=side):
            sides = dict(gradient_of=side, samples_from=side, estimator="score_function", baseline="leave_one_out")
            return monte_carlo_loss(d, p_log_probs=log_p, q_log_probs=jnp.zeros_like(log_p), **sides)

        value, grad = jax.value_and_grad(loss)(jnp.asarray(WIDE))
        assert not np.isnan(value) and not np.isnan(grad).any()


@pytest.mark.parametrize("case", SMOOTH)
def test_values_are_never_negative_where_p_is_close_to_q(case):
    rho = jnp.asarray(np.random.default_rng(2).normal(size=(50, 8)) * 1e-4, jnp.float32)
    assert (monte_carlo_divergence(CASES[case].make(), rho, samples_from="q").value >= 0).all()


def test_standard_error_is_that_of_the_mean():
    rho = np.random.default_rng(3).normal(size=(4, 25))
    got = monte_carlo_divergence(dv.jeffreys(), rho, samples_from="q")
    terms = np.expm1(rho) * rho
    np.testing.assert_allclose(got.value, terms.mean(-1), rtol=1e-12)
    np.testing.assert_allclose(got.stderr, terms.std(-1, ddof=1) / 5.0, rtol=1e-12)
    np.testing.assert_array_equal(got.effective_sample_size, 25.0)
    large = monte_carlo_divergence(dv.kl(), np.float32([80.0, 79.0, 78.0]), samples_from="q")
    assert np.isfinite(large.value) and np.isfinite(large.stderr)  # though its square is not


@pytest.mark.parametrize("weighted", [False, True])
def test_standard_error_covers(weighted):
    """2,000 estimates from 400 samples: (estimate - truth) / stderr has spread 1 within a tenth."""
    rng = np.random.default_rng(4)
    law = np.full(4, 0.25) if weighted else np.exp(LOG_Q)
    x = rng.choice(4, size=(2000, 400), p=law / law.sum())
    log_weights = LOG_Q[x] if weighted else None
    truth = float(between(CASES["jensen_shannon"].f, exact(THETA_P), exact(THETA_Q)))
    for gauge in ("nonnegative", "fitted"):
        got = monte_carlo_divergence(
            dv.jensen_shannon(), (LOG_P - LOG_Q)[x], samples_from="q", log_weights=log_weights, gauge=gauge
        )
        z = (np.asarray(got.value) - truth) / np.asarray(got.stderr)
        assert abs(z.mean()) < 0.15 and abs(z.std() - 1.0) < 0.1, gauge
    plain = monte_carlo_divergence(dv.jensen_shannon(), (LOG_P - LOG_Q)[x], samples_from="q", log_weights=log_weights)
    assert got.stderr.mean() < plain.stderr.mean()


def test_masks_axes_and_transforms():
    rho = np.random.default_rng(5).normal(size=(3, 6))
    keep = rho > -0.8
    keep[1] = False
    dirty = np.where(keep, rho, np.nan)
    estimate = functools.partial(monte_carlo_divergence, dv.kl(), samples_from="q")
    got = estimate(dirty, where=keep)
    for row in (0, 2):
        want = estimate(rho[row][keep[row]])
        np.testing.assert_allclose([field[row] for field in got], want, rtol=1e-12)
    assert np.isnan(got.value[1]) and got.stderr[1] == np.inf and got.effective_sample_size[1] == 0.0
    np.testing.assert_allclose(estimate(rho.T, axis=0), estimate(rho), rtol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(estimate))(rho), estimate(rho), rtol=1e-12)
    assert (jax.grad(lambda x: estimate(x).value.sum())(rho) == 0).all()  # a measurement, not a loss
    assert estimate(jnp.asarray(rho, jnp.bfloat16)).value.dtype == jnp.float32

    for pairing in PAIRINGS:
        names = dict(zip(("gradient_of", "samples_from", "estimator"), pairing, strict=True))

        def loss(log_p, names=names):
            return jnp.sum(monte_carlo_loss(dv.kl(), p_log_probs=log_p, q_log_probs=-log_p, where=keep, **names))

        value, grad = jax.value_and_grad(loss)(dirty)
        assert np.isfinite(value) and (grad[~keep] == 0).all() and np.isfinite(grad).all()
        primal, tangent = jax.jvp(loss, (dirty,), (np.ones_like(rho),))
        np.testing.assert_allclose((primal, tangent), (value, grad.sum()), rtol=1e-12)


def test_log_weights_make_samples_of_another_distribution_count():
    """Every category once, weighted by its probability: the loss and its gradient are exact."""
    for gradient_of, samples_from, estimator in KINDS:
        sides = dict(gradient_of=gradient_of, samples_from=samples_from, estimator=estimator)

        def loss(theta, sides=sides):
            mine = jax.nn.log_softmax(theta)
            log_p, log_q = (mine, LOG_Q) if sides["gradient_of"] == "p" else (LOG_P, mine)
            weights = log_p if sides["samples_from"] == "p" else log_q
            return monte_carlo_loss(dv.le_cam(), p_log_probs=log_p, q_log_probs=log_q, log_weights=weights, **sides)

        got = jax.grad(loss)(THETA_P if gradient_of == "p" else THETA_Q)
        np.testing.assert_allclose(got, exact_gradient("le_cam", gradient_of), rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_token_sums_are_sequence_divergences_for_kl_out_of_the_sampled_side_only(case):
    """Two tokens, each of two kinds: sum over tokens of E f(u_t) against E f(u_1 u_2), by enumeration."""
    d = CASES[case].make()
    first_p, first_q = np.log([0.7, 0.3]), np.log([0.4, 0.6])
    next_p, next_q = np.log([[0.2, 0.8], [0.5, 0.5]]), np.log([[0.6, 0.4], [0.3, 0.7]])
    log_p, log_q = ((first[:, None] + then).ravel() for first, then in ((first_p, next_p), (first_q, next_q)))
    tokens = np.stack([np.repeat(first_p - first_q, 2), (next_p - next_q).ravel()])
    for samples_from, law in (("p", log_p), ("q", log_q)):
        estimate = functools.partial(monte_carlo_divergence, d, samples_from=samples_from)
        whole = float(estimate(log_p - log_q, log_weights=law).value)
        parts = float(estimate(tokens, log_weights=np.stack([law, law])).value.sum())
        out_of_sampled = case in {"p": ("kl", "alpha_1"), "q": ("reverse_kl", "alpha_0")}[samples_from]
        if out_of_sampled:
            assert parts == pytest.approx(whole, rel=1e-13)
        elif not case.startswith(("alpha_1-", "alpha_1e", "jensen_shannon_1")) and case != "skew_kl_1e-6":
            assert abs(parts / whole - 1.0) > 1e-3


GOOD = dict(p_log_probs=LOG_P, q_log_probs=LOG_Q, gradient_of="p", samples_from="q", estimator="frozen")


@pytest.mark.parametrize("bad", [None, "x", [0.0, None], 1.0, np.zeros(4, int), np.zeros((4, 0)), 1j, True], ids=str)
def test_bad_arrays(bad):
    with pytest.raises(ValueError, match="monte_carlo_divergence: (log_ratio|axis) "):
        monte_carlo_divergence(dv.kl(), bad, samples_from="q")
    for name in ("p_log_probs", "q_log_probs"):
        with pytest.raises(ValueError, match="monte_carlo_loss: (p_log_probs|q_log_probs) "):
            monte_carlo_loss(dv.kl(), **{**GOOD, name: bad})


@pytest.mark.parametrize(
    "options, name",
    [
        ({"gradient_of": "r"}, "gradient_of"),
        ({"samples_from": None}, "samples_from"),
        ({"estimator": np.zeros(3)}, "estimator"),
        ({"baseline": "mean"}, "baseline"),
        ({"baseline": "leave_one_out"}, "baseline"),
        ({"axis": 1}, "axis"),
        ({"where": np.ones(4)}, "where"),
        ({"where": np.ones((1, 4), bool)}, "where"),
        ({"log_weights": np.ones(3)}, "log_weights"),
        ({"log_weights": np.ones(4, int)}, "log_weights"),
        ({"q_log_probs": np.ones((4, 1))}, "q_log_probs"),
    ],
)
def test_bad_options(options, name):
    with pytest.raises(ValueError, match=f"monte_carlo_loss: {name} "):
        monte_carlo_loss(dv.kl(), **{**GOOD, **options})


def test_bad_divergence():
    for bad in ("kl", None, dv.kl):
        with pytest.raises(ValueError, match="divergence is .*; expected a FDivergence"):
            monte_carlo_loss(bad, **GOOD)
        with pytest.raises(ValueError, match="divergence is .*; expected a FDivergence"):
            monte_carlo_divergence(bad, LOG_P, samples_from="q")
    for name, value in (("samples_from", "m"), ("gauge", "k1"), ("gauge", ["nonnegative"])):
        with pytest.raises(ValueError, match=f"monte_carlo_divergence: {name} is"):
            monte_carlo_divergence(dv.kl(), LOG_P, **{"samples_from": "q", name: value})
