"""The random draws of one step: every example has its own key, made from its global index.

So example ``i`` sees the same noise however many devices or processes share the batch.
"""

from typing import NamedTuple

import jax

from jaxdiv.distillation.noise_laws import NoiseLaw
from jaxdiv.typing import Array, PRNGKey


class Draws(NamedTuple):
    """One batch: latents ``z`` and two noises ``[B, ...]``, noise levels ``[B]``, labels ``[B]`` or None."""

    z: Array
    noise: Array
    real_noise: Array
    sigma: Array
    labels: Array | None


def draw(
    key: PRNGKey, index: Array, *, sample_shape: tuple[int, ...], noise_law: NoiseLaw, num_classes: int | None
) -> Draws:
    """Draws the batch whose examples have the global indices ``index [B]``.

    >>> import jax.numpy as jnp
    >>> from jaxdiv.distillation.noise_laws import LogNormal
    >>> kwargs = dict(sample_shape=(2,), noise_law=LogNormal(), num_classes=None)
    >>> both = draw(jax.random.key(0), jnp.arange(2), **kwargs)
    >>> bool(jnp.all(both.z[1] == draw(jax.random.key(0), jnp.array([1]), **kwargs).z[0]))
    True
    """

    def one(i: Array) -> Draws:
        key_z, key_noise, key_real, key_sigma, key_label = jax.random.split(jax.random.fold_in(key, i), 5)
        labels = None if num_classes is None else jax.random.randint(key_label, (), 0, num_classes)
        return Draws(
            z=jax.random.normal(key_z, sample_shape),
            noise=jax.random.normal(key_noise, sample_shape),
            real_noise=jax.random.normal(key_real, sample_shape),
            sigma=noise_law(key_sigma),
            labels=labels,
        )

    return jax.vmap(one)(index)
