"""Run as a program with eight host devices: ten cycles on 1, 2 and 8 of them, saved for the test that started it."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiv.distillation import Batch, Config, LogNormal, Method, Objective, init, update
from jaxdiv.divergences import kl
from tests.distillation.analytic import HEAD, NETWORKS, STUDENT, TEACHER, teacher_samples

NUM_FAKE, BATCH, CYCLES = 2, 16, 10


def train(num_devices):
    """Losses of each cycle and the parameters after the last; one device trains without any sharding."""
    method = Method(
        Objective(kl(), "integral", "detached", weight_scale="batch_mean", sample_weight="l1"),
        gan_weight=0.1, num_fake_steps=NUM_FAKE, student_noise=LogNormal(0.0, 0.5),
    )  # fmt: skip
    config = Config(
        method=method, sample_shape=(2,), batch_size=BATCH, num_classes=2,
        student_optimizer=optax.adam(0.01), fake_optimizer=optax.adam(0.01),
    )  # fmt: skip
    rows = np.array([[0.0], [3.0]], np.float32)
    student, teacher = ({**p, "mean": p["mean"] + rows} for p in (STUDENT, TEACHER))
    state = init(config, student=student, fake=teacher, head=HEAD, key=jax.random.key(0))
    sharding = None
    if num_devices > 1:
        mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        whole = NamedSharding(mesh, PartitionSpec())
        state, teacher = jax.device_put((state, teacher), whole)
    step = jax.jit(functools.partial(update, config=config, networks=NETWORKS, sharding=sharding), donate_argnums=0)
    losses = []
    for cycle in range(CYCLES):
        labels = jnp.tile(jnp.arange(BATCH, dtype=jnp.int32) % 2, (NUM_FAKE, 1))
        real = teacher_samples(jax.random.key(100 + cycle), (NUM_FAKE, BATCH)) + 3.0 * labels[..., None]
        batch = Batch(real, labels)
        if sharding is not None:
            batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(None, "data")))
        state, info = step(state, batch, teacher=teacher)
        losses.append([info.student_loss, info.gan_loss, info.fake.denoising_loss, info.fake.discriminator_loss])
    leaves = jax.tree.leaves((state.student, state.student_ema, state.fake, state.head, state.ratio.log_mean))
    return np.concatenate([np.ravel(x) for x in (np.array(losses), *leaves)])


if __name__ == "__main__":
    np.savez(sys.argv[1], **{str(n): train(n) for n in (1, 2, 8)})
