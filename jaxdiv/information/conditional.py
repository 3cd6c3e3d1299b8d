"""Conditional mutual information from nearest neighbours."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.balls import ball_counts, check_neighbors, nan_unless_finite
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import ArrayLike


def frenzel_pompe(x: ArrayLike, y: ArrayLike, z: ArrayLike, *, k: int = 5, tile: int | None = None) -> Estimate:
    r"""I(X; Y | Z) = <psi(k_i) - psi(n_xz,i) - psi(n_yz,i) + psi(n_z,i)>.

    With positive k-th joint distances (maximum norm over all coordinates) that are not shared, k_i = k and n counts the
    points strictly nearer in the coordinates named, point i included. At a distance of 0, or shared by several points,
    both count everything at most that far: atoms, lattices and duplicates need no noise.

    Biased towards 0 where Z has many coordinates or depends strongly on X or Y: then most balls hold few points of n_xz
    beyond the k neighbours. A `permutation_null` that shuffles x alone tests X independent of (Y, Z), not of Y given Z.

    Args:
        x: ``[N, d_x]`` or ``[N]`` floating, N > k.
        y: ``[N, d_y]`` or ``[N]`` floating.
        z: ``[N, d_z]`` or ``[N]`` floating.
        k: neighbours. More have less variance and more bias.
        tile: rows of distances that exist at once, as in `find_neighbors`.

    Returns:
        A plug-in `Estimate`, float32 (float64 where an input is), NaN if a sample is not finite; exactly 0 if x or y is
        constant, the first form of `ksg` if z is. Its ``info``: ``local [N]`` terms of the mean and ``num_tied``, the
        points whose ball is closed. A function of counts: its derivative is 0.

    Raises:
        ValueError: wrong shapes, dtypes or k.

    Source: Frenzel and Pompe, "Partial mutual information for coupling analysis of multivariate time series", Phys.
    Rev. Lett. 99 (2007) 204101, equation 7; ties as in Mesner and Shalizi (arXiv:1912.03387), here at any
    distance.

    >>> x = jnp.array([0.0, 0.0, 1.0, 1.0])
    >>> round(float(frenzel_pompe(x, x, jnp.zeros(4), k=1)), 6)  # psi(2) - 2 psi(2) + psi(4)
    0.833333
    """
    function = "frenzel_pompe"
    x, y, z = (jax.lax.stop_gradient(samples) for samples in paired_samples(function, x=x, y=y, z=z))
    check_neighbors(function, x.shape[0], k, tile)
    marginals = [jnp.concatenate([x, z], axis=1), jnp.concatenate([y, z], axis=1), z]
    held, counts = ball_counts([x, y, z], marginals, k=int(k), tile=tile)
    joint, in_xz, in_yz, in_z = (digamma(n.astype(x.dtype)) for n in (held, *counts))
    local = joint - in_xz - in_yz + in_z
    value = jnp.mean(local) + nan_unless_finite(x, y, z)
    tied = jnp.sum(held > k, dtype=jnp.int32)
    return make_estimate(value, kind="plug-in", local=local, num_tied=tied)
