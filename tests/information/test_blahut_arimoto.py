"""Alternating minimisation against closed-form curves, enumeration of all clusterings and random competitors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import entr, rel_entr

from jaxdiv.information import channel_capacity, information_bottleneck_curve, rate_distortion_curve

pytestmark = pytest.mark.usefixtures("x64")


def h(p):
    return entr(p) + entr(1 - np.asarray(p))


def inverse_h(value):
    return brentq(lambda a: h(a) - max(value, 0.0), 0.0, 0.5, xtol=1e-15)


def informations(p_xy, encoder):
    """I(X; T), I(T; Y), H(T) in numpy."""
    p_x = p_xy.sum(1)
    p_xt, p_ty = p_x[:, None] * encoder, encoder.T @ p_xy
    p_t = p_xt.sum(0)
    i_x = rel_entr(p_xt, np.outer(p_x, p_t)).sum()
    return i_x, rel_entr(p_ty, np.outer(p_t, p_xy.sum(0))).sum(), entr(p_t).sum()


def random_joint(seed, shape):
    return np.random.default_rng(seed).dirichlet(np.full(np.prod(shape), 0.5)).reshape(shape)


def test_binary_symmetric_channel_lies_on_mrs_gerbers_curve():
    """I_Y = log 2 - h(h^{-1}(log 2 - I_X) * p), a * b = a (1 - b) + (1 - a) b."""
    p = 0.1
    joint = np.array([[1 - p, p], [p, 1 - p]]) / 2
    betas = np.array([1000.0, 30.0, 8.0, 4.0, 2.5, 1.9, 1.4])  # critical: 1 / (1 - 2p)^2 = 1.5625
    curve = jax.jit(lambda b: information_bottleneck_curve(joint, tishby_betas=b, num_steps=1000))(betas)
    assert np.all(np.asarray(curve.change) < 1e-10)
    for beta, i_x, i_y in zip(betas, curve.information_x, curve.information_y, strict=True):
        a = inverse_h(np.log(2) - float(i_x))
        star = a * (1 - p) + (1 - a) * p
        np.testing.assert_allclose(i_y, np.log(2) - h(star), atol=1e-12)
        if 2.0 < beta < 10.0:  # stationary in a: h'(a) = beta (1 - 2p) h'(a * p)
            slope = beta * (1 - 2 * p) * np.log((1 - star) / star)
            np.testing.assert_allclose(np.log((1 - a) / a), slope, rtol=1e-4)
    assert float(curve.information_x[-1]) < 1e-12 < 0.05 < float(curve.information_x[-2])


def test_deterministic_labels_give_the_corner():
    """I_Y = min(I_X, H(Y)): the corner for beta above 1, the origin below, whatever the form."""
    p_x = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    joint = p_x[:, None] * np.eye(3)[[0, 1, 1, 2, 0]]
    entropy = entr(joint.sum(0)).sum()
    for form in ("soft", "deterministic"):
        curve = information_bottleneck_curve(
            joint, tishby_betas=[50.0, 5.0, 1.5, 0.9, 0.5], form=form, num_steps=400 if form == "soft" else 20
        )
        np.testing.assert_allclose(curve.information_y, np.minimum(curve.information_x, entropy), atol=1e-9)
        np.testing.assert_allclose(curve.information_x[:3], entropy, atol=1e-9)
        np.testing.assert_allclose(curve.information_x[3:], 0.0, atol=1e-9)
        if form == "deterministic":
            np.testing.assert_allclose(curve.entropy, curve.information_x, atol=1e-12)


def test_what_it_reports_and_that_nothing_random_is_better():
    joint = random_joint(0, (5, 4))
    betas = np.array([100.0, 10.0, 5.0, 3.0, 2.0])
    curve = information_bottleneck_curve(joint, tishby_betas=betas, num_steps=2000)
    found = [informations(joint, np.asarray(e)) for e in curve.encoder]
    np.testing.assert_allclose(
        np.stack([curve.information_x, curve.information_y, curve.entropy], 1), found, atol=1e-12
    )
    np.testing.assert_allclose(np.sum(curve.encoder, axis=2), 1.0, atol=1e-12)
    rng = np.random.default_rng(1)
    for beta, (i_x, i_y, _), encoder in zip(betas, found, curve.encoder, strict=True):
        for _ in range(200):
            other = rng.dirichlet(np.full(5, 10 ** rng.uniform(-2, 1)), size=5)
            other = other if rng.random() < 0.5 else 0.99 * np.asarray(encoder) + 0.01 * other
            other_x, other_y, _ = informations(joint, other)
            assert other_x - beta * other_y >= i_x - beta * i_y - 1e-9


def test_large_beta_keeps_all_and_the_data_processing_inequality_holds():
    joint = random_joint(2, (6, 3))
    total = rel_entr(joint, np.outer(joint.sum(1), joint.sum(0))).sum()
    curve = information_bottleneck_curve(3.0 * joint, tishby_betas=np.geomspace(1e5, 0.5, 12), num_steps=300)
    np.testing.assert_allclose(curve.information_y[0], total, rtol=1e-4)
    assert np.all(np.asarray(curve.information_y) <= np.minimum(curve.information_x, total) + 1e-12)
    assert np.all(np.diff(curve.information_x) <= 1e-9) and float(curve.information_x[-1]) < 1e-9


def partitions(n):
    """All maps of n points onto clusters, each clustering once."""
    for labels in itertools.product(range(n), repeat=n):
        if all(label <= max(labels[:i], default=-1) + 1 for i, label in enumerate(labels)):
            yield np.array(labels)


def test_the_deterministic_form_against_all_clusterings():
    """Five points in three groups of equal p(y | x): the best of the 52 clusterings at every beta."""
    rng = np.random.default_rng(3)
    groups = np.array([[0.9, 0.08, 0.02], [0.05, 0.9, 0.05], [0.02, 0.08, 0.9]])
    joint = rng.dirichlet(np.full(5, 5.0))[:, None] * groups[[0, 0, 1, 2, 2]]
    betas = np.array([100.0, 20.0, 6.0, 3.0, 1.8, 1.2])
    curve = information_bottleneck_curve(joint, tishby_betas=betas, form="deterministic", num_steps=30)
    assert set(np.unique(curve.encoder)) == {0.0, 1.0} and np.all(np.asarray(curve.change) == 0.0)
    np.testing.assert_allclose(curve.information_x, curve.entropy, atol=1e-12)
    scores = [informations(joint, np.eye(5)[labels]) for labels in partitions(5)]
    assert len(scores) == 52
    best = [min(s[2] - beta * s[1] for s in scores) for beta in betas]
    np.testing.assert_allclose(curve.entropy - betas * curve.information_y, best, atol=1e-12)
    assert len(set(np.round(np.asarray(curve.entropy), 9))) >= 2  # the betas do not all want the same


def test_the_deterministic_form_stops_where_no_merge_gains():
    betas = np.array([40.0, 8.0, 3.0])
    joints = np.stack([random_joint(s, (5, 3)) for s in range(10, 16)])
    curves = jax.vmap(lambda j: information_bottleneck_curve(j, tishby_betas=betas, form="deterministic"))(joints)
    gaps = []
    for joint, encoders in zip(joints, np.asarray(curves.encoder), strict=True):
        scores = [informations(joint, np.eye(5)[labels]) for labels in partitions(5)]
        for beta, encoder in zip(betas, encoders, strict=True):
            _, i_y, entropy = informations(joint, encoder)
            for a, b in itertools.combinations(range(5), 2):
                merged = encoder.copy()
                merged[:, a] += merged[:, b]
                merged[:, b] = 0.0
                _, merged_y, merged_entropy = informations(joint, merged)
                assert merged_entropy - beta * merged_y >= entropy - beta * i_y - 1e-12
            gaps.append(entropy - beta * i_y - min(s[2] - beta * s[1] for s in scores))
    assert min(gaps) >= -1e-12 and np.mean(np.array(gaps) < 1e-9) > 0.5  # most are the best of all clusterings


@pytest.mark.parametrize("form", ["soft", "deterministic"])
def test_the_order_of_the_betas_is_only_that_of_the_result(form):
    """Upwards from the smallest beta the trivial encoder was never left: all points of an ascending grid were 0."""
    joint = random_joint(4, (4, 3))
    down = jax.jit(lambda b: information_bottleneck_curve(joint, tishby_betas=b, form=form))(
        np.array([40.0, 8.0, 1.5, 0.5])
    )
    mixed = jax.jit(lambda b: information_bottleneck_curve(joint, tishby_betas=b, form=form))(
        np.array([1.5, 40.0, 0.5, 8.0])
    )
    assert float(down.information_y[0]) > 0.01
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[np.array([1, 3, 0, 2])]), down, mixed)


def test_a_start_of_fewer_clusters_and_rows_of_zeros():
    joint = np.concatenate([random_joint(4, (4, 3)), np.zeros((1, 3))])
    start = np.random.default_rng(5).dirichlet(np.ones(2), size=5)
    curve = information_bottleneck_curve(joint, tishby_betas=[1.0, 3.0, 50.0], initial=start, num_steps=500)
    assert curve.encoder.shape == (3, 5, 2)
    assert np.all(np.isfinite(curve.encoder)) and np.all(np.asarray(curve.information_x) <= np.log(2))
    assert float(curve.information_y[-1]) > 0.0
    flat = information_bottleneck_curve(joint, tishby_betas=[50.0], initial=np.full((5, 2), 0.5))
    np.testing.assert_allclose(flat.information_x, 0.0, atol=1e-15)


def test_independent_constant_and_broken_data():
    independent = np.outer([0.2, 0.3, 0.5], [0.6, 0.4])
    run = jax.jit(information_bottleneck_curve)
    out = run(independent, tishby_betas=np.array([100.0, 2.0]))
    np.testing.assert_allclose(out.information_x, 0.0, atol=1e-12)
    constant = run(np.ones((1, 1)), tishby_betas=np.array([2.0]))
    assert float(constant.information_x[0]) == float(constant.information_y[0]) == 0.0
    broken = run(np.array([[np.nan, 0.5], [0.2, 0.3]]), tishby_betas=np.array([2.0]))
    assert all(np.isnan(value[0]) for value in broken[1:4])
    assert np.isnan(channel_capacity([[np.nan, 1.0], [0.5, 0.5]], num_steps=2).lower)
    rare = run(jnp.array([[1e-25, 0.0], [0.0, 1.0]], jnp.float32), tishby_betas=jnp.float32([2.0]))
    assert 0.0 <= rare.information_y[0] < 1e-6
    low = run(jnp.eye(2, dtype=jnp.bfloat16), tishby_betas=jnp.float32([2.0]))
    assert {leaf.dtype for leaf in low} == {jnp.dtype("float32")}


def test_float32_under_vmap_agrees_with_float64():
    joints = np.stack([random_joint(s, (4, 3)) for s in range(3)])

    def curve(joint, betas):
        return information_bottleneck_curve(joint, tishby_betas=betas, num_steps=100)[1:3]

    betas = np.array([50.0, 8.0])
    wide = jax.vmap(curve, (0, None))(joints, betas)
    narrow = jax.vmap(curve, (0, None))(jnp.float32(joints), jnp.float32(betas))
    np.testing.assert_allclose(narrow, wide, atol=2e-4)


def test_capacities_in_closed_form():
    p = 0.2
    capacity = jax.jit(channel_capacity, static_argnames="num_steps")
    z = np.log1p((1 - p) * p ** (p / (1 - p)))
    for rows, expected in [
        ([[1 - p, p], [p, 1 - p]], np.log(2) - h(p)),
        ([[1 - p, p, 0.0], [0.0, p, 1 - p]], (1 - p) * np.log(2)),
        ([[1.0, 0.0], [p, 1 - p]], z),
        (np.eye(4), np.log(4)),
        (np.full((3, 2), 0.5), 0.0),
    ]:
        found = capacity(np.array(rows), num_steps=500)
        np.testing.assert_allclose([found.lower, found.upper], expected, atol=1e-9)
        np.testing.assert_allclose(np.sum(found.inputs), 1.0, rtol=1e-12)
    rows = np.random.default_rng(6).dirichlet(np.ones(3), size=5)
    found = capacity(rows, num_steps=5)
    for inputs in np.random.default_rng(7).dirichlet(np.ones(5), size=500):
        joint = inputs[:, None] * rows
        assert rel_entr(joint, np.outer(inputs, joint.sum(0))).sum() <= float(found.upper)
    assert float(found.lower) <= float(found.upper)
    assert capacity(jnp.eye(2, dtype=jnp.float16)).lower.dtype == jnp.float32


def test_rate_distortion_of_binary_and_uniform_sources():
    """R(D) = h(p) - h(D) for Hamming; log n - h(D) - D log(n - 1) for n equal symbols."""
    slopes = np.array([3.0, 2.0, 4.0])
    run = jax.jit(rate_distortion_curve)
    binary = run(np.array([0.7, 0.3]), 1 - np.eye(2), slopes=slopes)
    np.testing.assert_allclose(binary.distortion, 1 / (1 + np.exp(slopes)), atol=1e-9)
    np.testing.assert_allclose(binary.rate, h(0.3) - h(binary.distortion), atol=1e-9)
    uniform = run(np.full(4, 5.0), 1 - np.eye(4), slopes=slopes)
    d = np.asarray(uniform.distortion)
    np.testing.assert_allclose(uniform.rate, np.log(4) - h(d) - d * np.log(3), atol=1e-9)
    free = run(np.array([0.7, 0.3]), 1 - np.eye(2), slopes=np.zeros(3))
    np.testing.assert_allclose(free.rate, 0.0, atol=1e-12)


BAD = [
    (information_bottleneck_curve, (np.ones(3),), {"tishby_betas": [1.0]}, r"p_xy has shape \(3,\)"),
    (information_bottleneck_curve, (np.ones((0, 3)),), {"tishby_betas": [1.0]}, "p_xy has shape"),
    (information_bottleneck_curve, (np.eye(2, dtype=int),), {"tishby_betas": [1.0]}, "p_xy has dtype"),
    (information_bottleneck_curve, (np.eye(2),), {"tishby_betas": 1.0}, r"tishby_betas has shape \(\)"),
    (information_bottleneck_curve, (np.eye(2),), {"tishby_betas": [1]}, "tishby_betas has dtype"),
    (information_bottleneck_curve, (np.eye(2),), {"tishby_betas": [1.0], "form": "hard"}, "form is 'hard'"),
    (information_bottleneck_curve, (np.eye(2),), {"tishby_betas": [1.0], "num_steps": 0}, "num_steps is 0"),
    (information_bottleneck_curve, (np.eye(2),), {"tishby_betas": [1.0], "initial": np.eye(3)}, "initial has shape"),
    (channel_capacity, (np.ones(2),), {}, "channel has shape"),
    (channel_capacity, (np.eye(2),), {"num_steps": 1.5}, "num_steps is 1.5"),
    (rate_distortion_curve, (np.eye(2), np.eye(2)), {"slopes": [1.0]}, "p_x has shape"),
    (rate_distortion_curve, (np.ones(3), np.eye(2)), {"slopes": [1.0]}, "distortions has shape"),
    (rate_distortion_curve, (np.ones(2), np.eye(2)), {"slopes": []}, "slopes has shape"),
    (rate_distortion_curve, (np.ones(2), np.eye(2)), {"slopes": [1.0], "num_steps": True}, "num_steps is True"),
]


@pytest.mark.parametrize("function, arrays, options, match", BAD, ids=range(len(BAD)))
def test_bad_arguments(function, arrays, options, match):
    with pytest.raises(ValueError, match=f"{function.__name__}: {match}"):
        function(*arrays, **options)
