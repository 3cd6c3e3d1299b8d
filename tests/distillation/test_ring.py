"""A multilayer student learns a ring of eight modes in one step: every mode, in its share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdiv.diffusion import precondition
from jaxdiv.distillation import (
    Batch,
    Config,
    LogNormal,
    Method,
    Networks,
    Objective,
    data_space,
    init,
    one_step_student,
    update,
)
from jaxdiv.divergences import jensen_shannon, kl
from jaxdiv.networks import MLPConfig, MLPDenoiser, MLPHead, functional
from tests.distillation.fixtures import Mixture, log_density_and_score

ANGLES = np.arange(8) * np.pi / 4
MODES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
WEIGHTS = np.array([0.2, 0.05, 0.1, 0.15, 0.2, 0.05, 0.1, 0.15])
STD, SIGMA_DATA, NUM_FAKE, BATCH, CYCLES = 0.1, 0.71, 3, 512, 3000
RING = Mixture(WEIGHTS, MODES, np.tile(STD**2 * np.eye(2), (8, 1, 1)))


def ring_samples(key, shape):
    key_mode, key_noise = jax.random.split(key)
    mode = jax.random.choice(key_mode, 8, shape, p=jnp.asarray(WEIGHTS))
    return (jnp.asarray(MODES)[mode] + STD * jax.random.normal(key_noise, (*shape, 2))).reshape(*shape, 1, 1, 2)


def teacher_fn(params, x, sigma, labels):
    flat = x.reshape(-1, 2)
    _, score = log_density_and_score(RING, flat, sigma)
    return (flat + sigma[:, None] ** 2 * score).reshape(x.shape), None


def networks_and_parameters():
    config = MLPConfig(image_size=1, channels=2, width=64, hidden=128, num_blocks=3, embedding_dim=32)
    apply_fn, params = functional(MLPDenoiser(config, rngs=nnx.Rngs(0)))
    head_fn, head = functional(MLPHead([(64,)] * 3, hidden=128, rngs=nnx.Rngs(1)))

    def fake_fn(params, x, sigma, labels):
        return precondition(functools.partial(apply_fn, with_features=True), sigma_data=SIGMA_DATA)(params, x, sigma)

    def denoise_fn(params, x, sigma, labels):
        return precondition(apply_fn, sigma_data=SIGMA_DATA)(params, x, sigma)

    networks = Networks(
        student_fn=one_step_student(denoise_fn, init_sigma=2.5),
        teacher_fn=teacher_fn,
        fake_fn=fake_fn,
        head_fn=lambda params, features, sigma: head_fn(params, features, jnp.log(sigma) / 4),
    )
    return networks, params, head


@pytest.mark.slow
@pytest.mark.parametrize("divergence", [jensen_shannon(), kl()], ids=lambda f: f.name)
def test_the_student_covers_the_ring(divergence):
    """Exact teacher; fake score and ratio are learned beside the student."""
    law = LogNormal(-1.2, 1.0)
    method = Method(
        Objective(divergence, "integral", "detached", data_space, weight_scale="batch_mean"),
        gan_weight=0.05, num_fake_steps=NUM_FAKE, student_noise=law, fake_noise=law,
    )  # fmt: skip
    config = Config(
        method=method, sample_shape=(1, 1, 2), batch_size=BATCH, sigma_data=SIGMA_DATA, ema_decay=0.99,
        student_optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, CYCLES), b1=0.0),
        fake_optimizer=optax.adam(optax.cosine_decay_schedule(2e-3, CYCLES * NUM_FAKE), b1=0.0),
    )  # fmt: skip
    networks, params, head = networks_and_parameters()

    def step(state, key):
        real = ring_samples(key, (NUM_FAKE, BATCH))
        return update(state, Batch(real=real), teacher=None, config=config, networks=networks)

    state = init(config, student=params, fake=params, head=head, key=jax.random.key(0))
    run = jax.jit(lambda s, k: jax.lax.scan(step, s, k)[0])
    state = run(state, jax.random.split(jax.random.key(1), CYCLES))

    z = jax.random.normal(jax.random.key(2), (20000, 1, 1, 2))
    samples = np.asarray(networks.student_fn(state.student_ema, z, None)).reshape(-1, 2)
    distance = np.linalg.norm(samples[:, None] - MODES, axis=2)
    near = distance.min(axis=1) < 4 * STD
    share = np.bincount(distance.argmin(axis=1)[near], minlength=8) / len(samples)
    assert near.mean() > 0.9
    assert share.min() > 0.02
    assert 0.5 * np.abs(share / share.sum() - WEIGHTS).sum() < 0.05
