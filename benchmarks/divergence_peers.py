"""What torch, optax, distrax and tfp offer for divergences between logits, called as their users call it.

Each peer is ``fn(a, b) -> (values [N], gradient of b's logits [N, V])`` on arrays of one dtype, in which it computes
throughout; b is q, the student. A package that is not installed has no peers.
"""

import importlib
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Peer = Callable[[jax.Array, jax.Array], tuple[np.ndarray, np.ndarray]]


def _with_jax(loss: Callable) -> Peer:
    """From a loss of two logit arrays ``[N, V]`` to values ``[N]``."""

    @jax.jit
    def both(a, b):
        return loss(a, b), jax.grad(lambda b: jnp.sum(loss(a, b)))(b)

    def peer(a, b):
        value, gradient = both(a, b)
        return np.asarray(value, np.float64), np.asarray(gradient, np.float64)

    return peer


def _with_torch(loss: Callable) -> Peer:
    torch = importlib.import_module("torch")

    def peer(a, b):
        dtype = torch.bfloat16 if a.dtype == jnp.bfloat16 else torch.float32
        a, b = (torch.from_numpy(np.array(x, np.float32)).to(dtype) for x in (a, b))
        b.requires_grad_()
        value = loss(a, b)
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

    losses = {
        "kl": {"F.kl_div": kl_div, "F.kl_div log_target": kl_div_log, "torch.distributions": distributions},
        "reverse_kl": {
            "F.kl_div": swapped(kl_div),
            "F.kl_div log_target": swapped(kl_div_log),
            "torch.distributions": swapped(distributions),
        },
        "jensen_shannon": {"torch logsumexp recipe": js_logsumexp},
        "squared_hellinger": {"torch (sqrt p - sqrt q)^2": hellinger},
        "alpha(0.3)": {"torch (1 - sum p^a q^(1-a))": alpha},
        "pearson_chi2": {"torch (p - q)^2 / q": chi2},
    }
    return {name: {peer: _with_torch(loss) for peer, loss in row.items()} for name, row in losses.items()}


def _optax_peers() -> dict[str, dict[str, Peer]]:
    optax = importlib.import_module("optax")

    def kl(a, b):
        return optax.losses.kl_divergence(jax.nn.log_softmax(b), jax.nn.softmax(a))

    def kl_log(a, b):
        return optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(b), jax.nn.log_softmax(a))

    return {
        "kl": {"optax": _with_jax(kl), "optax log targets": _with_jax(kl_log)},
        "reverse_kl": {
            "optax": _with_jax(lambda a, b: kl(b, a)),
            "optax log targets": _with_jax(lambda a, b: kl_log(b, a)),
        },
    }


def _distrax_peers() -> dict[str, dict[str, Peer]]:
    distrax = importlib.import_module("distrax")

    def kl(a, b):
        return distrax.Categorical(logits=a).kl_divergence(distrax.Categorical(logits=b))

    return {"kl": {"distrax": _with_jax(kl)}, "reverse_kl": {"distrax": _with_jax(lambda a, b: kl(b, a))}}


def _tfp_peers() -> dict[str, dict[str, Peer]]:
    vi = importlib.import_module("tensorflow_probability.substrates.jax").vi

    def csiszar(generator):
        def loss(a, b):
            x, y = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
            return jnp.sum(jnp.exp(y) * generator(x - y), axis=-1)

        return _with_jax(loss)

    generators = {
        "kl": lambda u: vi.kl_forward(u),
        "reverse_kl": lambda u: vi.kl_reverse(u),
        "jensen_shannon": lambda u: vi.jensen_shannon(u, self_normalized=True) / 2,
        "squared_hellinger": lambda u: vi.squared_hellinger(u),
        "alpha(0.3)": lambda u: vi.amari_alpha(u, alpha=0.3),
        "pearson_chi2": lambda u: vi.pearson(u),
        "total_variation": lambda u: vi.total_variation(u),
    }
    return {name: {"tfp.vi": csiszar(fn)} for name, fn in generators.items()}


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
