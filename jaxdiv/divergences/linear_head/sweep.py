"""The loss and its gradients block by block: hidden states times heads in, no array of all logits ever made."""

import enum
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiv.divergences.linear_head import rows
from jaxdiv.divergences.linear_head.blocks import TOKEN_TILE, Blocks, equal_groups
from jaxdiv.divergences.linear_head.rows import Objective, RowStatistics, RowSums
from jaxdiv.numerics import is_hopper, runs_triton, vary_as

_UNROLL = 32  # blocks of tokens; more are a loop


class Side(NamedTuple):
    """One model's last layer: logits = hidden @ head.T + bias."""

    hidden: jax.Array
    head: jax.Array
    bias: jax.Array | None


class Kernels(enum.Enum):
    """What turns hidden states into losses and logit gradients."""

    XLA = "products and rows by XLA"
    ROWS = "products by XLA, rows by the kernels of `fused`"
    PACKED = "products by the kernel of `hopper`, rows by those of `fused`"


class Plan(NamedTuple):
    """What to compute and how; hashable, static under jit."""

    objective: Objective
    blocks: Blocks
    vocab_size: int
    kernels: Kernels


class Problem(NamedTuple):
    """The arrays: both sides, and per token its label if there is one."""

    p: Side
    q: Side
    labels: jax.Array | None


class Gradients(NamedTuple):
    """Gradients in the dtypes of what they belong to; None where the objective keeps a side fixed."""

    p: Side | None
    q: Side


def can_fuse(problem: Problem) -> bool:
    """Whether the kernels of `fused` take it: logits in float32, and all arrays, labels too, on one GPU."""
    return all(x.dtype != jnp.float64 for x in jax.tree.leaves(problem)) and runs_triton(problem)


def fastest_kernels(objective: Objective, problem: Problem, vocab_size: int) -> Kernels:
    """Those for this GPU: packed logits are for NVIDIA Hopper."""
    p, q = problem.p, problem.q
    if not is_hopper() or p.bias is not None or q.bias is not None:
        return Kernels.ROWS
    from jaxdiv.divergences.linear_head.hopper import can_pack  # Pallas: half a second that few need

    packs = can_pack(objective, vocab_size, (p.hidden, p.head, q.hidden, q.head))
    return Kernels.PACKED if packs else Kernels.ROWS


def _dot(a: jax.Array, b: jax.Array, contract: tuple[int, int], output: jnp.dtype | None = None) -> jax.Array:
    """A product accumulated in float32: of 16-bit operands at full speed, of float32 ones without tf32."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return lax.dot_general(
        a.astype(dtype),
        b.astype(dtype),
        (((contract[0],), (contract[1],)), ((), ())),
        precision=lax.Precision.HIGHEST if dtype == jnp.float32 else None,
        preferred_element_type=output or _sum_dtype(dtype),
    )


def _logits(side: Side) -> jax.Array:
    logits = _dot(side.hidden, side.head, (1, 1))
    return logits if side.bias is None else logits + side.bias.astype(logits.dtype)


def _side_gradients(side: Side, grad: jax.Array, output: jnp.dtype | None = None) -> Side:
    """Gradients of hidden, head and bias from those of the logits: float32, or the products rounded once."""
    bias = None if side.bias is None else grad.sum(0, dtype=_sum_dtype(grad.dtype))
    return Side(_dot(grad, side.head, (1, 0), output), _dot(grad, side.hidden, (0, 0), output), bias)


def _compute_dtype(side: Side) -> jnp.dtype:
    return jnp.promote_types(side.hidden.dtype, side.head.dtype)


def _sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _whole_rows(
    plan: Plan, problem: Problem, weights: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | None] | None]:
    """Losses of a block of tokens, and the logit gradients of their weighted sum as (of q, of p or None)."""
    p_logits, q_logits = _logits(problem.p)[:, : plan.vocab_size], _logits(problem.q)[:, : plan.vocab_size]
    statistics = rows.log_partition(plan.objective, p_logits, q_logits)
    sums = rows.row_sums(plan.objective, statistics, p_logits, q_logits, problem.labels)
    loss = rows.losses(plan.objective, statistics, sums)
    if weights is None:
        return loss, None
    grad_q, grad_p = rows.logit_gradients(plan.objective, statistics, sums, p_logits, q_logits, weights, problem.labels)
    return loss, (_padded(grad_q, problem.q), None if grad_p is None else _padded(grad_p, problem.p))


def _padded(grad: jax.Array, side: Side) -> jax.Array:
    """In the dtype of the products, with columns of 0 for the padding of the head."""
    return jnp.pad(grad.astype(_compute_dtype(side)), ((0, 0), (0, side.head.shape[0] - grad.shape[1])))


def _fused_gradients(plan: Plan, problem: Problem, hidden: tuple, labels, weights) -> tuple[jax.Array, tuple]:
    """`_whole_rows` of every block in turn, by the GPU kernels, which write into one array for all blocks."""
    # Pallas: half a second that few need.
    from jaxdiv.divergences.linear_head.fused import FloatLogits, GradientBuffers, PackedLogits, fused_rows
    from jaxdiv.divergences.linear_head.hopper import packed_logits

    zeros = problem.p.bias is not None or problem.q.bias is not None

    def logits_of(p: Side, q: Side) -> FloatLogits | PackedLogits:
        if plan.kernels != Kernels.PACKED:
            return FloatLogits(_logits(p), _logits(q))
        return packed_logits(p.hidden, p.head, q.hidden, q.head, objective=plan.objective)

    def buffer(side: Side) -> jax.Array:
        return lax.empty((*weights.shape, side.head.shape[0]), _compute_dtype(side))

    def step(carry, block):
        (buffers, before), (index, p_hidden, q_hidden, block_labels, block_weights) = carry, block
        # Nothing else keeps the logits of all blocks from being made first.
        (p_hidden, q_hidden), _ = lax.optimization_barrier(((p_hidden, q_hidden), before))
        logits = logits_of(problem.p._replace(hidden=p_hidden), problem.q._replace(hidden=q_hidden))
        rows_of = (logits, block_weights, block_labels)
        loss, buffers = fused_rows(plan.objective, *rows_of, plan.vocab_size, buffers, index, zeros=zeros)
        return (buffers, loss), loss

    buffers = GradientBuffers(buffer(problem.q), buffer(problem.p) if plan.objective.differentiate_p else None)
    blocks = (jnp.arange(len(weights)), *hidden, labels, weights)
    # Sixteen blocks of an H200 take 1 ms less than in a loop.
    (buffers, _), losses = lax.scan(step, (buffers, weights[0]), blocks, unroll=len(weights) <= _UNROLL)
    return losses, tuple(buffers)


def _group(
    plan: Plan, problem: Problem, hidden: tuple, labels: jax.Array | None, weights: jax.Array, last: bool
) -> tuple[jax.Array, Gradients]:
    """Losses and gradients of several blocks: all their logit gradients first, then one product for each array.

    ``hidden``, ``labels`` and ``weights`` are ``[blocks, tokens, ...]``; the gradients of the hidden states are so too.
    With ``last`` nothing will be added to the head's gradient, so that the products need no float32 (but for float16's
    range).
    """
    if plan.kernels != Kernels.XLA:
        losses, grads = _fused_gradients(plan, problem, hidden, labels, weights)
    else:

        def step(_, block):
            p_hidden, q_hidden, block_labels, block_weights = block
            p, q = problem.p._replace(hidden=p_hidden), problem.q._replace(hidden=q_hidden)
            return None, _whole_rows(plan, Problem(p, q, block_labels), block_weights)

        _, (losses, grads) = lax.scan(step, None, (*hidden, labels, weights))

    def products(side: Side, side_hidden: jax.Array, grad: jax.Array) -> Side:
        flat = side._replace(hidden=side_hidden.reshape(-1, side_hidden.shape[-1]))
        output = grad.dtype if last and grad.dtype != jnp.float16 else None
        grads = _side_gradients(flat, grad.reshape(-1, grad.shape[-1]), output)
        return grads._replace(hidden=grads.hidden.reshape(side_hidden.shape))

    p = None if grads[1] is None else products(problem.p, hidden[0], grads[1])
    return losses, Gradients(p, products(problem.q, hidden[1], grads[0]))


def _split_tokens(x: jax.Array, num_groups: int, num_blocks: int, multiple: int, strided: bool) -> jax.Array:
    """``[tokens, ...]`` to ``[groups, blocks, block, ...]``, padded with zeros, blocks multiples of ``multiple``.

    Strided, block i of all of them holds the tokens i mod the number of blocks, so that tokens sharded over devices
    leave a share of every block on each of them. On one device that would only cost a copy.
    """
    total = num_groups * num_blocks
    padded = jnp.pad(x, [(0, -x.shape[0] % (total * multiple))] + [(0, 0)] * (x.ndim - 1))
    if strided:
        padded = jnp.moveaxis(padded.reshape(-1, total, *x.shape[1:]), 1, 0)
    return padded.reshape(num_groups, num_blocks, -1, *x.shape[1:])


def _join_tokens(x: jax.Array, num_tokens: int, strided: bool) -> jax.Array:
    rest = x.shape[3:]
    if strided:
        x = jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 0, 1)
    return x.reshape(-1, *rest)[:num_tokens]


def _by_tokens(plan: Plan, problem: Problem, weights: jax.Array | None) -> tuple[jax.Array, Gradients | None]:
    num_tokens = problem.q.hidden.shape[0]
    num_groups, num_blocks = equal_groups(num_tokens, plan.blocks)
    strided, multiple = plan.kernels == Kernels.XLA, TOKEN_TILE if plan.kernels == Kernels.PACKED else 1
    per_token = (problem.p.hidden, problem.q.hidden, problem.labels, weights)
    groups = jax.tree.map(lambda x: _split_tokens(x, num_groups, num_blocks, multiple, strided), per_token)
    if weights is None:
        # Values alone go by float32 logits: half a block of them is as large as a block of packed ones.
        share = 2 if plan.kernels == Kernels.PACKED else 1
        blocks = jax.tree.map(lambda x: x.reshape(-1, x.shape[2] // share, *x.shape[3:]), groups[:3])

        def losses_of(block):
            p_hidden, q_hidden, labels = block
            part = Problem(problem.p._replace(hidden=p_hidden), problem.q._replace(hidden=q_hidden), labels)
            return _whole_rows(plan, part, None)[0]

        return _join_tokens(lax.map(losses_of, blocks)[None], num_tokens, strided), None

    def body(totals, group):
        p_hidden, q_hidden, labels, group_weights = group
        losses, grads = _group(plan, problem, (p_hidden, q_hidden), labels, group_weights, num_groups == 1)
        # Heads and biases add up over the groups; hidden gradients belong to their tokens.
        sides = Gradients(*[None if side is None else side._replace(hidden=None) for side in grads])
        hidden = Gradients(*[None if side is None else side.hidden for side in grads])
        totals = sides if totals is None else jax.tree.map(jnp.add, totals, sides)
        return totals, (losses, hidden)

    if num_groups == 1:
        totals, one = body(None, jax.tree.map(lambda x: x[0], groups))
        losses, hidden = jax.tree.map(lambda x: x[None], one)
    else:

        def zeros(side: Side) -> Side:
            dtype = _sum_dtype(_compute_dtype(side))
            bias = None if side.bias is None else jnp.zeros(side.bias.shape, dtype)
            return Side(None, jnp.zeros(side.head.shape, dtype), bias)

        start = Gradients(zeros(problem.p) if plan.objective.differentiate_p else None, zeros(problem.q))
        start = vary_as(start, problem)
        totals, (losses, hidden) = lax.scan(body, start, groups)
    totals = cast(Gradients, totals)
    joined = jax.tree.map(lambda x: _join_tokens(x, num_tokens, strided), hidden)
    p = None if totals.p is None else totals.p._replace(hidden=joined.p)
    return _join_tokens(losses, num_tokens, strided), Gradients(p, totals.q._replace(hidden=joined.q))


def _columns(side: Side, start: jax.Array | int, size: int) -> Side:
    """The side with the heads of ``size`` categories alone."""
    bias = None if side.bias is None else lax.dynamic_slice_in_dim(side.bias, start, size)
    return Side(side.hidden, lax.dynamic_slice_in_dim(side.head, start, size), bias)


def _over_vocab(plan: Plan, problem: Problem, fn, carry):
    """Folds ``fn(carry, start, p_block, q_block)`` over equal blocks of the vocabulary and the remainder."""
    size = plan.blocks.vocab
    full, rest = divmod(plan.vocab_size, size)

    def step(start, carry, size):
        return fn(carry, start, _columns(problem.p, start, size), _columns(problem.q, start, size))

    carry = lax.fori_loop(0, full, lambda i, c: step(i * size, c, size), carry)
    return step(full * size, carry, rest) if rest else carry


def _by_vocab(plan: Plan, problem: Problem, weights: jax.Array | None) -> tuple[jax.Array, Gradients | None]:
    """Three sweeps: log-sum-exps, sums, gradients."""
    objective, labels = plan.objective, problem.labels
    num_tokens = problem.q.hidden.shape[0]
    dtype = jnp.promote_types(*(_sum_dtype(_compute_dtype(side)) for side in (problem.p, problem.q)))

    def fold_partition(carry, start, p, q):
        block = rows.log_partition(objective, _logits(p), _logits(q))
        return jax.tree.map(jnp.logaddexp, carry, block)

    nothing = jnp.full((num_tokens,), -jnp.inf, dtype)
    statistics = RowStatistics(
        nothing,
        nothing,
        nothing if objective.label_weight else None,
        None if objective.renyi is None else nothing,
    )
    statistics = _over_vocab(plan, problem, fold_partition, vary_as(statistics, problem))

    def fold_sums(carry, start, p, q):
        block = rows.row_sums(objective, statistics, _logits(p), _logits(q), labels, start)
        return jax.tree.map(jnp.add, carry, block)

    zero = jnp.zeros((num_tokens,), dtype)
    sums = RowSums(zero, zero, zero if objective.differentiate_p else None, None if labels is None else zero)
    sums = _over_vocab(plan, problem, fold_sums, vary_as(sums, problem))
    loss = rows.losses(objective, statistics, sums)
    if weights is None:
        return loss, None

    def add(total: Side, block: Side, start) -> Side:
        head = lax.dynamic_update_slice_in_dim(total.head, block.head.astype(total.head.dtype), start, 0)
        bias = None if total.bias is None else lax.dynamic_update_slice_in_dim(total.bias, block.bias, start, 0)
        return Side(total.hidden + block.hidden, head, bias)

    def fold_gradients(carry, start, p, q):
        grad_q, grad_p = rows.logit_gradients(
            objective, statistics, sums, _logits(p), _logits(q), weights, labels, start
        )
        grads = add(carry.q, _side_gradients(q, grad_q.astype(_compute_dtype(q))), start)
        if grad_p is None:
            return Gradients(None, grads)
        return Gradients(add(carry.p, _side_gradients(p, grad_p.astype(_compute_dtype(p))), start), grads)

    def zeros(side: Side) -> Side:
        dtype = _sum_dtype(_compute_dtype(side))
        bias = None if side.bias is None else jnp.zeros(side.bias.shape, dtype)
        return Side(jnp.zeros(side.hidden.shape, dtype), jnp.zeros_like(side.head), bias)

    start = Gradients(zeros(problem.p) if objective.differentiate_p else None, zeros(problem.q))
    return loss, _over_vocab(plan, problem, fold_gradients, vary_as(start, problem))


def sweep(plan: Plan, problem: Problem, weights: jax.Array | None) -> tuple[jax.Array, Gradients | None]:
    """Losses per token; with weights also the gradients of sum(weights * losses), float32 where they were summed."""
    return (_by_tokens if plan.blocks.vocab >= plan.vocab_size else _by_vocab)(plan, problem, weights)
