"""Networks as the callables that the mathematics takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.one_step_image.models import (
    build_denoiser,
    build_head,
    build_student,
    chunked,
    distillation_networks,
    sampler,
)
from jaxdiv import diffusion, networks
from tests.experiments.small import random_images, small_config

SIGMA = jnp.array([0.1, 3.0])


def num_parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_auto_is_the_mlp_for_small_images(denoiser):
    model = networks.MLPDenoiser(networks.MLPConfig(), rngs=nnx.Rngs(0))
    assert num_parameters(denoiser.params) == num_parameters(networks.functional(model)[1])
    x = random_images(2)
    out = denoiser.denoise_fn(denoiser.params, x, SIGMA)
    assert out.shape == x.shape and np.isfinite(out).all()
    plain, features = denoiser.denoise_fn(denoiser.params, x, SIGMA, with_features=True)
    np.testing.assert_array_equal(plain, out)
    assert {feature.ndim for feature in features} == {2}


@pytest.mark.parametrize(("network", "size"), [("unet", 8), ("auto", 28), ("auto", 32), ("mlp", 28)])
def test_architecture_by_name_and_size(network, size):
    shape = (size, size, 1 if size < 32 else 3)

    def build_and_apply(x):
        denoiser = build_denoiser(small_config(network=network, channels=8), shape, 0.5, seed=0)
        return denoiser.denoise_fn(denoiser.params, x, SIGMA, with_features=True)

    out, features = jax.eval_shape(build_and_apply, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert out.shape == (2, *shape)
    assert {len(feature.shape) for feature in features} == ({2} if network == "mlp" else {4})


def test_the_seed_chooses_the_weights(images):
    leaves = [jax.tree.leaves(build_denoiser(small_config(), images.shape, 0.5, seed=s).params) for s in (0, 0, 1)]
    same, other = ([np.array_equal(a, b) for a, b in zip(leaves[0], x, strict=True)] for x in leaves[1:])
    assert all(same) and not all(other)


def test_the_student_is_the_denoiser_at_one_noise_level(denoiser):
    z = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    student_fn = build_student(denoiser, small_config(distill={"init_sigma": 1.5}).distill)
    expected = denoiser.denoise_fn(denoiser.params, 1.5 * z, jnp.full(3, 1.5))
    np.testing.assert_allclose(student_fn(denoiser.params, z, None), expected, rtol=1e-5, atol=1e-5)


def test_a_narrow_latent_sees_its_first_numbers_only(denoiser):
    student_fn = build_student(denoiser, small_config(distill={"latent_dims": 4}).distill)
    z = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    beyond = z.at[:, 0, 4:].add(1.0).at[:, 1:].add(1.0)
    inside = z.at[:, 0, 3].add(1.0)
    out = student_fn(denoiser.params, z, None)
    np.testing.assert_array_equal(student_fn(denoiser.params, beyond, None), out)
    assert not np.array_equal(student_fn(denoiser.params, inside, None), out)


def test_the_head_gives_one_logit_per_image(denoiser):
    head_fn, head = build_head(denoiser, seed=0)
    nets = distillation_networks(denoiser, head_fn, build_student(denoiser, small_config().distill))
    x = random_images(2)
    for score_fn in (nets.teacher_fn, nets.fake_fn):
        out, features = score_fn(denoiser.params, x, SIGMA, None)
        assert out.shape == x.shape
        logits = nets.head_fn(head, features, SIGMA)
        assert logits.shape == (2,) and np.isfinite(logits).all()


def test_the_head_on_convolutional_features():
    unet = build_denoiser(small_config(network="unet"), (8, 8, 1), 0.5, seed=0)
    head_fn, head = build_head(unet, seed=0)

    def logits(params, head, x):
        return head_fn(head, unet.denoise_fn(params, x, SIGMA, with_features=True)[1], SIGMA)

    assert jax.eval_shape(logits, unet.params, head, random_images(2)).shape == (2,)


def test_without_a_head_no_features_are_made(denoiser):
    nets = distillation_networks(denoiser, None, build_student(denoiser, small_config().distill))
    _, features = nets.fake_fn(denoiser.params, random_images(2), SIGMA, None)
    assert features == () and nets.head_fn is None


def test_chunks_do_not_change_the_result():
    x = jnp.arange(7.0)
    calls = []
    out = chunked(lambda part: calls.append(len(part)) or part**2, x, size=3)
    np.testing.assert_array_equal(out, x**2)
    assert calls == [3, 3, 1]


def test_the_sampler_takes_as_many_evaluations_as_it_says(denoiser):
    z = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    count = []

    def counting(params, x, sigma):
        jax.debug.callback(lambda: count.append(1))
        return denoiser.denoise_fn(params, x, sigma)

    samples = sampler(denoiser._replace(denoise_fn=counting), num_levels=3)(denoiser.params, z)
    jax.effects_barrier()
    assert len(count) == 2 * 3 - 1
    levels = diffusion.karras_noise_levels(3)
    direct = diffusion.heun_sample(lambda x, s: denoiser.denoise_fn(denoiser.params, x, s), z, sigmas=levels)
    np.testing.assert_allclose(samples, direct, rtol=1e-3, atol=1e-4)
