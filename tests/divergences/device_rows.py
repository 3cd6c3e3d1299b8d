"""Run as a program with eight host devices: divergences of sharded logits equal those of one device."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiv import divergences as dv
from jaxdiv.divergences.categorical import value_and_logit_gradients


def main():
    devices = jax.devices()
    assert len(devices) == 8
    a, b = np.random.default_rng(0).normal(size=(2, 8, 16)).astype(np.float32)
    a[0, 3] = -np.inf
    mesh, rows = Mesh(np.array(devices), ("d",)), PartitionSpec("d")
    for d in (dv.kl(), dv.jensen_shannon(0.3), dv.neyman_chi2()):
        compute = functools.partial(value_and_logit_gradients, d)
        expected = jax.jit(compute)(a, b)
        by_rows = jax.jit(jax.shard_map(compute, mesh=mesh, in_specs=(rows, rows), out_specs=rows))(a, b)
        split = [jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "d"))) for x in (a, b)]
        by_classes = jax.jit(compute)(*split)
        mapped = [x.reshape(y.shape) for x, y in zip(jax.pmap(compute)(a[:, None], b[:, None]), expected, strict=True)]
        for other in (by_rows, by_classes, mapped):
            for got, exact in zip(other, expected, strict=True):
                scale = np.where(np.isfinite(exact), np.abs(exact), 0.0).max()
                np.testing.assert_allclose(got, exact, rtol=2e-6, atol=2e-6 * scale)


if __name__ == "__main__":
    main()
