"""Every divergence as a function of two arrays of rows, and what every transformation of it has to give.

Run as a program with two host devices it computes all of them and compares numbers; `test_transforms` traces them.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxdiv import divergences as dv
from jaxdiv import transport as tr
from jaxdiv.divergences import Gaussian

WIDTH = 4
ROWS, WHOLE = PartitionSpec("d"), PartitionSpec()


class Case(NamedTuple):
    """``fn(p [n, 4], q [n, 4]) -> [n]``, and what it is documented not to have."""

    fn: Callable
    has_jvp: bool = True
    has_hessian: bool = True


CASES: dict[str, Case] = {}


def add(name, fn, **kind):
    CASES[name] = Case(fn, **kind)


def add_logits(fn, *parameters, **options):
    add(fn.__name__, lambda p, q: fn(*parameters, p_logits=p, q_logits=q, **options))


# Categorical distributions.
for record in (dv.kl(), dv.jensen_shannon(), dv.neyman_chi2(), dv.total_variation()):
    add(f"f_divergence {record.name}", lambda p, q, d=record: dv.f_divergence(d, p_logits=p, q_logits=q))
add_logits(dv.skew_kl_divergence, pi=0.3)
for order in (0.0, 0.7, 1.0, 2.0, float("inf")):
    add(f"renyi {order}", lambda p, q, a=order: dv.renyi_divergence(a, p_logits=p, q_logits=q))
add_logits(dv.tsallis_divergence, 1.5)
add_logits(dv.bhattacharyya_distance)
add_logits(dv.cauchy_schwarz_divergence)
add_logits(dv.gamma_divergence, 0.5)
add_logits(dv.beta_divergence, 0.5)
add_logits(dv.ordered_wasserstein, positions=jnp.array([0.0, 1.0, 3.0, 4.0]))
add_logits(dv.cross_entropy)
add("entropy", lambda p, q: dv.entropy(p - q))
add("perplexity", lambda p, q: dv.perplexity(p - q))
add("renyi_entropy", lambda p, q: dv.renyi_entropy(2.0, p - q))
add("tsallis_entropy", lambda p, q: dv.tsallis_entropy(0.5, p - q))
add(
    "f_divergence_from_probs",
    lambda p, q: dv.f_divergence_from_probs(dv.jensen_shannon(), p=jnp.square(p), q=jnp.square(q)),
)


# Gaussians, diagonal and full.
def diagonal(x):
    return Gaussian(x[..., :2], variance=jnp.exp(x[..., 2:]))


def full(x):
    factor = x.reshape(*x.shape[:-1], 2, 2)
    return Gaussian(x[..., :2], jnp.eye(2) + factor @ jnp.swapaxes(factor, -1, -2))


for name in ("kl", "jeffreys", "bhattacharyya", "squared_hellinger", "cauchy_schwarz", "fisher_divergence"):
    fn = getattr(dv, f"gaussian_{name}")
    add(f"gaussian_{name}", lambda p, q, fn=fn: fn(p=full(p), q=full(q)))
    add(f"gaussian_{name} diagonal", lambda p, q, fn=fn: fn(p=diagonal(p), q=diagonal(q)))
add("gaussian_squared_wasserstein", lambda p, q: dv.gaussian_squared_wasserstein(p=full(p), q=full(q)))
add("gaussian_renyi", lambda p, q: dv.gaussian_renyi(0.6, p=full(p), q=full(q)))
add("gaussian_squared_fisher_rao", lambda p, q: dv.gaussian_squared_fisher_rao(p=diagonal(p), q=diagonal(q)))

# Exponential families.
CATEGORICAL = dv.categorical_log_partition
add("bregman_divergence", lambda p, q: dv.bregman_divergence(CATEGORICAL, p=p, q=q))
add("exponential_family_kl", lambda p, q: dv.exponential_family_kl(CATEGORICAL, p_natural=p, q_natural=q))
for order in (0.5, 2.0):
    add(
        f"exponential_family_renyi {order}",
        lambda p, q, a=order: dv.exponential_family_renyi(a, CATEGORICAL, p_natural=p, q_natural=q),
    )
add("mean_parameters", lambda p, q: dv.mean_parameters(CATEGORICAL, natural=p - q).max(-1))


def projected(p, q):
    moments = dv.mean_parameters(CATEGORICAL, natural=p)
    return dv.information_projection(CATEGORICAL, moments=moments, init=q, num_steps=20).natural[..., 0]


add("information_projection", projected)

# Samples of log-ratios and scores: each row is a batch of four.
for side in "pq":
    add(
        f"monte_carlo_divergence {side}",
        lambda p, q, s=side: dv.monte_carlo_divergence(dv.kl(), log_ratio=p - q, samples_from=s).value,
    )
    add(
        f"monte_carlo_loss {side}",
        lambda p, q, s=side: dv.monte_carlo_loss(
            dv.jensen_shannon(), p_log_probs=p, q_log_probs=q, gradient_of=s, samples_from=s, estimator="score_function"
        ),
    )
add("importance_weights", lambda p, q: jnp.max(dv.importance_weights(log_weights=p - q).weights, axis=-1))
for fn in (dv.nwj_bound, dv.donsker_varadhan_bound):
    add(fn.__name__, lambda p, q, fn=fn: fn(p_scores=p, q_scores=q))
add("fenchel_bound", lambda p, q: dv.fenchel_bound(dv.jensen_shannon(), p_scores=p, q_scores=q))
add("f_gan_losses", lambda p, q: sum(dv.f_gan_losses(dv.jensen_shannon(), p_scores=p, q_scores=q)))
add("info_nce_bound", lambda p, q: dv.info_nce_bound(scores=p[..., :, None] * q[..., None, :]))
for loss in ("logistic", "brier", "exponential"):
    add(loss, lambda p, q, loss=loss: dv.classifier_loss(p_logits=p, q_logits=q, loss=loss))
add("log_ratio_from_logits", lambda p, q: dv.log_ratio_from_logits(p - q, prior=0.4).max(-1))
add("fit_calibration", lambda p, q: dv.fit_calibration(p_logits=p, q_logits=q, num_steps=5).scale)
add("calibration_error", lambda p, q: dv.calibration_error(p_logits=p, q_logits=q).value)


# The vocabulary head, its head made of the row so that both are differentiated, and optimal transport.
def at_the_head(divergence, p, q, **form):
    def one(p, q):
        p_side, q_side = ({"hidden": x[:2][None], "head": x[2:] * jnp.ones((3, 1)) + jnp.eye(3, 2)} for x in (p, q))
        arrays = {f"p_{k}": v for k, v in p_side.items()} | {f"q_{k}": v for k, v in q_side.items()}
        return dv.linear_head_divergence(divergence, **arrays, differentiate_p=True, implementation="xla", **form)

    return jax.vmap(one)(p, q)


add("linear_head", lambda p, q: at_the_head(dv.kl(), p, q), has_jvp=False)
add("linear_head renyi", lambda p, q: at_the_head(dv.Renyi(0.7), p, q, vocab_block=2), has_jvp=False)
for unroll in (False, True):
    add(
        f"sinkhorn_divergence unroll={unroll}",
        lambda p, q, unroll=unroll: tr.sinkhorn_divergence(
            p_samples=p[..., None], q_samples=q[..., None], epsilon=0.5, num_iters=5, unroll=unroll
        ),
    )
add(
    "sinkhorn_divergence tol",
    lambda p, q: tr.sinkhorn_divergence(p_samples=p[..., None], q_samples=q[..., None], epsilon=0.5, tol=1e-3),
    has_hessian=False,  # second derivatives need unroll
)


def arrays():
    """Rows ``p [2, 4]``, one per device, and ``q [1, 4]``, that all devices share."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, WIDTH)), jnp.float32), jnp.asarray(rng.normal(size=(1, WIDTH)), jnp.float32)


def gradients(fn):
    return jax.grad(lambda p, q: jnp.sum(fn(p, q)), (0, 1))


def sharded(case, mesh, swap=False):
    """Values, gradients taken inside and gradients taken outside of a `shard_map` with one side sharded."""
    specs = (WHOLE, ROWS) if swap else (ROWS, WHOLE)

    def mapped(fn, out):
        return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out)

    def compute(p, q):
        x, y = (q, p) if swap else (p, q)
        outside = gradients(mapped(case.fn, ROWS))
        return mapped(case.fn, ROWS)(x, y), mapped(gradients(case.fn), specs)(x, y), outside(x, y)

    return compute


def unsharded(case, swap=False):
    """The same numbers row by row."""

    def compute(p, q):
        def rows(x, y):
            return jnp.concatenate([case.fn(*((y, r) if swap else (r, y))) for r in (x[:1], x[1:])])

        grad_p, grad_q = gradients(rows)(p, q)
        both = (grad_q, grad_p) if swap else (grad_p, grad_q)
        return rows(p, q), both, both

    return compute


def derivatives(case):
    """Batched and mapped values, and the directional and second derivatives of one pair."""

    def compute(p, q):
        both = jnp.concatenate([q, q])
        out = [case.fn(p, both), jax.vmap(lambda p, q: case.fn(p[None], q[None])[0])(p, both)]

        def one(x):
            return case.fn(x[:1], x[1:])[0]

        x = jnp.concatenate([p[:1], q])
        slope, bend = jax.grad(one)(x), jax.hessian(one)(x) if case.has_hessian else jnp.zeros((2, WIDTH) * 2)
        along = jax.jvp(one, (x,), (x,))[1] if case.has_jvp else jnp.sum(slope * x)
        return out, slope, along, bend.reshape(2 * WIDTH, 2 * WIDTH)

    return compute


def check(name, case, mesh):
    p, q = arrays()

    @jax.jit
    def everything(p, q):
        return [(sharded(case, mesh, s)(p, q), unsharded(case, s)(p, q)) for s in (False, True)], derivatives(case)(
            p, q
        )

    pairs, ((batched, mapped), slope, along, bend) = everything(p, q)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=name)

    for got, expected in pairs:
        jax.tree.map(close, got, expected)
    close(mapped, batched)
    close(jax.pmap(case.fn)(p[:, None], jnp.stack([q, q]))[:, 0], batched)
    close(along, jnp.sum(slope * jnp.concatenate([p[:1], q])))
    assert np.isfinite(bend).all(), name
    np.testing.assert_allclose(bend, bend.T, atol=2e-5 * (1.0 + np.abs(bend).max()), err_msg=name)


def main():
    mesh = Mesh(np.array(jax.devices()), ("d",))
    equal = 0
    for name, case in CASES.items():
        try:
            check(name, case, mesh)
            equal += 1
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    print(f"{equal} equal")
    return len(CASES) - equal


if __name__ == "__main__":
    sys.exit(main())
