import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.optimizers import effective_rank, nuclear_norm, orthogonalize, singular_value_report, stable_rank
from tests.optimizers.oracles import SPECTRA, matrix

report_of = jax.jit(singular_value_report)  # operation by operation it is a dozen programs for every shape


def numpy_report(x):
    u, sigma, vt = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
    p = sigma / sigma.sum()
    polar = u @ vt
    return (
        sigma.min(),
        np.percentile(sigma, 1),
        np.median(sigma),
        sigma.max(),
        np.linalg.norm(x - polar) / np.linalg.norm(polar),
        np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))),
        np.linalg.norm(x) ** 2 / np.linalg.norm(x, 2) ** 2,
    )


@pytest.mark.parametrize("spectrum", sorted(SPECTRA))
def test_the_report_is_that_of_numpy(spectrum):
    for shape in ((20, 20), (12, 30), (30, 12), (1, 4)):
        x = matrix(shape, spectrum, seed=1)[0]
        for got, exact in zip(report_of(x.astype(np.float32)), numpy_report(x), strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-4, atol=2e-6)
        with jax.enable_x64(True):
            for got, exact in zip(report_of(x), numpy_report(x), strict=True):
                np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-12)


def test_reports_come_in_batches_and_under_transformations():
    x = np.stack([matrix((6, 9), seed=s)[0] for s in range(4)]).astype(np.float32).reshape(2, 2, 6, 9)
    report = report_of(x)
    assert all(value.shape == (2, 2) and value.dtype == jnp.float32 for value in report)
    mapped = jax.jit(jax.vmap(jax.vmap(singular_value_report)))(x)
    for i in np.ndindex(2, 2):
        for name, value in report_of(x[i])._asdict().items():
            np.testing.assert_allclose(getattr(report, name)[i], value, rtol=1e-5)
            np.testing.assert_allclose(getattr(mapped, name)[i], value, rtol=1e-5)


def test_an_update_of_muon_is_reported_as_the_schedule_leaves_it():
    report = singular_value_report(orthogonalize(matrix((64, 256))[0].astype(np.float32), dtype="float32"))
    assert 0.975 < report.first_percentile <= report.median <= report.largest < 1.035
    assert report.polar_error < 0.02 and report.effective_rank > 63.9


def test_ranks_of_known_matrices():
    for k in range(1, 5):
        x = jnp.diag(jnp.array([3.0] * k + [0.0] * (4 - k)))
        np.testing.assert_allclose(effective_rank(x), k, rtol=1e-5)
        np.testing.assert_allclose(stable_rank(x), k, rtol=1e-6)
    halves = jnp.diag(jnp.array([2.0, 1.0, 1.0]))  # p = (1/2, 1/4, 1/4): entropy 1.5 bits
    np.testing.assert_allclose(effective_rank(halves), 2**1.5, rtol=1e-6)
    np.testing.assert_allclose(stable_rank(halves), 1.5, rtol=1e-6)


def test_ranks_do_not_depend_on_scale_and_zeros_have_none():
    x = jnp.asarray(matrix((5, 8), "power")[0], jnp.float32)
    for rank in (effective_rank, stable_rank):
        np.testing.assert_allclose(rank(1e-12 * x), rank(x), rtol=1e-5)
        np.testing.assert_allclose(rank(1e12 * x), rank(x), rtol=1e-5)
        np.testing.assert_array_equal(rank(jnp.zeros((2, 3, 3))), np.zeros(2))
        assert rank(x.astype(jnp.bfloat16)).dtype == jnp.float32
        assert 1.0 <= rank(x) <= 5.0


def test_what_is_not_finite_has_no_rank_and_not_one_of_0():
    for value in (jnp.nan, jnp.inf):
        x = jnp.stack([jnp.eye(3).at[0, 1].set(value), jnp.eye(3)])
        for rank in (effective_rank(x), stable_rank(x), report_of(x).effective_rank, report_of(x).stable_rank):
            np.testing.assert_allclose(rank, [np.nan, 3.0], rtol=1e-6)


def test_the_gradients_of_ranks_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x, direction = matrix((4, 6), seed=2)[0], matrix((4, 6), seed=3)[0]
        for rank in (effective_rank, stable_rank):
            slope = np.sum(jax.grad(rank)(x) * direction)
            numeric = (rank(x + 1e-6 * direction) - rank(x - 1e-6 * direction)) / 2e-6
            np.testing.assert_allclose(slope, numeric, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4), (1, 3)], ids=str)
def test_the_nuclear_norm_and_its_gradient(shape):
    with jax.enable_x64(True):
        x, polar = matrix(shape, seed=4)
        np.testing.assert_allclose(nuclear_norm(x), np.linalg.norm(x, "nuc"), rtol=1e-12)
        gradient = jax.grad(nuclear_norm)(x)
        np.testing.assert_allclose(gradient, polar, atol=1e-11)
        direction = matrix(shape, seed=5)[0]
        numeric = (nuclear_norm(x + 1e-6 * direction) - nuclear_norm(x - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-7)
        _, tangent = jax.jvp(nuclear_norm, (x,), (direction,))
        np.testing.assert_allclose(tangent, numeric, rtol=1e-7)


def test_the_nuclear_norm_without_a_decomposition():
    with jax.enable_x64(True):
        x, polar = matrix((6, 9), seed=6)
        value, gradient = jax.value_and_grad(lambda x: nuclear_norm(x, schedule="polar_express_8"))(x)
        np.testing.assert_allclose(value, np.linalg.norm(x, "nuc"), rtol=1e-9)
        np.testing.assert_allclose(gradient, polar, atol=1e-8)
        rough = nuclear_norm(x, schedule="you")
        assert 0.9 < rough / value < 1.15 and abs(rough / value - 1.0) > 1e-4


def test_where_the_rank_is_deficient_the_subgradient_is_the_smallest():
    with jax.enable_x64(True):
        u, _ = np.linalg.qr(matrix((5, 5), seed=7)[0])
        v, _ = np.linalg.qr(matrix((7, 7), seed=8)[0])
        x = (u[:, :2] * [3.0, 0.5]) @ v[:, :2].T
        gradient = np.asarray(jax.grad(nuclear_norm)(x))
        np.testing.assert_allclose(gradient, u[:, :2] @ v[:, :2].T, atol=1e-10)
        # A subgradient: |g|_2 <= 1 and <g, x> = |x|_*; and no other has a smaller norm.
        assert np.linalg.norm(gradient, 2) <= 1.0 + 1e-12
        np.testing.assert_allclose(np.sum(gradient * x), 3.5, rtol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(gradient) ** 2, 2.0, rtol=1e-12)
        y = matrix((5, 7), seed=9)[0]
        assert nuclear_norm(y) >= nuclear_norm(x) + np.sum(gradient * (y - x))
    for schedule in (None, "you"):
        gradient = jax.grad(lambda x, s=schedule: nuclear_norm(x, schedule=s))(jnp.zeros((3, 4)))
        np.testing.assert_array_equal(gradient, 0.0)


def test_nuclear_norms_come_in_batches_and_in_float32():
    x = np.stack([matrix((4, 6), seed=s)[0] for s in range(3)])
    exact = [np.linalg.norm(m, "nuc") for m in x]
    for schedule in (None, "polar_express_8"):
        fn = jax.jit(lambda x, s=schedule: nuclear_norm(x, schedule=s))
        np.testing.assert_allclose(fn(x.astype(np.float32)), exact, rtol=1e-4)
        np.testing.assert_allclose(jax.vmap(fn)(x.astype(np.float32)), exact, rtol=1e-4)
        half = fn(jnp.asarray(x, jnp.bfloat16))
        assert half.shape == (3,) and half.dtype == jnp.float32
        np.testing.assert_allclose(half, exact, rtol=1e-2)


@pytest.mark.parametrize("function", [singular_value_report, effective_rank, stable_rank, nuclear_norm])
@pytest.mark.parametrize("value", [jnp.ones(3), jnp.ones((0, 3)), jnp.ones((2, 2), jnp.int32), "text", None], ids=str)
def test_what_is_no_matrix_is_refused(function, value):
    with pytest.raises(ValueError, match=f"^{function.__name__}: x "):
        function(value)


def test_an_unknown_schedule_is_refused():
    for wrong in ("svd", 3, ("you",)):
        with pytest.raises(ValueError, match="^nuclear_norm: schedule "):
            nuclear_norm(jnp.ones((2, 2)), schedule=wrong)
