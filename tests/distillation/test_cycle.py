"""One cycle of training changes exactly what it should, by exactly how much it should."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv.distillation import (
    METHODS,
    Batch,
    Info,
    LogNormal,
    Method,
    Networks,
    Objective,
    State,
    draw,
    fake_loss,
    init,
    init_ratio,
    student_loss,
    update,
)
from jaxdiv.divergences import jensen_shannon
from jaxdiv.optimizers import muon
from tests.distillation.analytic import (
    HEAD,
    NETWORKS,
    STUDENT,
    TEACHER,
    denoise_fn,
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


@functools.partial(jax.jit, static_argnames="method")
def by_hand(student, fake, step, method, key=KEY):
    """The cycle of PLAIN, written out: a loop of gradient steps on EDM's denoising loss, then Diff-Instruct's step."""
    key_fake, key_student = jax.random.split(jax.random.fold_in(key, step))

    def draws(key, law):
        return draw(key, jnp.arange(B), sample_shape=(2,), noise_law=law, num_classes=None)

    for i in range(method.num_fake_steps):
        d = draws(jax.random.fold_in(key_fake, i), method.fake_noise)
        x0 = student_fn(student, d.z, None)

        def denoising(fake, x0=x0, d=d):
            error = denoise_fn(fake, x0 + d.sigma[:, None] * d.noise, d.sigma, None)[0] - x0
            return jnp.mean((1 / d.sigma**2 + 1 / 0.8**2) * jnp.mean(error**2, axis=1))

        fake = jax.tree.map(lambda p, g: p - LR_FAKE * g, fake, jax.grad(denoising)(fake))

    d = draws(key_student, method.student_noise)
    x_t = student_fn(student, d.z, None) + d.sigma[:, None] * d.noise
    gap = denoise_fn(fake, x_t, d.sigma, None)[0] - denoise_fn(TEACHER, x_t, d.sigma, None)[0]

    def surrogate(student):
        return jnp.mean(jnp.mean(gap / d.sigma[:, None] ** 2 * student_fn(student, d.z, None), axis=1))

    return jax.tree.map(lambda p, g: p - LR_STUDENT * g, student, jax.grad(surrogate)(student)), fake


def test_two_cycles_by_hand():
    config = config_of(PLAIN)
    state, student, fake = start(config), STUDENT, TEACHER
    for step in range(2):
        state, info = run(config, state=state)
        student, fake = by_hand(student, fake, step, PLAIN)
        assert_close((state.student, state.fake), (student, fake))
        assert int(state.step) == step + 1
    assert isinstance(state, State) and isinstance(info, Info)
    assert np.isnan([info.gan_loss, info.regression_loss, *info.fake[1:]]).all()
    numbers = (info.student_loss, info.fake.denoising_loss, info.student_grad_norm, info.sample_mean, info.sample_std)
    assert np.isfinite(numbers).all()
    assert (int(info.num_skipped_student), int(info.num_skipped_fake), int(info.num_clipped)) == (0, 0, 0)
    assert_same(state.ratio, init_ratio(config.bins))


def test_the_average_follows_its_ramp():
    config = config_of(PLAIN, ema_decay=0.35)
    state = start(config)
    ema = state.student
    for t in range(6):
        state, _ = run(config, state=state)
        decay = min(0.35, (1 + t) / (10 + t))
        ema = jax.tree.map(lambda e, s, d=decay: d * e + (1 - d) * s, ema, state.student)
        assert_close(state.student_ema, ema)
    assert (1 + 5) / (10 + 5) > 0.35  # the cap was reached


def test_a_cycle_is_a_function_of_key_and_step():
    config = config_of(GAN)
    state, _ = run(config, num=2)
    assert_same(run(config, num=2)[0].student, state.student)
    other = start(config)._replace(key=jax.random.key(4))
    assert differs(run(config, state=other, num=2)[0].student, state.student)
    later = start(config)._replace(step=jnp.int32(1))
    assert differs(run(config, state=later)[0].student, run(config)[0].student)


def test_the_state_is_a_pytree_that_goes_round():
    state, _ = run(config_of(GAN))
    leaves, tree = jax.tree.flatten(state)
    again = jax.tree.unflatten(tree, leaves)
    assert isinstance(again, State)
    assert_same(run(config_of(GAN), state=again)[0].student, run(config_of(GAN), state=state)[0].student)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.adam(0.1), muon(0.1, routes="adamw")])
def test_half_precision_parameters_keep_their_dtype_and_a_float32_average(optimizer):
    """A scan carries the state, whatever dtype the optimizer's updates have, and a skipped step's zeros fit it."""
    config = config_of(PLAIN, student_optimizer=optimizer, fake_optimizer=optimizer)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), STUDENT)
    state = start(config, student=half, fake=jax.tree.map(lambda x: x.astype(jnp.bfloat16), TEACHER))
    step = functools.partial(update, teacher=TEACHER, config=config, networks=NETWORKS)
    after, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(s, Batch())[0], None), s, length=2))(state)
    assert {x.dtype for x in jax.tree.leaves(after.student)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(after.student_ema)} == {jnp.dtype(jnp.float32)}
    assert differs(after.student, state.student)


def test_a_state_started_from_the_teachers_arrays_can_be_donated():
    config = config_of(PLAIN)
    teacher = jax.tree.map(jnp.array, TEACHER)
    state = init(config, student=teacher, fake=teacher, key=KEY)
    step = jax.jit(functools.partial(update, config=config, networks=NETWORKS), donate_argnums=0)
    first = state.student["mean"]
    for _ in range(2):
        state, _ = step(state, Batch(), teacher=teacher)
    assert first.is_deleted()
    assert np.isfinite(np.asarray(teacher["mean"] + state.student["mean"])).all()


# Who is differentiated.


def watched():
    """NETWORKS, and a log of whose parameters a derivative was taken in."""
    seen = set()

    def watch(name, params):
        @jax.custom_jvp
        def same(p):
            return p

        @same.defjvp
        def rule(primals, tangents):
            seen.add(name)
            return primals[0], tangents[0]

        return same(params)

    def named(name, fn):
        return lambda params, *args: fn(watch(name, params), *args)

    return seen, Networks(
        named("student", student_fn),
        named("teacher", denoise_fn),
        named("fake", denoise_fn),
        named("head", linear_head_fn),
    )


@pytest.mark.parametrize("source", ["teacher", "fake"])
def test_each_step_differentiates_its_own_parameters(source):
    objective = Objective(jensen_shannon(), "expanded", "through_x")
    method = Method(objective, gan_weight=0.1, r1_weight=0.1, num_fake_steps=2, feature_source=source)
    config = config_of(method)
    seen, networks = watched()
    drawn = draw(KEY, jnp.arange(B), sample_shape=(2,), noise_law=LogNormal(), num_classes=None)

    def fakes(params):
        return fake_loss(
            params, drawn.z, drawn, REAL[0], None, teacher=TEACHER, config=config, networks=networks
        )  # fmt: skip

    def students(params):
        return student_loss(
            params, drawn, (None, None, None), init_ratio(config.bins), jnp.int32(0),
            frozen=(TEACHER, HEAD, TEACHER), config=config, networks=networks,
        )  # fmt: skip

    jax.eval_shape(jax.grad(fakes, has_aux=True), (TEACHER, HEAD))
    assert seen == {"fake", "head"}
    seen.clear()
    jax.eval_shape(jax.grad(students, has_aux=True), STUDENT)
    assert seen == {"student"}
    seen.clear()
    jax.eval_shape(
        functools.partial(update, config=config, networks=networks, teacher=TEACHER), start(config), Batch(real=REAL)
    )
    assert seen == {"student", "fake", "head"}


def test_fake_steps_are_scanned():
    """More fake steps are no longer program: the fake network is traced as often for one as for five."""
    counts = []
    for num in (1, 5):
        calls = []

        def counted(params, *args, calls=calls):
            calls.append(1)
            return denoise_fn(params, *args)

        config = config_of(dataclasses.replace(PLAIN, num_fake_steps=num))
        networks = NETWORKS._replace(fake_fn=counted)
        jax.eval_shape(
            functools.partial(update, config=config, networks=networks, teacher=TEACHER), start(config), Batch()
        )
        counts.append(len(calls))
    assert counts[0] == counts[1]


# What is skipped.


def test_a_fake_step_with_a_bad_gradient_is_skipped_and_counted():
    config = config_of(GAN, fake_optimizer=optax.adam(0.01))
    before = start(config)
    state, info = run(config, batch=Batch(real=REAL.at[1].set(jnp.nan)), state=before)
    only_first, _ = run(
        dataclasses.replace(config, method=dataclasses.replace(GAN, num_fake_steps=1)), batch=Batch(real=REAL[:1])
    )
    assert int(info.num_skipped_fake) == 1
    assert_close((state.fake, state.head), (only_first.fake, only_first.head))
    assert_close(state.fake_optimizer.inner_state, only_first.fake_optimizer.inner_state)
    assert differs(state.student, before.student)  # its own gradient was finite
    state, info = run(config, batch=Batch(real=REAL), state=state)
    assert int(info.num_skipped_fake) == 1 and int(info.num_skipped_student) == 0


def test_a_student_step_with_a_bad_gradient_is_skipped_and_counted():
    config = config_of(REGRESSION, student_optimizer=optax.adam(0.01))
    before = start(config)
    bad = PAIRS._replace(pair_samples=PAIRS.pair_samples.at[0, 0].set(jnp.inf))
    state, info = run(config, batch=bad, state=before)
    assert int(info.num_skipped_student) == 1 and not np.isfinite(float(info.student_grad_norm))
    assert_same(state.student, before.student)
    assert_same(state.student_optimizer.inner_state, before.student_optimizer.inner_state)
    assert differs(state.fake, before.fake)
    state, info = run(config, batch=PAIRS, state=state)
    assert int(info.num_skipped_student) == 1 and differs(state.student, before.student)


def test_a_bad_logit_leaves_no_trace_in_the_state():
    """A head that overflows: the student stays, the running mean of the ratio too."""

    def overflowing(params, features, sigma):
        return linear_head_fn(params, features, sigma) / jnp.where(jnp.arange(B) == 0, 0.0, 1.0)

    networks = NETWORKS._replace(head_fn=overflowing)
    before = start(config_of(GAN))
    state, info = run(config_of(GAN), networks=networks, state=before)
    assert (int(info.num_skipped_student), int(info.num_skipped_fake)) == (1, 2)
    assert_same((state.student, state.fake, state.head), (before.student, before.fake, before.head))
    assert np.isfinite(np.asarray(state.ratio.log_mean)).all()


# What is refused.


@pytest.mark.parametrize(
    ("method", "change", "batch", "argument"),
    [
        (GAN, {}, Batch(), "batch.real is None"),
        (GAN, {}, Batch(real=REAL[:1]), "batch.real has shape"),
        (GAN, {"num_classes": 3}, Batch(real=REAL), "batch.real_labels is None"),
        (GAN, {"num_classes": 3}, Batch(REAL, jnp.zeros((2, B, 1), jnp.int32)), "batch.real_labels has shape"),
        (REGRESSION, {}, Batch(), "batch.pair_latents or pair_samples is None"),
        (REGRESSION, {}, PAIRS._replace(pair_samples=None), "batch.pair_latents or pair_samples is None"),
        (REGRESSION, {}, PAIRS._replace(pair_latents=jnp.zeros((B, 3))), "batch.pair_latents has shape"),
        (REGRESSION, {}, PAIRS._replace(pair_samples=jnp.zeros((B + 1, 2))), "batch.pair_samples has shape"),
        (REGRESSION, {"num_classes": 3}, PAIRS, "batch.pair_labels is None"),
        (REGRESSION, {"num_classes": 3}, PAIRS._replace(pair_labels=jnp.zeros(3, jnp.int32)), "batch.pair_labels has"),
    ],
)
def test_a_batch_that_lacks_something(method, change, batch, argument):
    config = config_of(method, **change)
    with pytest.raises(ValueError, match=rf"^update: {argument}.*expected"):
        update(start(config), batch, teacher=TEACHER, config=config, networks=NETWORKS)


def test_a_head_where_it_belongs():
    with pytest.raises(ValueError, match=r"^init: head is None"):
        init(config_of(GAN), student=STUDENT, fake=TEACHER, key=KEY)
    with pytest.raises(ValueError, match=r"^init: head is given"):
        init(config_of(PLAIN), student=STUDENT, fake=TEACHER, head=HEAD, key=KEY)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_traces(name):
    config = config_of(METHODS[name])
    real = jnp.zeros((METHODS[name].num_fake_steps, B, 2))
    state = start(config)
    step = functools.partial(update, config=config, networks=NETWORKS, teacher=TEACHER)
    shapes, _ = jax.eval_shape(step, state, PAIRS._replace(real=real))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
