"""What each method minimises on a batch, its noise and its betas."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from experiments.bottleneck_regression.model import Forward
from jaxdiv.divergences import gaussian_kernel
from jaxdiv.information import BottleneckLoss, cs_bottleneck_loss, hsic_bottleneck_loss, nib_loss, vib_loss
from jaxdiv.typing import Array


@dataclasses.dataclass(frozen=True)
class Widths:
    """Widths of the kernels and other choices of the kernel methods; see the settings of the same names."""

    x: float = 1.0
    y: float = 1.0
    representation: float = 1.0
    variant: str = "published"
    ridge: float = 1e-3


NARROW = 0.3
"""Of the second CS-IB: its width on x as a fraction of the first's."""

LossFn = Callable[[Forward, Array, Array, Array, Widths], BottleneckLoss]


class Method(NamedTuple):
    """A row of the comparison."""

    label: str
    noise: str
    loss: LossFn
    betas: tuple[float, ...]


def _squared_errors(out: Forward, y: Array) -> Array:
    """-log N(y; prediction, 1) less its constant: the likelihood of VIB and NIB."""
    return 0.5 * jnp.square(out.prediction - y)


def _mse(out, x, y, beta, widths):
    loss = jnp.mean(_squared_errors(out, y))
    return BottleneckLoss(loss, loss, jnp.zeros_like(loss))


def _vib(out, x, y, beta, widths):
    return vib_loss(_squared_errors(out, y), out.mean, out.log_variance, beta=beta)


def _nib(transform):
    def loss(out, x, y, beta, widths):
        variance = jnp.exp(out.log_variance[0, 0])
        return nib_loss(_squared_errors(out, y), out.mean, variance=variance, beta=beta, transform=transform)

    return loss


def _hsic(out, x, y, beta, widths):
    """The squared error beside the bottleneck, so that encoder and decoder train together."""
    terms = hsic_bottleneck_loss(
        out.representation,
        x,
        y,
        beta=beta,
        representation_kernel=gaussian_kernel(widths.representation),
        x_kernel=gaussian_kernel(widths.x),
        y_kernel=gaussian_kernel(widths.y),
        ridge=widths.ridge,
    )
    error = jnp.mean(_squared_errors(out, y))
    return BottleneckLoss(error + terms.loss, error + terms.prediction, terms.rate)


def _cs(out, x, y, beta, widths):
    sigma = (widths.x, widths.y, widths.representation)
    return cs_bottleneck_loss(x, y, out.prediction, out.representation, beta=beta, sigma=sigma, variant=widths.variant)


def _narrow_cs(out, x, y, beta, widths):
    """The same with a kernel on x that sees fewer neighbours: the prediction term then compares rows nearly alone."""
    return _cs(out, x, y, beta, dataclasses.replace(widths, x=NARROW * widths.x))


# Each grid runs from no compression to nearly nothing left of x; the rates have scales of their own.
METHODS: dict[str, Method] = {
    "mse": Method("MSE", "none", _mse, (0.0,)),
    "vib": Method("VIB", "diagonal", _vib, (0.0, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)),
    "nib": Method("NIB", "scalar", _nib("identity"), (0.0, 1e-3, 1e-2, 3e-2, 0.05, 0.07, 0.15)),
    "square_nib": Method("squared NIB", "scalar", _nib("square"), (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)),
    "hsic": Method("HSIC", "fixed", _hsic, (0.0, 1e-2, 3e-2, 0.1, 0.3, 0.5, 1.0)),
    "cs": Method("CS-IB", "fixed", _cs, (0.0, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)),
    "cs_narrow": Method(f"CS-IB, {NARROW:g} sigma_x", "fixed", _narrow_cs, (0.0, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)),
}
