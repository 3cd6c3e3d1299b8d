"""The squared Bures distance of two covariances, the spread's part of the 2-Wasserstein distance of Gaussians.

Its derivatives are those of the optimal map, so that equal, commuting and degenerate covariances are no special case.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences.gaussian_pair import matmul, svd, transposed
from jaxdiv.typing import Array


class _Bures(NamedTuple):
    """In the basis of q's axes: C = diag(sizes) is the root of q's covariance, N the root of C C_p C."""

    axes: Array  # of q, columns
    sizes: Array
    vectors: Array  # of N, columns
    values: Array
    gain: Array  # N - C^2, accurate where it is small

    def inverse(self) -> Array:
        return jnp.where(self.sizes > 0.0, 1.0 / jnp.where(self.sizes > 0.0, self.sizes, 1.0), 0.0)


def _bures_roots(scale_p: Array, scale_q: Array, change: Array) -> _Bures:
    axes, sizes, _ = svd(scale_q)
    _, values, vectors_t = svd(matmul(transposed(scale_p), axes) * sizes[..., None, :])
    change = sizes[..., :, None] * matmul(transposed(axes), matmul(change, axes)) * sizes[..., None, :]
    # N^2 - C^4 = change is N Z + Z C^2 = change for Z = N - C^2: linear in Z, so that no difference of roots is taken.
    sums = values[..., :, None] + jnp.square(sizes)[..., None, :]
    gain = matmul(vectors_t, change) / jnp.where(sums > 0.0, sums, 1.0)
    return _Bures(axes, sizes, transposed(vectors_t), values, matmul(transposed(vectors_t), gain))


@jax.custom_jvp
def _transport(scale_p: Array, scale_q: Array, change: Array) -> Array:
    """T - I of the symmetric map T that takes q's covariance to p's."""
    roots = _bures_roots(scale_p, scale_q, change)
    gain = roots.inverse()[..., :, None] * roots.gain * roots.inverse()[..., None, :]
    return matmul(roots.axes, matmul(gain, transposed(roots.axes)))


def _covariance_tangent(scale: Array, tangent: Array) -> Array:
    half = matmul(tangent, transposed(scale))
    return half + transposed(half)


@_transport.defjvp
def _transport_jvp(primals, tangents):
    # T C_q T = C_p, differentiated: Y N + N Y = C (dC_p - T dC_q T) C for Y = C dT C.
    scale_p, scale_q, change = primals
    roots = _bures_roots(*primals)
    gain = _transport(*primals)
    transport = gain + jnp.eye(gain.shape[-1], dtype=gain.dtype)
    moved = matmul(transport, matmul(_covariance_tangent(scale_q, tangents[1]), transport))
    driven = _covariance_tangent(scale_p, tangents[0]) - moved
    basis = matmul(roots.axes, roots.sizes[..., :, None] * roots.vectors)
    sums = roots.values[..., :, None] + roots.values[..., None, :]
    solved = matmul(transposed(basis), matmul(driven, basis)) / jnp.where(sums > 0.0, sums, 1.0)
    back = matmul(roots.axes, roots.inverse()[..., :, None] * roots.vectors)
    return gain, matmul(back, matmul(solved, transposed(back)))


@jax.custom_jvp
def squared_bures(scale_p: Array, scale_q: Array, change: Array) -> Array:
    """Tr C_p + tr C_q - 2 tr N, or |(T - I) L_q|^2 where that is the more accurate of the two."""
    roots = _bures_roots(scale_p, scale_q, change)
    traces = jnp.sum(jnp.square(scale_p), axis=(-2, -1)) + jnp.sum(jnp.square(roots.sizes), axis=-1)
    far = jnp.maximum(traces - 2.0 * jnp.sum(roots.values, axis=-1), 0.0)
    near = jnp.sum(jnp.square(roots.inverse()[..., :, None] * roots.gain), axis=(-2, -1))
    size = jnp.sqrt(jnp.sum(jnp.square(roots.gain), axis=(-2, -1)))
    # Rounding of the two: near has that of the gain over q's least axis, far has that of the traces.
    return jnp.where(jnp.sqrt(near) * size < jnp.min(roots.sizes, axis=-1) * traces, near, far)


@squared_bures.defjvp
def _squared_bures_jvp(primals, tangents):
    scale_p, scale_q, change = primals
    to_p, to_q = _transport(scale_p, scale_q, change), _transport(scale_q, scale_p, -change)
    slope = jnp.sum(matmul(to_q, scale_p) * tangents[0], axis=(-2, -1))
    slope += jnp.sum(matmul(to_p, scale_q) * tangents[1], axis=(-2, -1))
    return squared_bures(*primals), -2.0 * slope
