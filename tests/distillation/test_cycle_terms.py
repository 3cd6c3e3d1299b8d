"""Each term of the student's and the fake step's loss, by its share of one step of plain gradient descent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv.distillation import (
    Batch,
    LogNormal,
    Networks,
    draw,
    init,
)
from tests.distillation.analytic import (
    HEAD,
    NETWORKS,
    STUDENT,
    TEACHER,
    denoise_fn,
    jitted,
    linear_head_fn,
    student_fn,
)
from tests.distillation.cycles import (
    GAN,
    KEY,
    LR_FAKE,
    LR_STUDENT,
    PAIRS,
    PLAIN,
    REAL,
    REGRESSION,
    B,
    assert_close,
    assert_same,
    config_of,
    differs,
    run,
    start,
)


def test_the_student_waits_for_its_start():
    config = config_of(PLAIN, student_start=2, student_optimizer=optax.adam(0.1))
    state = before = start(config)
    for _ in range(2):
        state, info = run(config, state=state)
        assert_same(state.student, before.student)
        assert_same(state.student_optimizer, before.student_optimizer)
    assert differs(state.fake, before.fake) and float(info.student_grad_norm) > 0
    assert differs(run(config, state=state)[0].student, before.student)


def test_the_adversarial_term_waits_for_its_start():
    late = config_of(GAN, gan_start=1)
    without = config_of(dataclasses.replace(GAN, gan_weight=0.0))
    (a, _), (b, _), (c, info) = run(late), run(without), run(config_of(GAN))
    assert_same(a.student, b.student)
    assert differs(a.student, c.student) and np.isfinite(float(info.gan_loss))
    assert differs(run(late, state=a)[0].student, run(without, state=b)[0].student)


def test_the_adversarial_term_by_hand():
    """Its share of one SGD step is the gradient of the mean of softplus(-logit), head and fake as they are by then."""
    (with_term, _), (without, _) = run(config_of(GAN)), run(config_of(dataclasses.replace(GAN, gan_weight=0.0)))
    _, key_student = jax.random.split(jax.random.fold_in(KEY, 0))
    d = draw(key_student, jnp.arange(B), sample_shape=(2,), noise_law=GAN.student_noise, num_classes=None)

    def term(student):
        x_t = student_fn(student, d.z, None) + d.sigma[:, None] * d.noise
        features = denoise_fn(with_term.fake, x_t, d.sigma, None)[1]
        return jnp.mean(jax.nn.softplus(-linear_head_fn(with_term.head, features, d.sigma)))

    wanted = jax.tree.map(lambda p, g: p - LR_STUDENT * 0.3 * g, without.student, jax.grad(term)(STUDENT))
    assert_close(with_term.student, wanted)


def test_the_adversarial_term_keeps_its_proportion_under_either_reduction():
    """The sum over two elements is twice the mean, all of the loss: one SGD step is twice as long."""
    summed = dataclasses.replace(GAN, objective=dataclasses.replace(GAN.objective, reduction="sum"))
    (a, _), (b, _) = run(config_of(GAN)), run(config_of(summed))
    assert_close(b.student, jax.tree.map(lambda new, old: old + 2 * (new - old), a.student, STUDENT))


def test_the_regression_term_by_hand():
    (with_term, info), (without, _) = (
        run(config_of(REGRESSION), PAIRS),
        run(config_of(dataclasses.replace(PLAIN, num_fake_steps=1))),
    )

    def term(student):
        return jnp.mean((student_fn(student, PAIRS.pair_latents, None) - PAIRS.pair_samples) ** 2)

    wanted = jax.tree.map(lambda p, g: p - LR_STUDENT * 0.5 * g, without.student, jax.grad(term)(STUDENT))
    assert_close(with_term.student, wanted)
    assert float(info.regression_loss) == pytest.approx(float(term(STUDENT)), rel=1e-5)


def test_the_regression_term_of_a_conditional_student():
    """Pairs come with their labels: a student whose classes fit their pairs exactly has no regression loss."""
    labels = jnp.arange(B, dtype=jnp.int32) % 3
    student = {**STUDENT, "mean": STUDENT["mean"] + np.array([[0.0], [5.0], [10.0]], np.float32)}
    pairs = PAIRS._replace(pair_samples=student_fn(student, PAIRS.pair_latents, labels), pair_labels=labels)
    config = config_of(REGRESSION, num_classes=3)
    state = init(config, student=student, fake=student, key=KEY)
    _, info = jitted(config)(state, pairs, teacher=student)
    assert float(info.regression_loss) < 1e-10


@pytest.mark.parametrize("source", ["teacher", "fake"])
def test_the_head_reads_the_features_it_was_told_to(source):
    """On the teacher's features the discriminator leaves the fake score alone; on the fake's it shapes it."""
    method = dataclasses.replace(GAN, feature_source=source, discriminator_weight=20.0)
    state, _ = run(config_of(method))
    alone, _ = run(config_of(dataclasses.replace(PLAIN, num_fake_steps=2, fake_noise=GAN.fake_noise)))
    assert differs(state.head, HEAD)
    if source == "teacher":
        assert_close(state.fake, alone.fake)
    else:
        assert differs(state.fake, alone.fake)
        assert max(np.abs(state.fake["mean"] - alone.fake["mean"])) > 1e-4


def _x_only(params, features, sigma):
    return features["x"] @ params["x"]


@pytest.mark.parametrize("scale", [None, 0.5])
def test_r1_by_hand(scale):
    """For a linear logit w.x the exact penalty is |w|^2, the approximate one the mean of (w.n)^2."""
    networks = NETWORKS._replace(head_fn=_x_only)
    method = dataclasses.replace(GAN, r1_weight=2.0, r1_scale=scale, num_fake_steps=1)
    batch = Batch(real=REAL[:1])
    state, info = run(config_of(method), batch, networks=networks)
    without, other = run(config_of(dataclasses.replace(method, r1_weight=0.0)), batch, networks=networks)
    key_fake, _ = jax.random.split(jax.random.fold_in(KEY, 0))
    z = draw(
        jax.random.fold_in(key_fake, 0), jnp.arange(B), sample_shape=(2,), noise_law=LogNormal(), num_classes=None
    ).z
    second = np.eye(2) if scale is None else np.asarray(z.T @ z / B)
    w = HEAD["x"]
    assert float(info.fake.r1_penalty) == pytest.approx(w @ second @ w, rel=1e-3)
    assert np.isnan(float(other.fake.r1_penalty))
    np.testing.assert_allclose(
        state.head["x"] - without.head["x"], -LR_FAKE * 2.0 * 2 * second @ w, rtol=2e-3, atol=1e-6
    )


def test_labels_reach_every_network():
    """Three classes whose means are apart; each network sees the example's own label, real samples theirs."""
    student, teacher = (
        {**p, "mean": p["mean"] + np.array([[0.0], [5.0], [10.0]], np.float32)} for p in (STUDENT, TEACHER)
    )
    seen = []

    def conditional(params, x, sigma, labels):
        seen.append((labels.shape, labels.dtype))
        return denoise_fn(params, x, sigma, labels)

    networks = Networks(student_fn, conditional, conditional, linear_head_fn)
    config = config_of(GAN, num_classes=3)
    real_labels = jnp.tile(jnp.arange(B) % 3, (2, 1)).astype(jnp.int32)
    real = REAL + 5.0 * real_labels[..., None]
    state = init(config, student=student, fake=teacher, head=HEAD, key=KEY)
    state, info = jitted(config, networks)(state, Batch(real, real_labels), teacher=teacher)
    assert set(seen) == {((B,), jnp.dtype("int32"))}
    assert float(info.sample_std) > 3.0 and state.student["mean"].shape == (3, 2)
    # With one class mistaken for another the denoising loss would be near 25 / sigma_data^2.
    assert float(info.fake.denoising_loss) < 10.0


def test_normalised_ratios_enter():
    """A head that is off by a constant gives the student step of one that is not, and the bins hold the constant."""

    def shifted(params, features, sigma):
        return linear_head_fn(params, features, sigma) + 4.0

    method = dataclasses.replace(GAN, gan_weight=0.0, discriminator_weight=0.0)
    config = config_of(method, ratio_decay=0.0)
    networks = NETWORKS._replace(head_fn=shifted)
    (plain, _), (off, info) = run(config), run(config, networks=networks)
    assert_close(off.student, plain.student, atol=1e-5)
    seen = np.asarray(plain.ratio.num_updates) > 0
    assert seen.sum() >= 2
    np.testing.assert_allclose((off.ratio.log_mean - plain.ratio.log_mean)[seen], 4.0, rtol=1e-4)
    raw = config_of(method, normalize_ratio=False, ratio_limit=2.0)
    assert int(run(raw, networks=networks)[1].num_clipped) == B
    assert int(info.num_clipped) == 0
