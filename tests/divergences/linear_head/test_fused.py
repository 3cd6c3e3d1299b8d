"""The GPU kernels against the plain rows: interpreted on the CPU, lowered for CUDA, and run on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxdiv.divergences import (
    alpha,
    f_divergence,
    jeffreys,
    jensen_shannon,
    kl,
    pearson_chi2,
    renyi_divergence,
    reverse_kl,
    skew_kl,
)
from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head import rows
from jaxdiv.divergences.linear_head.fused import FloatLogits, GradientBuffers, fused_rows
from jaxdiv.divergences.linear_head.rows import Objective
from jaxdiv.divergences.linear_head.sweep import Problem, Side, can_fuse
from tests.divergences.linear_head.cases import MEMBERS, name_of


def _problem(tokens, vocab, seed=0):
    rng = np.random.default_rng(seed)
    q_logits = rng.normal(size=(tokens, vocab)) * 3
    p_logits = q_logits + rng.normal(size=(tokens, vocab))
    weights = rng.uniform(size=tokens)
    weights[1] = 0.0
    labels = rng.integers(0, vocab, tokens)
    floats = (jnp.asarray(x, jnp.float32) for x in (p_logits, q_logits, weights))
    return *floats, jnp.asarray(labels, jnp.int32)


def _by_rows(objective, p_logits, q_logits, weights, labels):
    statistics = rows.log_partition(objective, p_logits, q_logits)
    sums = rows.row_sums(objective, statistics, p_logits, q_logits, labels)
    grads = rows.logit_gradients(objective, statistics, sums, p_logits, q_logits, weights, labels)
    return rows.losses(objective, statistics, sums), *grads


def _fused(objective, p_logits, q_logits, weights, labels, vocab, dtype=jnp.float32, **options):
    """As `_by_rows`, through block 1 of buffers for three, whose others must stay as they are."""
    shapes = [(3, *q_logits.shape), (3, *p_logits.shape)][: 1 + objective.differentiate_p]
    buffers = GradientBuffers(*[jnp.full(shape, 7.0, dtype) for shape in shapes], *[None] * (2 - len(shapes)))
    loss, buffers = fused_rows(
        objective, FloatLogits(p_logits, q_logits), weights, labels, vocab, buffers, 1, **options
    )
    for buffer in buffers[: len(shapes)]:
        assert jnp.all(buffer[::2] == 7.0)
    return loss, buffers.q[1], None if buffers.p is None else buffers.p[1]


def _check(objective, tokens, vocab, **options):
    p_logits, q_logits, weights, labels = _problem(tokens, vocab)
    labels = labels if objective.label_weight else None
    got = _fused(objective, p_logits, q_logits, weights, labels, vocab, **options)
    expected = jax.jit(_by_rows, static_argnums=0)(objective, p_logits, q_logits, weights, labels)
    for g, e in zip(got, expected, strict=True):
        if e is not None:
            np.testing.assert_allclose(g, e, rtol=2e-5, atol=3e-6 * float(jnp.abs(e).max()))


OBJECTIVES = [
    Objective(kl()),
    Objective(jensen_shannon(0.3), temperature=2.0),
    Objective(alpha(0.3), label_weight=0.25, differentiate_p=True),
    Objective(alpha(0.7), Renyi(0.7), temperature=1.5, label_weight=0.5),
    Objective(skew_kl(0.2), differentiate_p=True),
    Objective(kl(), temperature=1.5, label_weight=0.25, differentiate_p=True),
    Objective(reverse_kl().normalized(), temperature=0.5),
    Objective(reverse_kl(), differentiate_p=True),
    Objective(alpha(-0.5), differentiate_p=True),
    Objective(alpha(2.0), Renyi(2.0), differentiate_p=True),
]


NAMES = [f"{o.divergence.name}-{i}" for i, o in enumerate(OBJECTIVES)]


# One segment is the simpler case: there a divergence with labels and both sides stands for the others.
INTERPRETED = [
    pytest.param(o, s, marks=() if s == 16 or i in (2, 3) else pytest.mark.slow, id=f"{s}-{NAMES[i]}")
    for s in (16, 64)
    for i, o in enumerate(OBJECTIVES)
]


@pytest.mark.parametrize("objective, segment", INTERPRETED)
def test_interpreted(objective, segment):
    """Rows in several segments, the last one ragged, and in one."""
    _check(objective, 5, 50, segment=segment, interpret=True)


HARD = [kl(), reverse_kl(), jeffreys(), alpha(2.0), Renyi(2.5)]
HARD_SLOW = [alpha(-0.5), jensen_shannon(), pearson_chi2(), Renyi(0.7), Renyi(2)]


@pytest.mark.parametrize(
    "divergence", [*HARD, *(pytest.param(d, marks=pytest.mark.slow) for d in HARD_SLOW)], ids=name_of
)
def test_missing_categories_and_distant_logits(divergence):
    """By rows and by the kernels as `categorical` has them: infinite rows have gradient 0, and no NaN appears."""
    rng = np.random.default_rng(9)
    p, q = 3.0 * rng.normal(size=(2, 8, 50)).astype(np.float32)
    p[0, 3] = q[1, 49] = p[2, 7] = q[2, 7] = p[3, 1] = q[3, 2] = -np.inf
    p[4], q[4] = np.where(np.arange(50) < 20, p[4], -np.inf), np.where(np.arange(50) < 20, -np.inf, q[4])
    p[5], q[5] = rng.uniform(-25, 25, size=(2, 50))
    q[6] = p[6]
    renyi = divergence if isinstance(divergence, Renyi) else None
    p[7, :2] = [55.0, 60.0]
    q[7, :2] = [-55.0, 70.0]  # a ratio of e^120, whose square has no float
    objective = Objective(divergence if renyi is None else renyi.generator, renyi, differentiate_p=True)

    def value(p, q):
        if renyi is not None:
            return renyi_divergence(renyi.order, p_logits=p, q_logits=q)
        return f_divergence(divergence, p_logits=p, q_logits=q)

    @jax.jit
    def compute(p, q):
        expected = value(p, q), *jax.grad(lambda *x: value(*x).sum(), (1, 0))(p, q)
        return expected, _by_rows(objective, p, q, jnp.ones(8), None)

    expected, by_rows = compute(p, q)
    others = (
        by_rows,
        _fused(objective, jnp.asarray(p), jnp.asarray(q), jnp.ones(8), None, 50, segment=16, interpret=True),
    )
    assert np.isinf(expected[0]).any() == (divergence != jensen_shannon())
    for values, *gradients in others:
        np.testing.assert_allclose(values, expected[0], rtol=1e-5, atol=1e-7)
        for gradient, exact in zip(gradients, expected[1:], strict=True):
            for i in range(8):
                np.testing.assert_allclose(gradient[i], exact[i], rtol=0, atol=2e-5 * np.abs(exact[i]).max() + 5e-6)


@pytest.mark.parametrize("power", [2.0, -1.0])
def test_a_power_beyond_every_float_is_infinite_by_rows_and_by_kernels(power):
    """A ratio of e^90, of which only a probability of e^-50 is taken: infinite, with gradient 0, or neither."""
    p, q = jnp.array([[0.0, -50.0, -1.0, -2.0]]), jnp.array([[0.0, -140.0, -1.5, -1.0]])
    p, q = (p, q) if power > 0.0 else (q, p)
    objective = Objective(alpha(power))
    by_rows = _by_rows(objective, p, q, jnp.ones(1), None)
    by_kernels = _fused(objective, p, q, jnp.ones(1), None, 4, segment=16, interpret=True, zeros=False)
    for loss, gradient, _ in (by_rows, by_kernels):
        assert loss == jnp.inf
        assert not np.any(gradient)


def test_padding_gets_no_gradient():
    p_logits, q_logits, weights, _ = _problem(4, 50)
    wide = jnp.pad(p_logits, ((0, 0), (0, 6)), constant_values=9.0)
    got = _fused(Objective(kl()), wide, q_logits, weights, None, 44, segment=64, interpret=True)
    short = _fused(Objective(kl()), p_logits[:, :44], q_logits[:, :44], weights, None, 44, segment=64, interpret=True)
    np.testing.assert_allclose(got[0], short[0], rtol=1e-6)
    np.testing.assert_allclose(got[1][:, :44], short[1], atol=1e-7)
    assert not np.any(got[1][:, 44:])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_lowers_for_cuda(objective, hopper):
    """Every operation of the kernel exists in Triton: found out without a GPU."""
    labels = jax.ShapeDtypeStruct((4,), jnp.int32) if objective.label_weight else None
    logits, weights = jax.ShapeDtypeStruct((4, 20_000), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)

    buffer = jax.ShapeDtypeStruct((3, 4, 20_000), jnp.bfloat16)
    buffers = GradientBuffers(buffer, buffer if objective.differentiate_p else None)

    def run(p_logits, q_logits, weights, labels, buffers, block):
        return fused_rows(objective, FloatLogits(p_logits, q_logits), weights, labels, 20_000, buffers, block)

    traced = jax.jit(run).trace(logits, logits, weights, labels, buffers, jax.ShapeDtypeStruct((), jnp.int32))
    lowered = traced.lower(lowering_platforms=("cuda",))
    assert "linear_head_gradient_kernel" in lowered.as_text(debug_info=True)


def test_not_on_this_machine():
    side, wide = (Side(np.zeros((2, 3), d), np.zeros((4, 3), d), None) for d in (np.float32, np.float64))
    assert not can_fuse(Problem(side, wide, None))
    assert can_fuse(Problem(side, side, None)) == (jax.default_backend() == "gpu" and jax.device_count() == 1)


def test_labels_that_vary_alone_keep_to_xla(monkeypatch):
    """A shard_map that checks what varies refuses a kernel's outputs, also where nothing but the labels is split."""
    mesh = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    side, found = Side(jnp.zeros((2, 3)), jnp.zeros((4, 3)), None), []

    def note(labels):
        found.extend(can_fuse(Problem(side, side, x)) for x in (None, labels))
        return labels

    rows = PartitionSpec("x")
    jax.eval_shape(jax.shard_map(note, mesh=mesh, in_specs=rows, out_specs=rows), jnp.zeros(2, jnp.int32))
    assert found == [True, False]


@pytest.mark.accelerator
@pytest.mark.parametrize("vocab", [50, 32_000, 128_256])
@pytest.mark.parametrize("divergence", [d for d in MEMBERS if hasattr(d, "name")], ids=name_of)
def test_on_a_gpu(divergence, vocab):
    _check(Objective(divergence, temperature=1.3, label_weight=0.2, differentiate_p=True), 40, vocab)
