"""Every exported function as one of two arrays of rows: the table that `transforms` puts through transformations."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import divergences as dv
from jaxdiv import transport as tr
from jaxdiv.divergences import Gaussian


class Case(NamedTuple):
    """``fn(p [n, 4], q [n, 4]) -> [n]``, and what it is documented not to have.

    A case's name starts with that of the exported function whose row it is.
    """

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
    add(f"renyi_divergence {order}", lambda p, q, a=order: dv.renyi_divergence(a, p_logits=p, q_logits=q))
add_logits(dv.tsallis_divergence, 1.5)
add_logits(dv.bhattacharyya_distance)
add_logits(dv.cauchy_schwarz_divergence)
add_logits(dv.gamma_divergence, 0.5)
add_logits(dv.beta_divergence, 0.5)
add_logits(dv.ordered_wasserstein, positions=jnp.array([0.0, 1.0, 3.0, 4.0]))
add(
    "ordered_wasserstein at the other's places",
    lambda p, q: jnp.stack(
        [dv.ordered_wasserstein(p_logits=x, q_logits=jnp.sin(x), positions=y) for x, y in zip(p, q, strict=True)]
    ),
)
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
for family, size in {"bernoulli": 1, "poisson": 1, "exponential": 1, "categorical": 4, "gaussian": 2}.items():
    fn = getattr(dv, f"{family}_log_partition")
    add(fn.__name__, lambda p, q, fn=fn, size=size: jax.vmap(fn)(-jnp.exp(p - q)[..., :size]))
add(
    "estimation_risk",
    lambda p, q: dv.estimation_risk(CATEGORICAL, natural=(p - q)[..., :2], num_samples=2).second,
)
add(
    "estimation_risk misspecified",
    lambda p, q: (
        dv.estimation_risk(
            CATEGORICAL, natural=p, num_samples=2, statistics_covariance=q[..., :, None] * q[..., None, :]
        ).leading
    ),
)
add("bayes_error_bound", lambda p, q: dv.bayes_error_bound(jnp.sum(jnp.square(p - q), -1) / 20.0))

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
add(
    "pareto_k",  # which wants 25 weights
    lambda p, q: dv.pareto_k(
        jnp.reshape(p[..., :, None, None] * q[..., None, :, None] * jnp.arange(1.0, 3.0), (-1, 32))
    ),
)
for fn in (dv.nwj_bound, dv.donsker_varadhan_bound):
    add(fn.__name__, lambda p, q, fn=fn: fn(p_scores=p, q_scores=q))
add("fenchel_bound", lambda p, q: dv.fenchel_bound(dv.jensen_shannon(), p_scores=p, q_scores=q))
add("f_gan_losses", lambda p, q: sum(dv.f_gan_losses(dv.jensen_shannon(), p_scores=p, q_scores=q)))
add("info_nce_bound", lambda p, q: dv.info_nce_bound(scores=p[..., :, None] * q[..., None, :]))
for loss in ("logistic", "brier", "exponential"):
    add(f"classifier_loss {loss}", lambda p, q, loss=loss: dv.classifier_loss(p_logits=p, q_logits=q, loss=loss))
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


add("linear_head_divergence", lambda p, q: at_the_head(dv.kl(), p, q), has_jvp=False)
add("linear_head_divergence renyi", lambda p, q: at_the_head(dv.Renyi(0.7), p, q, vocab_block=2), has_jvp=False)


def labelled(x, y):
    heads = y[:2] * jnp.ones((3, 1)) + jnp.eye(3, 2), y[2:] * jnp.ones((3, 1)) - jnp.eye(3, 2)
    sides = {"p_hidden": x[None, :2], "q_hidden": x[None, 2:], "p_head": heads[0], "q_head": heads[1]}
    labels = {"labels": jnp.argmax(x[:3])[None], "label_weight": 0.3}
    return dv.linear_head_divergence(dv.kl(), **sides, **labels, differentiate_p=True, implementation="xla")


add(
    "linear_head_divergence labels",
    lambda p, q: jnp.stack([labelled(x, y) for x, y in zip(p, q, strict=True)]),
    has_jvp=False,
)
PARTS = {"epsilon": 0.5, "num_iters": 5}


def on_a_line(x):
    return x[..., None]


def in_the_plane(x):
    return jnp.stack([x, jnp.sin(2.0 * x)], axis=-1)


def solved(value_fn, cost_fn=tr.sqeuclidean, unroll=False):
    """``value_fn(result, cost)`` of a transport problem whose points and weights are made of the rows."""

    def fn(p, q):
        cost = cost_fn(in_the_plane(p), in_the_plane(q))
        return value_fn(tr.sinkhorn(cost, jax.nn.log_softmax(p), jax.nn.log_softmax(q), **PARTS, unroll=unroll), cost)

    return fn


for unroll in (False, True):
    form = {"unroll": unroll, **PARTS}
    add(
        f"sinkhorn_divergence unroll={unroll}",
        lambda p, q, form=form: tr.sinkhorn_divergence(p_samples=on_a_line(p), q_samples=on_a_line(q), **form),
    )
    add(f"monge_gap unroll={unroll}", lambda p, q, form=form: tr.monge_gap(on_a_line(p), on_a_line(q), **form))
    for fn in (tr.regularized_cost, tr.entropic_cost):
        add(f"{fn.__name__} unroll={unroll}", solved(fn, unroll=unroll))
    add(
        f"transport_cost unroll={unroll}",
        solved(lambda result, cost, unroll=unroll: tr.transport_cost(result, cost, unroll=unroll), unroll=unroll),
    )
add("sinkhorn", solved(lambda result, cost: result.f @ jnp.arange(4.0) + result.g[..., 0], unroll=True))
add("plan", solved(lambda result, cost: tr.plan(result, cost)[..., 0, 1], unroll=True))
add("point_cost", solved(tr.regularized_cost, lambda x, y: tr.point_cost(x, y, chunk_size=3), unroll=True))
add(
    "sinkhorn_divergence tol",
    lambda p, q: tr.sinkhorn_divergence(p_samples=on_a_line(p), q_samples=on_a_line(q), epsilon=0.5, tol=1e-3),
    has_hessian=False,  # second derivatives need unroll
)
for fn in (tr.sqeuclidean, tr.l1, tr.cosine):
    add(fn.__name__, lambda p, q, fn=fn: fn(in_the_plane(p), in_the_plane(q))[..., 0, :] @ jnp.arange(4.0))
for order in (1.0, 2.0):
    add(
        f"transport_cost_1d {order}",
        lambda p, q, order=order: tr.transport_cost_1d(
            p_samples=p, q_samples=q, p_log_weights=jax.nn.log_softmax(q), order=order
        ),
    )


# Two samples: a row is four points.
KEY = jax.random.key(0)


def add_samples(fn, value_fn, note="", **kind):
    """``value_fn(x [4, 2], y [4, 2])``, row by row."""

    def rows(p, q):
        return jnp.stack([value_fn(in_the_plane(x), in_the_plane(y)) for x, y in zip(p, q, strict=True)])

    add(f"{fn.__name__} {note}".strip(), rows, **kind)


def add_pair(fn, *parameters, field=None, note="", **options):
    def value_fn(x, y):
        result = fn(*parameters, p_samples=x, q_samples=y, **options)
        return getattr(result, field) if field else result

    add_samples(fn, value_fn, note)


GAUSSIAN = dv.gaussian_kernel(1.0)
CHUNK = {"chunk_size": 3}
add_pair(dv.squared_mmd, kernel=GAUSSIAN, **CHUNK)
add_pair(dv.squared_mmd, estimator="unbiased", note="at the median distance")
add_pair(dv.energy_distance, **CHUNK)
add_pair(dv.kernel_cauchy_schwarz, kernel=GAUSSIAN, **CHUNK)
add_pair(dv.knn_kl, field="value", num_neighbors=2, **CHUNK)
add_pair(dv.knn_renyi, 0.5, field="value", num_neighbors=2, **CHUNK)
add_pair(dv.frechet_distance)
add_pair(dv.sliced_wasserstein, KEY, num_projections=4)
add_samples(
    dv.projected_wasserstein,
    lambda x, y: dv.projected_wasserstein(jnp.array([[1.0, 0.0], [0.6, 0.8]]), p_samples=x, q_samples=y).sum(),
)


def moments(x):
    return jnp.mean(x, axis=0), x.T @ x + jnp.eye(2)


add_samples(
    dv.frechet_distance_from_moments,
    lambda x, y: dv.frechet_distance_from_moments(
        **dict(zip(("p_mean", "p_covariance", "q_mean", "q_covariance"), moments(x) + moments(y), strict=True))
    ),
)
add_samples(dv.squared_ksd, lambda x, y: dv.squared_ksd(p_samples=x, q_score=y, kernel=GAUSSIAN, **CHUNK))
add_samples(
    dv.squared_ksd,
    lambda x, y: dv.squared_ksd(p_samples=x, q_score=lambda x: y[0] - x, estimator="unbiased"),
    "of a function",
)
add_samples(dv.nearest_neighbors, lambda x, y: dv.nearest_neighbors(x, y, num_neighbors=2, **CHUNK).sum())
add_samples(dv.median_bandwidth, lambda x, y: dv.median_bandwidth(x, y))
for fn in (dv.gaussian_kernel, dv.laplace_kernel, dv.rational_quadratic_kernel, dv.inverse_multiquadric_kernel):
    add_samples(fn, lambda x, y, fn=fn: dv.gram_matrix(x, y, kernel=fn(2.0 + y[0, 1])).sum())
add_samples(
    dv.polynomial_kernel, lambda x, y: dv.gram_matrix(x, y, kernel=dv.polynomial_kernel(3, scale=2.0 + y[0, 1])).sum()
)
add_samples(dv.gram_matrix, lambda x, y: dv.gram_matrix(x, y, kernel=dv.distance_kernel())[0, 1])
add_samples(dv.gram_product, lambda x, y: dv.gram_product(y, x=x, y=y, kernel=GAUSSIAN, **CHUNK).sum())
add_samples(dv.center_gram, lambda x, y: dv.center_gram(x @ y.T)[0, 1])


def gap(*, p_samples, q_samples):
    return jnp.sum(jnp.square(jnp.mean(p_samples, 0) - jnp.mean(q_samples, 0)))


def seen(result):
    return result.statistic + jnp.mean(result.null)  # a p-value jumps


add_samples(
    dv.permutation_test,
    lambda x, y: seen(dv.permutation_test(KEY, gap, p_samples=x, q_samples=y, num_permutations=3, batch_size=2)),
)
add_samples(
    dv.kernel_permutation_test,
    lambda x, y: seen(dv.kernel_permutation_test(KEY, p_samples=x, q_samples=y, num_permutations=3, **CHUNK)),
)
add_samples(
    dv.stein_bootstrap_test,
    lambda x, y: seen(dv.stein_bootstrap_test(KEY, p_samples=x, q_score=y, num_bootstrap=3, **CHUNK)),
)
