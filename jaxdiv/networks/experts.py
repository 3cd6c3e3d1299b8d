"""Mixture of experts: shared experts for every token, routed ones chosen per token, kept busy by a bias.

Dai et al.: DeepSeekMoE: towards ultimate expert specialization in mixture-of-experts language models, arXiv 2401.06066
(fine experts, shared experts). Wang, Gao, Zhao, Sun, Dai: Auxiliary-loss-free load balancing strategy for
mixture-of-experts, arXiv 2408.15664 (the bias on the choice and its update). DeepSeek-AI: DeepSeek-V3 technical report,
arXiv 2412.19437, section 2.1.2 (sigmoid scores, normalized over the chosen).

A token's scores are s = sigmoid(W x) in float32. It goes to the k experts with the largest s + balance; their outputs
are weighted by s, without the bias, divided by its sum over the k and multiplied by ``routed_scale``. No token is
dropped.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import check_instance, check_real, check_same_shape, fail, floating_array
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_layers import Projection, RMSNorm
from jaxdiv.networks.feed_forward import SwiGLU
from jaxdiv.networks.layers import statistics_dtype
from jaxdiv.typing import Array, ArrayLike


def init_balance(config: DecoderConfig) -> Array:
    """Router biases before training: zeros [L, E], float32; [L, 0] for a decoder without a mixture.

    They are state of the training loop, not a parameter: no gradient reaches them, `update_balance` moves them.

    Raises:
        ValueError: config is not a `DecoderConfig`.
    """
    check_instance("init_balance", "config", config, DecoderConfig)
    return jnp.zeros((config.num_layers, config.num_routed))


def update_balance(balance: ArrayLike, load: ArrayLike, *, rate: float = 1e-3) -> Array:
    """New biases, balance + rate sign(mean load - load): experts with more than their share are chosen less.

    Args:
        balance: router biases [..., E].
        load: `DecoderInfo.load` of the batch, [..., E]; any positive multiple of it does.
        rate: step, a Python number >= 0. Wang et al. use 1e-3.

    Returns:
        The new biases, of balance's shape and dtype. No gradient flows.

    Raises:
        ValueError: arrays that are not floating or differ in shape; a negative or infinite rate.

    Example:
        >>> update_balance(jnp.zeros(3), jnp.array([0.75, 0.25, 0.0]), rate=0.5).tolist()
        [-0.5, 0.5, 0.5]
    """
    balance = floating_array("update_balance", "balance", balance)
    load = floating_array("update_balance", "load", load)
    check_same_shape("update_balance", balance=balance, load=load)
    if balance.ndim == 0:
        raise fail("update_balance", "balance", "has shape ()", "an axis of experts")
    check_real("update_balance", "rate", rate, 0.0, float("inf"), open_high=True)
    balance, load = jax.lax.stop_gradient((balance, load))
    step = rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)
    return balance + step.astype(balance.dtype)


def choose_experts(logits: Array, balance: Array, *, num_chosen: int, scale: float) -> tuple[Array, Array]:
    """The experts [N, k] of each token and their weights [N, k], from router logits [N, E].

    Scores are sigmoids. Those of score + balance [E] are chosen, weights are the shares of the scores alone: a softmax
    of their logarithms, since all of a token's may be below the least float.
    """
    _, experts = jax.lax.top_k(jax.nn.sigmoid(jax.lax.stop_gradient(logits)) + balance, num_chosen)
    chosen = jnp.take_along_axis(jax.nn.log_sigmoid(logits), experts, axis=-1)
    return experts, scale * jax.nn.softmax(chosen, axis=-1)


def _block_size(num_slots: int, num_experts: int) -> int:
    """A power of two that pads by an eighth at most once there are many tokens for each expert."""
    return max(8, 1 << max(0, (num_slots // (8 * num_experts)).bit_length() - 1))


def _arrange(experts: Array, sizes: Array, kernel: str) -> tuple[Array, int, Callable[[Array, Array], Array]]:
    """Where slots [M] are put so that those of one expert lie together, how many rows that takes, and the product.

    The product takes rows [R, in] and kernels [E, in, out] to [R, out]. ``"ragged"`` is `jax.lax.ragged_dot` on rows
    without gaps. ``"blocks"`` lets each expert start at a multiple of a block: a batched product with one gathered
    matrix per block, whose arithmetic does not grow with the number of experts.
    """
    (num_slots,), (num_experts,) = experts.shape, sizes.shape
    order = jnp.argsort(experts, stable=True)
    rank = jnp.zeros(num_slots, jnp.int32).at[order].set(jnp.arange(num_slots, dtype=jnp.int32), unique_indices=True)
    if kernel == "ragged":
        return rank, num_slots, lambda rows, kernels: jax.lax.ragged_dot(rows, kernels, sizes)
    size = _block_size(num_slots, num_experts)
    # Each expert's last block may be partly empty, and no block is all empty.
    num_blocks = min(num_slots, num_slots // size + num_experts)
    blocks_of = -(-sizes // size)
    block_ends = jnp.cumsum(blocks_of)
    shift = size * (block_ends - blocks_of) - (jnp.cumsum(sizes) - sizes)
    owner = jnp.searchsorted(block_ends, jnp.arange(num_blocks), side="right").clip(0, num_experts - 1)

    def product(rows: Array, kernels: Array) -> Array:
        blocks = rows.reshape(num_blocks, size, -1)
        return jnp.einsum("bmi,bio->bmo", blocks, kernels[owner]).reshape(num_blocks * size, -1)

    return rank + shift[experts], num_blocks * size, product


def routed_swiglu(x: Array, experts: Array, weights: Array, swiglu: SwiGLU, *, kernel: str) -> tuple[Array, Array]:
    """Sum over a token's experts of weight times SwiGLU, each expert computed on its own tokens only.

    Args:
        x: tokens [N, width].
        experts: integers [N, k], distinct within a row.
        weights: [N, k].
        swiglu: kernels [E, in, out].
        kernel: ``"ragged"``, ``"blocks"`` or ``"auto"``, as ``DecoderConfig.expert_kernel``.

    Returns:
        The sum [N, width], in the dtype of the weights, and the number of tokens of each expert [E].
    """
    num_tokens, num_chosen = experts.shape
    gate, up, down = (p.matrix(x.dtype) for p in (swiglu.gate, swiglu.up, swiglu.down))
    if kernel == "auto":
        kernel = "ragged" if jax.default_backend() == "tpu" else "blocks"
    slots = experts.reshape(-1)
    sizes = jnp.bincount(slots, length=gate.shape[0])
    row, num_rows, product = _arrange(slots, sizes, kernel)
    copies = jnp.broadcast_to(x[:, None], (num_tokens, num_chosen, x.shape[-1])).reshape(slots.size, -1)
    rows = jnp.zeros((num_rows, x.shape[-1]), x.dtype).at[row].set(copies, unique_indices=True)
    out = product(jax.nn.silu(product(rows, gate)) * product(rows, up), down)
    out = out.at[row].get(unique_indices=True, mode="promise_in_bounds").reshape(num_tokens, num_chosen, -1)
    return (weights[..., None] * out.astype(weights.dtype)).sum(axis=1), sizes


class ExpertFeedForward(nnx.Module):
    """x + shared(RMS(x)) + sum of weight times expert(RMS(x)), every expert a SwiGLU of ``expert_hidden``.

    The shared experts, which every token goes to, are one SwiGLU as wide as all of them: the same map.
    """

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        width, hidden, shared = config.width, config.expert_hidden, config.num_shared_experts
        out_scale = 1 / math.sqrt(2 * config.num_layers)
        self.config = config
        self.norm = RMSNorm(width, stack=stack)
        self.router = Projection(width, config.num_experts, stack=stack, rngs=rngs)
        expert_stack = (*stack, config.num_experts)
        self.experts = SwiGLU(width, hidden, stack=expert_stack, out_scale=out_scale, rngs=rngs)
        self.shared = SwiGLU(width, shared * hidden, stack=stack, out_scale=out_scale, rngs=rngs) if shared else None

    def __call__(self, x: Array, balance: Array) -> tuple[Array, Array]:
        """The stream [B, T, width] after this part, and the load [E] of its routed experts."""
        config = self.config
        dtype = statistics_dtype(x.dtype)
        h = self.norm(x).reshape(-1, config.width)
        # A score rounded to TF32 or bfloat16 can change which experts are chosen.
        router = self.router.matrix(dtype)
        logits = jnp.matmul(h.astype(dtype), router, precision=jax.lax.Precision.HIGHEST)
        experts, weights = choose_experts(
            logits, balance, num_chosen=config.experts_per_token, scale=config.routed_scale
        )
        out, sizes = routed_swiglu(h, experts, weights, self.experts, kernel=config.expert_kernel)
        out = out.astype(x.dtype)
        if self.shared is not None:
            out = out + self.shared(h)
        return x + out.reshape(x.shape), sizes / experts.size
