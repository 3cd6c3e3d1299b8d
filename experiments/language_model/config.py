"""Every knob of the experiment."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.language_model.optimizers import DECAYS, OPTIMIZERS
from jaxdiv.checks import check_choice, check_integer, check_real, fail
from jaxdiv.networks import DecoderConfig

RATES = {"adamw": 6e-3, "muon": 1.2e-2}
"""The best of 3e-3, 6e-3, 1.2e-2 and, for Muon, 2.4e-2 in the default run (one seed; Muon ends at 1.465 nats per byte
with 1.2e-2, at 1.490 with 2.4e-2); variants of Muon take Muon's."""

MAX_PROMPT = 64  # bytes of the validation text that samples go on from


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a decoder on bytes with Muon, AdamW or both, and report what it costs and what it writes."""

    optimizer: str = "both"
    """both (AdamW and Muon side by side), adamw, muon, or a variant of Muon: normuon, muon_cautious, muon_hyperball,
    muon_polar_express, muon_jordan, muon_spectral."""
    data: str = "stdlib"
    """stdlib (the sources of Python's standard library), a folder, a file, or the name of a prepared
    tensorflow-datasets data set with a text feature."""
    data_dir: Path | None = None
    """Where prepared data sets lie; None is tensorflow-datasets' own place."""
    steps: int = 240
    """Training steps of each optimizer."""
    batch_size: int = 16
    """Windows of bytes per step."""
    length: int = 128
    """Bytes that the decoder sees."""
    learning_rate: float | None = None
    """Peak rate of every optimizer of the run; None is each one's own, found for the default sizes."""
    aux_factor: float = 1.0
    """Rate of Muon's AdamW (embedding, head, norms, routers) as a multiple of Muon's."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises."""
    decay: Literal["linear", "cosine"] = "linear"
    """How the rate then falls to 0."""
    weight_decay: float = 0.1
    """Per unit of rate, of the hidden matrices."""
    clip_norm: float = 1.0
    """Global norm above which a gradient is scaled down."""
    width: int = 128
    """Of the decoder."""
    layers: int = 4
    """Of the decoder."""
    heads: int = 4
    """Query heads of a layer."""
    kv_heads: int | None = None
    """Key and value heads: fewer than heads is grouped-query attention, None as many. Not for mla."""
    attention: Literal["standard", "mla"] = "standard"
    """standard (multi-head or grouped) or mla (multi-head latent attention)."""
    kv_rank: int | None = None
    """Rank of mla's latent; None is half the width."""
    q_rank: int | None = None
    """Rank of mla's latent of the queries; None makes queries from the stream directly."""
    rope_dim: int = 16
    """Rotary part of mla's keys, shared by the heads."""
    qk_norm: bool = False
    """Normalize queries and keys of each head. Not for mla."""
    tie_embeddings: bool = False
    """The output head is the embedding, transposed."""
    remat: bool = False
    """Compute each layer's activations again in the backward pass: less memory, more time."""
    feed_forward: Literal["dense", "hourglass", "moe"] = "dense"
    """dense, hourglass (wide-narrow-wide) or moe (shared and routed experts)."""
    hidden: int | None = None
    """Inner width of a dense or hourglass feed-forward; None is 8/3 of the width for dense, a half for hourglass."""
    num_experts: int = 8
    """Routed experts of moe."""
    experts_per_token: int = 2
    """Of them, how many a token goes to."""
    num_shared_experts: int = 1
    """Experts of moe that every token goes to."""
    expert_hidden: int | None = None
    """Inner width of one expert; None is the width."""
    balance_rate: float = 1e-2
    """Step of the routers' biases towards equal loads; the published 1e-3 is for far longer runs."""
    evaluations: int = 10
    """Times the validation loss is taken on the way."""
    validation_windows: int = 128
    """Windows of the validation text in each evaluation."""
    prompt: str | None = None
    """What the samples go on from; None is a few lines of the validation text."""
    sample_bytes: int = 200
    """Bytes of each sample."""
    temperature: float = 0.7
    """Of the samples."""
    decode_batch: int = 8
    """Sequences decoded at once when the speed is measured."""
    decode_context: int = 256
    """Positions of the cache when the speed is measured."""
    seed: int = 0
    """Of weights, batches and samples; the same for both optimizers."""
    directory: Path | None = None
    """Where everything is written; None is runs/language_model/OPTIMIZER-ATTENTION-FEED_FORWARD-seedSEED."""
    resume: bool = False
    """Go on with the interrupted run in that directory, with the same settings; starts one if there is none."""
    save_every: int = 120
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        check_choice("Config", "optimizer", self.optimizer, ("both", *OPTIMIZERS))
        check_choice("Config", "decay", self.decay, DECAYS)
        counts = ("steps", "batch_size", "length", "evaluations", "validation_windows", "sample_bytes")
        for name in (*counts, "decode_batch", "save_every"):
            check_integer("Config", name, getattr(self, name), 1)
        check_integer("Config", "decode_context", self.decode_context, 65)  # 64 positions are decoded
        check_integer("Config", "seed", self.seed, 0)
        check_real("Config", "warmup", self.warmup, 0, 1)
        for name in ("weight_decay", "balance_rate", "aux_factor", "temperature"):
            check_real("Config", name, getattr(self, name), 0)
        check_real("Config", "clip_norm", self.clip_norm, 0, open_low=True)
        if self.learning_rate is not None:
            check_real("Config", "learning_rate", self.learning_rate, 0, open_low=True)
        for name in ("kv_rank", "q_rank") if self.attention != "mla" else ():
            if getattr(self, name) is not None:
                raise fail("Config", name, f"is {getattr(self, name)}", "None without --attention mla")
        if self.prompt is not None and not self.prompt:
            raise fail("Config", "prompt", "is empty", "at least one byte, or None")
        _ = self.decoder  # which checks the rest

    @property
    def optimizers(self) -> tuple[str, ...]:
        """What is trained, in order."""
        return ("adamw", "muon") if self.optimizer == "both" else (self.optimizer,)

    def rate(self, optimizer: str) -> float:
        """The peak learning rate of an optimizer."""
        return self.learning_rate or RATES["adamw" if optimizer == "adamw" else "muon"]

    @property
    def decoder(self) -> DecoderConfig:
        """The network's own configuration."""
        hidden = {"dense": _multiple(8 * self.width // 3), "hourglass": _multiple(self.width // 2), "moe": None}
        fields: dict[str, Any] = {"num_kv_heads": self.kv_heads}
        if self.attention == "mla":
            fields |= {"kv_rank": self.width // 2 if self.kv_rank is None else self.kv_rank, "rope_dim": self.rope_dim}
            fields |= {"q_rank": self.q_rank}
        if self.feed_forward == "moe":
            names = ("num_experts", "experts_per_token", "num_shared_experts")
            fields |= {name: getattr(self, name) for name in names}
            fields |= {"expert_hidden": self.width if self.expert_hidden is None else self.expert_hidden}
        else:
            fields |= {"hidden": hidden[self.feed_forward] if self.hidden is None else self.hidden}
        prompt = MAX_PROMPT if self.prompt is None else len(self.prompt.encode())
        return DecoderConfig(
            vocab_size=256, width=self.width, num_layers=self.layers, num_heads=self.heads, attention=self.attention,
            feed_forward=self.feed_forward, qk_norm=self.qk_norm, tie_embeddings=self.tie_embeddings,
            remat=self.remat, **fields,
            max_length=max(self.length, prompt + self.sample_bytes, self.decode_context),
        )  # fmt: skip

    @property
    def run_directory(self) -> Path:
        """Where this run writes."""
        if self.directory is not None:
            return self.directory
        return Path("runs/language_model") / f"{self.optimizer}-{self.attention}-{self.feed_forward}-seed{self.seed}"

    def fingerprint(self, optimizer: str, digest: str) -> dict[str, Any]:
        """What must not change between the start and the resumption of a training."""
        names = ("steps", "batch_size", "length", "aux_factor", "warmup", "decay", "weight_decay", "clip_norm")
        shared = {name: getattr(self, name) for name in (*names, "balance_rate", "seed")}
        model = dataclasses.asdict(self.decoder)
        own = {"optimizer": optimizer, "learning_rate": self.rate(optimizer), "corpus": digest, "decoder": model}
        return shared | own


def _multiple(size: int, of: int = 8) -> int:
    return max(size // of, 1) * of
