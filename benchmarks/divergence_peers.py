"""What torch, optax, distrax and tfp offer for divergences between logits, called as their users call it.

Each peer is ``fn(a, b, cast) -> (values [N], gradient of b's logits [N, V])`` on arrays of one dtype, in which it
computes throughout unless it is told to cast them to float32 first; b is q, the student. All give what our record
gives, in nats. Optax and tfp get every option that helps: ``where`` for p's support, ``self_normalized``. tfp's
generators are for sampled log-ratios; here they are summed over the classes. What torch users write themselves is
called a recipe. A package that is not installed has no peers.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

Peer = Callable[[jax.Array, jax.Array, bool], tuple[np.ndarray, np.ndarray]]


def _with_jax(loss: Callable) -> Peer:
    """From a loss of two logit arrays ``[N, V]`` to values ``[N]``."""

    @partial(jax.jit, static_argnums=2)
    def both(a, b, cast):
        def total(b):
            value = loss(a.astype(jnp.float32), b.astype(jnp.float32)) if cast else loss(a, b)
            return jnp.sum(value), value

        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(b)
        return value, gradient

    def peer(a, b, cast=False):
        value, gradient = both(a, b, cast)
        return np.asarray(value, np.float64), np.asarray(gradient, np.float64)

    return peer


def _with_torch(loss: Callable) -> Peer:
    torch = importlib.import_module("torch")

    def peer(a, b, cast=False):
        dtype = torch.bfloat16 if a.dtype == jnp.bfloat16 else torch.float32
        a, b = (torch.from_numpy(np.array(x, np.float32)).to(dtype) for x in (a, b))
        b.requires_grad_()
        value = loss(a.float(), b.float()) if cast else loss(a, b)
        value.sum().backward()
        return value.detach().double().numpy(), b.grad.double().numpy()

    return peer


def _torch_peers() -> dict[str, dict[str, Peer]]:
    torch = importlib.import_module("torch")
    functional = importlib.import_module("torch.nn.functional")
    log_softmax, softmax = (lambda z: functional.log_softmax(z, -1)), (lambda z: functional.softmax(z, -1))

    def kl_div(a, b):
        return functional.kl_div(log_softmax(b), softmax(a), reduction="none").sum(-1)

    def kl_div_log(a, b):
        return functional.kl_div(log_softmax(b), log_softmax(a), reduction="none", log_target=True).sum(-1)

    def kl_div_masked(a, b):
        loss = functional.kl_div(log_softmax(b), log_softmax(a), reduction="none", log_target=True)
        return loss.masked_fill(a == -torch.inf, 0).sum(-1)

    def distributions(a, b):
        make = torch.distributions.Categorical
        return torch.distributions.kl_divergence(make(logits=a), make(logits=b))

    def js_logsumexp(a, b):
        x, y = log_softmax(a), log_softmax(b)
        mix = torch.logsumexp(torch.stack([x, y]), dim=0) - float(np.log(2))
        left = functional.kl_div(mix, x, reduction="none", log_target=True).sum(-1)
        return (left + functional.kl_div(mix, y, reduction="none", log_target=True).sum(-1)) / 2

    def hellinger(a, b):
        return (softmax(a).sqrt() - softmax(b).sqrt()).square().sum(-1)

    def chi2(a, b):
        return ((softmax(a) - softmax(b)).square() / softmax(b)).sum(-1)

    def alpha(a, b):
        return (1 - (softmax(a) ** 0.3 * softmax(b) ** 0.7).sum(-1)) / 0.21

    def swapped(loss):
        return lambda a, b: loss(b, a)

    kl = {
        "F.kl_div": kl_div,
        "F.kl_div log_target": kl_div_log,
        "F.kl_div log_target, masked_fill": kl_div_masked,
        "torch.distributions": distributions,
    }
    losses = {
        "kl": kl,
        "reverse_kl": {peer: swapped(loss) for peer, loss in kl.items()},
        "jensen_shannon": {"torch recipe, logsumexp": js_logsumexp},
        "squared_hellinger": {"torch recipe, (sqrt p - sqrt q)^2": hellinger},
        "alpha(0.3)": {"torch recipe, 1 - sum p^a q^(1-a)": alpha},
        "pearson_chi2": {"torch recipe, (p - q)^2 / q": chi2},
    }
    return {name: {peer: _with_torch(loss) for peer, loss in row.items()} for name, row in losses.items()}


def _both_ways(losses: dict[str, Callable]) -> dict[str, dict[str, Peer]]:
    """Forward and reverse KL from losses that are KL(a || b)."""
    return {
        "kl": {peer: _with_jax(loss) for peer, loss in losses.items()},
        "reverse_kl": {peer: _with_jax(lambda a, b, loss=loss: loss(b, a)) for peer, loss in losses.items()},
    }


def _optax_peers() -> dict[str, dict[str, Peer]]:
    optax = importlib.import_module("optax")

    def kl(a, b):
        return optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a))

    def kl_log(a, b):
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(b), jax.nn.log_softmax(a))

    def kl_where(a, b):
        return optax.losses.kl_divergence_with_log_targets(
            jax.nn.log_softmax(b), jax.nn.log_softmax(a), where=a > -jnp.inf
        )

    return _both_ways({"optax": kl, "optax log targets": kl_log, "optax log targets, where": kl_where})


def _distrax_peers() -> dict[str, dict[str, Peer]]:
    distrax = importlib.import_module("distrax")

    def kl(a, b):
        return distrax.Categorical(logits=a).kl_divergence(distrax.Categorical(logits=b))

    return _both_ways({"distrax": kl})


def _tfp_peers() -> dict[str, dict[str, Peer]]:
    tfp = importlib.import_module("tensorflow_probability.substrates.jax")
    vi, make = tfp.vi, tfp.distributions.Categorical

    def kl(a, b):
        return tfp.distributions.kl_divergence(make(logits=a), make(logits=b))

    def csiszar(generator):
        def loss(a, b):
            x, y = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
            return jnp.sum(jnp.exp(y) * generator(x - y), axis=-1)

        return _with_jax(loss)

    alphas = {f"alpha({a})": partial(vi.amari_alpha, alpha=a) for a in (0.3, 1.7, -0.6)}
    plain = {
        "kl": vi.kl_forward,
        "reverse_kl": vi.kl_reverse,
        "jeffreys": lambda u: 2 * vi.jeffreys(u),
        **alphas,
        "squared_hellinger": vi.squared_hellinger,
        "pearson_chi2": vi.pearson,
        "neyman_chi2": lambda u: vi.dual_csiszar_function(u, vi.pearson),
        "total_variation": vi.total_variation,
        "le_cam": vi.triangular,
    }
    normalized = {
        "kl": vi.kl_forward,
        "reverse_kl": vi.kl_reverse,
        "jensen_shannon": lambda u, self_normalized: vi.jensen_shannon(u, self_normalized) / 2,
        **alphas,
    }
    found = _both_ways({"tfp.distributions": kl})
    for name, generator in plain.items():
        found.setdefault(name, {})["tfp.vi"] = csiszar(generator)
    for name, generator in normalized.items():
        found.setdefault(name, {})["tfp.vi, self_normalized"] = csiszar(partial(generator, self_normalized=True))
    return found


def peers() -> tuple[dict[str, dict[str, Peer]], list[str]]:
    """All peers by record and name, and the lines that say which packages are there."""
    makers = {
        "torch": _torch_peers, "optax": _optax_peers, "distrax": _distrax_peers, "tensorflow_probability": _tfp_peers,
    }  # fmt: skip
    found: dict[str, dict[str, Peer]] = {}
    lines = []
    for package, make in makers.items():
        if importlib.util.find_spec(package) is None:
            lines.append(f"{package}: not installed, skipped")
            continue
        try:
            rows = make()
        except (ImportError, AttributeError) as error:  # some releases do not import beside this jax
            lines.append(f"{package}: does not load ({type(error).__name__}: {error}), skipped")
            continue
        version = getattr(importlib.import_module(package), "__version__", "unknown version")
        lines.append(f"{package} {version}")
        for name, row in rows.items():
            found.setdefault(name, {}).update(row)
    return found, lines
