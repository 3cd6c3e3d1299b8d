"""What every estimator of the area returns: a number in nats that says what it is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_choice
from jaxdiv.typing import Array

KINDS = ("lower bound", "upper bound", "plug-in", "not MI")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate in nats, never clipped: a mutual information below 0 is shown as it came.

    A pytree whose leaves are arrays; ``kind`` is static. Under `jax.vmap` every leaf gains the mapped axis.

    >>> estimate = Estimate(jnp.float32(0.5), kind="lower bound", ceiling=jnp.float32(2.0))
    >>> float(estimate), estimate.kind, bool(jnp.isnan(estimate.stderr))
    (0.5, 'lower bound', True)
    >>> estimate
    Estimate(value=0.5, stderr=nan, kind='lower bound', ceiling=2.0, info={})
    """

    value: Array
    """The estimate, in nats unless the function says otherwise."""
    stderr: Array = np.float32(np.nan)  # type: ignore[assignment]
    """Standard error under independent samples; NaN where the estimator has none."""
    kind: str = dataclasses.field(default="plug-in", metadata={"static": True})
    """One of `KINDS`: a lower or an upper bound in expectation, whatever the critic or variational family; "plug-in",
    consistent with a bias of either sign; "not MI", another measure of dependence."""
    ceiling: Array = np.float32(np.inf)  # type: ignore[assignment]
    """No data can bring the estimator above this: log N for InfoNCE, for instance; infinity where nothing bounds it."""
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Arrays by name that the docstring of the function explains: per-sample terms, counts of ties, bandwidths."""

    def __float__(self) -> float:
        return float(self.value)

    def __repr__(self) -> str:
        """Of what `info` holds for every sample the shape alone: a line, not pages."""
        info = ", ".join(f"{k!r}: {f'shape {np.shape(v)}' if np.ndim(v) else v!s}" for k, v in self.info.items())
        fields = f"value={self.value!s}, stderr={self.stderr!s}, kind={self.kind!r}, ceiling={self.ceiling!s}"
        return f"Estimate({fields}, info={{{info}}})"


def make_estimate(
    value: Array,
    *,
    kind: str,
    local: Array | None = None,
    stderr: Array | None = None,
    ceiling: Any = np.inf,
    **info: Any,
) -> Estimate:
    """An `Estimate` in the dtype of its value; from per-sample terms ``local [N]`` also their mean's standard error.

    >>> terms = jnp.array([0.0, 2.0])
    >>> float(make_estimate(jnp.mean(terms), kind="plug-in", local=terms).stderr)
    1.0
    """
    check_choice("make_estimate", "kind", kind, KINDS)
    value = jnp.asarray(value)
    if local is not None:
        info["local"] = local
        if stderr is None and local.shape[-1] > 1:
            stderr = jnp.std(local, axis=-1, ddof=1) / local.shape[-1] ** 0.5
    blank = jnp.full(value.shape, jnp.nan, value.dtype)
    return Estimate(
        value=value,
        stderr=blank if stderr is None else jnp.asarray(stderr, value.dtype),
        kind=kind,
        ceiling=jnp.broadcast_to(jnp.asarray(ceiling, value.dtype), value.shape),
        info=info,
    )
