"""Generalization quantities against closed forms, brute force in numpy and simulated gaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jaxdiv.divergences import Gaussian, gaussian_kl, gaussian_squared_wasserstein
from jaxdiv.information import (
    bottleneck_gap_scale,
    encoder_information,
    kl_generalization_bounds,
    mean_estimator_information,
    posterior_information,
    wasserstein_generalization_bounds,
)

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)


@jax.jit
def both(means, log_variances, labels, key):
    return tuple(encoder_information(means, log_variances, labels, key=key, bound=b) for b in ("lower", "upper"))


def test_encoder_information_brackets_the_closed_form():
    """X | Y ~ N(10 Y, 2^2) and Z = X + N(0, 0.5): I(X; Z | Y) = log(1 + 4 / 0.5) / 2, whatever Y."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [150, 100, 50])
    x = 10.0 * labels + 2.0 * rng.normal(size=(20, 300))
    log_variance = np.full((300, 1), np.log(0.5))
    run = jax.jit(jax.vmap(lambda x, k: both(x[:, None], log_variance, labels, k)))
    lower, upper = run(jnp.asarray(x), jax.random.split(KEY, 20))
    truth = np.log(1 + 4.0 / 0.5) / 2
    assert lower.kind == "lower bound" and upper.kind == "upper bound"
    spread = np.std(lower.value) / np.sqrt(20)
    assert truth - 0.1 < np.mean(lower.value) < truth + 3 * spread
    assert truth - 3 * spread < np.mean(upper.value) < truth + 0.1
    np.testing.assert_allclose(lower.ceiling, np.log([150] * 150 + [100] * 100 + [50] * 50).mean(), rtol=1e-12)
    np.testing.assert_allclose(np.mean(lower.stderr), np.std(lower.value), rtol=0.6)
    # Without the labels Y counts too: I(X; Z) exceeds I(X; Z | Y) by nearly H(Y).
    whole = jax.jit(encoder_information)(jnp.asarray(x[0])[:, None], log_variance, key=KEY)
    p = np.array([150, 100, 50]) / 300
    np.testing.assert_allclose(float(whole) - float(lower.value[0]), -(p * np.log(p)).sum(), atol=0.1)


def test_encoder_information_against_brute_force():
    rng = np.random.default_rng(1)
    means, log_variances, labels = rng.normal(size=(11, 3)), rng.normal(size=(11, 3)), rng.integers(0, 3, 11)
    z = means + np.exp(log_variances / 2) * np.asarray(jax.random.normal(KEY, (11, 3)))
    log_q = -0.5 * (np.square(z[:, None] - means) / np.exp(log_variances) + log_variances).sum(-1)
    for estimate, others in zip(both(means, log_variances, labels, KEY), (0, 1), strict=True):
        for i in range(11):
            members = [m for m in range(11) if labels[m] == labels[i] and not (others and m == i)]
            log_mean = logsumexp(log_q[i, members]) - np.log(len(members)) if members else -np.inf
            np.testing.assert_allclose(estimate.info["local"][i], log_q[i, i] - log_mean, rtol=1e-10, atol=1e-12)


def test_encoder_information_where_there_is_none_or_nothing_to_compare():
    zeros, labels = np.zeros((6, 2)), np.array([0, 0, 0, 1, 1, 1])
    for estimate in both(zeros, zeros, labels, KEY):  # a constant encoder
        assert float(estimate) == 0.0
    far = np.repeat([[0.0], [1e3]], 3, axis=0)
    np.testing.assert_allclose(both(far, 0 * far, 0 * labels, KEY)[0].value, np.log(2), rtol=1e-12)
    assert float(both(far, 0 * far, labels, KEY)[0]) == 0.0  # duplicates within each class
    alone = np.array([0, 0, 0, 0, 0, 1])
    lower, upper = both(np.random.default_rng(2).normal(size=(6, 2)), zeros, alone, KEY)
    assert np.isposinf(upper.value) and float(lower.info["local"][5]) == 0.0
    lower, upper = both(zeros, zeros, np.arange(6), KEY)
    assert float(lower) == float(lower.ceiling) == 0.0 and np.isposinf(upper.value)
    broken = zeros.copy()
    broken[2, 1] = np.nan
    assert all(np.isnan(e.value) for e in both(broken, zeros, labels, KEY))
    low = jax.jit(encoder_information)(jnp.zeros(1, jnp.bfloat16), jnp.zeros(1, jnp.bfloat16), key=KEY)
    assert float(low) == 0.0 and low.value.dtype == low.ceiling.dtype == jnp.float32


def test_encoder_information_has_finite_differences_for_gradients():
    rng = np.random.default_rng(3)
    point = jnp.asarray(rng.normal(size=(2, 7, 2)))
    labels = np.array([0, 0, 1, 1, 1, 0, 0])

    def total(p):
        lower, upper = both(p[0], p[1], labels, KEY)
        return lower.value + 2.0 * upper.value

    value, run = jax.jit(total), jax.jit(jax.grad(total))
    direction = jnp.asarray(rng.normal(size=point.shape))
    difference = (value(point + 1e-6 * direction) - value(point - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(jnp.sum(run(point) * direction), difference, rtol=1e-7)


def test_posterior_information():
    """Between 0 and log K; above the mixture's own information, here by quadrature."""
    means, log_variances = np.array([[0.0], [1.5], [4.0]]), np.log([[1.0], [0.5], [2.0]])
    run = jax.jit(posterior_information)
    estimate = run(means, log_variances)
    grid = np.linspace(-15.0, 20.0, 20001)
    q = np.exp(-0.5 * np.square(grid - means) / np.exp(log_variances)) / np.sqrt(2 * np.pi * np.exp(log_variances))
    truth = np.mean([np.sum(p * np.log((p + 1e-300) / q.mean(0))) * (grid[1] - grid[0]) for p in q])
    assert truth < float(estimate) < float(estimate.ceiling) == np.log(3)
    log_mean = logsumexp(-np.asarray(estimate.info["divergences"]), axis=1) - np.log(3)
    np.testing.assert_allclose(estimate.value, -log_mean.mean(), rtol=1e-12)
    kl = np.log(2.0) / 2 + (0.5 + 2.5**2) / 4.0 - 0.5 + np.log(2.0) / 2  # of N(1.5, 0.5) from N(4, 2)
    np.testing.assert_allclose(estimate.info["divergences"][1, 2], kl, rtol=1e-12)
    np.testing.assert_allclose(run(np.ones((3, 1)), np.zeros((3, 1))).value, 0.0, atol=1e-15)
    np.testing.assert_allclose(run(1e6 * means, log_variances).value, np.log(3), rtol=1e-12)
    assert np.isnan(run(means * np.nan, log_variances).value)
    gradient = jax.jit(jax.grad(lambda m: run(m, log_variances).value))(jnp.asarray(means))
    steps = 1e-6 * np.eye(3)[:, :, None]
    numbers = [np.subtract(*(run(means + h, log_variances).value for h in (s, -s))) for s in steps]
    numbers = np.array(numbers) / 2e-6
    np.testing.assert_allclose(gradient[:, 0], numbers, rtol=1e-6)


def test_the_mean_estimator_is_the_mean_kl():
    """I(W; Z_i) = E_W KL(P_{Z_i | W} || P_Z); the KL is quadratic in W, so 2 d points of its covariance are exact."""
    for d, n in [(2, 10), (1, 2), (5, 100)]:
        spread = 1.7**2
        points = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt(d * spread / n)
        p = Gaussian(points, variance=np.full((2 * d, d), spread * (1 - 1 / n)))
        q = Gaussian(np.zeros((2 * d, d)), variance=np.full((2 * d, d), spread))
        value = mean_estimator_information(dimension=d, num_samples=n)
        np.testing.assert_allclose(value, np.mean(jax.jit(gaussian_kl)(p=p, q=q)), rtol=1e-10)
        np.testing.assert_allclose(value, d / 2 * np.log(n / (n - 1)), rtol=1e-10)
    assert np.isposinf(mean_estimator_information(dimension=1, num_samples=1))


def test_the_kl_bound_holds_for_a_simulated_gap_and_shrinks_along_layers():
    """The mean classifier with 0-1 loss, (1/2)-sub-Gaussian; behind a projection the divergence is that of its law."""
    rng, (d, n, trials) = np.random.default_rng(4), (2, 4, 200_000)
    mu = np.array([0.4, 0.0])
    z = mu + rng.normal(size=(trials, n, d))
    new = mu + rng.normal(size=(trials, d))
    w = z.mean(1)
    gap = np.mean((w * new).sum(1) < 0) - np.mean((w * z[:, 0]).sum(1) < 0)
    information = mean_estimator_information(dimension=d, num_samples=n)
    bound = kl_generalization_bounds(jnp.full(n, information), sub_gaussian=0.5)
    assert 0.05 < gap < float(bound)
    np.testing.assert_allclose(bound, np.sqrt(0.5 * float(information)), rtol=1e-12)
    bounds = kl_generalization_bounds(jnp.full((3, n), information), sub_gaussian=0.5, contractions=[0.5, 0.9, 1.0])
    np.testing.assert_allclose(bounds, np.broadcast_to(float(bound) * np.sqrt([1, 0.5, 0.45, 0.45]), (3, 4)), rtol=1e-6)
    assert float(kl_generalization_bounds([0.0, 0.0], sub_gaussian=1.0)) == 0.0
    projected = mean_estimator_information(dimension=1, num_samples=n)  # one coordinate of two
    assert float(kl_generalization_bounds(projected[None], sub_gaussian=0.5)) < float(bound)


def test_the_wasserstein_bound_holds_at_every_layer_of_a_linear_network():
    """Loss |v . T_2| of two linear layers on the samples' deviation from the mean: gap and W_2 in closed form."""
    rng, (d, n, trials) = np.random.default_rng(5), (3, 4, 100_000)
    maps = [rng.normal(size=(2, 3)), rng.normal(size=(2, 2)) / 4]
    v = np.array([0.6, 0.8])
    z = rng.normal(size=(trials, n, d))
    w = z.mean(1)

    def loss(x):  # the input less W, through both layers
        return np.abs((x - w) @ maps[0].T @ maps[1].T @ v)

    gap = np.mean(loss(rng.normal(size=(trials, d)))) - np.mean(loss(z[:, 0]))
    distances, scale = [], np.eye(d)
    for a in [np.eye(d), *maps]:
        scale = a @ scale
        draws = w[:200] @ scale.T
        # Given W = w, Z_i - w is N(0, 1 - 1/n) and a new sample less w is N(-w, 1).
        cov = np.broadcast_to(scale @ scale.T, (200, len(scale), len(scale)))
        p, q = Gaussian(0 * draws, covariance=cov * (1 - 1 / n)), Gaussian(-draws, covariance=cov)
        distances.append(np.sqrt(jax.jit(gaussian_squared_wasserstein)(p=p, q=q)))
    lipschitz = np.broadcast_to([np.linalg.norm(a, 2) for a in maps], (200, 2))
    bounds = wasserstein_generalization_bounds(np.stack(distances, 1), lipschitz, loss_lipschitz=1.0)
    factors = [max(1, lipschitz[0, 0] * lipschitz[0, 1]), max(1, lipschitz[0, 1]), 1.0]
    np.testing.assert_allclose(bounds, np.stack(distances, 1) * factors, rtol=1e-12)
    assert 0.0 < gap < np.min(np.mean(bounds, axis=0))


def test_the_gap_scale():
    found = bottleneck_gap_scale([4.0, 9.0], num_samples=100, parameter_information=[0.0, 7.0])
    np.testing.assert_allclose(found, [0.2, 0.4], rtol=1e-12)
    np.testing.assert_allclose(bottleneck_gap_scale(np.array([4.0, 9.0]), num_samples=1), [2.0, 3.0])
    assert np.isnan(bottleneck_gap_scale(-1.0, num_samples=3))


MEANS = np.zeros((4, 2))
BAD = [
    (encoder_information, (MEANS, MEANS[:, 0]), {"key": KEY}, r"log_variances has shape \(4,\)"),
    (encoder_information, (MEANS[None], MEANS[None]), {"key": KEY}, r"means has shape \(1, 4, 2\)"),
    (encoder_information, (MEANS, MEANS, np.zeros(4)), {"key": KEY}, "labels has dtype float"),
    (encoder_information, (MEANS, MEANS, [0, 1]), {"key": KEY}, r"labels has shape \(2,\)"),
    (encoder_information, (MEANS, MEANS), {"key": 0}, "key is 0"),
    (encoder_information, (MEANS, MEANS), {"key": KEY, "bound": "both"}, "bound is 'both'"),
    (posterior_information, (MEANS, MEANS[:2]), {}, "log_variances has shape"),
    (posterior_information, (MEANS.astype(int), MEANS), {}, "means has dtype int"),
    (bottleneck_gap_scale, (1.0,), {"num_samples": 0}, "num_samples is 0"),
    (bottleneck_gap_scale, (1,), {"num_samples": 1}, "information has dtype"),
    (bottleneck_gap_scale, ([1.0],), {"num_samples": 1, "parameter_information": [1.0, 2.0]}, "parameter_information"),
    (mean_estimator_information, (), {"dimension": 0, "num_samples": 2}, "dimension is 0"),
    (mean_estimator_information, (), {"dimension": 1, "num_samples": 2.0}, "num_samples is 2.0"),
    (kl_generalization_bounds, (1.0,), {"sub_gaussian": 1.0}, r"divergences has shape \(\)"),
    (kl_generalization_bounds, ([1.0],), {"sub_gaussian": -1.0}, "sub_gaussian is -1.0"),
    (kl_generalization_bounds, ([1.0],), {"sub_gaussian": 1.0, "contractions": 0.5}, "contractions has shape"),
    (wasserstein_generalization_bounds, (1.0, [1.0]), {"loss_lipschitz": 1.0}, "distances has shape"),
    (wasserstein_generalization_bounds, ([1.0, 2.0], [1.0, 1.0]), {"loss_lipschitz": 1.0}, "layer_lipschitz has shape"),
    (wasserstein_generalization_bounds, ([1.0], []), {"loss_lipschitz": None}, "loss_lipschitz is None"),
]


@pytest.mark.parametrize("function, arrays, options, match", BAD, ids=range(len(BAD)))
def test_bad_arguments(function, arrays, options, match):
    with pytest.raises(ValueError, match=f"{function.__name__}: {match}"):
        function(*arrays, **options)
