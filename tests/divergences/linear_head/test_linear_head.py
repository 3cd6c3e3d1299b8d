"""`linear_head_divergence` in every blocked form against the dense loss in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergences as jd
from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head import linear_head_divergence
from tests.divergences.linear_head.cases import (
    MEMBERS,
    TOKENS,
    VOCAB,
    arrays,
    dense,
    from_logits,
    in_float64,
    name_of,
    relative_errors,
)

SLOW = pytest.mark.slow
FORMS = {"whole": {}, "tokens": {"token_block": 4}, "vocabulary": {"vocab_block": 16}}
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, TOKENS))
WEIGHTS = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2.0, TOKENS), jnp.float32).at[3].set(0.0)


# One of each family in the default run, Renyi's for alpha, whose sums it takes; the others compile for a minute.
QUICK = ("kl", "normalized(jensen_shannon(0.3))", "renyi(0.7)", "jeffreys", "total_variation")
EACH = [d if name_of(d) in QUICK else pytest.param(d, marks=pytest.mark.slow) for d in MEMBERS]


@pytest.mark.parametrize("divergence", EACH, ids=name_of)
def test_values_and_gradients_of_both_sides(divergence, x64):
    """Everything at once: temperature, biases, weights, labels, a padded teacher, in all three forms."""
    data = arrays(p_rows=VOCAB + 3)
    options = dict(temperature=1.7, labels=LABELS, label_weight=0.2, vocab_size=VOCAB)

    def loss(data, weights, **form):
        return linear_head_divergence(
            divergence, **data, **options, **form, weights=weights, differentiate_p=True, implementation="xla"
        )

    def oracle(data, weights):
        return jnp.sum(weights * dense(divergence, data, **options)) / jnp.sum(weights)

    got = jax.jit(lambda d, w: [jax.value_and_grad(loss, (0, 1))(d, w, **form) for form in FORMS.values()])(
        data, WEIGHTS
    )
    value, (grads, weight_grad) = jax.jit(jax.value_and_grad(oracle, (0, 1)))(
        in_float64(data), WEIGHTS.astype(jnp.float64)
    )
    weight_grad = weight_grad.at[3].set(got[0][1][1][3])  # a token of weight 0 is not looked at
    for form in got:
        assert relative_errors(form, (value, (grads, weight_grad))) < 3e-6


@pytest.mark.parametrize("form", FORMS)
def test_one_loss_per_token(form, x64):
    data = arrays()
    cotangents = jnp.asarray(np.random.default_rng(3).normal(size=TOKENS), jnp.float32)

    def loss(data):
        return linear_head_divergence(jd.jensen_shannon(0.3), **data, **FORMS[form], reduction="none")

    def value_and_pull(function):
        def run(data, cotangents):
            values, pull = jax.vjp(function, data)
            return values, *pull(cotangents)

        return jax.jit(run)

    values, got = value_and_pull(loss)(data, cotangents)
    oracle = value_and_pull(lambda d: dense(jd.jensen_shannon(0.3), d))
    expected, wanted = oracle(in_float64(data), cotangents.astype(jnp.float64))
    assert relative_errors(values, expected) < 2e-6
    for name in ("q_hidden", "q_head", "q_bias"):
        assert relative_errors(got[name], wanted[name]) < 8e-6  # cotangents of both signs cancel
    assert all(not np.any(got[name]) for name in ("p_hidden", "p_head", "p_bias")), "the fixed side got a gradient"


def test_reductions_and_leading_axes():
    data = arrays(tokens=12)
    run = jax.jit(lambda data, **kw: linear_head_divergence(jd.kl(), **data, **kw), static_argnames="reduction")
    per_token = run(data, reduction="none")
    weights = jnp.arange(12.0)
    batched = dict(data, p_hidden=data["p_hidden"].reshape(3, 4, -1), q_hidden=data["q_hidden"].reshape(3, 4, -1))
    assert run(batched, reduction="none").shape == (3, 4)
    call = lambda **kw: float(run(batched, **kw))  # noqa: E731
    np.testing.assert_allclose(call(), per_token.mean(), rtol=1e-6)
    np.testing.assert_allclose(call(reduction="sum"), per_token.sum(), rtol=1e-6)
    np.testing.assert_allclose(
        call(weights=weights.reshape(3, 4)), (weights * per_token).sum() / weights.sum(), rtol=1e-6
    )
    mask = (weights > 5).reshape(3, 4)
    np.testing.assert_allclose(call(weights=mask), per_token[6:].mean(), rtol=1e-6)
    assert call(weights=jnp.zeros((3, 4))) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_masked_tokens_may_hold_anything(form):
    data = arrays()
    spoilt = dict(data, q_hidden=data["q_hidden"].at[3].set(jnp.nan), p_hidden=data["p_hidden"].at[3].set(jnp.inf))
    run = jax.jit(
        jax.value_and_grad(
            lambda d: linear_head_divergence(jd.kl(), **d, **FORMS[form], weights=WEIGHTS, differentiate_p=True)
        )
    )
    clean, dirty = run(data), run(spoilt)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)
    assert not np.any(dirty[1]["q_hidden"][3])


@pytest.mark.parametrize("divergence", [jd.kl(), jd.jensen_shannon(), jd.squared_hellinger(), Renyi(0.5)], ids=name_of)
def test_identical_models_are_at_distance_zero(divergence):
    data = arrays()
    same = {f"{side}_{part}": data[f"q_{part}"] for side in "pq" for part in ("hidden", "head", "bias")}
    value, grads = jax.jit(jax.value_and_grad(lambda d: linear_head_divergence(divergence, **d, token_block=4)))(same)
    assert float(value) == 0.0
    assert all(float(jnp.abs(g).max()) < 1e-7 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("order", [0.7, 2.0, pytest.param(0.2, marks=SLOW), pytest.param(3.5, marks=SLOW)])
def test_renyi_far_from_p_equal_q(order, x64):
    """Logits of +-50, where the generator's sum overflows or is near its bound, beside near-equal rows."""
    rng = np.random.default_rng(7)
    p, q = rng.uniform(-50, 50, size=(2, 8, VOCAB)).astype(np.float32)
    q[4:6] = p[4:6] + rng.normal(size=(2, VOCAB)).astype(np.float32)
    q[6:] = p[6:] + 1e-2 * rng.normal(size=(2, VOCAB)).astype(np.float32)
    data, cotangents = from_logits(p, q), jnp.linspace(-1.0, 2.0, 8)

    def run(function, data, cotangents):
        values, pull = jax.vjp(function, data)
        return values, pull(cotangents.astype(values.dtype))[0]

    def loss(data, **form):
        return linear_head_divergence(
            Renyi(order), **data, **form, reduction="none", differentiate_p=True, implementation="xla"
        )

    got = jax.jit(lambda *a: [run(functools.partial(loss, **form), *a) for form in FORMS.values()])(data, cotangents)
    value, grads = jax.jit(lambda *a: run(lambda d: dense(Renyi(order), d), *a))(in_float64(data), cotangents)
    for values, gradients in got:
        np.testing.assert_allclose(values, value, rtol=2e-5)  # logarithms of 50 to 100 are rounded by 4e-6
        for name in ("p_head", "q_head"):  # row by row: the near-equal ones have small gradients
            for i in range(8):
                assert relative_errors(gradients[name][:, i], grads[name][:, i]) < 2e-5 + 1e-5 * order, (name, i)


def test_infinite_tokens_add_nothing_to_the_gradients():
    """Also with labels and weights; the category that q lacks counts for the first token alone."""
    p, q = np.random.default_rng(8).normal(size=(2, 3, VOCAB)).astype(np.float32)
    p[1:, 0] = -500.0
    data = from_logits(p, q)
    data["q_bias"] = data["q_bias"].at[0].set(-jnp.inf)
    data["p_bias"] = data["p_bias"].at[1].set(-jnp.inf)
    labels = jnp.array([2, 3, 4])

    def loss(data, weights, divergence, **form):
        options = dict(labels=labels, label_weight=0.3, weights=weights, differentiate_p=True)
        return linear_head_divergence(divergence, **data, **options, **form)

    @jax.jit
    def run(data, weights):
        results = []
        for divergence in (jd.kl(), jd.alpha(2.0)):
            for form in FORMS.values():
                results.append(jax.value_and_grad(loss, (0, 1))(data, weights, divergence, **form))
        return results

    for (value, (got, weight_grad)), (rest, (wanted, _)) in zip(
        run(data, jnp.ones(3)), run(data, jnp.array([0.0, 1.0, 1.0])), strict=True
    ):
        assert value == jnp.inf and np.isfinite(rest)
        assert np.isfinite(weight_grad).all()
        for name, gradient in got.items():
            assert np.isfinite(gradient).all(), name
            np.testing.assert_allclose(gradient, wanted[name] * 2.0 / 3.0, rtol=1e-5, atol=1e-7)


def test_labels_alone_do_not_look_at_the_divergence():
    data = arrays()
    data["q_bias"] = data["q_bias"].at[LABELS[0] - 1].set(-jnp.inf)
    data = {name: value for name, value in data.items()}
    others = jnp.where(LABELS == LABELS[0] - 1, LABELS[0], LABELS)
    value, grads = jax.jit(
        jax.value_and_grad(lambda d: linear_head_divergence(jd.kl(), **d, labels=others, label_weight=1.0))
    )(data)
    logits = data["q_hidden"] @ data["q_head"].T + data["q_bias"]
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), others[:, None], 1).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("form", FORMS)
def test_a_label_weight_of_0_is_the_divergence_alone(form):
    data = arrays()
    alone = jax.jit(lambda d: linear_head_divergence(jd.kl(), **d, **FORMS[form]))(data)
    zero = jax.jit(lambda d: linear_head_divergence(jd.kl(), **d, **FORMS[form], labels=LABELS, label_weight=0.0))(data)
    np.testing.assert_array_equal(zero, alone)
    with pytest.raises(ValueError, match="labels contain"):
        linear_head_divergence(jd.kl(), **data, labels=LABELS + VOCAB, label_weight=0.0)


def test_a_teacher_in_float64_and_a_student_in_float32(x64):
    data = arrays()
    wide = {n: x.astype(jnp.float64) if n.startswith("p_") else x for n, x in data.items()}
    for form in FORMS.values():
        value, grads = jax.jit(jax.value_and_grad(lambda d, form=form: linear_head_divergence(jd.kl(), **d, **form)))(
            wide
        )
        np.testing.assert_allclose(value, dense(jd.kl(), in_float64(data)).mean(), rtol=2e-6)
        assert grads["q_head"].dtype == jnp.float32


def test_labels_out_of_range():
    """Refused where they are known and count; NaN under a trace."""
    data = arrays()
    options = dict(label_weight=0.5, vocab_size=VOCAB - 1)
    for wrong in (-100, -1, VOCAB - 1):
        with pytest.raises(ValueError, match=f"labels contain {wrong}; expected integers in .0, {VOCAB - 1}."):
            linear_head_divergence(jd.kl(), **data, labels=jnp.zeros(TOKENS, int).at[3].set(wrong), **options)
    labels = jnp.zeros(TOKENS, jnp.int32).at[3].set(-100)

    @jax.jit
    def run(labels, weights):
        each = linear_head_divergence(jd.kl(), **data, labels=labels, **options, reduction="none")
        return each, *[linear_head_divergence(jd.kl(), **data, labels=labels, weights=w, **options) for w in weights]

    each, counted, ignored = run(labels, [jnp.ones(TOKENS), WEIGHTS])
    assert np.isnan(each[3]) and np.isfinite(np.delete(each, 3)).all()
    assert np.isnan(counted) and np.isfinite(ignored)


def test_second_derivatives_and_forward_mode():
    """Reverse mode alone, which differentiates once more by plain jax: `jax.hessian` works, `jax.jvp` says no."""
    data = arrays(tokens=2, vocab=4, p_rows=4)

    def loss(fn):
        return lambda hidden: fn({**data, "q_hidden": hidden})

    def ours(d):
        return linear_head_divergence(jd.kl(), **d, implementation="xla")

    compute = jax.jit(lambda hidden: [jax.hessian(loss(f))(hidden) for f in (ours, lambda d: dense(jd.kl(), d).mean())])
    got, expected = compute(data["q_hidden"])
    np.testing.assert_allclose(got, expected, atol=2e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss(ours), (data["q_hidden"],), (data["q_hidden"],))


def test_continuous_in_pi():
    """Normalised JS(pi) runs from KL(p || q) to KL(q || p)."""
    data = arrays()
    value = lambda d: float(jax.jit(lambda data: linear_head_divergence(d, **data))(data))  # noqa: E731
    np.testing.assert_allclose(value(jd.jensen_shannon(1e-6).normalized()), value(jd.kl()), rtol=1e-4)
    np.testing.assert_allclose(value(jd.jensen_shannon(1 - 1e-6).normalized()), value(jd.reverse_kl()), rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_removed_categories(form):
    """A bias of -inf takes a category from its side: p's costs q f(0), q's costs p lim f(r)/r."""
    data = arrays()
    data["p_bias"] = data["p_bias"].at[:5].set(-jnp.inf)
    run = jax.jit(jax.value_and_grad(lambda d: linear_head_divergence(jd.kl(), **d, **FORMS[form])))
    value, grads = run(data)
    log_p = jax.nn.log_softmax(data["p_hidden"] @ data["p_head"].T + data["p_bias"])
    log_q = jax.nn.log_softmax(data["q_hidden"] @ data["q_head"].T + data["q_bias"])
    expected = jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * (log_p - log_q), 0.0).sum(-1).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    data["q_bias"] = data["q_bias"].at[10].set(-jnp.inf)
    assert run(data)[0] == jnp.inf
    assert np.isfinite(jax.jit(lambda d: linear_head_divergence(jd.jensen_shannon(), **d, **FORMS[form]))(data))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bit_arrays(dtype, x64):
    """Products of 16-bit arrays accumulate in float32; gradients come back in their dtype, rounded once or twice."""
    data = arrays(dtype=dtype)
    run = lambda d, **form: linear_head_divergence(jd.kl(), **d, **form)  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(lambda d: run(d, token_block=4)))(data)
    expected, wanted = jax.jit(jax.value_and_grad(lambda d: dense(jd.kl(), d).mean()))(in_float64(data))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected, rtol=3e-6)
    for name in ("q_hidden", "q_head", "q_bias"):
        assert grads[name].dtype == dtype
        assert relative_errors(grads[name], wanted[name]) < 8e-3
    tiny = jax.jit(jax.grad(run))({**data, "q_hidden": data["q_hidden"], "p_hidden": data["p_hidden"]})
    assert float(jnp.abs(tiny["q_hidden"]).max()) > 0


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_mean_over_many_float16_tokens_keeps_its_gradient(scale):
    """1/N times a probability is below float16's range; the weights travel relative to the largest.

    A scale of the loss lifts the gradients themselves out of the subnormal numbers, where they were .0004 from it.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"q_hidden": (4096, 64), "q_head": (1024, 64), "p_hidden": (4096, 64), "p_head": (1024, 64)}
    widths = {"q_hidden": 1.0, "q_head": 0.4, "p_hidden": 1.0, "p_head": 0.4}
    data = {n: widths[n] * jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    data |= {"q_bias": jnp.zeros(1024), "p_bias": jnp.zeros(1024)}
    data = {name: x.astype(jnp.float16) for name, x in data.items()}
    grads = jax.jit(jax.grad(lambda d: scale * linear_head_divergence(jd.kl(), **d)))(data)
    expected = jax.jit(jax.grad(lambda d: dense(jd.kl(), d).mean()))(
        {k: v.astype(jnp.float32) for k, v in data.items()}
    )
    for name in ("q_hidden", "q_head"):
        assert relative_errors(grads[name].astype(jnp.float32) / scale, expected[name]) < 6e-4


def test_float64_stays(x64):
    data = in_float64(arrays())
    value, grads = jax.jit(jax.value_and_grad(lambda d: linear_head_divergence(jd.kl(), **d, vocab_block=16)))(data)
    expected, wanted = jax.jit(jax.value_and_grad(lambda d: dense(jd.kl(), d).mean()))(data)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert relative_errors(grads["q_head"], wanted["q_head"]) < 1e-12


def test_vmap_over_problems():
    data = [arrays(seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *data)
    run = jax.jit(jax.value_and_grad(lambda d: linear_head_divergence(jd.jensen_shannon(), **d, token_block=4)))
    values, grads = jax.jit(jax.vmap(run))(stacked)
    for i in range(2):
        value, grad = run(data[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-6)
        assert relative_errors(grads["q_head"][i], grad["q_head"]) < 1e-5


BAD = {
    "divergence": {"divergence": "kl"},
    "p_hidden": {"p_hidden": jnp.ones((TOKENS, 7), jnp.int32)},
    "q_hidden": {"q_hidden": jnp.ones((TOKENS + 1, 5))},
    "p_head": {"p_head": jnp.ones((VOCAB, 6))},
    "q_head": {"q_head": jnp.ones((VOCAB, 5, 1))},
    "q_bias": {"q_bias": jnp.ones((VOCAB - 1,))},
    "temperature": {"temperature": 0.0},
    "weights": {"weights": jnp.ones((TOKENS + 1,))},
    "labels": {"labels": jnp.ones((TOKENS,)), "label_weight": 0.5},
    "label_weight": {"labels": LABELS},
    "vocab_size": {"vocab_size": VOCAB + 1},
    "reduction": {"reduction": "batchmean"},
    "memory_limit": {"memory_limit": 0},
    "token_block": {"token_block": 1.5},
    "vocab_block": {"vocab_block": 8, "token_block": 8},
    "implementation": {"implementation": "triton"},
    "differentiate_p": {"differentiate_p": "yes"},
}


@pytest.mark.parametrize("argument", BAD)
def test_errors_name_the_argument(argument):
    call = {"divergence": jd.kl(), **arrays(), **BAD[argument]}
    with pytest.raises(ValueError, match=f"linear_head_divergence: {argument} .*expected"):
        linear_head_divergence(call.pop("divergence"), **call)


def test_heads_of_different_sizes_need_the_vocabulary():
    data = arrays(p_rows=VOCAB + 3)
    with pytest.raises(ValueError, match="vocab_size is None with heads of 53 and 50 rows"):
        linear_head_divergence(jd.kl(), **data)
    with pytest.raises(ValueError, match="weights are given with reduction 'none'"):
        linear_head_divergence(jd.kl(), **arrays(), weights=WEIGHTS, reduction="none")


@pytest.mark.parametrize("divergence", [jd.kl(), jd.jensen_shannon(0.3), jd.alpha(0.3)], ids=name_of)
def test_reverse_over_reverse_is_finite_where_a_category_is_missing_or_far(divergence):
    rng = np.random.default_rng(0)
    p_hidden, q_hidden = jnp.asarray(rng.normal(size=(2, 3, 4)))
    p_head, q_head = jnp.asarray(rng.normal(size=(2, 5, 4)))
    bias = jnp.array([0.0, -jnp.inf, 0.0, 0.0, 0.0])

    def loss(q_hidden, scale):
        return linear_head_divergence(
            divergence,
            p_hidden=p_hidden,
            p_head=p_head,
            q_hidden=q_hidden,
            q_head=scale * q_head,
            p_bias=bias,
            implementation="xla",
        )

    for scale in (1.0, 3e4):
        twice = jax.jit(jax.jacrev(jax.grad(loss)))(q_hidden, scale)
        assert np.all(np.isfinite(twice))
        np.testing.assert_allclose(twice, jax.jit(jax.hessian(loss))(q_hidden, scale), rtol=1e-3, atol=1e-5)
