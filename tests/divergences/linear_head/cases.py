"""A small problem at a vocabulary head, and the dense float64 loss that every blocked form must reproduce."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import divergences as jd
from jaxdiv.divergences.families import Renyi

TOKENS, VOCAB, P_WIDTH, Q_WIDTH = 13, 50, 7, 5
MEMBERS = [
    jd.kl(),
    jd.reverse_kl(),
    jd.jensen_shannon(),
    jd.jensen_shannon(0.3).normalized(),
    jd.alpha(0.3),
    jd.alpha(-0.5),
    jd.alpha(1.5).reversed(),
    Renyi(0.7),
    Renyi(1.0),
    jd.jeffreys(),
    jd.squared_hellinger(),
    jd.pearson_chi2(),
    jd.neyman_chi2(),
    jd.softened_reverse_kl(),
    jd.le_cam(),
    jd.skew_kl(0.2),
    jd.total_variation(),
]


def name_of(divergence):
    return getattr(divergence, "name", None) or f"renyi({divergence.order})"


def arrays(seed=0, dtype=np.float32, tokens=TOKENS, vocab=VOCAB, p_rows=VOCAB):
    """Hidden states and heads whose logits have a standard deviation of about 2, and biases."""
    rng = np.random.default_rng(seed)
    shapes = dict(
        p_hidden=(tokens, P_WIDTH),
        p_head=(p_rows, P_WIDTH),
        p_bias=(p_rows,),
        q_hidden=(tokens, Q_WIDTH),
        q_head=(vocab, Q_WIDTH),
        q_bias=(vocab,),
    )
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def from_logits(p_logits, q_logits):
    """Arrays that have exactly these logits: one-hot hidden states choose a column of the head."""
    eye = jnp.eye(len(p_logits), dtype=p_logits.dtype)
    no_bias = jnp.zeros(p_logits.shape[1], p_logits.dtype)
    sides = {"p": jnp.asarray(p_logits), "q": jnp.asarray(q_logits)}
    return {
        f"{side}_{part}": value
        for side, logits in sides.items()
        for part, value in (("hidden", eye), ("head", logits.T), ("bias", no_bias))
    }


def dense(divergence, arrays, *, temperature=1.0, labels=None, label_weight=0.0, vocab_size=None):
    """Losses per token through the array of logits, in the arrays' dtype: the definition and nothing else."""
    p_logits = arrays["p_hidden"] @ arrays["p_head"].T + arrays["p_bias"]
    q_logits = arrays["q_hidden"] @ arrays["q_head"].T + arrays["q_bias"]
    p_logits, q_logits = p_logits[:, :vocab_size], q_logits[:, :vocab_size]
    log_p = jax.nn.log_softmax(p_logits / temperature)
    log_q = jax.nn.log_softmax(q_logits / temperature)
    if isinstance(divergence, Renyi) and divergence.order != 1.0:
        a = divergence.order
        value = jax.nn.logsumexp(a * log_p + (1 - a) * log_q, axis=-1) / (a - 1)
    else:
        divergence = divergence.generator if isinstance(divergence, Renyi) else divergence
        value = jnp.sum(jnp.exp(log_q) * divergence.value(log_p - log_q), -1)
    if labels is None:
        return value
    hard = -jnp.take_along_axis(jax.nn.log_softmax(q_logits), labels[:, None], 1)[:, 0]
    return (1 - label_weight) * value + label_weight * hard


def in_float64(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), tree)


def relative_errors(got, expected):
    """Largest error of each leaf over the largest entry of what is expected."""
    errors = jax.tree.map(
        lambda g, e: float(np.abs(np.asarray(g, np.float64) - e).max() / np.abs(np.asarray(e)).max()), got, expected
    )
    return max(jax.tree.leaves(errors))
