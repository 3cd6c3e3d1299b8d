"""Every malformed call raises ValueError that names the function and the argument."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import two_sample as ts

X = np.zeros((4, 2), np.float32)
KEY = jax.random.key(0)
GAUSSIAN = ts.gaussian_kernel(1.0)
NOT_SAMPLES = [
    None,
    "x",
    1.0,
    [1.0, 2.0],
    [[1.0], [2.0, 3.0]],
    [[None]],
    np.zeros((4, 2), int),
    np.zeros((4, 2), bool),
    np.zeros((4, 2), complex),
    np.zeros((4, 2, 1)),
    np.zeros((0, 2)),
    np.zeros((4, 0)),
    object(),
    {"a": 1},
]
TWO = {
    "squared_mmd": ts.squared_mmd,
    "energy_distance": ts.energy_distance,
    "kernel_cauchy_schwarz": ts.kernel_cauchy_schwarz,
    "knn_kl": functools.partial(ts.knn_kl, num_neighbors=1),
    "knn_renyi": functools.partial(ts.knn_renyi, 0.5, num_neighbors=1),
    "frechet_distance": ts.frechet_distance,
    "sliced_wasserstein": functools.partial(ts.sliced_wasserstein, KEY),
    "projected_wasserstein": functools.partial(ts.projected_wasserstein, np.eye(2)),
    "permutation_test": functools.partial(ts.permutation_test, KEY, ts.squared_mmd),
    "kernel_permutation_test": functools.partial(ts.kernel_permutation_test, KEY),
}


def refused(function, argument, call):
    with pytest.raises(ValueError) as info:
        call()
    assert str(info.value).startswith(f"{function}: ") and argument in str(info.value), str(info.value)


@pytest.mark.parametrize("function", TWO)
def test_samples(function):
    call = TWO[function]
    for bad in NOT_SAMPLES:
        refused(function, "p_samples", lambda bad=bad: call(p_samples=bad, q_samples=X))
        refused(function, "q_samples", lambda bad=bad: call(p_samples=X, q_samples=bad))
    refused(function, "q_samples", lambda: call(p_samples=X, q_samples=np.zeros((4, 3))))


COUNTS = [0, -1, 1.0, 2.5, True, None, "3", np.nan, np.ones(2), jnp.ones(2)]
KERNELS = [None, "gaussian", 1.0, ts.gaussian_kernel, X]


@pytest.mark.parametrize(
    ("function", "argument", "call"),
    [
        *(
            (name, "chunk_size", lambda c, f=f: f(p_samples=X, q_samples=X, chunk_size=c))
            for name, f in TWO.items()
            if name not in ("frechet_distance", "sliced_wasserstein", "projected_wasserstein", "permutation_test")
        ),
        ("squared_ksd", "chunk_size", lambda c: ts.squared_ksd(p_samples=X, q_score=X, chunk_size=c)),
        (
            "stein_bootstrap_test",
            "chunk_size",
            lambda c: ts.stein_bootstrap_test(KEY, p_samples=X, q_score=X, chunk_size=c),
        ),
        (
            "stein_bootstrap_test",
            "num_bootstrap",
            lambda c: ts.stein_bootstrap_test(KEY, p_samples=X, q_score=X, num_bootstrap=c),
        ),
        (
            "permutation_test",
            "num_permutations",
            lambda c: TWO["permutation_test"](p_samples=X, q_samples=X, num_permutations=c),
        ),
        ("permutation_test", "batch_size", lambda c: TWO["permutation_test"](p_samples=X, q_samples=X, batch_size=c)),
        (
            "kernel_permutation_test",
            "num_permutations",
            lambda c: ts.kernel_permutation_test(KEY, p_samples=X, q_samples=X, num_permutations=c),
        ),
        ("knn_kl", "num_neighbors", lambda c: ts.knn_kl(p_samples=X, q_samples=X, num_neighbors=c)),
        ("knn_renyi", "num_neighbors", lambda c: ts.knn_renyi(0.5, p_samples=X, q_samples=X, num_neighbors=c)),
        ("nearest_neighbors", "num_neighbors", lambda c: ts.nearest_neighbors(X, num_neighbors=c)),
        ("nearest_neighbors", "chunk_size", lambda c: ts.nearest_neighbors(X, num_neighbors=1, chunk_size=c)),
        ("gram_product", "chunk_size", lambda c: ts.gram_product(X, x=X, kernel=GAUSSIAN, chunk_size=c)),
        ("median_bandwidth", "max_samples", lambda c: ts.median_bandwidth(X, max_samples=c)),
        (
            "sliced_wasserstein",
            "num_projections",
            lambda c: ts.sliced_wasserstein(KEY, p_samples=X, q_samples=X, num_projections=c),
        ),
        ("polynomial_kernel", "degree", ts.polynomial_kernel),
    ],
)
def test_counts(function, argument, call):
    for bad in COUNTS:
        if bad is not None or argument != "batch_size":  # None is all of them
            refused(function, argument, lambda bad=bad: call(bad))


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("squared_mmd", lambda k: ts.squared_mmd(p_samples=X, q_samples=X, kernel=k)),
        ("kernel_cauchy_schwarz", lambda k: ts.kernel_cauchy_schwarz(p_samples=X, q_samples=X, kernel=k)),
        ("kernel_permutation_test", lambda k: ts.kernel_permutation_test(KEY, p_samples=X, q_samples=X, kernel=k)),
        ("squared_ksd", lambda k: ts.squared_ksd(p_samples=X, q_score=X, kernel=k)),
        ("stein_bootstrap_test", lambda k: ts.stein_bootstrap_test(KEY, p_samples=X, q_score=X, kernel=k)),
        ("gram_matrix", lambda k: ts.gram_matrix(X, kernel=k)),
        ("gram_product", lambda k: ts.gram_product(X, x=X, kernel=k)),
    ],
)
def test_kernels(function, call):
    for bad in KERNELS if function.startswith("gram") else KERNELS[1:]:
        refused(function, "kernel", lambda bad=bad: call(bad))


@pytest.mark.parametrize(
    "call",
    [
        lambda k: ts.kernel_cauchy_schwarz(p_samples=X, q_samples=X, kernel=k),
        lambda k: ts.kernel_permutation_test(KEY, p_samples=X, q_samples=X, kernel=k, statistic="cauchy_schwarz"),
        lambda k: ts.squared_ksd(p_samples=X, q_score=X, kernel=k),
    ],
)
def test_kernels_that_do_not_fit(call):
    for kernel in (ts.distance_kernel(), ts.linear_kernel()):
        with pytest.raises(ValueError, match="kernel is of kind"):
            call(kernel)


@pytest.mark.parametrize(
    "make", [ts.gaussian_kernel, ts.laplace_kernel, ts.rational_quadratic_kernel, ts.inverse_multiquadric_kernel]
)
def test_bandwidths(make):
    for bad in (
        0.0,
        -1.0,
        np.nan,
        np.inf,
        None,
        "1",
        True,
        [],
        [1.0, -1.0],
        np.ones((2, 2)),
        1j,
        np.array([1, 2]),
        jnp.ones((1, 1)),
    ):
        refused(make.__name__, "bandwidth", lambda bad=bad: make(bad))
    for bad in ("exact", None, 1):
        refused(make.__name__, "distances", lambda bad=bad: make(1.0, distances=bad))
    assert make(2).bandwidth == make(2.0).bandwidth


REALS = [0.0, -1.0, np.nan, None, "1", True, np.ones(2), 1j]


def test_real_parameters():
    for bad in [*REALS, np.inf]:
        refused(
            "rational_quadratic_kernel", "exponent", lambda bad=bad: ts.rational_quadratic_kernel(1.0, exponent=bad)
        )
        refused(
            "inverse_multiquadric_kernel", "exponent", lambda bad=bad: ts.inverse_multiquadric_kernel(1.0, exponent=bad)
        )
        refused("polynomial_kernel", "scale", lambda bad=bad: ts.polynomial_kernel(2, scale=bad))
        refused("knn_renyi", "order", lambda bad=bad: ts.knn_renyi(bad, p_samples=X, q_samples=X, num_neighbors=1))
    refused("polynomial_kernel", "scale", lambda: ts.polynomial_kernel(2, scale=jnp.ones(2)))
    refused("knn_renyi", "order", lambda: ts.knn_renyi(2.0, p_samples=X, q_samples=X, num_neighbors=1))
    for bad in REALS[1:]:
        refused("polynomial_kernel", "offset", lambda bad=bad: ts.polynomial_kernel(2, offset=bad))
    for bad in [*REALS, 2.0]:
        refused("distance_kernel", "exponent", lambda bad=bad: ts.distance_kernel(bad))
        refused(
            "energy_distance", "exponent", lambda bad=bad: ts.energy_distance(p_samples=X, q_samples=X, exponent=bad)
        )


def test_choices():
    for bad in ("v", None, 1, ["biased"], X, jnp.ones(2)):
        for name in ("squared_mmd", "energy_distance", "kernel_cauchy_schwarz", "kernel_permutation_test"):
            refused(name, "estimator", lambda n=name, bad=bad: TWO[n](p_samples=X, q_samples=X, estimator=bad))
        refused("squared_ksd", "estimator", lambda bad=bad: ts.squared_ksd(p_samples=X, q_score=X, estimator=bad))
        refused(
            "kernel_permutation_test",
            "statistic",
            lambda bad=bad: ts.kernel_permutation_test(KEY, p_samples=X, q_samples=X, statistic=bad),
        )
    for bad in (0, 3, 1.5, None, "2", True, np.ones(2)):
        refused(
            "sliced_wasserstein",
            "order",
            lambda bad=bad: TWO["sliced_wasserstein"](p_samples=X, q_samples=X, order=bad),
        )
        refused(
            "projected_wasserstein",
            "order",
            lambda bad=bad: TWO["projected_wasserstein"](p_samples=X, q_samples=X, order=bad),
        )


def test_keys():
    for bad in (None, 0, jax.random.PRNGKey(0), jax.random.split(KEY, 2), np.zeros(2, np.uint32)):
        for name, call in {
            "permutation_test": lambda k: ts.permutation_test(k, ts.squared_mmd, p_samples=X, q_samples=X),
            "kernel_permutation_test": lambda k: ts.kernel_permutation_test(k, p_samples=X, q_samples=X),
            "sliced_wasserstein": lambda k: ts.sliced_wasserstein(k, p_samples=X, q_samples=X),
            "stein_bootstrap_test": lambda k: ts.stein_bootstrap_test(k, p_samples=X, q_score=X),
        }.items():
            refused(name, "key", lambda call=call, bad=bad: call(bad))


def test_too_few_rows():
    one = X[:1]
    for name in ("squared_mmd", "frechet_distance", "kernel_permutation_test"):
        refused(name, "p_samples", lambda n=name: TWO[n](p_samples=one, q_samples=X))
    refused("knn_kl", "p_samples", lambda: ts.knn_kl(p_samples=X, q_samples=X, num_neighbors=4))
    refused("knn_kl", "q_samples", lambda: ts.knn_kl(p_samples=X, q_samples=X[:2], num_neighbors=3))
    refused("squared_ksd", "p_samples", lambda: ts.squared_ksd(p_samples=one, q_score=one))
    refused("median_bandwidth", "p_samples", lambda: ts.median_bandwidth(one))
    refused("nearest_neighbors", "num_neighbors", lambda: ts.nearest_neighbors(X, num_neighbors=4))
    assert ts.energy_distance(p_samples=one, q_samples=one) == 0.0


def test_scores_and_statistics():
    for bad in [*NOT_SAMPLES, X[:3], lambda x: x[:2], lambda x: None]:
        refused("squared_ksd", "q_score", lambda bad=bad: ts.squared_ksd(p_samples=X, q_score=bad))
    for bad in (None, 1, lambda **k: jnp.zeros(2), lambda **k: 1, lambda **k: None):
        refused(
            "permutation_test", "statistic_fn", lambda bad=bad: ts.permutation_test(KEY, bad, p_samples=X, q_samples=X)
        )


def test_single_matrices():
    for bad in NOT_SAMPLES:
        refused("squared_ksd", "p_samples", lambda bad=bad: ts.squared_ksd(p_samples=bad, q_score=X))
        refused("gram_matrix", "x", lambda bad=bad: ts.gram_matrix(bad, X, kernel=GAUSSIAN))
        refused("gram_product", "x", lambda bad=bad: ts.gram_product(X, x=bad, y=X, kernel=GAUSSIAN))
        refused("gram_product", "vectors", lambda bad=bad: ts.gram_product(bad, x=np.zeros((5, 2)), kernel=GAUSSIAN))
        refused("nearest_neighbors", "x", lambda bad=bad: ts.nearest_neighbors(bad, X, num_neighbors=1))
        refused("median_bandwidth", "p_samples", lambda bad=bad: ts.median_bandwidth(bad))
        if not isinstance(bad, np.ndarray) or bad.ndim != 3:
            refused("center_gram", "gram", lambda bad=bad: ts.center_gram(bad))
        refused(
            "projected_wasserstein",
            "directions",
            lambda bad=bad: ts.projected_wasserstein(bad, p_samples=X, q_samples=X),
        )
    for bad in NOT_SAMPLES[1:]:
        refused("gram_matrix", "y", lambda bad=bad: ts.gram_matrix(X, bad, kernel=GAUSSIAN))
        refused("nearest_neighbors", "reference", lambda bad=bad: ts.nearest_neighbors(X, bad, num_neighbors=1))
        refused("median_bandwidth", "q_samples", lambda bad=bad: ts.median_bandwidth(X, bad))


def test_moments():
    good = {"p_mean": np.zeros(2), "p_covariance": np.eye(2), "q_mean": np.zeros(2), "q_covariance": np.eye(2)}
    for name in good:
        for bad in (None, "x", 1.0, np.zeros(0), np.zeros((2, 2, 2)), np.zeros((3, 3)), np.zeros(2, int), [[None]]):
            refused(
                "frechet_distance_from_moments",
                name,
                lambda n=name, b=bad: ts.frechet_distance_from_moments(**{**good, n: b}),
            )
