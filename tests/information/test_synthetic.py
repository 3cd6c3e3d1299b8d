"""The forty tasks: their mutual information by quadrature, by published numbers and by their own samples."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxdiv.information import TASKS, Task

PUBLISHED = {
    "normal-1x1": 0.4133, "normal_cdf-normal-1x1": 0.4133, "additive-0.1": 1.7094, "additive-0.75": 0.3333,
    "bimodal-normal-1x1": 0.4133, "wiggly-normal-1x1": 0.4133, "half_cube-normal-1x1": 0.4133,
    "student-1x1-df1": 0.2242, "asinh-student-1x1-df1": 0.2242, "swissroll-normal-1x1": 0.4133,
    "dense-2x2": 0.2939, "dense-3x3": 0.4133, "dense-5x5": 0.5928, "dense-25x25": 1.2922, "dense-50x50": 1.6243,
    **{f"sparse-{d}x{d}": 1.0217 for d in (2, 3, 5, 25)},
    "student-2x2-df1": 0.4319, "student-2x2-df2": 0.1931, "student-3x3-df2": 0.2909, "student-3x3-df3": 0.1787,
    "student-5x5-df2": 0.4482, "student-5x5-df3": 0.2985,
    **{f"{f}-sparse-{d}x{d}": 1.0217
       for f in ("normal_cdf", "half_cube", "spiral", "spiral-normal_cdf") for d in (3, 5, 25)},
    "asinh-student-2x2-df1": 0.4319, "asinh-student-3x3-df2": 0.2909, "asinh-student-5x5-df2": 0.4482,
}  # fmt: skip
STUDENTS = [name for name in PUBLISHED if name.startswith("student")]
NORMALS = [name for name in PUBLISHED if name.startswith(("normal-", "dense", "sparse"))]


def draw(name, num=4000, seed=0):
    """Float64 numpy samples of a task; the same seed gives a mapped task its base task's points."""
    with jax.enable_x64(True):
        x, y = TASKS[name].sample(jax.random.key(seed), num)
        return np.asarray(x), np.asarray(y)


def parse(name):
    """Dimension and degrees of freedom of a Student task."""
    _, dims, df = name.split("-")
    return int(dims.split("x")[0]), int(df.removeprefix("df"))


def test_there_are_forty_and_they_say_what_the_published_table_says():
    assert len(TASKS) == 40 and list(TASKS) == list(PUBLISHED)
    for name, value in PUBLISHED.items():
        assert TASKS[name].name == name
        assert TASKS[name].mutual_information == pytest.approx(value, abs=5.1e-5), name


def spherical_entropy(dim, df):
    """Entropy of the Student-t with identity scale by quadrature over the radius."""
    log_area = np.log(2) + dim / 2 * np.log(np.pi) - special.gammaln(dim / 2)
    law = stats.multivariate_t(loc=np.zeros(dim), df=df)

    def integrand(t):  # radius exp(t)
        log_density = law.logpdf(np.eye(dim)[0] * np.exp(t))
        return -np.exp(log_area + dim * t + log_density) * log_density

    return integrate.quad(integrand, -40.0, 40.0, limit=500, epsabs=1e-11, points=[-2.0, 0.0, 2.0])[0]


@pytest.mark.parametrize("name", STUDENTS)
def test_student_information_is_that_of_quadrature(name):
    dim, df = parse(name)
    expected = 2 * spherical_entropy(dim, df) - spherical_entropy(2 * dim, df)
    assert TASKS[name].mutual_information == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("epsilon", [0.1, 0.75])
def test_additive_information_is_that_of_quadrature(epsilon):
    def entropy_density(y):
        density = max(0.0, min(1.0, y + epsilon) - max(0.0, y - epsilon)) / (2 * epsilon)
        return -special.xlogy(density, density)

    corners = sorted({-epsilon, epsilon, 1 - epsilon, 1 + epsilon})
    entropy = sum(integrate.quad(entropy_density, a, b)[0] for a, b in zip(corners[:-1], corners[1:], strict=True))
    assert TASKS[f"additive-{epsilon}"].mutual_information == pytest.approx(entropy - np.log(2 * epsilon), abs=1e-10)


def test_normal_information_is_that_of_quadrature():
    law = stats.multivariate_normal(cov=[[1.0, 0.75], [0.75, 1.0]])

    nodes, weights = np.polynomial.legendre.leggauss(120)
    grid = np.stack(np.meshgrid(8 * nodes, 8 * nodes, indexing="ij"), axis=-1)
    log_ratio = law.logpdf(grid) - stats.norm.logpdf(grid).sum(-1)
    value = 64 * weights @ (law.pdf(grid) * log_ratio) @ weights
    assert TASKS["normal-1x1"].mutual_information == pytest.approx(value, abs=1e-10)


def log_ratio(joint_law, x_law, y_law, x, y):
    return joint_law.logpdf(np.concatenate([x, y], axis=1)) - x_law.logpdf(x) - y_law.logpdf(y)


@pytest.mark.parametrize("name", [*STUDENTS, *NORMALS])
def test_samples_have_the_information_that_the_task_claims(name):
    """The mean of log p(x, y) / (p(x) p(y)) over samples, with the law written here."""
    x, y = draw(name)
    dim = x.shape[1]
    scale = np.eye(2 * dim)
    if name.startswith("dense"):
        scale = np.full((2 * dim, 2 * dim), 0.5) + 0.5 * np.eye(2 * dim)
    elif not name.startswith("student"):
        rho, pairs = (0.75, 1) if name == "normal-1x1" else (0.8, 2)
        for i in range(pairs):
            scale[i, dim + i] = scale[dim + i, i] = rho
    if name.startswith("student"):
        df = parse(name)[1]
        laws = [stats.multivariate_t(loc=np.zeros(len(s)), shape=s, df=df) for s in (scale, scale[:dim, :dim])]
    else:
        laws = [stats.multivariate_normal(cov=s) for s in (scale, scale[:dim, :dim])]
    terms = log_ratio(laws[0], laws[1], laws[1], x, y)
    error = terms.std() / np.sqrt(len(terms))
    assert abs(terms.mean() - TASKS[name].mutual_information) < 4 * error
    assert error < 0.03  # so that a wrong law shows


@pytest.mark.parametrize("name", ["dense-5x5", "sparse-5x5"])
def test_covariances(name):
    covariance = np.cov(np.concatenate(draw(name, 40000), axis=1).T)
    expected = np.full((10, 10), 0.5) + 0.5 * np.eye(10) if name == "dense-5x5" else np.eye(10)
    if name == "sparse-5x5":
        for i in (0, 1):
            expected[i, 5 + i] = expected[5 + i, i] = 0.8
    np.testing.assert_allclose(covariance, expected, atol=0.03)


@pytest.mark.parametrize("name", STUDENTS)
def test_student_radius_follows_its_f_law(name):
    dim, df = parse(name)
    radius = (np.concatenate(draw(name), axis=1) ** 2).sum(1) / (2 * dim)
    assert stats.kstest(radius, stats.f(2 * dim, df).cdf).pvalue > 1e-3


def test_additive_samples_are_uniform_around_x():
    for epsilon in (0.1, 0.75):
        x, y = draw(f"additive-{epsilon}")
        assert stats.kstest(x[:, 0], "uniform").pvalue > 1e-3
        assert stats.kstest((y - x)[:, 0], stats.uniform(-epsilon, 2 * epsilon).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(x[:, 0], (y - x)[:, 0])[0, 1]) < 0.06


def increasing(before, after):
    order = np.argsort(before)
    return (np.diff(after[order]) > 0).all()


@pytest.mark.parametrize("name", ["normal_cdf", "bimodal", "wiggly", "half_cube"])
def test_maps_of_numbers_increase_strictly(name):
    for base, mapped in zip(draw("normal-1x1"), draw(f"{name}-normal-1x1"), strict=True):
        assert increasing(base[:, 0], mapped[:, 0])


@pytest.mark.parametrize(
    ("name", "base", "inverse"),
    [
        ("normal_cdf-sparse-25x25", "sparse-25x25", stats.norm.ppf),
        ("half_cube-sparse-5x5", "sparse-5x5", lambda z: np.sign(z) * np.abs(z) ** (2 / 3)),
        ("half_cube-normal-1x1", "normal-1x1", lambda z: np.sign(z) * np.abs(z) ** (2 / 3)),
        ("asinh-student-3x3-df2", "student-3x3-df2", np.sinh),
        ("asinh-student-1x1-df1", "student-1x1-df1", np.sinh),
    ],
)
def test_maps_of_columns_are_undone_by_their_inverse(name, base, inverse):
    for before, after in zip(draw(base), draw(name), strict=True):
        np.testing.assert_allclose(inverse(after), before, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dim", [3, 5, 25])
@pytest.mark.parametrize("law", ["sparse", "normal_cdf-sparse"])
def test_spirals_keep_norms_and_are_undone_by_the_opposite_turn(law, dim):
    for first, before, after in zip((0, 1), draw(f"{law}-{dim}x{dim}"), draw(f"spiral-{law}-{dim}x{dim}"), strict=True):
        squared = (after**2).sum(1)
        np.testing.assert_allclose(squared, (before**2).sum(1), rtol=1e-12)
        turned = after[:, first] + 1j * after[:, first + 1]
        back = turned * np.exp(-1j * squared / dim)
        np.testing.assert_allclose(back, before[:, first] + 1j * before[:, first + 1], atol=1e-12)
        others = [i for i in range(dim) if i not in (first, first + 1)]
        np.testing.assert_array_equal(after[:, others], before[:, others])
        assert np.abs(turned - before[:, first] - 1j * before[:, first + 1]).mean() > 0.1


def test_the_swiss_roll_is_unrolled_by_its_radius():
    (x, y), (roll, quantile) = draw("normal-1x1"), draw("swissroll-normal-1x1")
    assert roll.shape == (4000, 2) and TASKS["swissroll-normal-1x1"].dims == (2, 1)
    angle = 21 * np.linalg.norm(roll, axis=1)
    np.testing.assert_allclose((angle / (1.5 * np.pi) - 1) / 2, stats.norm.cdf(x[:, 0]), atol=1e-12)
    np.testing.assert_allclose(np.arctan2(roll[:, 1], roll[:, 0]), np.angle(np.exp(1j * angle)), atol=1e-10)
    np.testing.assert_allclose(quantile, stats.norm.cdf(y), atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-6), ("float64", 1e-12)])
def test_bimodal_quantiles_solve_for_the_mixture(dtype, tolerance):
    """Also in the tails, where 1 minus the distribution function has no digits left in float32."""
    with jax.enable_x64(dtype == "float64"):
        base = TASKS["normal-1x1"].sample(jax.random.key(3), 4000)
        mapped = TASKS["bimodal-normal-1x1"].sample(jax.random.key(3), 4000)
    mixtures = ((0.0, 5.0, 0.3), (-1.0, 3.0, 0.5))
    for z, t, (low, high, weight) in zip(base, mapped, mixtures, strict=True):
        assert t.dtype == dtype
        z, t = np.asarray(z, np.float64), np.asarray(t, np.float64)
        for sign in (1, -1):  # either tail, relative to itself where it is the smaller
            tail = weight * stats.norm.cdf(sign * (t - low)) + (1 - weight) * stats.norm.cdf(sign * (t - high))
            small = sign * z < 0
            np.testing.assert_allclose(tail[small], stats.norm.cdf(sign * z[small]), rtol=tolerance)


def test_wiggly_maps_follow_slopes_that_are_positive_everywhere():
    z = np.linspace(-8, 8, 100001)
    slope_x = 1 + 0.4 * np.cos(z) + 0.34 * np.cos(1.7 * z + 1) + 0.099 * np.cos(3.3 * z - 2.5)
    slope_y = 1 - 0.16 * np.cos(0.4 * z) + 0.221 * np.cos(1.3 * z + 3.5) + 0.086 * np.cos(4.3 * z - 2.5)
    assert slope_x.min() > 0.1 and slope_y.min() > 0.1
    (x, y), (wiggly_x, wiggly_y) = draw("normal-1x1"), draw("wiggly-normal-1x1")
    for before, after, slope in ((x, wiggly_x, slope_x), (y, wiggly_y, slope_y)):
        order = np.argsort(before[:, 0])[100:-100]
        rise = np.diff(after[order, 0])
        integral = integrate.cumulative_simpson(slope, x=z, initial=0)
        np.testing.assert_allclose(rise, np.diff(np.interp(before[order, 0], z, integral)), atol=1e-6)


def test_every_task_has_the_shapes_it_says():
    keys = jax.random.split(jax.random.key(1), 3)
    for task in TASKS.values():
        for array, dim in zip(
            jax.eval_shape(jax.vmap(lambda k, t=task: t.sample(k, 20)), keys), task.dims, strict=True
        ):
            assert array.shape == (3, 20, dim) and array.dtype == jnp.float32


SOME = ("bimodal-normal-1x1", "spiral-normal_cdf-sparse-3x3", "asinh-student-2x2-df1", "additive-0.1", "dense-50x50")


def test_samples_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def sample(keys):
        return {name: jax.vmap(lambda key, name=name: TASKS[name].sample(key, 20))(keys) for name in SOME}

    for name, (x, y) in sample(keys).items():
        assert bool(jnp.isfinite(x).all() & jnp.isfinite(y).all() & (x[0] != x[1]).any())
        alone = TASKS[name].sample(keys[1], 20)
        np.testing.assert_allclose(alone[0], x[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(alone[1], y[1], rtol=1e-4, atol=1e-5)


def test_bad_arguments_are_named():
    task = next(iter(TASKS.values()))
    with pytest.raises(ValueError, match="^Task.sample: key is 0; expected a typed key"):
        task.sample(0, 10)
    with pytest.raises(ValueError, match="^Task.sample: key has shape"):
        task.sample(jax.random.split(jax.random.key(0)), 10)
    for bad in (0, 2.0, True):
        with pytest.raises(ValueError, match="^Task.sample: num_samples"):
            task.sample(jax.random.key(0), bad)


def test_tasks_are_frozen_records():
    with pytest.raises(AttributeError):
        TASKS["normal-1x1"].name = "other"
    assert list(inspect.signature(Task).parameters) == ["name", "sample_fn", "mutual_information", "dims"]
