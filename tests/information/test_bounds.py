"""The bounds on score matrices: expectations by enumeration of every batch, ceilings, gradients, limits, errors."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import information as info
from jaxdiv.information.bounds import off_diagonal

JOINT = np.array([[0.30, 0.05, 0.05], [0.10, 0.15, 0.35]])
P_X, P_Y = JOINT.sum(1), JOINT.sum(0)
LOG_RATIO = np.log(JOINT / np.outer(P_X, P_Y))
MUTUAL = float(np.sum(JOINT * LOG_RATIO))
CRITIC = np.array([[0.9, -1.2, 0.3], [-0.4, 0.1, 1.1]])  # any function of (x, y)
SIZE = 4


@functools.cache
def batches():
    """Every batch of SIZE pairs, as indices [6^4, SIZE] of x and of y, and its probability."""
    cells = np.array(list(itertools.product(range(6), repeat=SIZE)))
    return cells // 3, cells % 3, np.prod(JOINT.ravel()[cells], axis=1)


def matrices(critic):
    x, y, _ = batches()
    return np.asarray(critic)[x[:, :, None], y[:, None, :]]


def expectation(values):
    return float(np.sum(batches()[2] * np.asarray(values)))


def of_rows(table):
    """A function of x at the rows of every batch, [6^4, SIZE]."""
    return np.asarray(table)[batches()[0]]


def of_pairs(table):
    x, y, _ = batches()
    return np.asarray(table)[x, y]


def nwj_population(v):
    return np.sum(JOINT * v) - np.sum(np.outer(P_X, P_Y) * np.exp(v)) + 1.0


@pytest.fixture(autouse=True)
def float64(x64):
    yield


def test_nwj_is_unbiased_and_tight_at_the_log_ratio():
    for critic in (CRITIC, LOG_RATIO, LOG_RATIO + 0.3):
        estimate = info.nwj(matrices(critic))
        assert expectation(estimate.value) == pytest.approx(nwj_population(critic), abs=1e-13)
        assert estimate.kind == "lower bound" and np.all(np.isinf(estimate.ceiling))
    assert nwj_population(LOG_RATIO) == pytest.approx(MUTUAL, abs=1e-13)
    assert nwj_population(CRITIC) < MUTUAL - 0.1


def test_tuba_is_unbiased_and_its_best_baseline_normalises_any_shift():
    baseline = np.array([0.2, -0.5])
    value = info.tuba(matrices(CRITIC), log_baseline=of_rows(baseline)).value
    assert expectation(value) == pytest.approx(nwj_population(CRITIC - baseline[:, None]), abs=1e-13)
    shift = np.array([1.5, -2.0])
    value = info.tuba(matrices(LOG_RATIO + shift[:, None]), log_baseline=of_rows(shift)).value
    assert expectation(value) == pytest.approx(MUTUAL, abs=1e-13)
    best = np.log(np.exp(CRITIC) @ P_Y)
    assert nwj_population(CRITIC) < nwj_population(CRITIC - best[:, None]) < MUTUAL


def test_jensen_shannon_is_unbiased_and_below_mutual_information():
    product = np.outer(P_X, P_Y)
    for critic in (CRITIC, LOG_RATIO):
        softplus = [np.sum(w * np.logaddexp(0, v)) for w, v in ((JOINT, -critic), (product, critic))]
        estimate = info.jensen_shannon_bound(matrices(critic))
        assert expectation(estimate.value) == pytest.approx(2 * math.log(2) - sum(softplus), abs=1e-13)
    middle = (JOINT + product) / 2
    twice = np.sum(JOINT * np.log(JOINT / middle)) + np.sum(product * np.log(product / middle))
    assert expectation(estimate.value) == pytest.approx(twice, abs=1e-13)
    assert twice < MUTUAL
    assert estimate.kind == "lower bound"


def test_donsker_varadhan_is_biased_up_and_no_bound():
    """x = y uniform on n symbols, v = t [x = y], two pairs: the mean grows with t without limit."""
    product = np.outer(P_X, P_Y)
    population = np.sum(JOINT * CRITIC) - np.log(np.sum(product * np.exp(CRITIC)))
    estimate = info.donsker_varadhan(matrices(CRITIC))
    assert population < expectation(estimate.value) < population + 0.2
    assert estimate.kind == "plug-in"
    scores = 50.0 * np.array([[[1, s], [s, 1]] for s in (0, 0, 1)])  # n = 3: both alike with probability 1/3
    assert float(jnp.mean(info.donsker_varadhan(scores).value)) > math.log(3) + 10
    shifted = info.donsker_varadhan(matrices(CRITIC + 7.0)).value
    np.testing.assert_allclose(shifted, estimate.value, atol=1e-13)


def test_smile_clips_only_the_product():
    scores = matrices(3.0 * CRITIC)
    np.testing.assert_array_equal(info.smile(scores, clip=1e3).value, info.donsker_varadhan(scores).value)
    np.testing.assert_array_equal(info.smile(scores, clip=math.inf).value, info.donsker_varadhan(scores).value)
    one = np.array([[3.0, 9.0, -9.0], [0.5, 4.0, 0.1], [-0.5, 2.0, 5.0]])
    clipped = np.clip([9.0, -9.0, 0.5, 0.1, -0.5, 2.0], -1, 1)
    expected = 4.0 - np.log(np.mean(np.exp(clipped)))
    assert float(info.smile(one, clip=1.0)) == pytest.approx(expected, abs=1e-14)
    assert info.smile(one).kind == "plug-in"


def test_info_nce_is_a_bound_for_every_critic_and_ignores_functions_of_x():
    best = expectation(info.info_nce(matrices(LOG_RATIO)).value)
    assert 0.5 * MUTUAL < best < MUTUAL
    rng = np.random.default_rng(0)
    for critic in 3.0 * rng.normal(size=(20, 2, 3)):
        assert expectation(info.info_nce(matrices(critic)).value) < best
    shifted = info.info_nce(matrices(LOG_RATIO + np.array([[3.0], [-8.0]]))).value
    assert expectation(shifted) == pytest.approx(best, abs=1e-12)


def test_interpolation_runs_from_tuba_to_info_nce_and_is_a_bound():
    scores, baseline = matrices(CRITIC), of_rows([0.2, -0.5])
    interpolate = functools.partial(info.interpolated_info_nce, scores, log_baseline=baseline)
    zero = interpolate(alpha=0.0).value
    np.testing.assert_array_equal(zero, info.tuba(scores, log_baseline=baseline).value)
    np.testing.assert_allclose(interpolate(alpha=1e-12).value, zero, atol=1e-10)
    fewer = []
    for left in range(SIZE):  # InfoNCE on SIZE - 1 columns: rows without the pair that was left out
        keep = np.delete(np.arange(SIZE), left)
        fewer.append(info.info_nce(scores[:, keep][:, :, keep]).value)
    np.testing.assert_allclose(interpolate(alpha=1.0).value, np.mean(fewer, axis=0), atol=1e-13)
    rng = np.random.default_rng(1)
    for alpha in (0.01, 0.5, 1.0):
        for critic in (LOG_RATIO, *rng.normal(size=(5, 2, 3))):
            assert expectation(info.interpolated_info_nce(matrices(critic), alpha=alpha).value) < MUTUAL
    assert expectation(info.interpolated_info_nce(matrices(LOG_RATIO), alpha=0.0).value) == pytest.approx(MUTUAL)


def test_interpolation_survives_a_dominating_score():
    """Leaving out the largest of a row by subtraction would lose all other digits."""
    scores = np.array([[60.0, 1.0, 2.0], [0.5, 50.0, 0.1], [1.0, 80.0, 2.0]])
    expected = []
    for i in range(3):
        means = [np.log(np.mean(np.exp(np.delete(scores[i], k)))) for k in range(3) if k != i]
        expected.append(scores[i, i] - np.mean(means))
    value, slope = jax.value_and_grad(lambda s: info.interpolated_info_nce(s, alpha=1.0).value)(jnp.asarray(scores))
    assert float(value) == pytest.approx(np.mean(expected), abs=1e-12)
    assert np.all(np.isfinite(slope))
    assert np.isfinite(info.interpolated_info_nce(jnp.float32(scores), alpha=0.5).value)


def test_flo_is_unbiased_and_tight_for_the_log_ratio_plus_a_function_of_x():
    u = np.array([[0.3, 0.9, -0.2], [0.1, 0.0, -0.7]])
    normaliser = np.exp(CRITIC) @ P_Y
    population = 1 - np.sum(JOINT * (u + np.exp(-u - CRITIC) * normaliser[:, None]))
    value = info.flo(matrices(CRITIC), log_partition=of_pairs(u)).value
    assert expectation(value) == pytest.approx(population, abs=1e-13)
    critic = LOG_RATIO + np.array([[2.0], [-1.0]])
    estimate = info.flo(matrices(critic), log_partition=of_pairs(-LOG_RATIO))
    assert expectation(estimate.value) == pytest.approx(MUTUAL, abs=1e-13)
    assert population < MUTUAL and estimate.kind == "lower bound"


def test_club_and_leave_one_out_bracket_from_above_with_the_true_conditional():
    log_q = np.log(JOINT / P_X[:, None])
    exact = float(MUTUAL + np.sum(np.outer(P_X, P_Y) * -LOG_RATIO))  # KL both ways
    club = info.club(matrices(log_q), is_exact=True)
    assert expectation(club.value) == pytest.approx(exact, abs=1e-13)
    nearer = info.leave_one_out(matrices(log_q), is_exact=True)
    assert MUTUAL < expectation(nearer.value) < exact
    assert club.kind == nearer.kind == "upper bound"
    reverse = np.log(np.full((2, 3), 1 / 3) - 0.1 * np.sign(LOG_RATIO))  # a model worse than chance
    assert expectation(info.club(matrices(reverse)).value) < 0
    assert info.club(matrices(reverse)).kind == info.leave_one_out(matrices(reverse)).kind == "not MI"


@pytest.mark.parametrize("size", [2, 8])
def test_ceilings_are_reached_by_huge_scores(size):
    for scale in (1e2, 1e30):
        scores = scale * (2.0 * jnp.eye(size, dtype=jnp.float32) - 1.0)
        estimates = [info.info_nce(scores), info.jensen_shannon_bound(scores)]
        if size > 2:
            estimates.append(info.interpolated_info_nce(scores, alpha=1.0))
        for estimate in estimates:
            assert float(estimate) == pytest.approx(float(estimate.ceiling), rel=1e-6)
            assert float(estimate.stderr) == pytest.approx(0.0, abs=1e-6)
    if size > 2:
        half = info.interpolated_info_nce(100.0 * (2.0 * jnp.eye(size) - 1.0), alpha=0.5)
        assert float(half) == pytest.approx(float(half.ceiling), rel=1e-6)
    expected = [math.log(size), 2 * math.log(2), math.log(max(size - 1, 1))]
    assert [float(e.ceiling) for e in estimates] == pytest.approx(expected[: len(estimates)], rel=1e-6)


EVERY = {
    "donsker_varadhan": info.donsker_varadhan,
    "smile": functools.partial(info.smile, clip=1.5),
    "nwj": info.nwj,
    "tuba": lambda s: info.tuba(s, log_baseline=jnp.full(s.shape[:-1], 0.3, s.dtype)),
    "jensen_shannon_bound": info.jensen_shannon_bound,
    "info_nce": info.info_nce,
    "interpolated_info_nce": functools.partial(info.interpolated_info_nce, alpha=0.3),
    "flo": lambda s: info.flo(s, log_partition=jnp.full(s.shape[:-1], 0.3, s.dtype)),
    "club": info.club,
    "leave_one_out": info.leave_one_out,
}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_dtypes_batches_and_terms(name):
    bound, rng = EVERY[name], np.random.default_rng(2)
    scores, direction = rng.normal(size=(2, 5, 5)), rng.normal(size=(5, 5))
    order = rng.permutation(5)
    half = jnp.asarray(scores, jnp.bfloat16)

    @jax.jit
    def compute(s):
        value = lambda t: bound(s[0] + t * direction).value  # noqa: E731
        steps = jax.vmap(value)(jnp.array([-1e-5, 1e-5]))
        slopes = jnp.sum(direction * jax.grad(lambda a: bound(a).value)(s[0])), (steps[1] - steps[0]) / 2e-5
        mapped = jax.vmap(bound)(jnp.stack([s[0], s[0][order][:, order], s[0].at[1, 2].set(jnp.nan)]))
        return bound(s), slopes, mapped, bound(half), bound(jnp.zeros((5, 5)))

    estimate, (slope, difference), mapped, half, constant = compute(jnp.asarray(scores))
    assert estimate.value.shape == estimate.stderr.shape == estimate.ceiling.shape == (2,)
    np.testing.assert_allclose(np.mean(estimate.info["local"], axis=-1), estimate.value, atol=1e-13)
    np.testing.assert_allclose(mapped.value, [estimate.value[0], estimate.value[0], np.nan], rtol=1e-12)
    assert float(slope) == pytest.approx(float(difference), rel=1e-7, abs=1e-9)
    assert half.value.dtype == half.stderr.dtype == half.ceiling.dtype == jnp.float32
    np.testing.assert_allclose(half.value, estimate.value, atol=0.05)
    # Independence, or a constant column: a critic that sees nothing.
    expected = 0.7 - math.exp(-0.3) if name in ("tuba", "flo") else 0.0
    assert float(constant) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", EVERY)
def test_standard_errors_match_the_spread_over_batches(name):
    """Normal pairs of correlation 0.5 and the true log-ratio, or log-density: 600 batches of 64."""
    bound, rho = EVERY[name], 0.5
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 64))
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=x.shape)
    u, v = x[:, :, None], y[:, None, :]
    scores = -0.5 * math.log(1 - rho**2) - (v - rho * u) ** 2 / (2 * (1 - rho**2)) + v**2 / 2
    estimate = jax.jit(bound)(jnp.asarray(scores))
    ratio = float(jnp.sqrt(jnp.mean(estimate.stderr**2)) / jnp.std(estimate.value))
    low = 0.6 if name == "interpolated_info_nce" else 0.85  # its terms of rows leave out how rows hang together
    assert low < ratio < 1.25, ratio


def test_mine_averages_the_denominator_of_the_gradient():
    rng, decay = np.random.default_rng(4), 0.7
    objective = info.mine(decay=decay)
    assert objective is info.mine(decay=decay)
    state, total, weight = objective.init(), 0.0, 0.0
    update = jax.jit(objective.update)
    slope = jax.jit(jax.grad(lambda s, state: objective.update(state, s)[1].value))
    for scores in rng.normal(size=(3, 5, 5)):
        mean = float(np.mean(np.exp(np.asarray(off_diagonal(jnp.asarray(scores))))))
        total, weight = decay * total + (1 - decay) * mean, decay * weight + 1 - decay
        surrogate = lambda s, a=total / weight: (  # noqa: E731
            jnp.mean(jnp.diagonal(s)) - jnp.mean(jnp.exp(off_diagonal(s))) / a
        )
        expected = jax.grad(surrogate)(jnp.asarray(scores))
        np.testing.assert_allclose(slope(jnp.asarray(scores), state), expected, atol=1e-6)
        state, estimate = update(state, scores)
        assert float(estimate) == pytest.approx(float(info.donsker_varadhan(scores)), abs=1e-12)
        assert float(jnp.exp(state.log_sum)) == pytest.approx(total, rel=1e-6)
        assert float(state.weight) == pytest.approx(weight, rel=1e-6)
    plain = info.mine(decay=0.0)
    found = jax.grad(lambda s: plain.update(plain.init(), s)[1].value)(jnp.asarray(scores))
    expected = jax.grad(lambda s: info.donsker_varadhan(s).value)(jnp.asarray(scores))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    huge = info.mine().update(info.mine().init(), jnp.full((3, 3), 1e4))
    assert float(huge[1]) == 0.0 and np.isfinite(huge[0].log_sum)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "scores", [jnp.zeros(4), jnp.zeros((3, 4)), jnp.zeros((1, 1)), jnp.zeros((4, 4), int), "abc", None]
)
def test_scores_that_are_no_square_matrices_are_refused(name, scores):
    argument = "log_density" if name in ("club", "leave_one_out") else "scores"
    functions = {"tuba": info.tuba, "flo": info.flo}
    extra = {"tuba": {"log_baseline": jnp.zeros(4)}, "flo": {"log_partition": jnp.zeros(4)}}.get(name, {})
    with pytest.raises(ValueError, match=f"{name}: {argument} (has|is)"):
        functions.get(name, EVERY[name])(scores, **extra)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: info.smile(s, clip=0.0), "smile: clip is 0.0"),
        (lambda s: info.smile(s, clip=math.nan), "smile: clip is nan"),
        (lambda s: info.tuba(s, log_baseline=jnp.zeros(3)), "tuba: log_baseline has shape"),
        (lambda s: info.tuba(s, log_baseline=jnp.zeros(4, int)), "tuba: log_baseline has dtype"),
        (lambda s: info.flo(s, log_partition=jnp.zeros((4, 4))), "flo: log_partition has shape"),
        (lambda s: info.interpolated_info_nce(s, alpha=1.5), "interpolated_info_nce: alpha is 1.5"),
        (lambda s: info.interpolated_info_nce(s, alpha="a"), "interpolated_info_nce: alpha is 'a'"),
        (lambda s: info.interpolated_info_nce(s[:2, :2], alpha=0.5), "with B >= 3"),
        (lambda s: info.interpolated_info_nce(s, alpha=0.5, log_baseline=jnp.zeros(3)), "log_baseline has shape"),
        (lambda s: info.club(s, is_exact=1), "club: is_exact is 1"),
        (lambda s: info.leave_one_out(s, is_exact=None), "leave_one_out: is_exact is None"),
        (lambda s: info.mine(decay=1.0), "mine: decay is 1.0"),
        (lambda s: info.mine().update(info.mine().init(), s[None]), r"mine: scores has shape \(1, 4, 4\)"),
    ],
    ids=range(13),
)
def test_wrong_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((4, 4)))
