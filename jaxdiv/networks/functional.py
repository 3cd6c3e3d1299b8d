"""The bridge from flax.nnx modules to pure functions of ``(params, ...)``."""

from dataclasses import dataclass
from typing import Any

from flax import nnx

from jaxdiv.typing import PyTree


@dataclass(frozen=True)
class ApplyFn:
    """A network as a pure function: ``apply_fn(params, *inputs)`` is the module's own call on those parameters.

    Equal modules (same class, sizes and settings) give equal and equally hashed functions, so one of these can be a
    static argument of ``jax.jit`` and a network built twice compiles once.
    """

    graphdef: nnx.GraphDef

    def __call__(self, params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """The module's call; inputs and keywords are those of the module."""
        return nnx.merge(self.graphdef, params)(*args, **kwargs)


def functional(model: nnx.Module) -> tuple[ApplyFn, PyTree]:
    r"""Splits a module once into ``(apply_fn, params)`` so that plain ``jax.jit`` and ``jax.grad`` do the rest.

    Args:
        model: a module whose only state is its ``nnx.Param`` leaves.

    Returns:
        apply_fn: ``apply_fn(params, *inputs)``. Image networks share one signature,
            ``(params, x, c_noise, labels=None, *, key=None, with_features=False)``: raw output F with the shape of
            ``x`` [B, H, W, C] at noise inputs ``c_noise`` [B], or ``(F, features)``. ``key`` turns dropout on.
            Discriminator heads have ``(params, features, c_noise) -> logits [B]``.
        params: nested dict of arrays, float32.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdiv.networks import MLPConfig, MLPDenoiser
        >>> apply_fn, params = functional(MLPDenoiser(MLPConfig(image_size=8, channels=1), rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.zeros((3, 8, 8, 1)), jnp.zeros(3)).shape
        (3, 8, 8, 1)
    """
    graphdef, state = nnx.split(model)
    return ApplyFn(graphdef), nnx.to_pure_dict(state)
