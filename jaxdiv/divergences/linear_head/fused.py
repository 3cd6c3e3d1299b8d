"""Rows of logits to losses and logit gradients on a GPU, in three passes that each read the logits once.

The passes are those of `rows`: log-sum-exps, sums, gradients. Written as kernels of one segment of a row per program
they take three fifths of the time of XLA's fusions of the same formulas.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdiv.divergences.linear_head.rows import Objective, RowStatistics, RowSums, losses, slope_factor
from jaxdiv.divergences.linear_head.terms import category_terms

_SEGMENT = 2048  # logits per program
_NUM_WARPS = 4
# What padding holds: exp of it is 0 and, unlike -inf, differences of it are no NaN.
_ABSENT = -1e30


def fused_rows(
    objective: Objective,
    p_logits: jax.Array,
    q_logits: jax.Array,
    weights: jax.Array,
    labels: jax.Array | None,
    vocab_size: int,
    dtype: jnp.dtype,
    *,
    zeros: bool = True,
    segment: int = _SEGMENT,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Losses and weighted logit gradients of `rows`, from float32 logits.

    Args:
        objective: what is computed per token.
        p_logits: ``[tokens, width_p]`` float32; columns from ``vocab_size`` on are padding.
        q_logits: ``[tokens, width_q]`` float32.
        weights: ``[tokens]`` float32.
        labels: ``[tokens]`` integers, or None.
        vocab_size: the columns that exist for both.
        dtype: of the gradients.
        zeros: whether logits may be -inf.
        segment: logits per program, a power of two.
        interpret: run on the CPU, for tests.

    Returns:
        ``(loss [tokens] float32, grad_q [tokens, width_q], grad_p or None)``; padding columns have gradient 0.
    """
    both = objective.differentiate_p
    width = max(q_logits.shape[1], p_logits.shape[1] if both else 0)
    grid = (q_logits.shape[0], pl.cdiv(width, segment))
    rows_by_segments = jax.ShapeDtypeStruct(grid, jnp.float32)

    def run(kernel: Callable[..., None], outputs: list[jax.ShapeDtypeStruct], *arrays: jax.Array) -> list[jax.Array]:
        bound = functools.partial(
            kernel, objective=objective, columns=_Columns(segment, vocab_size), zeros=zeros, num_inputs=len(arrays) + 2
        )
        params = plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=1)
        return pl.pallas_call(
            bound,
            grid=grid,
            out_shape=outputs,
            compiler_params=None if interpret else params,
            interpret=interpret,
            name="linear_head" + kernel.__name__,
        )(p_logits, q_logits, *arrays)

    parts = run(_partition_kernel, [rows_by_segments] * _num_partitions(objective) * 2)
    lses = [_total_lse(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    statistics = RowStatistics(lses[0], lses[1], lses[-1] if objective.label_weight else None)

    if labels is None:
        labels = jnp.zeros(grid[:1], jnp.int32)
    per_row = [x for x in (*lses, labels.astype(jnp.int32)) if x is not None]
    num_sums = 2 + both + bool(objective.label_weight)
    parts = [x.sum(-1) for x in run(_sums_kernel, [rows_by_segments] * num_sums, *per_row)]
    sums = RowSums(parts[0], parts[1], parts[2] if both else None, parts[-1] if objective.label_weight else None)

    factor = weights * slope_factor(objective, sums.value)
    per_row += [weights.astype(jnp.float32), factor, sums.slope_q, *([sums.slope_p] if both else [])]
    shapes = [q_logits.shape, *([p_logits.shape] if both else [])]
    grads = run(_gradient_kernel, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes], *per_row)
    return losses(objective, statistics, sums), grads[0], grads[1] if both else None


class _Columns:
    """The part of the vocabulary that a program works on."""

    def __init__(self, segment: int, vocab_size: int):
        self.segment, self.vocab_size = segment, vocab_size

    def load(self, ref):
        """(row, slice, column numbers, logits) of this program."""
        row, start = pl.program_id(0), pl.program_id(1) * self.segment
        numbers = start + jnp.arange(self.segment, dtype=jnp.int32)
        here = pl.ds(start, self.segment)
        return row, here, numbers, plgpu.load(ref.at[row, here], mask=numbers < self.vocab_size, other=_ABSENT)


def _num_partitions(objective: Objective) -> int:
    """p, q, and q without the temperature where a cross-entropy needs it."""
    return 3 if objective.label_weight and objective.temperature != 1.0 else 2


def _partial_lse(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and sum of exp(logits - maximum); all of them may be -inf."""
    top = jnp.maximum(jnp.max(logits, axis=0), _ABSENT)
    return top, jnp.sum(jnp.exp(logits - top), axis=0)


def _total_lse(tops: jax.Array, sums: jax.Array) -> jax.Array:
    top = tops.max(-1)
    return top + jnp.log(jnp.sum(sums * jnp.exp(tops - top[:, None]), -1))


def _partition_kernel(p_ref, q_ref, *out_refs, objective, columns, zeros, num_inputs):
    del zeros, num_inputs
    row, _, _, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    scale = 1.0 / objective.temperature
    parts = [*_partial_lse(scale * p_logits), *_partial_lse(scale * q_logits)]
    if _num_partitions(objective) == 3:
        parts += _partial_lse(q_logits)
    for ref, part in zip(out_refs, parts, strict=True):
        ref[row, pl.program_id(1)] = part


def _log_probs(objective, logits, lse_ref, row):
    return logits * (1.0 / objective.temperature) - lse_ref[row]


def _sums_kernel(p_ref, q_ref, *refs, objective, columns, zeros, num_inputs):
    row_refs, out_refs = refs[: num_inputs - 2], refs[num_inputs - 2 :]
    row, _, numbers, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    log_p = _log_probs(objective, p_logits, row_refs[0], row)
    log_q = _log_probs(objective, q_logits, row_refs[1], row)
    terms = category_terms(objective.divergence, log_p, log_q, zeros)
    parts = [jnp.sum(terms.value, axis=0), jnp.sum(terms.slope, axis=0)]
    if objective.differentiate_p:
        dual = category_terms(objective.divergence.reversed(), log_q, log_p, zeros)
        parts.append(jnp.sum(dual.slope, axis=0))
    if objective.label_weight:
        parts.append(jnp.sum(jnp.where(numbers == row_refs[-1][row], q_logits, 0.0), axis=0))
    for ref, part in zip(out_refs, parts, strict=True):
        ref[row, pl.program_id(1)] = part


def _gradient_kernel(p_ref, q_ref, *refs, objective, columns, zeros, num_inputs):
    row_refs, out_refs = refs[: num_inputs - 2], refs[num_inputs - 2 :]
    row, here, numbers, p_logits = columns.load(p_ref)
    q_logits = columns.load(q_ref)[-1]
    num_lses = _num_partitions(objective)
    label_ref, weight_ref, factor_ref, *slope_refs = row_refs[num_lses:]
    log_p = _log_probs(objective, p_logits, row_refs[0], row)
    log_q = _log_probs(objective, q_logits, row_refs[1], row)
    weight, factor = weight_ref[row], factor_ref[row]
    real = (numbers < columns.vocab_size) & (weight != 0.0)

    terms = category_terms(objective.divergence, log_p, log_q, zeros)
    grad = factor * (terms.slope - terms.q * slope_refs[0][row])
    if objective.label_weight:
        soft = jnp.exp(q_logits - row_refs[num_lses - 1][row])
        grad += objective.label_weight * weight * (soft - (numbers == label_ref[row]).astype(jnp.float32))
    _store(out_refs[0], row, here, numbers, jnp.where(real, grad, 0.0))
    if objective.differentiate_p:
        dual = category_terms(objective.divergence.reversed(), log_q, log_p, zeros)
        grad = factor * (dual.slope - dual.q * slope_refs[1][row])
        _store(out_refs[1], row, here, numbers, jnp.where(real, grad, 0.0))


def _store(ref, row, here, numbers, grad):
    plgpu.store(ref.at[row, here], grad.astype(ref.dtype), mask=numbers < ref.shape[1])
