"""A decoder's loss on bytes, its training state and the one visible step."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.language_model.text import draw_windows
from jaxdiv.networks import ApplyFn, Decoder, DecoderConfig, functional, init_balance, update_balance
from jaxdiv.typing import Array, PRNGKey, PyTree

Step = Callable[["State", Array], tuple["State", dict[str, Array]]]


class State(NamedTuple):
    """Everything a step changes."""

    step: Array
    """int32 scalar: steps done, skipped ones included; the batch follows from it."""
    params: PyTree
    optimizer_state: PyTree
    balance: PyTree
    """Biases ``[L, E]`` of the routers of a mixture of experts, which no optimizer sees; None where there is none."""
    key: PRNGKey
    """Typed key of the run; it never changes, step t draws its windows by ``fold_in(key, t)``."""
    skipped: Array
    """int32 scalar: steps whose loss or gradient was not finite and that changed nothing."""


def build_decoder(config: DecoderConfig, key: PRNGKey) -> tuple[ApplyFn, PyTree]:
    """The network as a function, and the parameters that a key gives; holds under jit."""
    return functional(Decoder(config, rngs=nnx.Rngs(key)))


@functools.lru_cache
def apply_of(config: DecoderConfig) -> ApplyFn:
    """The network as a function alone; nothing is computed."""
    return ApplyFn(nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))))


def create_state(config: DecoderConfig, optimizer: optax.GradientTransformation, *, seed: Array | int) -> State:
    """The state before the first step; under jit the seed may be traced. Equal seeds give equal weights and batches."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = build_decoder(config, init_key)[1]
    balance = init_balance(config) if config.feed_forward == "moe" else None
    zero = jnp.zeros((), jnp.int32)
    return State(zero, params, optimizer.init(params), balance, run_key, zero)


def byte_loss(apply_fn: ApplyFn, params: PyTree, windows: Array, balance: PyTree) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy in nats of each byte of windows ``[B, T + 1]`` but the first, and the load of the experts."""
    inputs, targets = windows[:, :-1], windows[:, 1:]
    if balance is None:
        logits, routing = apply_fn(params, inputs), {}
    else:
        logits, info = apply_fn(params, inputs, balance=balance, with_info=True)
        routing = {"load": info.load}
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets)), routing


def make_step(
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    length: int,
    balance_rate: float = 1e-2,
    mesh: Mesh | None = None,
) -> Step:
    """The step ``(state, text) -> (state, metrics)``, not jitted; ``text`` is uint8 ``[N]`` on the device.

    A step whose loss or gradient is not finite changes nothing but the counts. With a mesh the windows are split over
    its axis "data".
    """

    def step(state: State, text: Array) -> tuple[State, dict[str, Array]]:
        windows = draw_windows(text, state.key, state.step, batch_size=batch_size, length=length)
        if mesh is not None:
            windows = jax.lax.with_sharding_constraint(windows, NamedSharding(mesh, PartitionSpec("data")))
        loss_fn = jax.value_and_grad(byte_loss, argnums=1, has_aux=True)
        (loss, routing), gradient = loss_fn(apply_fn, state.params, windows, state.balance)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        done = (optax.apply_updates(state.params, updates), optimizer_state, state.balance)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        if routing:
            done = (*done[:2], update_balance(state.balance, routing["load"], rate=balance_rate))
            metrics["load_ratio"] = jnp.max(routing["load"]) * routing["load"].shape[-1]  # 1 where all share alike
        finite = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
        before = (state.params, state.optimizer_state, state.balance)
        params, optimizer_state, balance = jax.tree.map(lambda new, old: jnp.where(finite, new, old), done, before)
        skipped = state.skipped + (1 - finite.astype(jnp.int32))
        state = State(state.step + 1, params, optimizer_state, balance, state.key, skipped)
        return state, {**metrics, "skipped": skipped}

    return step


class Evaluator:
    """Mean loss over fixed windows, in batches of one size, compiled once."""

    def __init__(self, apply_fn: ApplyFn, windows: np.ndarray, *, batch_size: int, mesh: Mesh | None = None):
        """Lays out ``windows`` [n, T + 1] as whole batches; what is left of the last one is cut off."""
        batch_size = min(batch_size, len(windows))
        if mesh is not None and batch_size % mesh.size:
            mesh = None
        count = len(windows) // batch_size
        shape = (count, batch_size, windows.shape[1])
        self._windows, self._mesh = jnp.asarray(windows[: count * batch_size].reshape(shape)), mesh
        self.num_bytes = count * batch_size * (windows.shape[1] - 1)

        def mean(params: PyTree, balance: PyTree, windows: Array) -> Array:
            def one(batch: Array) -> Array:
                if mesh is not None:
                    batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, PartitionSpec("data")))
                return byte_loss(apply_fn, params, batch.astype(jnp.int32), balance)[0]

            return jnp.mean(jax.lax.map(one, windows))

        self._mean = jax.jit(mean)

    def __call__(self, params: PyTree, balance: PyTree = None) -> float:
        """The loss in nats per byte."""
        return float(self._mean(params, balance, self._windows))


def bits(nats: Any) -> Any:
    """Nats to bits.

    >>> round(bits(math.log(256)), 6)
    8.0
    """
    return nats / math.log(2)
