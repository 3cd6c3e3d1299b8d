"""Malformed calls of every exported function: each raises a ValueError that names the function and the argument.

Every single bad value is tried, then a seeded choice of calls with two bad arguments, where the message names one.
"""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergences as dv
from jaxdiv import transport as tr
from jaxdiv.divergences import Gaussian, kl, two_sample
from jaxdiv.divergences.categorical import value_and_logit_gradients
from tests.malformed import (
    INF,
    NAN,
    NO_ARRAYS,
    Argument,
    Bad,
    argument,
    arrays,
    axes,
    choices,
    complaints_of_one,
    complaints_of_two,
    flags,
    functions,
    integers,
    keys,
    masks,
    numbers,
    reals,
    values,
)


def records(value):
    return argument(value, "kl", None, kl, 0.5, type(value), object(), jnp.ones(3), dv.Renyi)


def pair(p, q, shape, bad_shapes):
    """Two arrays of one shape, and shapes that are wrong or do not fit the other's."""
    return {p: arrays(numbers(*shape), *bad_shapes), q: arrays(0.9 * numbers(*shape) + 0.01, *bad_shapes)}


CASES: dict[str, tuple[Any, dict[str, Argument]]] = {}


def case(fn, **arguments):
    CASES[fn.__qualname__] = (fn, arguments)  # a method's with its class


# Categorical distributions.
SHAPES = ((), (4,), (4, 3), (3, 5), (1, 4), (3, 4, 1), (0, 4), (3, 0), (2, 3, 4))
LOGITS = pair("p_logits", "q_logits", (3, 4), SHAPES)
MASK = {"where": masks((3, 4), (4, 3), (5,), (2, 3, 4), (3, 4, 1))}
ROWS = {"axis": axes(), **MASK}
TEMPERATURE = {"temperature": reals(2.0, 0.0, -1.0, INF, -INF, 1e-7, 1e7)}
ONE_LOGITS = {"logits": arrays(numbers(3, 4), empty=((), (0,), (3, 0))), "axis": axes()}
RECORD = {"divergence": records(kl())}

case(dv.f_divergence, **RECORD, **LOGITS, **ROWS, **TEMPERATURE)
case(value_and_logit_gradients, **RECORD, **LOGITS, **MASK, **TEMPERATURE)
case(
    dv.f_divergence_from_probs,
    **RECORD,
    p=arrays(numbers(3, 4), *SHAPES),
    q=argument(numbers(3, 4), -numbers(3, 4), numbers(3, 4).at[0, 1].set(-1e-3), *arrays(numbers(3, 4), *SHAPES).bad),
    **ROWS,
)
for short in ("kl_divergence", "reverse_kl_divergence", "jeffreys_divergence", "squared_hellinger_distance"):
    case(getattr(dv, short), **LOGITS, **ROWS, **TEMPERATURE)
for short in ("total_variation_distance", "chi2_divergence", "neyman_chi2_divergence", "le_cam_divergence"):
    case(getattr(dv, short), **LOGITS, **ROWS, **TEMPERATURE)
SHARE = reals(0.3, 0.0, 1.0, -0.1, 1.1, INF)
case(dv.js_divergence, **LOGITS, pi=SHARE, **ROWS, **TEMPERATURE)
case(dv.skew_kl_divergence, **LOGITS, pi=SHARE, **ROWS, **TEMPERATURE)
case(dv.alpha_divergence, **LOGITS, a=reals(0.3, INF, -INF), **ROWS, **TEMPERATURE)
case(dv.alpha, a=reals(0.3, INF, -INF))
case(dv.jensen_shannon, pi=SHARE)
case(dv.skew_kl, pi=SHARE)
case(dv.entropy, **ONE_LOGITS)
case(dv.perplexity, **ONE_LOGITS)
case(dv.cross_entropy, **LOGITS, **ROWS, **TEMPERATURE)

ORDER = reals(2.0, -0.5, -INF)
FINITE_ORDER = reals(2.0, -0.5, INF, -INF)
POSITIVE_ORDER = reals(2.0, 0.0, -0.5, INF, -INF)
NUMBERS = argument(0.5, *NO_ARRAYS, None, 1j, jnp.ones(2, jnp.complex64), np.full(2, "a"), jax.random.key(0))
case(kl().value, rho=NUMBERS)
case(dv.Renyi, order=POSITIVE_ORDER)
case(dv.Renyi(2.0).from_generator, value=NUMBERS)
case(dv.renyi_divergence, order=ORDER, **LOGITS, **ROWS)
case(dv.tsallis_divergence, order=FINITE_ORDER, **LOGITS, **ROWS)
case(dv.renyi_entropy, order=ORDER, **ONE_LOGITS)
case(dv.tsallis_entropy, order=FINITE_ORDER, **ONE_LOGITS)
case(dv.bhattacharyya_distance, **LOGITS, **ROWS)
case(dv.cauchy_schwarz_divergence, **LOGITS, **ROWS)
case(dv.gamma_divergence, gamma=reals(0.5, -0.1, 101.0, INF), **LOGITS, **ROWS)
case(dv.beta_divergence, beta=reals(0.5, -0.1, 101.0, INF), **LOGITS, **ROWS)
case(
    dv.ordered_wasserstein,
    **LOGITS,
    positions=arrays([0.0, 1.0, 2.0, 4.0], (), (3,), (5,), (1, 4), (3, 4), optional=True),
    **ROWS,
)

# Gaussians.
SPD = jnp.eye(2)
GAUSSIAN = argument(
    Gaussian(numbers(2), SPD),
    *("normal", None, 0.5, numbers(2), (numbers(2), SPD), object(), Gaussian),
    *(Gaussian(mean, SPD) for mean in (None, "text", 1.0, jnp.array(1.0), jnp.array([1, 2]), jnp.zeros(0), numbers(3))),
    *(
        Gaussian(mean, SPD)
        for mean in (jnp.ones(2, jnp.complex64), jnp.ones(2, bool), [[1.0], [1.0, 2.0]], numbers(3, 2))
    ),
    *(
        Gaussian(numbers(2), s)
        for s in (None, "text", 1.0, numbers(2), jnp.eye(3), jnp.eye(2, dtype=jnp.int32), SPD[None])
    ),
    *(Gaussian(numbers(2), variance=v) for v in (1.0, SPD, numbers(3), "text", jnp.ones(2, jnp.complex64))),
    *(Gaussian(numbers(2), scale_tril=s) for s in (1.0, numbers(2), numbers(2, 3), [[1.0], [1.0, 2.0]])),
    Gaussian(numbers(2), SPD, variance=numbers(2)),
    Gaussian(numbers(2), variance=numbers(2), scale_tril=SPD),
    Gaussian(numbers(3), jnp.eye(3)),
)
GAUSSIANS = {"p": GAUSSIAN, "q": GAUSSIAN}
for name in (
    "kl",
    "jeffreys",
    "bhattacharyya",
    "squared_hellinger",
    "cauchy_schwarz",
    "fisher_divergence",
    "squared_wasserstein",
):
    case(getattr(dv, f"gaussian_{name}"), **GAUSSIANS)
case(dv.gaussian_renyi, order=POSITIVE_ORDER, **GAUSSIANS)
case(
    dv.gaussian_squared_fisher_rao,
    p=dataclasses.replace(GAUSSIAN, value=Gaussian(numbers(2), variance=numbers(2))),
    q=dataclasses.replace(GAUSSIAN, value=Gaussian(numbers(2), variance=numbers(2))),
)

# Exponential families.
POISSON = dv.poisson_log_partition
POTENTIAL = functions(
    POISSON, lambda x: x, lambda: 0.0, lambda x, y: jnp.sum(x), lambda x: "text", lambda x: 3, lambda x: x[0] > 0.0
)
VECTORS = ((), (2,), (3, 2), (2, 1, 1), (0, 1), (2, 0), (3, 1))
case(dv.bregman_divergence, potential_fn=POTENTIAL, **pair("p", "q", (2, 1), VECTORS))
NATURAL = pair("p_natural", "q_natural", (2, 1), VECTORS)
case(dv.exponential_family_kl, log_partition_fn=POTENTIAL, **NATURAL)
case(dv.exponential_family_renyi, order=POSITIVE_ORDER, log_partition_fn=POTENTIAL, **NATURAL)
ONE_NATURAL = arrays(numbers(1), (), (0,), (2, 0), (0, 1))
case(dv.mean_parameters, log_partition_fn=POTENTIAL, natural=ONE_NATURAL)
case(
    dv.information_projection,
    log_partition_fn=POTENTIAL,
    **pair("moments", "init", (2, 1), VECTORS),
    num_steps=integers(5, 0, -1),
    tolerance=reals(0.1, 0.0, -1.0, INF, optional=True),
)
case(
    dv.estimation_risk,
    log_partition_fn=POTENTIAL,
    natural=ONE_NATURAL,
    num_samples=integers(10, 0, -3),
    statistics_covariance=arrays(numbers(1, 1), (), (1,), (2, 2), (1, 2), (1, 1, 1), optional=True),
)
for family, size in {"bernoulli": 1, "poisson": 1, "exponential": 1, "categorical": 3, "gaussian": 2}.items():
    sizes = ((), (0,), (size, 1)) if family == "categorical" else ((), (0,), (size + 1,), (size, 1), (1, size))
    case(getattr(dv, f"{family}_log_partition"), natural=arrays(-numbers(size), *sizes))
case(dv.bayes_error_bound, divergence=arrays(numbers(3)))

# Samples of log-ratios and scores.
SAMPLE_MASK = masks((3, 4), (4, 3), (4,), (2, 3, 4), (3, 1), ())
LOG_WEIGHTS = arrays(numbers(3, 4), *SHAPES, optional=True)
case(dv.importance_weights, log_weights=ONE_LOGITS["logits"], axis=axes(), where=SAMPLE_MASK)
case(dv.pareto_k, log_weights=arrays(numbers(2, 30), (24,), (2, 1), empty=((), (0,), (2, 0))), axis=axes())
SIDES = choices("q", "m", "P")
case(
    dv.monte_carlo_divergence,
    **RECORD,
    log_ratio=arrays(numbers(3, 4), empty=((), (0,), (3, 0))),
    samples_from=SIDES,
    gauge=choices("fitted", "k1", "log_ratio"),
    axis=axes(),
)
case(
    dv.monte_carlo_loss,
    **RECORD,
    **pair("p_log_probs", "q_log_probs", (3, 4), SHAPES),
    gradient_of=argument("p", *choices("p", "m").bad, Bad("q", ("estimator",))),
    samples_from=argument("p", *choices("p", "m").bad, Bad("q", ("estimator",))),
    estimator=choices("score_function", "k3", "frozen", "reinforce"),
    baseline=choices("leave_one_out", "mean", optional=True),
    axis=axes(),
    where=SAMPLE_MASK,
    log_weights=LOG_WEIGHTS,
)
SCORES = {
    "p_scores": arrays(numbers(3, 4), (), (0,), (4,), (2, 4), (3, 0)),
    "q_scores": arrays(numbers(3, 5), (), (0,), (4,), (2, 4), (3, 0)),
}
CLASSES = {name.replace("scores", "logits"): value for name, value in SCORES.items()}
PRIOR = reals(0.4, 0.0, 1.0, -0.1, 1.5, INF, optional=True)
case(dv.fenchel_bound, **RECORD, **SCORES, critic=choices("dual", "ratio"))
case(dv.nwj_bound, **SCORES)
case(dv.donsker_varadhan_bound, **SCORES)
case(dv.info_nce_bound, scores=arrays(numbers(3, 3), (), (3,), (3, 4), (0, 0), (2, 0, 0)))
case(dv.f_gan_losses, **RECORD, **SCORES, generator=choices("saturating", "wgan"))
case(dv.classifier_loss, **CLASSES, prior=PRIOR, loss=choices("brier", "hinge"))
case(dv.log_ratio_from_logits, logits=arrays(numbers(3)), prior=reals(0.4, 0.0, 1.0, -0.1, 1.5))
case(dv.fit_calibration, **CLASSES, prior=PRIOR, with_shift=flags(True), num_steps=integers(3, 0, -2))
case(dv.calibration_error, **CLASSES, prior=PRIOR, num_bins=integers(4, 0, -2))

# Two samples.
BAD_SAMPLES = ((), (4,), (0, 2), (4, 0), (4, 3), (2, 4, 2))
SAMPLES = {"p_samples": arrays(numbers(4, 2), *BAD_SAMPLES), "q_samples": arrays(numbers(5, 2), *BAD_SAMPLES)}
CHUNK = {"chunk_size": integers(3, 0, -1)}
GAUSSIAN_KERNEL = two_sample.gaussian_kernel(1.0)
NO_KERNEL = ("gaussian", 3.0, two_sample.gaussian_kernel, two_sample.Kernel, numbers(2), object(), lambda x, y: x @ y.T)
KERNEL = argument(GAUSSIAN_KERNEL, *NO_KERNEL)
NEEDED_KERNEL = argument(GAUSSIAN_KERNEL, *NO_KERNEL, None)
LINEAR, DISTANCE = two_sample.linear_kernel(), two_sample.distance_kernel()
POSITIVE_KERNEL = argument(GAUSSIAN_KERNEL, *NO_KERNEL, LINEAR, DISTANCE)
SMOOTH_KERNEL = argument(GAUSSIAN_KERNEL, *NO_KERNEL, LINEAR, DISTANCE, two_sample.laplace_kernel(1.0))
ESTIMATOR = choices("unbiased", "u", "Biased")
WIDTH = argument(
    0.5,
    *NO_ARRAYS,
    None,
    True,
    1j,
    NAN,
    INF,
    0.0,
    -1.0,
    0,
    [],
    [0.5, -1.0],
    [0.5, NAN],
    numbers(2, 2),
    jnp.zeros(0),
    jnp.array([1, 2]),
    np.array([0.5, 0.0]),
    jnp.ones(2, jnp.complex64),
)
METHOD = choices("direct", "exact")
EXPONENT = reals(0.7, 0.0, -1.0, INF)
HALF_OPEN = reals(0.7, 0.0, -1.0, 2.0, INF)

case(
    two_sample.Kernel,
    kind=choices("gaussian", "Gaussian", "energy"),
    bandwidth=WIDTH,
    exponent=EXPONENT,
    offset=reals(1.0, -0.1, INF),
    distances=METHOD,
)
case(two_sample.gaussian_kernel, bandwidth=WIDTH, distances=METHOD)
case(two_sample.laplace_kernel, bandwidth=WIDTH, distances=METHOD)
case(two_sample.rational_quadratic_kernel, bandwidth=WIDTH, exponent=EXPONENT, distances=METHOD)
case(two_sample.inverse_multiquadric_kernel, bandwidth=WIDTH, exponent=EXPONENT, distances=METHOD)
case(two_sample.distance_kernel, exponent=HALF_OPEN, distances=METHOD)
case(
    two_sample.polynomial_kernel,
    degree=integers(2, 0, -1),
    scale=argument(0.5, None, "1", True, 1j, NAN, INF, 0.0, -1.0, [1.0], jnp.array(1), numbers(2), object()),
    offset=reals(1.0, -0.1, INF),
)
case(two_sample.frechet_distance, **SAMPLES)
case(
    two_sample.frechet_distance_from_moments,
    p_mean=argument(numbers(2), *arrays(numbers(2), (), (0,), (1, 2)).bad, Bad(numbers(3), ("p_covariance",))),
    p_covariance=arrays(SPD, (), (2,), (3, 3), (2, 3), (1, 2, 2)),
    q_mean=arrays(numbers(2), (), (0,), (1, 2), (3,)),
    q_covariance=arrays(SPD, (), (2,), (3, 3), (2, 3), (1, 2, 2)),
)
POINTS = ((), (4,), (0, 2), (4, 0), (4, 3), (2, 4, 2))
case(
    two_sample.gram_matrix,
    x=arrays(numbers(4, 2), *POINTS),
    y=arrays(numbers(5, 2), *POINTS, optional=True),
    kernel=NEEDED_KERNEL,
)
case(
    two_sample.gram_product,
    vectors=arrays(numbers(5, 3), (), (5,), (4, 3), (1, 5, 3)),
    x=arrays(numbers(4, 2), *POINTS),
    y=arrays(numbers(5, 2), *POINTS, optional=True),
    kernel=NEEDED_KERNEL,
    **CHUNK,
)
case(two_sample.center_gram, gram=arrays(numbers(3, 3), (), (3,), (3, 2), (0, 0), (2, 0, 0)))
case(
    two_sample.median_bandwidth,
    p_samples=SAMPLES["p_samples"],
    q_samples=arrays(numbers(5, 2), *BAD_SAMPLES, optional=True),
    max_samples=integers(10, 0, 1, -1),
)
case(two_sample.squared_mmd, **SAMPLES, kernel=KERNEL, estimator=ESTIMATOR, **CHUNK)
case(two_sample.energy_distance, **SAMPLES, exponent=HALF_OPEN, estimator=ESTIMATOR, **CHUNK)
case(two_sample.kernel_cauchy_schwarz, **SAMPLES, kernel=POSITIVE_KERNEL, estimator=ESTIMATOR, **CHUNK)
NEIGHBORS = {"num_neighbors": integers(2, 0, -1, 9), **CHUNK}
case(
    two_sample.nearest_neighbors,
    x=arrays(numbers(4, 2), *POINTS),
    reference=arrays(numbers(5, 2), *POINTS, optional=True),
    **NEIGHBORS,
)
case(two_sample.knn_kl, **SAMPLES, **NEIGHBORS)
case(two_sample.knn_renyi, order=reals(1.5, 0.0, -1.0, 3.0, 4.0, INF), **SAMPLES, **NEIGHBORS)
RELABELLINGS = {"num_permutations": integers(3, 0, -1)}


def mean_gap(*, p_samples, q_samples):
    return jnp.abs(jnp.mean(p_samples) - jnp.mean(q_samples))


case(
    two_sample.permutation_test,
    key=keys(),
    statistic_fn=functions(
        mean_gap,
        lambda p_samples, q_samples: p_samples,
        lambda p_samples, q_samples: 3,
        lambda p_samples, q_samples: "text",
        lambda p_samples, q_samples: None,
        lambda x: jnp.mean(x),
        lambda: 0.0,
    ),
    **SAMPLES,
    **RELABELLINGS,
    batch_size=integers(2, 0, -1, optional=True),
)
case(
    two_sample.kernel_permutation_test,
    key=keys(),
    **SAMPLES,
    kernel=POSITIVE_KERNEL,
    statistic=choices("cauchy_schwarz", "energy"),
    estimator=ESTIMATOR,
    **RELABELLINGS,
    **CHUNK,
)
SLICED_ORDER = integers(2, 0, 3, -1)
case(
    two_sample.projected_wasserstein,
    directions=arrays(numbers(3, 2), (), (2,), (3, 3), (0, 2), (1, 3, 2)),
    **SAMPLES,
    order=SLICED_ORDER,
)
case(two_sample.sliced_wasserstein, key=keys(), **SAMPLES, order=SLICED_ORDER, num_projections=integers(3, 0, -1))
STEIN = {
    "p_samples": SAMPLES["p_samples"],
    "q_score": argument(
        -numbers(4, 2),
        *(
            bad
            for bad in arrays(numbers(4, 2), (), (4,), (5, 2), (4, 3), (0, 2), (1, 4, 2)).bad
            if bad.value is not len
        ),
    ),
    "kernel": SMOOTH_KERNEL,
    **CHUNK,
}
case(two_sample.squared_ksd, **STEIN, estimator=ESTIMATOR)
case(two_sample.stein_bootstrap_test, key=keys(), **STEIN, num_bootstrap=integers(3, 0, -1))

# Optimal transport.
CLOUDS = ((), (4,), (0, 2), (4, 0), (4, 3), (2, 4, 2))
COST_FN = functions(tr.l1, lambda x: x, lambda x, y: x, lambda x, y: (x, y), lambda x, y: "text", lambda: 0.0)
LOOP = {
    "epsilon": argument(
        0.5,
        *NO_ARRAYS,
        None,
        True,
        1j,
        0.0,
        -1.0,
        NAN,
        INF,
        0,
        [0.5, 0.5],
        [0.5] * 4 + [-1.0],
        [NAN] * 5,
        numbers(3),
        jnp.array(1),
        jnp.ones(5, jnp.int32),
        numbers(5, 1),
        jnp.ones(5, jnp.complex64),
        np.zeros(5),
    ),
    "num_iters": integers(5, 0, -1),
    "tol": reals(0.1, -0.1, INF, optional=True),
    "unroll": argument(False, Bad(True, ("tol",)), 1, 0, "yes", None, [True], object(), jnp.array(True)),
}
PARTS = {"cost_fn": COST_FN, **LOOP, "chunk_size": integers(3, 0, -1, optional=True)}
BAD_WEIGHTS = ((), (3,), (4, 1), (1, 4), (0,))
POINT_PAIR = {"x": arrays(numbers(4, 2), *CLOUDS), "y": arrays(numbers(5, 2), *CLOUDS)}
for cost_fn in (tr.sqeuclidean, tr.l1, tr.cosine):
    case(cost_fn, **POINT_PAIR)
case(tr.point_cost, **POINT_PAIR, cost_fn=COST_FN, **CHUNK)
case(tr.PointCost, **POINT_PAIR, cost_fn=functions(tr.l1), **CHUNK)
case(
    tr.sinkhorn_divergence,
    **{name: arrays(value.value, *CLOUDS) for name, value in SAMPLES.items()},
    p_log_weights=arrays(jnp.full(4, -jnp.log(4.0)), *BAD_WEIGHTS, optional=True),
    q_log_weights=arrays(jnp.full(5, -jnp.log(5.0)), *BAD_WEIGHTS, optional=True),
    **PARTS,
)
case(tr.monge_gap, samples=arrays(numbers(4, 2), *CLOUDS), mapped=arrays(numbers(4, 2), *CLOUDS, (5, 2)), **PARTS)
case(
    tr.sinkhorn,
    cost=arrays(numbers(4, 5), (), (4,), (0, 5), (4, 0)),
    epsilon=LOOP["epsilon"],
    num_iters=LOOP["num_iters"],
    tol=LOOP["tol"],
    unroll=LOOP["unroll"],
    log_a=arrays(jnp.full(4, -jnp.log(4.0)), *BAD_WEIGHTS, optional=True),
    log_b=arrays(jnp.full(5, -jnp.log(5.0)), *BAD_WEIGHTS, optional=True),
    init=argument(
        (jnp.zeros(4), jnp.zeros(5)),
        "fg",
        0.0,
        jnp.zeros(4),
        (jnp.zeros(4),),
        (jnp.zeros(5), jnp.zeros(4)),
        (jnp.zeros(4), None),
        (jnp.zeros(4), "text"),
        (jnp.zeros(4, jnp.int32), jnp.zeros(5)),
        {"f": 0, "g": 0},
        object(),
    ),
)
POTENTIALS = tr.SinkhornResult(
    jnp.zeros(2),
    jnp.zeros(3),
    jnp.full(2, -jnp.log(2.0)),
    jnp.full(3, -jnp.log(3.0)),
    jnp.array(0.5),
    jnp.array(0.0),
    jnp.array(1),
)
RESULT = {
    "result": argument(POTENTIALS, None, "text", 0.5, tuple(POTENTIALS), tr.SinkhornResult, object(), jnp.zeros(2)),
    "cost": arrays(numbers(2, 3), (), (3,), (3, 2), (1, 2, 3), (0, 3), (2, 0)),
}
case(tr.plan, **RESULT)
case(tr.transport_cost, **RESULT, unroll=argument(True, 1, 0, "yes", None, [True], object(), jnp.array(True)))
case(tr.regularized_cost, **RESULT)
case(tr.entropic_cost, **RESULT)
STRENGTH = reals(2.0, 0.0, -1.0, INF)
case(
    tr.epsilon_schedule,
    initial=STRENGTH,
    final=STRENGTH,
    num_iters=integers(5, 0, -1),
    num_annealing=integers(3, -1, 5, optional=True),
)
case(
    tr.transport_cost_1d,
    p_samples=arrays(numbers(4), (), (0,), (2, 4), (2, 0)),
    q_samples=arrays(numbers(5), (), (0,), (2, 5), (2, 0)),
    p_log_weights=arrays(jnp.full(4, -jnp.log(4.0)), *BAD_WEIGHTS, optional=True),
    q_log_weights=arrays(jnp.full(5, -jnp.log(5.0)), *BAD_WEIGHTS, optional=True),
    order=reals(2.0, 0.5, -1.0, INF),
)

# The vocabulary head.
HIDDEN = ((), (3,), (0, 3), (2, 0), (5, 3), (1, 2, 3))
HEAD = ((), (3,), (6, 4), (0, 3), (1, 6, 3))
case(
    dv.linear_head_divergence,
    **RECORD,
    p_hidden=argument(numbers(2, 3), *arrays(numbers(2, 3), *HIDDEN).bad, Bad(numbers(2, 4), ("p_head",))),
    p_head=arrays(numbers(6, 3), *HEAD),
    q_hidden=argument(numbers(2, 3), *arrays(numbers(2, 3), *HIDDEN).bad, Bad(numbers(2, 4), ("q_head",))),
    q_head=arrays(numbers(6, 3), *HEAD),
    p_bias=arrays(numbers(6), (), (5,), (1, 6), optional=True),
    q_bias=arrays(numbers(6), (), (5,), (1, 6), optional=True),
    temperature=reals(2.0, 0.0, -1.0, INF),
    weights=argument(
        numbers(2), "text", ["a"], 1j, 3, object(), numbers(3), numbers(1, 2), jnp.ones(3, bool), jnp.ones(2, jnp.int32)
    ),
    labels=argument(
        jnp.array([0, 3]),
        *(None, "text", ["a"], 1j, object(), numbers(2), jnp.array([1]), jnp.ones(2, bool)),
        *(Bad(jnp.array(labels), ("vocab_size",)) for labels in ([0, 5], [-1, 0], [-100, 99])),
    ),
    label_weight=argument(0.3, *reals(0.3, -0.1, 1.1, INF, optional=True).bad, Bad(None, ("labels",))),
    vocab_size=integers(5, 0, -1, 7, optional=True),
    reduction=choices("mean", "max", "Sum"),
    differentiate_p=flags(),
    memory_limit=integers(2**20, 0, -1),
    token_block=integers(1, 0, -1, optional=True),
    implementation=choices("xla", "cuda"),
)


@pytest.mark.parametrize("name", CASES)
def test_the_arguments_that_are_spoiled_below_are_valid_as_they_stand(name):
    fn, arguments = CASES[name]
    jax.eval_shape(lambda: (fn(**values(arguments)), None)[1])  # traced: every check runs, and nothing is compiled


@pytest.mark.parametrize("name", CASES)
def test_one_malformed_argument_is_named(name):
    wrong = complaints_of_one(CASES[name])
    assert not wrong, "\n".join(wrong)


def test_of_two_malformed_arguments_one_is_named():
    wrong = complaints_of_two(CASES, 3000)
    assert not wrong, "\n".join(wrong)


def test_there_are_thousands_of_calls():
    assert sum(len(a.bad) for _, arguments in CASES.values() for a in arguments.values()) >= 7000


def test_every_public_function_and_argument_is_in_the_table():
    exported = {value_and_logit_gradients.__name__: value_and_logit_gradients}
    for package in (dv, two_sample, tr):
        exported |= {name: getattr(package, name) for name in package.__all__}
    public = {name: f for name, f in exported.items() if inspect.isfunction(f)}
    missing = {name for name, f in public.items() if inspect.signature(f).parameters} - CASES.keys()
    assert not missing
    left_out = {
        (name, parameter)
        for name, (fn, arguments) in CASES.items()
        for parameter in inspect.signature(fn).parameters.keys() - arguments.keys()
    }
    # Of one shape with logits that may have any; vocab_block excludes token_block.
    masked = {"entropy", "perplexity", "renyi_entropy", "tsallis_entropy"}
    assert left_out == {(name, "where") for name in masked} | {
        ("monte_carlo_divergence", "where"),
        ("monte_carlo_divergence", "log_weights"),
        ("linear_head_divergence", "vocab_block"),
    }
