"""The property table of divergences between logits: every record through every law, transformation and odd input."""

import functools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdiv import divergences as dv
from jaxdiv.divergences.categorical import f_divergence, value_and_logit_gradients
from tests.divergences.reference import CASES

INF = math.inf
RECORDS = [
    "kl", "reverse_kl", "jensen_shannon", "jensen_shannon_09", "jensen_shannon_normalized", "jeffreys", "alpha_03",
    "alpha_2.5", "squared_hellinger", "pearson_chi2", "neyman_chi2", "total_variation", "softened_reverse_kl",
    "softened_reversed", "le_cam", "skew_kl", "skew_reversed",
]  # fmt: skip
SMOOTH = [name for name in RECORDS if name != "total_variation"]
ADDITIVE = {"kl", "reverse_kl", "jeffreys", "alpha_1", "alpha_0"}
"""Records whose value adds up over independent components."""
V, N = 6, 4
QUICK = {"kl", "jensen_shannon_09", "neyman_chi2", "total_variation", "skew_reversed"}
MARKED = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECORDS]
table = pytest.mark.parametrize("name", RECORDS)
programs = pytest.mark.parametrize("name", MARKED)
"""For tests that compile a program per record of their own: the others run with ``-m slow``."""


@functools.cache
def compiled(name, mirrored=False):
    """One program per record, for rows ``[ROWS, 6]`` of every law at once: (value, gradient for p, gradient for q)."""
    d = CASES[name].make()
    return jax.jit(functools.partial(value_and_logit_gradients, d.reversed() if mirrored else d))


def evaluate(name, a, b, mirrored=False):
    """The program on any number of rows, padded to 64."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float32), np.asarray(b, np.float32))
    rows = int(np.prod(a.shape[:-1]))
    full = np.zeros((2, 64, V), np.float32)
    full[0, :rows], full[1, :rows] = a.reshape(-1, V), b.reshape(-1, V)
    value, *gradients = (np.asarray(x)[:rows] for x in compiled(name, mirrored)(*full))
    return value.reshape(a.shape[:-1]), *(g.reshape(a.shape) for g in gradients)


def draw(seed=0, scale=1.5):
    return scale * np.random.default_rng(seed).normal(size=(2, N, V)).astype(np.float32)


@table
def test_non_negative_and_zero_only_for_equals(name):
    a, b = draw()
    value, _, _ = evaluate(name, a, b)
    assert (value > 0).all()
    for same in (a, 1e3 * a, np.where(a > 0, a, -INF)):
        value, grad_p, grad_q = evaluate(name, same, same)
        assert (value == 0).all() and not grad_p.any() and not grad_q.any()
    near, _, _ = evaluate(name, a, a + 1e-6 * b)
    assert (near >= 0).all()


@programs
def test_reversal(name):
    """D_f^(q || p) = D_f(p || q), gradients too, masks included."""
    a, b = draw()
    a[0, 1], b[1, 2], a[2, 3], b[2, 3] = -INF, -INF, -INF, -INF
    value, grad_p, grad_q = evaluate(name, a, b)
    back, grad_b, grad_a = evaluate(name, b, a, mirrored=True)
    np.testing.assert_allclose(back, value, rtol=2e-6)
    np.testing.assert_allclose(grad_a, grad_p, atol=2e-6 * np.abs(grad_p).max())
    np.testing.assert_allclose(grad_b, grad_q, atol=2e-6 * np.abs(grad_q).max())


@table
def test_invariance(name):
    """Shifts of either side's logits and permutations of the classes change nothing; gradients sum to 0."""
    a, b = draw()
    value, grad_p, grad_q = evaluate(name, a, b)
    shifted, shifted_p, shifted_q = evaluate(name, a + 8.0, b - 64.0)
    np.testing.assert_allclose(shifted, value, rtol=1e-4)  # what the logits themselves lose: 4e-6 at 64
    np.testing.assert_allclose(shifted_p, grad_p, atol=1e-4 * np.abs(grad_p).max())
    np.testing.assert_allclose(shifted_q, grad_q, atol=1e-4 * np.abs(grad_q).max())
    order = np.random.default_rng(1).permutation(V)
    permuted, permuted_p, _ = evaluate(name, a[:, order], b[:, order])
    np.testing.assert_allclose(permuted, value, rtol=2e-6)
    np.testing.assert_allclose(permuted_p, grad_p[:, order], atol=2e-6 * np.abs(grad_p).max())
    for g in (grad_p, grad_q):
        np.testing.assert_allclose(g.sum(-1), 0.0, atol=1e-6 * np.abs(g).max())


@table
def test_data_processing(name):
    """Merging classes never increases a divergence; merging classes of one ratio keeps it."""
    a, b = draw()
    value, _, _ = evaluate(name, a, b)
    for first, second in ((0, 1), (2, 5)):
        merged = [x.copy() for x in (a, b)]
        for x in merged:
            x[:, first] = np.logaddexp(x[:, first], x[:, second])
            x[:, second] = -INF
        assert (evaluate(name, *merged)[0] <= value * (1 + 1e-6)).all()
    a[:, 1], b[:, 1] = a[:, 0] - 0.5, b[:, 0] - 0.5
    value, _, _ = evaluate(name, a, b)
    for x in (a, b):
        x[:, 0] += np.log1p(np.exp(-0.5))
        x[:, 1] = -INF
    np.testing.assert_allclose(evaluate(name, a, b)[0], value, rtol=5e-6)


@table
def test_convexity(name):
    """Jointly convex in the probabilities: the mixture of two pairs is no farther apart than the pairs on average."""
    a, b = draw()
    log_probs = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (a, b)]
    value, _, _ = evaluate(name, *log_probs)
    mixed = [np.logaddexp(x[0::2], x[1::2]) for x in log_probs]
    assert (evaluate(name, *mixed)[0] <= (value[0::2] + value[1::2]) / 2).all()


@table
def test_additivity(name):
    """KL, its reverse and Jeffreys add up over independent components; the bounded ones and the powers do not."""
    a, b = draw()
    one, two = (
        [np.full((N, V), -INF, np.float32) for _ in range(2)],
        [np.full((N, V), -INF, np.float32) for _ in range(2)],
    )
    whole = []
    for i, x in enumerate((a, b)):
        one[i][:, :3], two[i][:, :2] = x[:, :3], x[:, 3:5]
        whole.append((x[:, :3, None] + x[:, None, 3:5]).reshape(N, V))
    total = evaluate(name, *one)[0] + evaluate(name, *two)[0]
    value, _, _ = evaluate(name, *whole)
    if name in ADDITIVE:
        np.testing.assert_allclose(value, total, rtol=5e-6)
    else:
        assert (np.abs(value / total - 1) > 1e-4).all()


@pytest.mark.parametrize("name", SMOOTH)
def test_local_chi_squared(name):
    """To second order near p = q every record is f''(1) / 2 times chi-squared, in float32 as well."""
    a, b = draw()
    b = (a + 1e-4 * b).astype(np.float32)
    p, q = (np.exp(x.astype(np.float64)) for x in (a, b))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    chi2 = ((p - q) ** 2 / q).sum(-1)
    np.testing.assert_allclose(evaluate(name, a, b)[0], CASES[name].make().curvature / 2 * chi2, rtol=2e-3)


@table
def test_bounds_at_disjoint_support(name):
    """D between distributions without a common class is f(0) + f^(0), whatever they are."""
    a, b = draw()
    a[:, :3], b[:, 3:] = -INF, -INF
    d = CASES[name].make()
    value, grad_p, grad_q = evaluate(name, a, b)
    np.testing.assert_allclose(value, d.at_zero + d.dual_at_zero, rtol=1e-6)
    assert np.isfinite(grad_p).all() and np.isfinite(grad_q).all()
    np.testing.assert_allclose([grad_p, grad_q], 0.0, atol=1e-6)  # D is constant here, or infinite


@programs
def test_transforms(name):
    """jit, vmap, grad, jvp, vjp, Hessian and shard_map in one program, and eagerly: all say the same."""
    d = CASES[name].make()
    a, b = draw(2)
    a[0, 1], b[0, 1] = -INF, -INF
    u, v = draw(3)

    def loss(a, b):
        return f_divergence(d, p_logits=a, q_logits=b)

    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    rows = PartitionSpec("rows")

    @jax.jit
    def everything(a, b, u, v):
        gradients = jax.grad(lambda a, b: jnp.sum(loss(a, b)), (0, 1))(a, b)
        sharded = jax.shard_map(loss, mesh=mesh, in_specs=(rows, rows), out_specs=rows)(a, b)
        hessian = jax.vmap(jax.hessian(loss, 1))(a[:2], b[:2])
        return loss(a, b), jax.vmap(loss)(a, b), gradients, jax.jvp(loss, (a, b), (u, v)), sharded, hessian

    value, mapped, (grad_p, grad_q), (primal, slope), sharded, hessian = everything(a, b, u, v)
    expected, exact_p, exact_q = evaluate(name, a, b)
    for other in (value, mapped, primal, sharded, loss(a, b), jax.pmap(loss)(a[None], b[None])[0]):
        np.testing.assert_allclose(other, expected, rtol=2e-6)
    for got, exact in ((grad_p, exact_p), (grad_q, exact_q)):
        np.testing.assert_allclose(got, exact, atol=2e-6 * np.abs(exact).max())
    np.testing.assert_allclose(slope, (exact_p * u + exact_q * v).sum(-1), rtol=1e-5, atol=1e-6)
    scale = np.abs(hessian).max() + 1e-6
    np.testing.assert_allclose(hessian, np.swapaxes(hessian, -1, -2), atol=1e-6 * scale)
    np.testing.assert_allclose(np.sum(hessian, -1), 0.0, atol=2e-6 * scale)  # shifts are a null direction
    assert np.isfinite(hessian).all() and not np.asarray(hessian)[0, 1].any()


ODD = {
    # name: (logits of p, logits of q, what comes out: a value, "finite" or "any" (finite or inf))
    "one class": ([2.0] + [-INF] * 5, [-1.0] + [-INF] * 5, 0.0),
    "no class on both sides": ([-INF] * 6, [-INF] * 6, 0.0),
    "no class for p": ([-INF] * 6, [0.0] * 6, "nan"),
    "no class for q": ([0.0] * 6, [-INF] * 6, "nan"),
    "a NaN": ([0.0, math.nan, 0.0, 0.0, 0.0, 0.0], [0.0] * 6, "nan"),
    "a NaN in q": ([0.0] * 6, [math.nan] + [0.0] * 5, "nan"),
    "plus infinity": ([INF] + [0.0] * 5, [0.0] * 6, "nan"),
    "plus infinity twice": ([INF] + [0.0] * 5, [INF] + [0.0] * 5, "nan"),
    "shared finite masks": ([-1e9, 0.0, 1.0, 2.0, 0.0, 1.0], [-1e9, 0.0, 1.0, 2.0, 1.0, 1.0], "finite"),
    "lowest float32": ([-3.4e38, 0.0, 1.0, 2.0, 0.0, 1.0], [-3.4e38, 0.0, 1.0, 2.0, 1.0, 1.0], "finite"),
    "masks of two sizes": ([-1e9, 0.0, 1.0, 2.0, 0.0, 1.0], [-3.4e38, 0.0, 1.0, 2.0, 1.0, 1.0], "any"),
    "a finite mask in p": ([-1e9, 0.0, 1.0, 2.0, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0, 0.0, 1.0], "any"),
    "a finite mask in q": ([0.0, 0.0, 1.0, 2.0, 0.0, 1.0], [-1e9, 0.0, 1.0, 2.0, 0.0, 1.0], "any"),
    "log-ratios of 400": ([200.0, -200.0, 0.0, 0.0, 0.0, 0.0], [-200.0, 200.0, 0.0, 0.0, 0.0, 0.0], "any"),
    "the largest floats": ([3e38, -3e38, 0.0, 0.0, 0.0, 0.0], [-3e38, 3e38, 0.0, 0.0, 0.0, 0.0], "any"),
    "smallest differences": ([1e-40, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6, "finite"),
}


@table
def test_odd_input(name):
    a, b = (np.array([row[i] for row in ODD.values()], np.float32) for i in (0, 1))
    value, grad_p, grad_q = evaluate(name, a, b)
    for (label, (_, _, expected)), *got in zip(ODD.items(), value, grad_p, grad_q, strict=True):
        if expected == "nan":
            assert all(np.isnan(x).all() for x in got), label
            continue
        assert not any(np.isnan(x).any() for x in got) and got[0] >= 0, f"{label}: {got}"
        assert np.isfinite(got[1]).all() and np.isfinite(got[2]).all(), label
        assert expected in ("any", "finite") or got[0] == expected, label
        assert expected != "finite" or np.isfinite(got[0]), label


@table
def test_infinite_exactly_where_a_constant_is(name):
    """A class that one side lacks costs inf if and only if f(0) or f^(0) is; the row then has no gradient."""
    d = CASES[name].make()
    a, b = draw()
    for side, limit in ((0, d.at_zero), (1, d.dual_at_zero)):
        pair = [a.copy(), b.copy()]
        pair[side][:, 2] = -INF
        pair[1 - side][1, 2] = -95.0  # a class of probability 1e-42 is still one
        value, grad_p, grad_q = evaluate(name, *pair)
        assert (np.isinf(value) == (limit == INF)).all()
        assert np.isfinite(grad_p).all() and np.isfinite(grad_q).all()
        assert limit < INF or not (grad_p.any() or grad_q.any())
        assert not (grad_p if side == 0 else grad_q)[:, 2].any()


def test_identical_bfloat16_logits_of_a_large_vocabulary():
    """Under jit, where a compiler may sum equal rows in two ways."""
    logits = jax.random.normal(jax.random.key(0), (2, 250_000), jnp.bfloat16) * 4
    compute = jax.jit(lambda a, b: [f_divergence(d, p_logits=a, q_logits=b) for d in (dv.kl(), dv.jensen_shannon())])
    np.testing.assert_array_equal(compute(logits, logits), np.zeros((2, 2)))
    np.testing.assert_array_equal(compute(logits, jnp.array(logits)), np.zeros((2, 2)))


def test_one_class_axis_of_size_one():
    value, grad_p, grad_q = value_and_logit_gradients(dv.kl(), jnp.ones((3, 1)), jnp.zeros((3, 1)))
    assert not value.any() and not grad_p.any() and not grad_q.any()
    assert value_and_logit_gradients(dv.kl(), jnp.ones((0, 4)), jnp.zeros((0, 4)))[0].shape == (0,)


def test_axis_and_mask():
    """Any axis; a mask is the same as -inf on both sides, hides NaN, and broadcasts like numpy's where."""
    a, b = (x.reshape(2, 2, V) for x in draw())
    value = f_divergence(dv.kl(), p_logits=a, q_logits=b)
    for axis in (0, 1, -3):
        moved = f_divergence(dv.kl(), p_logits=np.moveaxis(a, -1, axis), q_logits=np.moveaxis(b, -1, axis), axis=axis)
        np.testing.assert_allclose(moved, value, rtol=1e-6)
    for mask in (np.arange(V) < 4, np.random.default_rng(1).uniform(size=(2, 1, V)) < 0.6):
        hidden = f_divergence(dv.kl(), p_logits=np.where(mask, a, -INF), q_logits=np.where(mask, b, -INF))

        def loss(a, b, mask=mask):
            value = f_divergence(dv.kl(), p_logits=a, q_logits=b, where=mask)
            return jnp.sum(value), value

        (_, masked), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            jnp.where(mask, a, jnp.nan), jnp.where(mask, b, jnp.inf)
        )
        np.testing.assert_allclose(masked, hidden, rtol=1e-6)
        for g in gradients:
            assert np.isfinite(g).all() and not np.where(mask, 0.0, g).any()
    padded = f_divergence(dv.kl(), p_logits=a, q_logits=b, where=np.array([[True], [False]]))
    np.testing.assert_array_equal(padded[:, 1], 0.0)


@pytest.mark.parametrize(
    ("argument", "changes"),
    [
        ("divergence", {"divergence": "kl"}),
        ("divergence", {"divergence": dv.kl}),
        ("p_logits", {"p_logits": None}),
        ("p_logits", {"p_logits": "abc"}),
        ("p_logits", {"p_logits": [[0.0, 1.0], [2.0]]}),
        ("p_logits", {"p_logits": [0.0, None]}),
        ("p_logits", {"p_logits": np.zeros((2, 3), int)}),
        ("q_logits", {"q_logits": np.zeros((2, 3), bool)}),
        ("q_logits", {"q_logits": np.zeros((2, 3), complex)}),
        ("q_logits", {"q_logits": np.zeros((3, 2))}),
        ("q_logits", {"q_logits": np.zeros(3)}),
        ("axis", {"axis": 2}),
        ("axis", {"axis": 1.0}),
        ("axis", {"axis": None}),
        ("axis", {"p_logits": 1.0, "q_logits": 1.0}),
        ("axis", {"p_logits": np.zeros((2, 0)), "q_logits": np.zeros((2, 0))}),
        ("where", {"where": np.ones((2, 3))}),
        ("where", {"where": "mask"}),
        ("where", {"where": [[True], [True, False]]}),
        ("where", {"where": np.ones((3, 2), bool)}),
        ("where", {"where": np.ones((5, 2, 3), bool)}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": math.nan}),
        ("temperature", {"temperature": "hot"}),
        ("temperature", {"temperature": True}),
        ("temperature", {"temperature": np.ones(2)}),
    ],
)
def test_bad_arguments(argument, changes):
    good = {"divergence": dv.kl(), "p_logits": np.zeros((2, 3)), "q_logits": np.zeros((2, 3))}
    arguments = {**good, **changes}
    with pytest.raises(ValueError, match=rf"^f_divergence: {argument} .*; expected "):
        f_divergence(arguments.pop("divergence"), **arguments)


@pytest.mark.slow
def test_on_eight_devices():
    """Rows sharded by shard_map and pmap, and the classes sharded under jit, in a process of its own."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.divergences.device_rows"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
