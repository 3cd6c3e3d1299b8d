"""Names of types that signatures across the library use."""

from collections.abc import Callable
from typing import Any

import jax
import jax.typing

Array = jax.Array
"""An array of jax, traced or not."""

ArrayLike = jax.typing.ArrayLike
"""What jax accepts as an array: its own, numpy's, and Python numbers."""

PyTree = Any
"""Nested containers with arrays as leaves: parameters, states."""

PRNGKey = jax.Array
"""A typed key as ``jax.random.key`` makes it."""

DenoiseFn = Callable[[Array, Array], Array]
"""``(x, sigma) -> E[x0 | x]``: the posterior mean of clean data at noise level ``sigma``, shape of ``x``."""

LogRatioFn = Callable[[Array, Array], Array]
"""``(x, sigma) -> log p(x) - log q(x)``, one number per example."""

__all__ = ["Array", "ArrayLike", "DenoiseFn", "LogRatioFn", "PRNGKey", "PyTree"]
