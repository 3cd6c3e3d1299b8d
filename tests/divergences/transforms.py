"""What every transformation of a function of two arrays of rows has to give.

Run as a program with two host devices it computes them for all of `transform_cases` and compares numbers;
`test_transforms` traces them.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from tests.divergences.transform_cases import CASES

WIDTH = 4
ROWS, WHOLE = PartitionSpec("d"), PartitionSpec()


def arrays():
    """Rows ``p [2, 4]``, one per device, and ``q [1, 4]``, that all devices share."""
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, WIDTH)), jnp.float32), jnp.asarray(rng.normal(size=(1, WIDTH)), jnp.float32)


def gradients(fn):
    return jax.grad(lambda p, q: jnp.sum(fn(p, q)), (0, 1))


def sharded(case, mesh, swap=False):
    """Values, gradients taken inside and gradients taken outside of a `shard_map` with one side sharded."""
    specs = (WHOLE, ROWS) if swap else (ROWS, WHOLE)

    def mapped(fn, out):
        return jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out)

    def compute(p, q):
        x, y = (q, p) if swap else (p, q)
        outside = gradients(mapped(case.fn, ROWS))
        return mapped(case.fn, ROWS)(x, y), mapped(gradients(case.fn), specs)(x, y), outside(x, y)

    return compute


def unsharded(case, swap=False):
    """The same numbers row by row."""

    def compute(p, q):
        def rows(x, y):
            return jnp.concatenate([case.fn(*((y, r) if swap else (r, y))) for r in (x[:1], x[1:])])

        grad_p, grad_q = gradients(rows)(p, q)
        both = (grad_q, grad_p) if swap else (grad_p, grad_q)
        return rows(p, q), both, both

    return compute


def derivatives(case):
    """Batched and mapped values, and the directional and second derivatives of one pair."""

    def compute(p, q):
        both = jnp.concatenate([q, q])
        out = [case.fn(p, both), jax.vmap(lambda p, q: case.fn(p[None], q[None])[0])(p, both)]

        def one(x):
            return case.fn(x[:1], x[1:])[0]

        x = jnp.concatenate([p[:1], q])
        slope, bend = jax.grad(one)(x), jax.hessian(one)(x) if case.has_hessian else jnp.zeros((2, WIDTH) * 2)
        along = jax.jvp(one, (x,), (x,))[1] if case.has_jvp else jnp.sum(slope * x)
        return out, slope, along, bend.reshape(2 * WIDTH, 2 * WIDTH)

    return compute


def check(name, case, mesh):
    p, q = arrays()

    @jax.jit
    def on_the_mesh(p, q):
        return [sharded(case, mesh, swap)(p, q) for swap in (False, True)]

    @jax.jit  # apart: XLA would spread it over the devices too, and 0.10's partitioner aborts at some scatters
    def on_one_device(p, q):
        return [unsharded(case, swap)(p, q) for swap in (False, True)], derivatives(case)(p, q)

    expected, ((batched, mapped), slope, along, bend) = on_one_device(p, q)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=name)

    jax.tree.map(close, on_the_mesh(p, q), expected)
    close(mapped, batched)
    close(jax.pmap(case.fn)(p[:, None], jnp.stack([q, q]))[:, 0], batched)
    close(along, jnp.sum(slope * jnp.concatenate([p[:1], q])))
    assert np.isfinite(bend).all(), name
    np.testing.assert_allclose(bend, bend.T, atol=2e-5 * (1.0 + np.abs(bend).max()), err_msg=name)


def main(names):
    mesh = Mesh(np.array(jax.devices()), ("d",))
    equal = 0
    for name in names:
        try:
            check(name, CASES[name], mesh)
            equal += 1
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    print(f"{equal} equal")
    return len(names) - equal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(CASES)))
