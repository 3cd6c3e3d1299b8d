"""Sizes and choices of a `Decoder`."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, check_integer, check_real, fail
from jaxdiv.networks.layers import default_compute_dtype

_COUNTS = (
    "vocab_size",
    "width",
    "num_layers",
    "num_heads",
    "kv_rank",
    "rope_dim",
    "hidden",
    "hourglass_depth",
    "num_experts",
    "experts_per_token",
    "expert_hidden",
    "max_length",
)


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a `Decoder`. The defaults are a byte model of 14.4M parameters.

    Attributes:
        vocab_size: number of tokens.
        width: of the residual stream.
        num_layers: layers of attention and feed-forward.
        num_heads: query heads.
        num_kv_heads: heads of keys and values, each shared by ``num_heads / num_kv_heads`` query heads (GQA); None
            gives every query head its own (MHA). Not for MLA.
        head_dim: entries of a head's values, and of its queries and keys but for MLA's rotary part; None is
            ``width / num_heads``.
        attention: ``"standard"`` (MHA or GQA) or ``"mla"`` (multi-head latent attention).
        kv_rank: MLA's latent entries per token, from which keys and values are made.
        q_rank: MLA's latent entries of the queries; None makes queries from the stream directly.
        rope_dim: MLA's rotary entries, shared by all heads of the key.
        feed_forward: ``"dense"`` (SwiGLU), ``"hourglass"`` or ``"moe"``.
        hidden: inner width of the dense or, narrower than ``width``, of each hourglass block.
        hourglass_depth: hourglass blocks in each layer.
        num_experts: routed experts.
        experts_per_token: routed experts that each token goes to.
        num_shared_experts: experts that every token goes to.
        expert_hidden: inner width of an expert.
        routed_scale: factor of the routed experts' weights, which sum to it.
        expert_kernel: how routed experts are multiplied: ``"ragged"`` by ``jax.lax.ragged_dot``, which XLA turns into
            as many products of all tokens as there are experts unless it has a kernel for the device (a TPU's; on a
            GPU ``jax_ragged_dot_use_gpu_pallas_triton_lowering``); ``"blocks"`` by a batched product of padded blocks,
            the same arithmetic at any number of experts; ``"auto"`` is ragged on a TPU and blocks elsewhere.
        rope_base: the slowest rotation's wavelength is nearly ``2 pi rope_base`` tokens.
        qk_norm: normalize queries and keys per head before the rotation. Not for MLA, whose latents are normalized and
            whose absorbed form such a norm would not allow.
        max_length: most tokens that a sequence may have.
        tie_embeddings: the output head is the embedding, transposed.
        remat: compute each layer's activations again in the backward pass rather than keep them.
        unroll: trace the layers one by one: more operations to compile, fewer copies at run time.
        attention_kernel: ``"auto"`` uses cuDNN's fused attention where device, dtype and sizes allow, else einsum;
            ``"einsum"`` and ``"cudnn"`` insist.
        dtype: compute dtype by name; None asks ``default_compute_dtype`` at each call. Parameters, statistics, softmax,
            router and logits are float32 in any case (float64 where the compute dtype is).
    """

    vocab_size: int = 256
    width: int = 384
    num_layers: int = 8
    num_heads: int = 6
    num_kv_heads: int | None = None
    head_dim: int | None = None
    attention: Literal["standard", "mla"] = "standard"
    kv_rank: int = 192
    q_rank: int | None = None
    rope_dim: int = 32
    feed_forward: Literal["dense", "hourglass", "moe"] = "dense"
    hidden: int = 1024
    hourglass_depth: int = 4
    num_experts: int = 8
    experts_per_token: int = 2
    num_shared_experts: int = 1
    expert_hidden: int = 256
    routed_scale: float = 1.0
    expert_kernel: Literal["auto", "ragged", "blocks"] = "auto"
    rope_base: float = 10_000.0
    qk_norm: bool = False
    max_length: int = 512
    tie_embeddings: bool = False
    remat: bool = False
    unroll: bool = False
    attention_kernel: Literal["auto", "einsum", "cudnn"] = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        name = "DecoderConfig"
        for field in _COUNTS:
            check_integer(name, field, getattr(self, field), 1)
        for field in ("num_kv_heads", "head_dim", "q_rank"):
            if getattr(self, field) is not None:
                check_integer(name, field, getattr(self, field), 1)
        check_integer(name, "num_shared_experts", self.num_shared_experts, 0)
        check_real(name, "routed_scale", self.routed_scale, 0.0, float("inf"), open_low=True, open_high=True)
        check_real(name, "rope_base", self.rope_base, 1.0, float("inf"), open_low=True, open_high=True)
        for field in ("qk_norm", "tie_embeddings", "remat", "unroll"):
            check_instance(name, field, getattr(self, field), bool)
        check_choice(name, "attention", self.attention, ("standard", "mla"))
        check_choice(name, "feed_forward", self.feed_forward, ("dense", "hourglass", "moe"))
        check_choice(name, "attention_kernel", self.attention_kernel, ("auto", "einsum", "cudnn"))
        check_choice(name, "expert_kernel", self.expert_kernel, ("auto", "ragged", "blocks"))
        check_choice(name, "dtype", self.dtype, (None, "float16", "bfloat16", "float32", "float64"))
        self._check_attention(name)
        if self.feed_forward == "hourglass" and self.hidden >= self.width:
            raise fail(name, "hidden", f"is {self.hidden}", f"an hourglass narrower than width {self.width}")
        if self.feed_forward == "moe" and self.experts_per_token > self.num_experts:
            expected = f"at most num_experts {self.num_experts}"
            raise fail(name, "experts_per_token", f"is {self.experts_per_token}", expected)

    def _check_attention(self, name: str) -> None:
        if self.head_dim is None and self.width % self.num_heads:
            raise fail(name, "width", f"is {self.width}", f"a multiple of num_heads {self.num_heads}, or a head_dim")
        if self.attention == "mla":
            if self.num_kv_heads is not None:
                raise fail(name, "num_kv_heads", f"is {self.num_kv_heads}", "None: the heads of MLA share a latent")
            if self.qk_norm:
                raise fail(name, "qk_norm", "is True", "False: MLA normalizes its latents")
            if self.rope_dim % 2:
                raise fail(name, "rope_dim", f"is {self.rope_dim}", "an even number")
            return
        if self.num_heads % self.kv_heads:
            raise fail(name, "num_kv_heads", f"is {self.num_kv_heads}", f"a divisor of num_heads {self.num_heads}")
        if self.head_size % 2:
            raise fail(name, "head_dim", f"is {self.head_size}", "an even number, for its rotation")

    @property
    def head_size(self) -> int:
        """``head_dim``, settled."""
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def kv_heads(self) -> int:
        """``num_kv_heads``, settled."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def num_routed(self) -> int:
        """Routed experts of a layer: 0 where the feed-forward is not a mixture."""
        return self.num_experts if self.feed_forward == "moe" else 0

    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations, settled now."""
        return default_compute_dtype() if self.dtype is None else jnp.dtype(self.dtype)
