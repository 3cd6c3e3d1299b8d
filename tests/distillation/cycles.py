"""Settings of short runs on analytic networks, and how tests run and compare them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv.distillation import (
    Batch,
    Config,
    LogNormal,
    Method,
    Objective,
    init,
)
from jaxdiv.divergences import jensen_shannon, reverse_kl
from tests.distillation.analytic import (
    HEAD,
    NETWORKS,
    STUDENT,
    TEACHER,
    jitted,
    teacher_samples,
)

B = 16
KEY = jax.random.key(3)
PLAIN = Method(Objective(reverse_kl()), num_fake_steps=3, fake_noise=LogNormal(-0.5, 1.0))
GAN = Method(Objective(jensen_shannon(), "integral", "detached"), gan_weight=0.3, num_fake_steps=2)
REGRESSION = dataclasses.replace(PLAIN, regression_weight=0.5, num_fake_steps=1)
REAL = teacher_samples(jax.random.key(9), (2, B))
PAIRS = Batch(pair_latents=jax.random.normal(jax.random.key(5), (B, 2)), pair_samples=jnp.ones((B, 2)))
LR_STUDENT, LR_FAKE = 0.1, 0.02


def config_of(method, **change):
    settings = dict(
        method=method, sample_shape=(2,), batch_size=B, sigma_data=0.8,
        student_optimizer=_SGD_STUDENT, fake_optimizer=_SGD_FAKE,
    )  # fmt: skip
    return Config(**{**settings, **change})


_SGD_STUDENT, _SGD_FAKE = optax.sgd(LR_STUDENT), optax.sgd(LR_FAKE)


def start(config, student=STUDENT, fake=TEACHER, key=KEY):
    head = HEAD if config.method.needs_discriminator else None
    return init(config, student=student, fake=fake, head=head, key=key)


@functools.cache
def step_of(config, networks=NETWORKS):
    return jitted(config, networks)


def run(config, batch=None, state=None, num=1, networks=NETWORKS):
    batch = Batch(real=REAL) if batch is None and config.method.needs_discriminator else batch or Batch()
    state = start(config) if state is None else state
    for _ in range(num):
        state, info = step_of(config, networks)(state, batch, teacher=TEACHER)
    return state, info


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def differs(a, b):
    return any(
        np.any(np.asarray(x) != np.asarray(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
