"""Rows of logits to losses and logit gradients on a GPU, in passes that each read the logits once.

The passes are log-sum-exps, the sums that gradients need, gradients together with the values. Powers have those sums
from the first pass (`early`), so that the middle one falls away. Kernels of one segment of a row per program take half
of the time of XLA's fusions of the same formulas.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdiv.divergences.linear_head.early import (
    ABSENT,
    early_parts,
    early_power,
    early_sums,
    num_early_parts,
    partial_lse,
    total_lse,
)
from jaxdiv.divergences.linear_head.rows import Objective, RowStatistics, RowSums, losses, slope_factor
from jaxdiv.divergences.linear_head.terms import category_terms, rough_slope

_SEGMENT = 2048  # logits per program
_NUM_WARPS = 4


class GradientBuffers(NamedTuple):
    """``[blocks, tokens, width]`` logit gradients of many blocks of tokens; p's is None where p is fixed."""

    q: jax.Array
    p: jax.Array | None


def fused_rows(
    objective: Objective,
    p_logits: jax.Array,
    q_logits: jax.Array,
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
    """Losses and weighted logit gradients of `rows`, from float32 logits.

    Args:
        objective: what is computed per token.
        p_logits: ``[tokens, width_p]`` float32; columns from ``vocab_size`` on are padding.
        q_logits: ``[tokens, width_q]`` float32.
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
    width = max(q_logits.shape[1], p_logits.shape[1] if both else 0)
    grid = (q_logits.shape[0], pl.cdiv(width, segment))
    rows_by_segments = jax.ShapeDtypeStruct(grid, jnp.float32)
    has_labels = bool(objective.label_weight)

    def run(kernel: Callable[..., None], outputs: list, *arrays: jax.Array, aliases: dict | None = None) -> list:
        inputs = (p_logits, q_logits, *arrays)
        bound = functools.partial(
            kernel, objective=objective, columns=_Columns(segment, vocab_size), zeros=zeros, num_arrays=len(arrays)
        )
        params = plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=1)
        return pl.pallas_call(
            bound,
            grid=grid,
            out_shape=outputs,
            input_output_aliases=aliases or {},
            compiler_params=None if interpret else params,
            interpret=interpret,
            name="linear_head" + kernel.__name__,
        )(*inputs)

    num_lses, num_early = _num_partitions(objective), num_early_parts(objective)
    parts = run(_partition_kernel, [rows_by_segments] * (2 * num_lses + num_early))
    lses = [total_lse(*parts[2 * i : 2 * i + 2]) for i in range(num_lses)]
    statistics = RowStatistics(lses[0], lses[1], lses[-1] if has_labels else None)
    if labels is None:
        labels = jnp.zeros(grid[:1], jnp.int32)
    per_row = [*lses, labels.astype(jnp.int32)]

    if early_power(objective) is not None:
        slope_q, slope_p, rough_value = early_sums(objective, parts[2 * num_lses :], parts[0], parts[2], *lses[:2])
    else:
        sums = [x.sum(-1) for x in run(_sums_kernel, [rows_by_segments] * _num_sums(objective), *per_row)]
        slope_q, slope_p, rough_value = sums[0], sums[1] if both else None, sums[-1]

    weights = weights.astype(jnp.float32)
    per_row += [weights, weights * slope_factor(objective, rough_value), slope_q, *([slope_p] if both else [])]
    written = [x for x in buffers if x is not None]
    arrays = [*written, jnp.asarray(block, jnp.int32).reshape(1), *per_row]
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in written]
    late = [rows_by_segments] * (1 + has_labels)
    outputs = run(_gradient_kernel, [*shapes, *late], *arrays, aliases={2 + i: i for i in range(len(written))})
    late_sums = [x.sum(-1) for x in outputs[len(written) :]]
    row_sums = RowSums(late_sums[0], slope_q, slope_p if both else None, late_sums[1] if has_labels else None)
    buffers = GradientBuffers(outputs[0], outputs[1] if both else None)
    return losses(objective, statistics, row_sums), buffers


class _Columns:
    """The part of the vocabulary that a program works on."""

    def __init__(self, segment: int, vocab_size: int):
        self.segment, self.vocab_size = segment, vocab_size

    def load(self, ref):
        """(row, slice, column numbers, logits) of this program."""
        row, start = pl.program_id(0), pl.program_id(1) * self.segment
        numbers = start + jnp.arange(self.segment, dtype=jnp.int32)
        here = pl.ds(start, self.segment)
        return row, here, numbers, plgpu.load(ref.at[row, here], mask=numbers < self.vocab_size, other=ABSENT)


def _num_partitions(objective: Objective) -> int:
    """p, q, and q without the temperature where a cross-entropy needs it."""
    return 3 if objective.label_weight and objective.temperature != 1.0 else 2


def _num_sums(objective: Objective) -> int:
    """Slopes, and the value where the gradient depends on it."""
    return 1 + objective.differentiate_p + (objective.renyi is not None)


def _partition_kernel(p_ref, q_ref, *out_refs, objective, columns, zeros, num_arrays):
    del num_arrays
    row, _, _, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    scale = 1.0 / objective.temperature
    p, q = scale * p_logits, scale * q_logits
    parts = [*partial_lse(p), *partial_lse(q)]
    early = early_parts(objective, p, q, parts[0], parts[2], zeros)
    if _num_partitions(objective) == 3:
        parts += partial_lse(q_logits)
    for ref, part in zip(out_refs, [*parts, *early], strict=True):
        ref[row, pl.program_id(1)] = part


def _log_probs(objective, logits, lse_ref, row):
    return logits * (1.0 / objective.temperature) - lse_ref[row]


def _sums_kernel(p_ref, q_ref, *refs, objective, columns, zeros, num_arrays):
    row_refs, out_refs = refs[:num_arrays], refs[num_arrays:]
    row, _, _, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    log_p = _log_probs(objective, p_logits, row_refs[0], row)
    log_q = _log_probs(objective, q_logits, row_refs[1], row)
    parts = [rough_slope(objective.divergence, log_p, log_q, zeros)]
    if objective.differentiate_p:
        parts.append(rough_slope(objective.divergence.reversed(), log_q, log_p, zeros))
    if objective.renyi is not None:
        parts.append(category_terms(objective.divergence, log_p, log_q, zeros).value)
    for ref, part in zip(out_refs, parts, strict=True):
        ref[row, pl.program_id(1)] = jnp.sum(part, axis=0)


def _gradient_kernel(p_ref, q_ref, *refs, objective, columns, zeros, num_arrays):
    both = objective.differentiate_p
    inputs, out_refs = refs[1 + both : num_arrays], refs[num_arrays:]
    block_ref, *row_refs = inputs
    row, here, numbers, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    num_lses = _num_partitions(objective)
    label_ref, weight_ref, factor_ref, *slope_refs = row_refs[num_lses:]
    log_p = _log_probs(objective, p_logits, row_refs[0], row)
    log_q = _log_probs(objective, q_logits, row_refs[1], row)
    weight, factor = weight_ref[row], factor_ref[row]
    real = (numbers < columns.vocab_size) & (weight != 0.0)

    def store(ref, grad):
        grad = jnp.where(real, grad, 0.0).astype(ref.dtype)
        plgpu.store(ref.at[block_ref[0], row, here], grad, mask=numbers < ref.shape[2])

    terms = category_terms(objective.divergence, log_p, log_q, zeros)
    grad = factor * (terms.slope - terms.q * slope_refs[0][row])
    if objective.label_weight:
        soft = jnp.exp(q_logits - row_refs[num_lses - 1][row])
        grad += objective.label_weight * weight * (soft - (numbers == label_ref[row]).astype(jnp.float32))
    store(out_refs[0], grad)
    if both:
        dual = category_terms(objective.divergence.reversed(), log_q, log_p, zeros)
        store(out_refs[1], factor * (dual.slope - dual.q * slope_refs[1][row]))
    value_ref, *label_refs = out_refs[1 + both :]
    value_ref[row, pl.program_id(1)] = jnp.sum(terms.value, axis=0)
    for ref in label_refs:
        ref[row, pl.program_id(1)] = jnp.sum(jnp.where(numbers == label_ref[row], q_logits, 0.0), axis=0)
