"""Packed logits: interpreted on the CPU where jax can, lowered for CUDA, and run on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec

from jaxdiv.divergences import alpha, jensen_shannon, kl, reverse_kl, skew_kl
from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head import api, fused, hopper, linear_head_divergence, rows
from jaxdiv.divergences.linear_head.blocks import DEFAULT_MEMORY, TOKEN_TILE
from jaxdiv.divergences.linear_head.early import early_parts
from jaxdiv.divergences.linear_head.fused import SHIFT, TILE, GradientBuffers, PackedLogits, fused_rows
from jaxdiv.divergences.linear_head.hopper import can_pack, packed_logits
from jaxdiv.divergences.linear_head.rows import Objective
from jaxdiv.divergences.linear_head.sweep import Kernels, Problem, Side, _split_tokens, fastest_kernels
from jaxdiv.numerics import is_hopper

# Interpreters of earlier versions have no transposed operand of a warpgroup's product; that of 0.11 once stood still.
can_interpret = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="this jax does not interpret the kernel")
OBJECTIVES = [
    Objective(kl()),
    Objective(reverse_kl(), temperature=2.0, differentiate_p=True),
    Objective(alpha(0.3), label_weight=0.3),
    Objective(jensen_shannon(0.2)),
    Objective(alpha(0.7), Renyi(0.7), temperature=1.5),
]
NAMES = [f"{o.divergence.name}-{i}" for i, o in enumerate(OBJECTIVES)]


def arrays(tokens, vocab, p_width, q_width, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    shapes = ((tokens, p_width), (vocab, p_width), (tokens, q_width), (vocab, q_width))
    scales = (1.0, 3.0 / np.sqrt(p_width), 1.0, 3.0 / np.sqrt(q_width))
    return [jnp.asarray(s * rng.standard_normal(shape), dtype) for s, shape in zip(scales, shapes, strict=True)]


def interpreted(*args, **options):
    from jax.experimental.pallas import mosaic_gpu

    return packed_logits(*args, **options, num_programs=2, interpret=mosaic_gpu.InterpretGPUParams())


def float_logits(p_hidden, p_head, q_hidden, q_head):
    wide = [np.asarray(x, np.float32) for x in (p_hidden, p_head, q_hidden, q_head)]
    return wide[0] @ wide[1].T, wide[2] @ wide[3].T


@pytest.mark.slow
@can_interpret
@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_interpreted(objective):
    """Values and gradients of the rows in float32, but for two roundings to float16, less than one to bfloat16."""
    args = arrays(128, 512 if objective.renyi else 384, 192, 128)
    vocab = args[1].shape[0]
    labels = jnp.arange(128) if objective.label_weight else None
    weights = jnp.asarray(np.random.default_rng(1).uniform(size=128), jnp.float32)
    buffers = [jnp.full((3, 128, vocab), 7.0) if used else None for used in (True, objective.differentiate_p)]
    packed = interpreted(*args, objective=objective)
    loss, buffers = fused_rows(
        objective,
        packed,
        weights,
        labels,
        vocab,
        GradientBuffers(*buffers),
        1,
        zeros=False,
        interpret=True,
        segment=256,
    )
    p, q = float_logits(*args)
    statistics = rows.log_partition(objective, p, q)
    sums = rows.row_sums(objective, statistics, p, q, labels)
    np.testing.assert_allclose(loss, rows.losses(objective, statistics, sums), rtol=2e-3)
    gradients = rows.logit_gradients(objective, statistics, sums, p, q, weights, labels)
    for buffer, exact in zip(buffers, gradients, strict=True):
        if exact is not None:
            assert np.linalg.norm(buffer[1] - exact) < 2e-3 * np.linalg.norm(exact)
            assert np.all(buffer[::2] == 7.0)


@pytest.mark.slow
@can_interpret
def test_close_models_keep_the_digits_of_their_difference():
    """Log-ratios of 0.01 among logits of 10: their rounding is relative to them, as that of their difference is."""
    p_hidden, p_head, *_ = arrays(128, 128, 64, 64)
    q_hidden = p_hidden.at[:, 0].multiply(1.0 + 2.0**-6)
    packed = interpreted(p_hidden, p_head, q_hidden, p_head, objective=Objective(kl()))
    p, q = float_logits(p_hidden, p_head, q_hidden, p_head)
    exact = (q - q.max(-1, keepdims=True)) - (p - p.max(-1, keepdims=True))
    assert 0.0 < np.abs(exact).max() < 0.1
    np.testing.assert_allclose(packed.difference, exact, rtol=2.0**-11, atol=4e-6)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_lowers_for_cuda(objective, hopper):
    """The kernel, and those that read what it writes."""

    def run(weights, labels, buffer, *args):
        packed = packed_logits(*args, objective=objective, num_programs=132)
        buffers = GradientBuffers(buffer, buffer if objective.differentiate_p else None)
        labels = labels if objective.label_weight else None
        return fused_rows(objective, packed, weights, labels, 1024, buffers, 0, zeros=False)

    per_token = [jax.ShapeDtypeStruct((256,), dtype) for dtype in (jnp.float32, jnp.int32)]
    buffer = jax.ShapeDtypeStruct((1, 256, 1024), jnp.float32)
    args = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((256, 256), (1024, 256), (256, 128), (1024, 128))]
    text = jax.jit(run).trace(*per_token, buffer, *args).lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text and "linear_head_gradient_kernel" in text


def test_tokens_split_by_shard_map_take_the_kernels(monkeypatch):
    """Of eight GPUs each computes its tokens' losses and gradients as a single one does."""

    class Device:
        compute_capability, core_count = "9.0", 132

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    mesh = AbstractMesh((8,), ("x",), (AxisType.Auto,), abstract_device=device)

    def step(p_hidden, p_head, q_hidden, q_head):
        def loss(q_hidden, q_head):
            sides = dict(p_hidden=p_hidden, p_head=p_head, q_hidden=q_hidden, q_head=q_head)
            return linear_head_divergence(kl(), **sides) / 8

        value, (of_hidden, of_head) = jax.value_and_grad(loss, (0, 1))(q_hidden, q_head)
        return jax.lax.psum(value, "x"), of_hidden, jax.lax.psum(of_head, "x")

    def text(check_vma):
        tokens, whole = PartitionSpec("x"), PartitionSpec()
        specs = dict(in_specs=(tokens, whole, tokens, whole), out_specs=(whole, tokens, whole))
        run = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=check_vma, **specs))
        shapes = (1024, 128), (640, 128), (1024, 64), (640, 64)
        args = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        return run.trace(*args).lower(lowering_platforms=("cuda",)).as_text()

    kernels = "mosaic_gpu", "linear_head_gradient_kernel"
    assert all(name in text(check_vma=False) for name in kernels)
    assert not any(name in text(check_vma=True) for name in kernels)


def test_what_can_be_packed(monkeypatch):
    fits = arrays(128, 384, 192, 128)
    assert all(can_pack(objective, 384, fits) for objective in OBJECTIVES)
    assert can_pack(OBJECTIVES[0], 384, arrays(128, 384, 192, 128, jnp.float16))
    assert not can_pack(OBJECTIVES[0], 300, fits)  # padding
    assert not can_pack(OBJECTIVES[0], 384, arrays(128, 384, 200, 128))  # a width
    assert not can_pack(OBJECTIVES[0], 384, arrays(128, 384, 192, 128, jnp.float32))
    assert not can_pack(Objective(alpha(2.0)), 384, fits)  # whose values may overflow
    assert not can_pack(Objective(kl(), temperature=2.0, label_weight=0.5), 384, fits)

    class Device:
        compute_capability = "8.0"

    p_hidden, p_head, q_hidden, q_head = fits
    problem = Problem(Side(p_hidden, p_head, None), Side(q_hidden, q_head, None), None)
    with_bias = problem._replace(q=problem.q._replace(bias=jnp.zeros(384)))
    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert fastest_kernels(OBJECTIVES[0], problem, 384) == Kernels.ROWS
    Device.compute_capability = "9.0"
    assert fastest_kernels(OBJECTIVES[0], problem, 384) == Kernels.PACKED
    assert fastest_kernels(OBJECTIVES[0], problem, 300) == Kernels.ROWS
    assert fastest_kernels(OBJECTIVES[0], with_bias, 384) == Kernels.ROWS


def test_blocks_of_tokens_are_whole_tiles():
    hidden = jnp.ones((300, 4))
    blocks = _split_tokens(hidden, 1, 3, TOKEN_TILE, False)
    assert blocks.shape == (1, 3, 128, 4)
    assert np.sum(blocks) == 300 * 4
    assert _split_tokens(hidden, 1, 3, 1, False).shape == (1, 3, 100, 4)


def packed_by_jnp(p_hidden, p_head, q_hidden, q_head, *, objective):
    """What the kernel gives, by its definition."""
    assert p_hidden.shape[0] % TOKEN_TILE == 0
    p, q = (
        jnp.dot(h.astype(jnp.float32), w.astype(jnp.float32).T, precision="highest") / objective.temperature
        for h, w in ((p_hidden, p_head), (q_hidden, q_head))
    )
    ratio = p - q
    p, ratio = p.reshape(len(p), -1, TILE), ratio.reshape(len(p), -1, TILE)
    top_p = p.max(-1, keepdims=True)
    rounded = (p - top_p + SHIFT).astype(jnp.float16)
    p = rounded.astype(jnp.float32) - SHIFT + top_p
    top_q = (p - ratio).max(-1, keepdims=True)
    difference = (top_p - top_q - ratio).astype(jnp.float16)
    q = p - top_p + top_q + difference.astype(jnp.float32)
    parts = [top_p[..., 0], jnp.exp(p - top_p).sum(-1), top_q[..., 0], jnp.exp(q - top_q).sum(-1)]
    parts += early_parts(objective, p, q, top_p, top_q, zeros=False)
    return PackedLogits(rounded.reshape(len(p), -1), difference.reshape(len(p), -1), jnp.stack(parts).mT)


def divergence_of(objective, args, **options):
    p_hidden, p_head, q_hidden, q_head = args
    return linear_head_divergence(
        objective.renyi or objective.divergence,
        p_hidden=p_hidden,
        p_head=p_head,
        q_hidden=q_hidden,
        q_head=q_head,
        temperature=objective.temperature,
        labels=np.arange(len(p_hidden)) if objective.label_weight else None,
        label_weight=objective.label_weight or None,
        **options,
    )


def check_kernels(loss, args):
    """``loss(args, implementation=...)`` by the kernels against float32 arrays by XLA: value and gradients."""

    def both(args, implementation):
        return jax.jit(jax.value_and_grad(functools.partial(loss, implementation=implementation)))(args)

    got, exact = both(args, "pallas"), both([x.astype(jnp.float32) for x in args], "xla")
    np.testing.assert_allclose(got[0], exact[0], rtol=2e-4)
    for mine, right in zip(got[1], exact[1], strict=True):
        assert np.linalg.norm(mine.astype(jnp.float32) - right) <= 4e-3 * np.linalg.norm(right)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_the_whole_path_with_the_kernels_formulas(monkeypatch, objective, reduction):
    """Ragged tokens in several blocks and groups, a token that does not count, labels and both sides' gradients."""
    monkeypatch.setattr(hopper, "packed_logits", packed_by_jnp)
    monkeypatch.setattr(fused, "fused_rows", functools.partial(fused_rows, interpret=True, segment=256))
    monkeypatch.setattr(api, "fastest_kernels", lambda *_: Kernels.PACKED)
    args = arrays(300, 384, 192, 128)
    weights = np.random.default_rng(2).uniform(size=300).astype(np.float32)
    weights[7] = 0.0
    limit = 4_000_000 if objective.label_weight else DEFAULT_MEMORY  # one block a group

    def losses(args, implementation):
        loss = divergence_of(
            objective,
            args,
            differentiate_p=objective.differentiate_p,
            weights=None if reduction == "none" else weights,
            reduction=reduction,
            token_block=100,
            memory_limit=limit,
            implementation=implementation,
        )
        return jnp.sum(weights * loss) / weights.sum() if reduction == "none" else loss

    check_kernels(losses, args)


@pytest.mark.slow
@can_interpret
def test_logits_far_below_the_largest_are_improbable_and_no_nan():
    p_hidden, p_head, q_hidden, q_head = arrays(128, 256, 64, 64)
    p_head = p_head.at[5].set(0.0).at[5, 0].set(-1e5)
    p_hidden = p_hidden.at[:, 0].set(2.0)
    packed = interpreted(p_hidden, p_head, q_hidden, q_head, objective=Objective(kl()))
    assert all(np.all(np.isfinite(x.astype(jnp.float32))) for x in packed)
    assert np.all(packed.p[:, 5] < -5e4)


# Two tiles of a cluster, one alone; several tiles a program and fewer than programs; 256 and 128 categories a tile.
ON_A_GPU = [(300, 384), (384, 32_768), (1024, 32_768)]


@pytest.mark.accelerator
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="compiled for NVIDIA GPUs")
@pytest.mark.parametrize(("tokens", "vocab"), ON_A_GPU)
@pytest.mark.parametrize("objective", [*OBJECTIVES, Objective(skew_kl(0.2))], ids=[*NAMES, "skew_kl"])
def test_on_a_gpu(objective, tokens, vocab):
    """The public function with the kernels and without: values, and gradients of both sides."""
    args = arrays(tokens, vocab, 512, 256, jnp.float16 if objective.renyi else jnp.bfloat16)
    if is_hopper():
        assert can_pack(objective, vocab, args)

    check_kernels(functools.partial(divergence_of, objective, differentiate_p=True), args)
