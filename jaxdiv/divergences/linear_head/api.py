"""`linear_head_divergence`: its arguments, and the derivative that is computed together with the value."""

import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdiv import checks
from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head.blocks import DEFAULT_MEMORY, Sizes, choose_blocks, whole_tiles
from jaxdiv.divergences.linear_head.rows import Objective
from jaxdiv.divergences.linear_head.sweep import (
    Gradients,
    Kernels,
    Plan,
    Problem,
    Side,
    can_fuse,
    fastest_kernels,
    sweep,
)
from jaxdiv.divergences.mixtures import jensen_shannon
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import vary_alike

_NAME = "linear_head_divergence"


def linear_head_divergence(
    divergence: FDivergence | Renyi,
    *,
    p_hidden: ArrayLike,
    p_head: ArrayLike,
    q_hidden: ArrayLike,
    q_head: ArrayLike,
    p_bias: ArrayLike | None = None,
    q_bias: ArrayLike | None = None,
    temperature: float = 1.0,
    weights: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_weight: float | None = None,
    vocab_size: int | None = None,
    reduction: str = "mean",
    differentiate_p: bool = False,
    memory_limit: int = DEFAULT_MEMORY,
    token_block: int | None = None,
    vocab_block: int | None = None,
    implementation: str = "auto",
) -> jax.Array:
    r"""D(p || q) between the next-token distributions of two models, from hidden states and heads, without the logits.

    p = softmax((p_hidden p_head^T + p_bias) / temperature), usually the teacher, and q likewise, the student. With
    labels, each token's loss is (1 - label_weight) D(p || q) + label_weight (-log q_1(label)), where q_1 is q at
    temperature 1. The gradient is computed together with the value, block by block, in float32: the array of logits
    (8,192 tokens by 128,256 categories are 4.2 GB) never exists. D is not multiplied by temperature^2.

    Reverse mode only: `jax.grad`, `jax.vjp` and, with implementation "xla", what differentiates those once more, as
    `jax.hessian`. `jax.jvp` and `jax.jacfwd` of the loss itself raise jax's TypeError.

    Args:
        divergence: any record, as ``kl()`` for KL(p || q) or ``jensen_shannon(pi).normalized()``, or ``Renyi(order)``.
        p_hidden: ``[..., width]`` hidden states of p.
        p_head: ``[vocabulary, width]`` output embedding of p (a Dense kernel is its transpose).
        q_hidden: as p_hidden, with the same leading axes; the width may differ.
        q_head: as p_head.
        p_bias: ``[vocabulary]``; -inf removes a category.
        q_bias: as p_bias.
        temperature: positive; divides both logits.
        weights: ``[...]`` weight or boolean mask per token. Tokens of weight 0 add nothing, whatever they hold.
        labels: ``[...]`` integers in [0, vocab_size); with them label_weight is required. Tokens of weight 0 may have
            others, such as -100. Under a trace, where no value can be looked at, the loss of a label out of range is
            NaN.
        label_weight: the share of the cross-entropy, in [0, 1].
        vocab_size: how many leading categories exist; the rest of a head is padding and has probability 0. Required
            if the heads have different numbers of rows.
        reduction: "mean" over weights (sum of weight * loss / sum of weights, 0 if all are 0), "sum", or "none": one
            loss per token, unweighted, whose gradient needs the logits a second time.
        differentiate_p: whether the arrays of p get gradients; otherwise they are stopped.
        memory_limit: bytes of temporaries from which the block sizes follow.
        token_block: tokens whose logits exist at a time, to choose by hand; a kernel may take up to 127 more.
        vocab_block: categories per block, instead.
        implementation: "xla", "pallas" (GPU kernels), or "auto": the kernels where they run. Nothing partitions a
            kernel, so "auto" takes them on the only GPU, or where ``jax.shard_map(..., check_vma=False)`` has split
            the tokens over all axes of a mesh; otherwise XLA partitions its own over sharded tokens and heads. On
            NVIDIA Hopper, with arrays of 16 bits and no bias, a loss computed together with its gradients rounds p's
            logits and the log-ratios to float16: typically 1e-4 of a token's loss, a few thousandths where it hangs on
            a category that the teacher finds very improbable; gradients err by about what their own dtype rounds
            (BENCHMARKS.md).

    Returns:
        float32 (float64 for float64 input): a scalar, or one number per token for "none". Gradients have the dtypes of
        their arguments. Where a token's divergence is infinite its loss is inf, and it adds nothing to the gradients.

    Raises:
        ValueError: an argument has the wrong type, rank, shape, dtype or range.

    Source: gradient q_j (k_j - sum_i q_i k_i), k = f - r f', of D_f in the logits of q; the forms are derived in
    `jaxdiv.divergences.linear_head.terms`.

    >>> from jaxdiv.divergences.generators import kl
    >>> hidden, head = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]])
    >>> value = linear_head_divergence(  # uniform p against q = (3/4, 1/4)
    ...     kl(), p_hidden=hidden, p_head=head, q_hidden=hidden, q_head=head, q_bias=jnp.log(jnp.array([3.0, 1.0]))
    ... )
    >>> round(float(value), 6)  # -log(3/4) / 2
    0.143841
    """
    objective = _objective(divergence, temperature, labels, label_weight, differentiate_p)
    p, leading = _side("p", p_hidden, p_head, p_bias)
    q, q_leading = _side("q", q_hidden, q_head, q_bias)
    if leading != q_leading:
        raise checks.fail(_NAME, "q_hidden", f"has leading axes {q_leading}", f"p_hidden's {leading}")
    checks.check_choice(_NAME, "reduction", reduction, ("mean", "sum", "none"))
    checks.check_choice(_NAME, "implementation", implementation, ("auto", "xla", "pallas"))
    checks.check_integer(_NAME, "memory_limit", memory_limit, low=1)
    weights = _weights(weights, leading, reduction)
    if not differentiate_p:
        p = jax.tree.map(jax.lax.stop_gradient, p)
    if weights is not None:
        p, q = (side._replace(hidden=jnp.where(weights[:, None] == 0.0, 0, side.hidden)) for side in (p, q))
    labels = _labels(labels, leading)
    vocab_size = _vocab_size(vocab_size, p, q)
    outside = None if labels is None else _labels_outside(labels, vocab_size, weights)
    problem = Problem(p, q, labels if objective.label_weight else None)
    use_kernels = implementation == "pallas" or (implementation == "auto" and can_fuse(problem))
    kernels = fastest_kernels(objective, problem, vocab_size) if use_kernels else Kernels.XLA
    sizes = Sizes(
        q.hidden.shape[0],
        max(p.head.shape[0], q.head.shape[0]),
        p.hidden.shape[1],
        q.hidden.shape[1],
        jnp.promote_types(q.hidden.dtype, q.head.dtype).itemsize,
        differentiate_p,
        pair_bytes=4 if kernels == Kernels.PACKED else 8,
    )
    blocks = choose_blocks(sizes, memory_limit, token_block, vocab_block)
    if kernels == Kernels.PACKED:
        blocks = whole_tiles(blocks, q.hidden.shape[0])
    plan = Plan(objective, blocks, vocab_size, kernels)
    if reduction == "none":
        losses = _per_token(plan, vary_alike(problem))
        return (losses if outside is None else jnp.where(outside, jnp.nan, losses)).reshape(leading)
    dtype = jnp.result_type(jnp.float32, p.hidden, p.head, q.hidden, q.head)
    weights = jnp.ones((q.hidden.shape[0],), dtype) if weights is None else weights.astype(dtype)
    if reduction == "mean":
        total = weights.sum()
        weights = weights / jnp.where(total == 0.0, 1.0, total)
    if outside is not None:
        weights = jnp.where(outside, jnp.nan, weights)
    return _weighted_sum(plan, *vary_alike((problem, weights)))


def _objective(divergence: Any, temperature: Any, labels: Any, label_weight: Any, differentiate_p: bool) -> Objective:
    renyi = divergence if isinstance(divergence, Renyi) else None
    divergence = divergence if renyi is None else renyi.generator
    if renyi is not None and renyi.order == 1.0:
        renyi = None  # it is its generator, KL
    checks.check_instance(_NAME, "divergence", divergence, FDivergence)
    checks.check_real(_NAME, "temperature", temperature, 0.0, math.inf, open_low=True, open_high=True)
    if (labels is None) != (label_weight is None):
        given, missing = ("labels", "label_weight") if label_weight is None else ("label_weight", "labels")
        raise checks.fail(_NAME, missing, "is None", f"a value, as {given} is given")
    if label_weight is not None:
        checks.check_real(_NAME, "label_weight", label_weight, 0.0, 1.0)
        if label_weight == 1.0:
            divergence, renyi = jensen_shannon(), None  # counts 0 times, so any that is never infinite
    checks.check_choice(_NAME, "differentiate_p", differentiate_p, (True, False))
    return Objective(divergence, renyi, float(temperature), float(label_weight or 0.0), bool(differentiate_p))


def _side(name: str, hidden: Any, head: Any, bias: Any) -> tuple[Side, tuple[int, ...]]:
    """The arrays of one side with the tokens in one axis, and their leading axes."""
    hidden = checks.floating_array(_NAME, f"{name}_hidden", hidden)
    head = checks.floating_array(_NAME, f"{name}_head", head)
    if hidden.ndim < 2 or hidden.size == 0:
        raise checks.fail(_NAME, f"{name}_hidden", f"has shape {hidden.shape}", "shape (..., width), no axis empty")
    checks.check_shape(_NAME, f"{name}_head", head, (None, hidden.shape[-1]))
    if head.shape[0] == 0:
        raise checks.fail(_NAME, f"{name}_head", f"has shape {head.shape}", "at least one category")
    if bias is not None:
        bias = checks.floating_array(_NAME, f"{name}_bias", bias)
        checks.check_shape(_NAME, f"{name}_bias", bias, head.shape[:1])
    return Side(hidden.reshape(-1, hidden.shape[-1]), head, bias), hidden.shape[:-1]


def _weights(weights: Any, leading: tuple[int, ...], reduction: str) -> jax.Array | None:
    if weights is None:
        return None
    if reduction == "none":
        raise checks.fail(_NAME, "weights", "are given with reduction 'none'", "None: multiply the losses instead")
    if getattr(weights, "dtype", None) == jnp.bool_:
        weights = checks.mask_array(_NAME, "weights", weights, leading).astype(jnp.float32)
    weights = checks.floating_array(_NAME, "weights", weights)
    checks.check_shape(_NAME, "weights", weights, leading)
    return weights.astype(jnp.promote_types(weights.dtype, jnp.float32)).reshape(-1)


def _labels(labels: Any, leading: tuple[int, ...]) -> jax.Array | None:
    if labels is None:
        return None
    labels = checks.integer_array(_NAME, "labels", labels)
    checks.check_shape(_NAME, "labels", labels, leading)
    return labels.reshape(-1)


def _labels_outside(labels: jax.Array, vocab_size: int, weights: jax.Array | None) -> jax.Array:
    """Which labels are no category and count; where that is known and any are, a ValueError."""
    outside = (labels < 0) | (labels >= vocab_size)
    if weights is not None:
        outside &= weights != 0.0
    if not isinstance(outside, jax.core.Tracer) and bool(jnp.any(outside)):
        wrong = int(labels[jnp.argmax(outside)])
        raise checks.fail(_NAME, "labels", f"contain {wrong}", f"integers in [0, {vocab_size}) where weights are not 0")
    return outside


def _vocab_size(vocab_size: Any, p: Side, q: Side) -> int:
    rows = (p.head.shape[0], q.head.shape[0])
    if vocab_size is None:
        if rows[0] != rows[1]:
            got = f"is None with heads of {rows[0]} and {rows[1]} rows"
            raise checks.fail(_NAME, "vocab_size", got, f"how many categories are real, at most {min(rows)}")
        return rows[0]
    checks.check_integer(_NAME, "vocab_size", vocab_size, low=1, high=min(rows))
    return vocab_size


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(plan: Plan, problem: Problem, weights: jax.Array) -> jax.Array:
    return jnp.sum(_where_weighted(weights, sweep(plan, problem, None)[0]))


def _where_weighted(weights: jax.Array, losses: jax.Array) -> jax.Array:
    return jnp.where(weights == 0.0, 0.0, weights * losses)


def _weighted_sum_forward(plan, problem, weights):
    losses, grads = _scaled_sweep(plan, problem, weights)
    return jnp.sum(_where_weighted(weights, losses)), (grads, losses, weights, problem)


def _weighted_sum_backward(plan, saved, cotangent):
    grads, losses, weights, problem = saved
    scaled = jax.tree.map(lambda g: cotangent * g, grads)
    # A weight's gradient is its loss; an infinite one adds nothing to any gradient.
    silent = (weights == 0.0) | (losses == jnp.inf)
    return _in_dtypes(problem, scaled), cotangent * jnp.where(silent, 0.0, losses)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _per_token(plan: Plan, problem: Problem) -> jax.Array:
    return sweep(plan, problem, None)[0]


def _per_token_forward(plan, problem):
    return sweep(plan, problem, None)[0], problem


def _per_token_backward(plan, problem, cotangents):
    return (_in_dtypes(problem, _scaled_sweep(plan, problem, cotangents)[1]),)


_per_token.defvjp(_per_token_forward, _per_token_backward)


def _scaled_sweep(plan: Plan, problem: Problem, weights: jax.Array) -> tuple[jax.Array, Gradients]:
    """Losses and gradients of the weighted sum in the arguments' dtypes, float32 for float16; a fixed side gets None.

    A weight of 1/8192 would push float16's logit gradients under its range: with such arguments weights travel relative
    to the largest, and the factor comes back on the float32 sums. Those stay: a scale of the loss may be yet to come.
    """
    largest = 1.0
    if any(x.dtype == jnp.float16 for side in problem[:2] for x in side[:2]):
        largest = jnp.max(jnp.abs(weights))
        largest = jnp.where(largest == 0.0, 1.0, largest)
    losses, grads = sweep(plan, problem, weights / largest)
    grads = cast(Gradients, grads)

    def restore(side: Side, grad: Side | None) -> Side | None:
        def of(x, g):
            return (largest * g).astype(jnp.float32 if x.dtype == jnp.float16 else x.dtype)

        return None if grad is None else jax.tree.map(of, side, grad)

    return losses, Gradients(restore(problem.p, grads.p), restore(problem.q, grads.q))


def _in_dtypes(problem: Problem, grads: Gradients) -> Problem:
    """The gradients as cotangents of the problem."""

    def of(side: Side, grad: Side | None) -> Side | None:
        return None if grad is None else jax.tree.map(lambda x, g: g.astype(x.dtype), side, grad)

    return Problem(of(problem.p, grads.p), of(problem.q, grads.q), None)
