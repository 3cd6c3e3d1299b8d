"""Malformed calls of every exported function: each raises a ValueError that names the function and the argument."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxdiv import information as inf
from jaxdiv.divergences import Gaussian, two_sample
from tests.malformed import (
    INF,
    NAN,
    Bad,
    argument,
    arrays,
    choices,
    complaints_of_one,
    complaints_of_two,
    flags,
    functions,
    integers,
    keys,
    numbers,
    reals,
    values,
)

CASES = {}


def case(fn, **arguments):
    CASES[fn.__name__] = (fn, arguments)


def without(of, *shapes):
    """The malformed values of an argument but those of shapes that are fine here."""
    return [bad for bad in of.bad if getattr(bad.value, "shape", None) not in shapes]


def without_shapes(of, *shapes):
    return argument(of.value, *without(of, *shapes))


def also(of, name, *shapes):
    """Arrays of these shapes fit by themselves, so that the message may blame another argument for the pair."""
    bad = (Bad(b.value, (name,)) if getattr(b.value, "shape", None) in shapes else b for b in of.bad)
    return argument(of.value, *bad)


N = 8
NO_SAMPLES = ((), (0,), (0, 2), (N, 0), (2, N, 2), (N - 1, 2), (1, 2))
X, Y, Z = (arrays(numbers(N, d), *NO_SAMPLES) for d in (2, 3, 1))
PAIR = {"x": argument(X.value, *X.bad, Bad(numbers(N + 1, 2), ("y", "representation"))), "y": Y}
ONE = argument(X.value, *without(X, (N - 1, 2), (1, 2)))
K = integers(3, 0, -1, N, 99)
TILE = integers(4, 0, -1, optional=True)
CHUNK = integers(4, 0, -1)
ORDERS = integers(20, 0, -1)
LABELS = argument(
    jnp.arange(N) % 2,
    *("text", b"bytes", ["a"] * N, 3, object(), len, {"a": 1}, numbers(N), jnp.zeros(N, bool)),
    *(jnp.zeros(s, int) for s in ((), (N - 1,), (N, 1), (0,))),
)
NEEDED_LABELS = argument(LABELS.value, *LABELS.bad, None)
KERNEL = argument(
    two_sample.gaussian_kernel(1.0),
    *("gaussian", 3.0, two_sample.gaussian_kernel, numbers(2), object(), lambda x, y: x @ y.T),
)
WIDTH = argument(
    0.5,
    "1",
    True,
    1j,
    NAN,
    INF,
    0.0,
    -1.0,
    [0.5],
    (1.0,),
    object(),
    len,
    None,
    numbers(2),
    jnp.array(1),
    jnp.zeros((1,)),
)
BETA = argument(0.5, "1", True, 1j, NAN, -1.0, [0.5], object(), len, None, numbers(2), jnp.array(1), jnp.zeros((1,)))
NORM = choices("euclidean", "max")

# Neighbours.
case(inf.ksg, **PAIR, k=K, form=choices(2, 0, "1"), norm=NORM, tile=TILE)
case(inf.kozachenko_leonenko, x=ONE, k=K, norm=NORM, weighted=flags())
case(inf.ross, x=also(X, "labels", (N - 1, 2), (1, 2)), labels=NEEDED_LABELS, k=integers(2, 0, -1), tile=TILE)
case(inf.mixed_ksg, **PAIR, k=K, tile=TILE)
case(inf.frenzel_pompe, **PAIR, z=Z, k=K, tile=TILE)
THRESHOLD = argument(0.25, "1", True, 1j, NAN, 1.5, -1.0, object(), len, None, numbers(2, 2))
case(inf.lnc, **PAIR, k=integers(6, 0, -1, 4, N), threshold=THRESHOLD, tile=TILE)
case(
    inf.nonuniformity_threshold,
    key=keys(),
    k=integers(3, 0, -1),
    dims=argument((1, 1), None, "11", 2, (), (1, 0), (1, 1.0), ("a", 1), object()),
    level=reals(0.1, 0.0, 1.0, -0.1),
    num_samples=integers(50, 0, -1),
)
case(
    inf.find_neighbors,
    spaces=argument(
        [X.value, Y.value], None, "text", X.value, [], (), 3.0, object(), [None], [X.value, numbers(N - 1, 2)]
    ),
    k=K,
    norm=NORM,
    tile=TILE,
    labels=LABELS,
)
RADIUS = arrays(numbers(N), (), (N - 1,), (N, 1), (0,))
case(
    inf.count_within,
    x=also(X, "radius", (N - 1, 2), (1, 2)),
    radius=RADIUS,
    norm=NORM,
    strict=flags(True),
    tile=TILE,
    labels=LABELS,
)
WRONG_RESULTS = (lambda x: None, lambda x: x[:-1], lambda x: "text")
ENCODER = argument(2, 0, -1, 1.5, "pca", True, object(), numbers(2), *WRONG_RESULTS)
case(
    inf.latent_mutual_information,
    x=also(without_shapes(X, (2, N, 2)), "encode_x", (1, 2)),
    y=also(without_shapes(Y, (2, N, 2)), "encode_y", (1, 2)),
    encode_x=ENCODER,
    encode_y=ENCODER,
    estimator=choices("entropies", "KSG"),
    k=integers(5, 0, -1, N),
    weighted=flags(),
    tile=TILE,
)
case(inf.principal_components, x=ONE, num_components=integers(2, 0, 3, -1))
case(
    inf.sliced_mutual_information,
    **PAIR,
    key=keys(),
    num_projections=integers(4, 0, -1),
    dim=integers(1, 0, -1, 3),
    base=choices("ksg", "KSG"),
    k=K,
    tile=TILE,
)

# Tables and bins.
TABLE = arrays(numbers(3, 4), (), (3,), (0, 4), (3, 0), (1, 3, 4))
case(inf.discrete_mutual_information, p_xy=without_shapes(TABLE, (1, 3, 4)))
SYMBOLS = {
    name: argument(a.value, *(b for b in a.bad if getattr(b.value, "dtype", None) not in (jnp.int32, jnp.uint8)))
    for name, a in PAIR.items()
}
BINS = argument(
    5, 0, -1, 1.5, "5", True, None, [1.0], [], [0.0, 0.0], [1.0, 0.0], object(), numbers(2, 2), jnp.array([1, 2])
)
case(inf.binned_mutual_information, **SYMBOLS, bins=BINS, correction=choices("miller_madow", "jackknife"))
POSITIVE = arrays([1.0, 2.0], (), (0,), (1, 2))
START = arrays(numbers(3, 2), (), (3,), (2, 2), (3, 0), optional=True)
case(
    inf.information_bottleneck_curve,
    p_xy=TABLE,
    tishby_betas=POSITIVE,
    initial=START,
    form=choices("deterministic", "hard"),
    num_steps=ORDERS,
)
case(inf.channel_capacity, channel=TABLE, num_steps=ORDERS)
case(
    inf.rate_distortion_curve,
    p_x=also(arrays(numbers(3), (), (0,), (2,), (1, 3)), "distortions", (2,)),
    distortions=argument(
        numbers(3, 2), *arrays(numbers(3, 2), (), (3,), (3, 0), (1, 3, 2)).bad, Bad(numbers(4, 2), ("p_x",))
    ),
    slopes=POSITIVE,
    num_steps=ORDERS,
)
case(inf.dobrushin_coefficient, channel=arrays(numbers(3, 4), (), (3,), (0, 4), (3, 0)))

# Normal laws.
SPD = jnp.eye(2)
case(
    inf.gaussian_information_bottleneck,
    covariance_x=argument(
        SPD, *arrays(SPD, (), (2,), (2, 3), (0, 0), (1, 2, 2)).bad, Bad(jnp.eye(3), ("cross_covariance",))
    ),
    cross_covariance=also(
        also(arrays(0.1 * numbers(2, 3), (), (3,), (3, 3), (2, 2), (1, 2, 3)), "covariance_x", (3, 3)),
        "covariance_y",
        (2, 2),
    ),
    covariance_y=argument(
        jnp.eye(3), *arrays(jnp.eye(3), (), (3,), (3, 2), (1, 3, 3)).bad, Bad(SPD, ("cross_covariance",))
    ),
    tishby_beta=argument(5.0, "1", True, 1j, NAN, -1.0, object(), len, None, jnp.array(1)),
)
SHRINKAGE = argument("ledoit_wolf", "oas", True, 1j, NAN, -0.1, 1.1, [0.5], object(), jnp.zeros(2))
case(inf.gaussian_mutual_information, **PAIR, shrinkage=SHRINKAGE, correct_bias=flags())

# Kernels.
KERNELS = {"x_kernel": KERNEL, "y_kernel": KERNEL}
case(inf.hsic, **PAIR, **KERNELS, estimator=choices("biased", "u"))
case(inf.cka, **PAIR, **KERNELS, estimator=choices("unbiased", "u"))
RIDGE = reals(1e-3, 0.0, -1.0)
case(inf.normalized_hsic, **PAIR, **KERNELS, ridge=RIDGE)
ALPHA = reals(1.01, 0.0, -1.0, INF)
case(inf.matrix_renyi_entropy, x=ONE, kernel=KERNEL, alpha=ALPHA)
case(inf.matrix_renyi_mutual_information, **PAIR, **KERNELS, alpha=ALPHA)
case(inf.cs_qmi, **PAIR, sigma=WIDTH, normalized=flags(), chunk_size=CHUNK)
PREDICTION = arrays(numbers(N, 3), *NO_SAMPLES)
VARIANT = choices("released", "paper")
case(inf.conditional_cauchy_schwarz, **PAIR, prediction=PREDICTION, sigma=WIDTH, variant=VARIANT, chunk_size=CHUNK)

# Bounds from scores.
SCORES = arrays(numbers(4, 4), (), (4,), (3, 4), (0, 0), (2, 0, 0))
for bound in (inf.donsker_varadhan, inf.nwj, inf.jensen_shannon_bound, inf.info_nce):
    case(bound, scores=SCORES)
case(inf.smile, scores=SCORES, clip=reals(5.0, 0.0, -1.0))
BASELINE = arrays(numbers(4), (), (3,), (1, 4), (4, 4))
case(inf.tuba, scores=SCORES, log_baseline=BASELINE)
OPTIONAL_BASELINE = argument(BASELINE.value, *(b for b in BASELINE.bad if b.value is not None))
case(inf.interpolated_info_nce, scores=SCORES, alpha=reals(0.5, -0.1, 1.1), log_baseline=OPTIONAL_BASELINE)
case(inf.flo, scores=SCORES, log_partition=BASELINE)
case(inf.mine, decay=reals(0.9, -0.1, 1.0, 1.1))
DENSITIES = {"log_density": SCORES, "is_exact": flags()}
case(inf.club, **DENSITIES)
case(inf.leave_one_out, **DENSITIES)

# Critics and what is trained.
WIDTHS = argument((4, 4), None, "text", 4, (0,), (-1,), (1.5,), ("a",), object(), numbers(2))
case(inf.separable_critic, widths=WIDTHS, num_features=integers(3, 0, -1))
case(inf.concatenated_critic, widths=WIDTHS)
OPTIMIZER = argument(optax.adam(1e-3), "adam", 3.0, object(), optax.adam, numbers(2))
LONG = {
    name: arrays(numbers(40, d), (), (0,), (40, 0), (2, 40, 2), (39, 2), (1, 2)) for name, d in (("x", 2), ("y", 3))
}
NOISE = {"sigma_min": reals(0.01, 0.0, -1.0, INF), "sigma_max": reals(30.0, 0.0, -1.0, INF, 0.005)}
NOISE["sigma_min"] = argument(0.01, *NOISE["sigma_min"].bad, Bad(31.0, ("sigma_max",)))
LEVELS = {**NOISE, "num_levels": integers(4, 0, -1)}
case(
    inf.fit_critic,
    **LONG,
    key=keys(),
    bound=functions(inf.info_nce, lambda scores: 1.0, lambda scores: "text"),
    objective=argument(inf.nwj, "text", 3.0, numbers(2), object(), lambda scores: "text"),
    critic=argument(inf.separable_critic(widths=(4,)), "separable", 3.0, inf.separable_critic, numbers(2), object()),
    optimizer=OPTIMIZER,
    num_steps=integers(4, 0, -1),
    batch_size=integers(4, 0, 1, -1),
    eval_batch_size=integers(4, 0, 1, -1),
    num_folds=integers(5, 0, -1, 2, 99),
    num_rotations=integers(1, 0, -1, 99, optional=True),
    eval_every=argument(2, *integers(2, 0, -1).bad, Bad(3, ("num_steps",))),
    patience=integers(1, 0, -1, optional=True),
)
DENOISER = functions(lambda x, *rest: 0.5 * x, lambda x, *rest: x[:-1], lambda x, *rest: "text")
FORM = choices("difference", "terms")
case(inf.denoising_information, marginal_fn=DENOISER, conditional_fn=DENOISER, **PAIR, key=keys(), form=FORM, **LEVELS)
case(
    inf.score_mutual_information,
    **LONG,
    key=keys(),
    form=FORM,
    widths=WIDTHS,
    optimizer=OPTIMIZER,
    num_steps=integers(4, 0, -1),
    batch_size=integers(4, 0, -1),
    held_out=reals(0.5, 0.0, 1.0, -0.1),
    **LEVELS,
)

# Nulls, intervals and checks.
ROWS = {
    "x": argument(
        numbers(N, 2), "text", b"bytes", ["a"] * N, None, 1j, object(), numbers(), numbers(1, 2), numbers(N - 1, 2)
    ),
    "y": argument(
        numbers(N, 3), "text", b"bytes", ["a"] * N, None, 1j, object(), numbers(), numbers(1, 3), numbers(N - 1, 3)
    ),
}


def product(x, y):
    return jnp.mean(x) * jnp.mean(y)


ESTIMATOR = functions(product, lambda x, y: x, lambda x, y: "text", lambda x, y: None, lambda x, y: 3)
DATA = {"estimator_fn": ESTIMATOR, **ROWS}
case(inf.permutation_null, **DATA, key=keys(), num_permutations=integers(3, 0, -1), batch_size=integers(2, 0, -1))
case(
    inf.subsampling_interval,
    **DATA,
    key=keys(),
    num_subsets=argument((2, 4), None, 2, "text", (), (1,), (0,), (5,), (1.5,), ("a",), object()),
    num_repeats=integers(2, 0, -1),
    level=reals(0.9, 0.0, 1.0, -0.1),
)
case(inf.independence_check, **DATA, key=keys())
case(inf.additivity_check, **DATA, key=keys())
PROCESS = functions(lambda y: y**2, *WRONG_RESULTS)
case(inf.data_processing_check, **DATA, process_fn=PROCESS)

# Bottlenecks.
LOSSES = arrays(numbers(N), (), (N - 1,), (N, 1), (0,))
MEANS = argument(numbers(N, 2), *X.bad, Bad(numbers(N, 3), ("log_variances", "backward_means", "prior")))
ENCODERS = {"means": MEANS, "log_variances": arrays(numbers(N, 2), *NO_SAMPLES, (N, 3))}
BACKWARD = {"backward_means": ENCODERS["log_variances"], "backward_log_variances": ENCODERS["log_variances"]}
PRIOR = argument(
    Gaussian(numbers(2), variance=numbers(2)),
    "normal",
    0.5,
    numbers(2),
    object(),
    Gaussian,
    Gaussian(numbers(3), variance=numbers(3)),
)
TRANSFORM = choices("square", "cube")
PREDICTED = {"prediction_losses": LOSSES}
case(inf.vib_loss, **PREDICTED, **ENCODERS, beta=BETA, prior=PRIOR, transform=TRANSFORM)
case(inf.ceb_loss, **PREDICTED, **ENCODERS, **BACKWARD, beta=BETA)
NOISE_VARIANCE = argument(
    0.5, "1", True, 1j, NAN, 0.0, -1.0, object(), len, None, numbers(3), numbers(1, 2), jnp.array(1)
)
SOME_MEANS = argument(
    X.value,
    *without(X, (N - 1, 2)),
    Bad(numbers(N - 1, 2), ("prediction_losses", "labels")),
)
case(
    inf.nib_loss,
    **PREDICTED,
    means=SOME_MEANS,
    variance=NOISE_VARIANCE,
    beta=BETA,
    transform=TRANSFORM,
    chunk_size=CHUNK,
)
case(
    inf.dib_loss,
    **PREDICTED,
    assignments=argument(
        numbers(N, 3), *arrays(numbers(N, 3), (), (N,), (N, 0), (0, 3)).bad, Bad(numbers(7, 3), ("prediction_losses",))
    ),
    beta=BETA,
)
REPRESENTATION = arrays(numbers(N, 2), *NO_SAMPLES)
case(
    inf.hsic_bottleneck_loss,
    representation=REPRESENTATION,
    **PAIR,
    beta=BETA,
    representation_kernel=KERNEL,
    **KERNELS,
    ridge=RIDGE,
)
case(
    inf.cs_bottleneck_loss,
    **PAIR,
    prediction=PREDICTION,
    representation=REPRESENTATION,
    beta=BETA,
    sigma=WIDTH,
    variant=VARIANT,
    normalized=flags(),
    chunk_size=CHUNK,
)

# Bounds on the generalization gap.
BOUND = choices("upper", "both")
case(inf.encoder_information, **ENCODERS, labels=LABELS, key=keys(), bound=BOUND)
case(inf.posterior_information, means=MEANS, log_variances=ENCODERS["log_variances"])
case(inf.kolchinsky_tracey_bounds, means=SOME_MEANS, variance=NOISE_VARIANCE, labels=LABELS, chunk_size=CHUNK)
AMOUNT = argument(0.5, "1", True, 1j, object(), len, None, jnp.array([1]), ["a"])
CONSTANT = argument(0.5, *(bad.value for bad in AMOUNT.bad), NAN, -1.0, numbers(2))
SIZE = integers(5, 0, -1)
case(inf.bottleneck_gap_scale, information=AMOUNT, num_samples=SIZE, parameter_information=AMOUNT)
case(inf.mean_estimator_information, dimension=SIZE, num_samples=SIZE)
TERMS = arrays(numbers(3, 4), (), (0,), (3, 0))
case(
    inf.kl_generalization_bounds,
    divergences=TERMS,
    sub_gaussian=CONSTANT,
    contractions=arrays(numbers(2), (), (1, 2), optional=True),
)
case(
    inf.wasserstein_generalization_bounds,
    distances=TERMS,
    layer_lipschitz=arrays(numbers(3, 3), (), (3, 2), (3,), (3, 4)),
    loss_lipschitz=CONSTANT,
)
PROBABILITY = argument(0.5, "1", True, 1j, NAN, -0.1, 1.1, object(), len, None, jnp.array(1))
case(inf.dropout_contraction, probability=PROBABILITY, width=SIZE)
case(inf.dropconnect_contraction, probability=PROBABILITY, num_inputs=SIZE, num_outputs=SIZE)
RANGE = argument(0.5, "1", True, 1j, NAN, -1.0, object(), len, None, jnp.array(1))
case(inf.gaussian_contraction, radius=RANGE, scale=RANGE)

# Representations.
case(
    inf.mmcr_loss,
    views=arrays(numbers(3, 2, 4), (), (3,), (3, 4), (0, 2, 4), (3, 0, 4)),
    local_weight=reals(0.5, -1.0, INF),
    schedule=argument("jordan", "nonsense", 3.0, object(), numbers(2)),
)
MATRIX = arrays(numbers(5, 4), (), (5,), (0, 4), (5, 0))
case(inf.token_directions, x=MATRIX)
case(inf.matrix_entropy, x=MATRIX, center=flags(True))
case(inf.l12_norm, x=MATRIX)


@pytest.mark.parametrize("name", CASES)
def test_the_arguments_that_are_spoiled_below_are_valid_as_they_stand(name):
    fn, arguments = CASES[name]
    jax.eval_shape(lambda: (fn(**values(arguments)), None)[1])


@pytest.mark.parametrize("name", CASES)
def test_one_malformed_argument_is_named(name):
    wrong = complaints_of_one(CASES[name])
    assert not wrong, "\n".join(wrong)


def test_of_two_malformed_arguments_one_is_named():
    wrong = complaints_of_two(CASES, 1500)
    assert not wrong, "\n".join(wrong)


def test_every_public_function_and_argument_is_in_the_table():
    public = {name: getattr(inf, name) for name in inf.__all__ if inspect.isfunction(getattr(inf, name))}
    assert {name for name, f in public.items() if inspect.signature(f).parameters} == CASES.keys()
    for name, (fn, arguments) in CASES.items():
        assert inspect.signature(fn).parameters.keys() == arguments.keys(), name
    assert sum(len(a.bad) for _, arguments in CASES.values() for a in arguments.values()) >= 3000
