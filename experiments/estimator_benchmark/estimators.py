"""The estimators under test, each as (key, x, y) -> Estimate with the settings that the table is about."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from jaxdiv import information
from jaxdiv.information import Estimate
from jaxdiv.typing import Array, PRNGKey

K = 5
EstimateFn = Callable[[PRNGKey, Array, Array], Estimate]


class Entry(NamedTuple):
    """An estimator of the benchmark."""

    make: Callable[[int], EstimateFn]
    """From the number of training steps, which those without a critic do not use."""
    what: str
    """One line for the table."""
    trained: bool = False
    """Fits a network: orders of magnitude slower."""
    max_dims: int = 1_000_000
    """Columns of x and y together up to which the estimator is meant to be used, or can be computed."""


def _plain(estimate_fn: Callable[[Array, Array], Estimate]) -> Callable[[int], EstimateFn]:
    return lambda steps: lambda key, x, y: estimate_fn(x, y)


def _critic(bound: Callable[[Array], Estimate], objective: object = None) -> Callable[[int], EstimateFn]:
    def make(steps):
        every = max(1, steps // 20)
        options = {"bound": bound, "objective": objective, "num_steps": steps // every * every, "eval_every": every}
        return lambda key, x, y: information.fit_critic(x, y, key=key, **options).estimate

    return make


def _lnc(x: Array, y: Array) -> Estimate:
    dims = (x.shape[1], y.shape[1])
    k = max(K, sum(dims))
    threshold = information.nonuniformity_threshold(jax.random.key(0), k=k, dims=dims, num_samples=20_000)
    return information.lnc(x, y, k=k, threshold=threshold)


ESTIMATORS: dict[str, Entry] = {
    "gaussian": Entry(
        _plain(functools.partial(information.gaussian_mutual_information, correct_bias=True)),
        "canonical correlations, bias under normal data corrected",
    ),
    "binned": Entry(
        _plain(functools.partial(information.binned_mutual_information, bins=10, correction="miller_madow")),
        "10 equal bins per column, Miller-Madow",
        max_dims=3,
    ),
    "ksg_1": Entry(_plain(functools.partial(information.ksg, k=K)), "neighbours, form 1, maximum norm, k = 5"),
    "ksg_2": Entry(_plain(functools.partial(information.ksg, k=K, form=2)), "neighbours, form 2, maximum norm, k = 5"),
    "ksg_euclidean": Entry(
        _plain(functools.partial(information.ksg, k=K, norm="euclidean")), "neighbours, form 1, Euclidean, k = 5"
    ),
    "mixed_ksg": Entry(_plain(functools.partial(information.mixed_ksg, k=K)), "neighbours, ties as atoms, k = 5"),
    "entropies": Entry(
        _plain(functools.partial(information.latent_mutual_information, estimator="entropies", k=K)),
        "three Kozachenko-Leonenko entropies of whitened data, k = 5",
    ),
    "lnc": Entry(_plain(_lnc), "form 2 corrected for non-uniformity, k = max(5, dimensions)", max_dims=10),
    "info_nce": Entry(_critic(information.info_nce), "InfoNCE, separable critic, held out", trained=True),
    "donsker_varadhan": Entry(_critic(information.donsker_varadhan), "Donsker-Varadhan, the same critic", trained=True),
    "nwj": Entry(_critic(information.nwj), "NWJ, the same critic", trained=True),
    "smile": Entry(
        _critic(information.smile, information.jensen_shannon_bound),
        "SMILE, trained by the Jensen-Shannon bound, the same critic",
        trained=True,
    ),
    "score_based": Entry(
        lambda steps: lambda key, x, y: information.score_mutual_information(x, y, key=key, num_steps=steps),
        "denoising with and without y, a network of its own",
        trained=True,
    ),
}
