"""Rows of logits to losses and logit gradients on a GPU, in passes that each read the logits once.

The passes are log-sum-exps (which packed logits bring along), the sums that gradients need, gradients together with the
values. Powers have those sums from the first pass (`early`), so that the middle one falls away. Kernels of one segment
of a row per program take half of the time of XLA's fusions of the same formulas.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdiv.divergences.linear_head import renyi
from jaxdiv.divergences.linear_head.early import (
    ABSENT,
    early_parts,
    early_power,
    early_sums,
    num_early_parts,
    partial_lse,
    total_lse,
)
from jaxdiv.divergences.linear_head.rows import (
    Objective,
    RowStatistics,
    RowSums,
    is_infinite,
    log_integral,
    losses,
    slope_factor,
)
from jaxdiv.divergences.linear_head.terms import category_terms, rough_slope

_SEGMENT = 2048  # logits per program
_NUM_WARPS = 4
TILE = 128  # categories that packed logits are relative within
SHIFT = 3.0  # a float16 is finest around 0: the categories that count are from 7 below the largest on


class FloatLogits(NamedTuple):
    """``[tokens, width]`` float32 each; columns from the vocabulary's size on are padding."""

    p: jax.Array
    q: jax.Array


class PackedLogits(NamedTuple):
    """Logits over the temperature in four bytes a pair, by tiles of `TILE` categories.

    Each is taken relative to the largest of its row in its tile. ``p`` is ``[tokens, categories]`` float16, raised by
    `SHIFT`; ``difference`` is q's minus p's, float16. ``parts`` is ``[parts, tiles, tokens]`` float32: `partial_lse` of
    p and of q, then what `early_parts` gives.
    """

    p: jax.Array
    difference: jax.Array
    parts: jax.Array


class GradientBuffers(NamedTuple):
    """``[blocks, tokens, width]`` logit gradients of many blocks of tokens; p's is None where p is fixed."""

    q: jax.Array
    p: jax.Array | None


def fused_rows(
    objective: Objective,
    logits: FloatLogits | PackedLogits,
    weights: jax.Array,
    labels: jax.Array | None,
    vocab_size: int,
    buffers: GradientBuffers,
    block: jax.Array | int,
    *,
    zeros: bool = True,
    segment: int = _SEGMENT,
    interpret: bool = False,
) -> tuple[jax.Array, GradientBuffers]:
    """Losses and weighted logit gradients of `rows`.

    Args:
        objective: what is computed per token.
        logits: of p and q, in one of two forms.
        weights: ``[tokens]`` float32.
        labels: ``[tokens]`` integers, or None.
        vocab_size: the columns that exist for both.
        buffers: what the gradients are written into, in place; padding columns get 0.
        block: which block of the buffers.
        zeros: whether logits may be -inf.
        segment: logits per program, a power of two.
        interpret: run on the CPU, for tests.

    Returns:
        ``(loss [tokens] float32, buffers)``.
    """
    both = objective.differentiate_p
    width = max(x.shape[-1] for x in buffers if x is not None)
    grid = (len(weights), pl.cdiv(width, segment))
    packed = isinstance(logits, PackedLogits)
    # Packed ones are over the temperature already.
    inside = objective._replace(temperature=1.0) if packed else objective
    columns = _Columns(segment, vocab_size, packed)
    rows_by_segments = jax.ShapeDtypeStruct(grid, jnp.float32)
    has_labels = bool(objective.label_weight)

    def run(kernel: Callable[..., None], outputs: list, *arrays: jax.Array, aliases: dict | None = None) -> list:
        bound = functools.partial(kernel, objective=inside, columns=columns, zeros=zeros, num_arrays=len(arrays))
        params = plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=1)
        return pl.pallas_call(
            bound,
            grid=grid,
            out_shape=outputs,
            input_output_aliases=aliases or {},
            compiler_params=None if interpret else params,
            interpret=interpret,
            name="linear_head" + kernel.__name__,
        )(*logits, *arrays)

    num_lses, num_early = _num_partitions(objective), num_early_parts(objective)
    num_lost = (sum(_infinite_limits(objective)) if zeros else 0) + can_overflow(objective)
    if packed:
        parts = [x.T for x in logits.parts]
    else:
        parts = run(_partition_kernel, [rows_by_segments] * (2 * num_lses + num_early + num_lost))
    lses = [total_lse(*parts[2 * i : 2 * i + 2]) for i in range(num_lses)]
    early, lost_parts = parts[2 * num_lses : 2 * num_lses + num_early], parts[2 * num_lses + num_early :]
    lost = _is_lost(objective, lost_parts, lses[0], lses[1], zeros)
    lse_mixed = None
    if objective.renyi is not None:
        lse_mixed = total_lse(*early)
        lse_mixed = jnp.where(lost, jnp.inf, jnp.where(lse_mixed < ABSENT / 2.0, -jnp.inf, lse_mixed))
    statistics = RowStatistics(lses[0], lses[1], lses[-1] if has_labels else None, lse_mixed)
    level = log_integral(objective, statistics)
    if labels is None:
        labels = jnp.zeros(grid[:1], jnp.int32)
    per_row = [*lses, labels.astype(jnp.int32)]

    if early_power(objective) is not None:
        slope_q, slope_p = early_sums(objective, early, parts[0], parts[2], *lses[:2])
    else:
        sums = [x.sum(-1) for x in run(_sums_kernel, [rows_by_segments] * _num_sums(objective), *per_row)]
        slope_q, slope_p = sums[0], sums[1] if both else None

    infinite = lost | is_infinite(level, slope_q, slope_p if both else None)
    weights = jnp.where(infinite, 0.0, weights.astype(jnp.float32))
    per_row += [weights, weights * slope_factor(objective, level), slope_q, *([slope_p] if both else [])]
    per_row += [] if level is None else [level]
    written = [x for x in buffers if x is not None]
    arrays = [*written, jnp.asarray(block, jnp.int32).reshape(1), *per_row]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written]
    late = [rows_by_segments] * (1 + has_labels)
    aliases = {len(logits) + i: i for i in range(len(written))}
    outputs = run(_gradient_kernel, [*shapes, *late], *arrays, aliases=aliases)
    late_sums = [x.sum(-1) for x in outputs[len(written) :]]
    row_sums = RowSums(late_sums[0], slope_q, slope_p if both else None, late_sums[1] if has_labels else None)
    buffers = GradientBuffers(outputs[0], outputs[1] if both else None)
    return losses(objective, statistics, row_sums), buffers


class _Read(NamedTuple):
    """What a program reads; ``rho`` is log p - log q, from packed logits with fewer roundings than their difference."""

    row: jax.Array
    numbers: jax.Array
    log_p: jax.Array
    log_q: jax.Array
    rho: jax.Array
    q_logits: jax.Array


class _Columns:
    """The part of the vocabulary that a program works on, of logits in float32 or packed."""

    def __init__(self, segment: int, vocab_size: int, packed: bool):
        self.segment, self.vocab_size, self.packed = segment, vocab_size, packed

    def split(self, refs):
        """Those of the logits, and the others."""
        count = 3 if self.packed else 2
        return refs[:count], refs[count:]

    def load(self, refs):
        """(row, column numbers, logits of p, logits of q) of this program, in float32."""
        row, start = pl.program_id(0), pl.program_id(1) * self.segment
        numbers = start + jnp.arange(self.segment, dtype=jnp.int32)
        exists = numbers < self.vocab_size
        return row, numbers, *(plgpu.load(ref.at[row, numbers], mask=exists, other=ABSENT) for ref in refs)

    def read(self, refs, lse_refs, scale: float) -> _Read:
        """Log-probabilities of logits times ``scale``; packed ones a tile to a line."""
        if not self.packed:
            row, numbers, p_logits, q_logits = self.load(refs)
            log_p, log_q = scale * p_logits - lse_refs[0][row], scale * q_logits - lse_refs[1][row]
            return _Read(row, numbers, log_p, log_q, log_p - log_q, q_logits)
        p_ref, difference_ref, parts_ref = refs
        row, start = pl.program_id(0), pl.program_id(1) * self.segment
        numbers = start + jnp.arange(self.segment, dtype=jnp.int32).reshape(-1, TILE)
        tiles = start // TILE + jnp.arange(self.segment // TILE, dtype=jnp.int32)
        lse_p, lse_q = (ref[row] for ref in lse_refs)
        top_p, top_q = (
            plgpu.load(parts_ref.at[i, tiles, row], mask=tiles < parts_ref.shape[1], other=ABSENT) - lse
            for i, lse in ((0, lse_p), (2, lse_q))
        )
        p, difference = (
            plgpu.load(ref.at[row, numbers], mask=numbers < self.vocab_size, other=0.0).astype(jnp.float32)
            for ref in (p_ref, difference_ref)
        )
        log_p, rho = (top_p - SHIFT)[:, None] + p, (top_p - top_q)[:, None] - difference
        log_q = log_p - rho
        return _Read(row, numbers, log_p, log_q, rho, log_q + lse_q)

    def real(self, numbers, weight):
        """Where a gradient is more than 0; packed logits have no padding."""
        counts = weight != 0.0
        return counts if self.packed else (numbers < self.vocab_size) & counts


def _num_partitions(objective: Objective) -> int:
    """p, q, and q without the temperature where a cross-entropy needs it."""
    return 3 if objective.label_weight and objective.temperature != 1.0 else 2


def _num_sums(objective: Objective) -> int:
    return 1 + objective.differentiate_p


def _infinite_limits(objective: Objective) -> tuple[bool, bool]:
    """Whether a category that only p has makes the divergence infinite, and one that only q has."""
    divergence = objective.divergence
    return divergence.dual_at_zero == jnp.inf, divergence.at_zero == jnp.inf


def _growth(objective: Objective) -> float:
    """The power of the larger over the smaller probability in the terms whose sums are `early`; 0 where bounded."""
    a = early_power(objective)
    return 0.0 if a is None or objective.renyi is not None else max(a - 1.0, -a, 0.0)


def can_overflow(objective: Objective) -> bool:
    """Whether tokens without any probability 0 can have a divergence beyond every float."""
    return _growth(objective) > 0.0


def _lost_parts(objective: Objective, p: jax.Array, q: jax.Array, real: jax.Array, zeros: bool) -> list[jax.Array]:
    """What `_is_lost` judges a segment by: largest logits of categories that only one side has, largest log-ratio."""
    parts = []
    if zeros:
        sides = zip(_infinite_limits(objective), ((p, q), (q, p)), strict=True)
        parts = [jnp.max(jnp.where(b == -jnp.inf, a, ABSENT)) for infinite, (a, b) in sides if infinite]
        real &= jnp.minimum(p, q) > -jnp.inf
    if can_overflow(objective):
        a, b = (p, q) if early_power(objective) > 1.0 else (q, p)
        parts.append(jnp.max(jnp.where(real, a - b, ABSENT)))
    return parts


def _is_lost(
    objective: Objective, parts: list[jax.Array], lse_p: jax.Array, lse_q: jax.Array, zeros: bool
) -> jax.Array:
    """Tokens whose divergence `terms` makes infinite, from the parts ``[tokens, segments]`` of `_lost_parts`.

    A category that one side lacks does where the other has more than 0 of it, a power where it overflows.
    """
    lost, parts = jnp.zeros(lse_p.shape, bool), [part.max(-1) for part in parts]
    if can_overflow(objective):
        shift = lse_p - lse_q if early_power(objective) > 1.0 else lse_q - lse_p
        lost |= jnp.isinf(jnp.exp(_growth(objective) * (parts.pop() - shift)))
    sides = [lse for lse, infinite in zip((lse_p, lse_q), _infinite_limits(objective), strict=True) if infinite]
    for part, lse in zip(parts, sides if zeros else (), strict=True):
        # Renyi's log of I has no least probability.
        lost |= (jnp.exp(part - lse) > 0.0) if objective.renyi is None else (part > ABSENT)
    return lost


def _partition_kernel(*refs, objective, columns, zeros, num_arrays):
    del num_arrays
    logit_refs, out_refs = columns.split(refs)
    row, numbers, p_logits, q_logits = columns.load(logit_refs)
    scale = 1.0 / objective.temperature
    p, q = scale * p_logits, scale * q_logits
    parts = [*partial_lse(p), *partial_lse(q)]
    early = early_parts(objective, p, q, parts[0], parts[2], zeros)
    if _num_partitions(objective) == 3:
        parts += partial_lse(q_logits)
    lost = _lost_parts(objective, p, q, numbers < columns.vocab_size, zeros)
    for ref, part in zip(out_refs, [*parts, *early, *lost], strict=True):
        ref[row, pl.program_id(1)] = part


def _sums_kernel(*refs, objective, columns, zeros, num_arrays):
    logit_refs, refs = columns.split(refs)
    row_refs, out_refs = refs[:num_arrays], refs[num_arrays:]
    read = columns.read(logit_refs, row_refs[:2], 1.0 / objective.temperature)
    slope_of = functools.partial(rough_slope, zeros=zeros, coarse=columns.packed)
    parts = [slope_of(objective.divergence, read.log_p, read.log_q, rho=read.rho)]
    if objective.differentiate_p:
        parts.append(slope_of(objective.divergence.reversed(), read.log_q, read.log_p, rho=-read.rho))
    for ref, part in zip(out_refs, parts, strict=True):
        ref[read.row, pl.program_id(1)] = jnp.sum(part)


def _gradient_kernel(*refs, objective, columns, zeros, num_arrays):
    both = objective.differentiate_p
    logit_refs, refs = columns.split(refs)
    inputs, out_refs = refs[1 + both : num_arrays], refs[num_arrays:]
    block_ref, *row_refs = inputs
    read = columns.read(logit_refs, row_refs[:2], 1.0 / objective.temperature)
    row, numbers, log_p, log_q, rho, q_logits = read
    num_lses = _num_partitions(objective)
    label_ref, weight_ref, factor_ref, *slope_refs = row_refs[num_lses:]
    far, far_grads = None, (None, None)
    if objective.renyi is not None:
        level = slope_refs.pop()[row]
        far, far_grads = renyi.is_far(level), renyi.far_gradients(objective.renyi, level, log_p, log_q)
    weight, factor = weight_ref[row], factor_ref[row]
    real = columns.real(numbers, weight)
    terms_of = functools.partial(category_terms, zeros=zeros, coarse=columns.packed)

    def store(ref, grad):
        grad = jnp.where(real, grad, 0.0).astype(ref.dtype)
        plgpu.store(ref.at[block_ref[0], row, numbers], grad, mask=numbers < ref.shape[2])

    terms = terms_of(objective.divergence, log_p, log_q, rho=rho)
    grad = terms.slope - terms.q * slope_refs[0][row]
    grad = factor * (grad if far is None else jnp.where(far, far_grads[0], grad))
    if objective.label_weight:
        soft = jnp.exp(q_logits - row_refs[num_lses - 1][row])
        grad += objective.label_weight * weight * (soft - (numbers == label_ref[row]).astype(jnp.float32))
    store(out_refs[0], grad)
    if both:
        dual = terms_of(objective.divergence.reversed(), log_q, log_p, rho=-rho)
        grad = dual.slope - dual.q * slope_refs[1][row]
        store(out_refs[1], factor * (grad if far is None else jnp.where(far, far_grads[1], grad)))
    value_ref, *label_refs = out_refs[1 + both :]
    value_ref[row, pl.program_id(1)] = jnp.sum(terms.value)
    for ref in label_refs:
        ref[row, pl.program_id(1)] = jnp.sum(jnp.where(numbers == label_ref[row], q_logits, 0.0))
