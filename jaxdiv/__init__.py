"""jaxdiv: divergences, one-step diffusion distillation and what follows from them, as pure JAX functions.

The mathematical areas (``divergences``, ``transport``, ``diffusion``, ``distillation``, ``optimizers``,
``information``) need jax, numpy and optax alone. The areas around them (``networks``, ``data``, ``training``,
``metrics``) load flax, orbax or grain, so they load on first use.
"""

import importlib
from types import ModuleType

from jaxdiv import diffusion, distillation, divergences, information, optimizers, transport

__version__ = "0.1.0"

_ON_FIRST_USE = ("data", "metrics", "networks", "training")


def __getattr__(name: str) -> ModuleType:
    if name in _ON_FIRST_USE:
        return importlib.import_module(f"jaxdiv.{name}")
    raise AttributeError(f"module 'jaxdiv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})


__all__ = [
    "data",
    "diffusion",
    "distillation",
    "divergences",
    "information",
    "metrics",
    "networks",
    "optimizers",
    "training",
    "transport",
]
