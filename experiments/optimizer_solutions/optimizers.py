"""The optimizers that are compared, as transformations of a learning rate that may be a traced number."""

import jax
import numpy as np
import optax

from experiments.optimizer_solutions.shampoo import scale_by_shampoo
from jaxdiv.checks import check_choice
from jaxdiv.optimizers import DEFAULT_RULES, MatrixAxes, muon, route_parameters
from jaxdiv.typing import ArrayLike, PyTree

OPTIMIZERS = ("sgd", "adamw", "shampoo", "shampoo_hidden", "muon", "muon_all")
"""Shampoo takes every matrix and Muon the hidden ones, as their papers have it; the variants change that, so that
direction and choice of matrices can be told apart. What they leave is AdamW's."""

MIDDLE_RATES = {"sgd": 1e-1}
"""Of each grid; the others take steps of Adam's size."""

_ADAM = {"b1": 0.9, "b2": 0.999}


def rate_grid(name: str, num_rates: int) -> np.ndarray:
    """Learning rates half a power of ten apart around the optimizer's middle.

    >>> rate_grid("adamw", 3).round(5).tolist()
    [0.00095, 0.003, 0.00949]
    """
    return MIDDLE_RATES.get(name, 3e-3) * 10.0 ** (0.5 * (np.arange(num_rates) - (num_rates - 1) / 2))


def build_optimizer(name: str, rate: ArrayLike, *, weight_decay: float = 0.0) -> optax.GradientTransformation:
    """One of ``OPTIMIZERS`` with decoupled decay of the matrices, ``-rate (u + weight_decay p)``."""
    check_choice("build_optimizer", "name", name, OPTIMIZERS)
    finish = (
        optax.add_decayed_weights(weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim == 2, params)),
        optax.scale_by_learning_rate(rate),
    )
    adam = optax.chain(optax.scale_by_adam(**_ADAM), *finish)
    if name == "sgd":
        return optax.chain(optax.trace(decay=0.9), *finish)
    if name == "adamw":
        return adam
    if name.startswith("shampoo"):
        shampoo = optax.chain(scale_by_shampoo(**_ADAM), *finish)
        return optax.partition({"shampoo": shampoo, "adam": adam}, lambda params: _labels(name, params))
    # the network is small enough for exact products; a CPU would only emulate bfloat16
    return muon(rate, routes=lambda params: _routes(name, params), weight_decay=weight_decay, dtype="float32", aux=adam)


def _routes(name: str, params: PyTree) -> PyTree:
    everything = name in ("shampoo", "muon_all")
    rules = ((r"head/kernel", MatrixAxes(inputs=0, outputs=1)), *DEFAULT_RULES) if everything else DEFAULT_RULES
    return route_parameters(params, rules=rules)


def _labels(name: str, params: PyTree) -> PyTree:
    return jax.tree.map(lambda _, route: "adam" if route == "adamw" else "shampoo", params, _routes(name, params))
