import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import Decoder, DecoderConfig, functional, init_balance, init_cache
from tests.networks.decoder_oracle import OTHERS, SMALL, built, forward, random_balance, random_tokens, slow, small


@pytest.mark.parametrize("name", ["gqa", "mla_query", "hourglass", "moe_mla", *map(slow, OTHERS)])
def test_equals_the_decoder_written_in_numpy(name):
    config = small(name)
    apply_fn, params = built(config)
    tokens, balance = random_tokens(config), random_balance(config)

    @jax.jit
    def run(params):
        both = apply_fn(params, tokens, balance=balance, with_info=True)
        return *both, apply_fn(params, tokens, balance=balance, only_hidden=True)

    logits, info, hidden = run(params)
    expected, expected_hidden, load, largest = forward(params, tokens, config, balance)
    assert logits.dtype == hidden.dtype == jnp.float32
    assert np.std(expected) > 0.5
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(hidden, expected_hidden, atol=2e-5 * np.abs(expected_hidden).max())
    np.testing.assert_allclose(info.max_attention_logit, largest, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(info.load, load, atol=1e-6)
    assert info.load.shape == (config.num_layers, config.num_routed)


@pytest.mark.parametrize("name", ["gqa", "mla_query", *map(slow, ["hourglass", "moe"])])
def test_a_token_changes_no_logits_before_it(name):
    config = small(name)
    apply_fn, params = built(config)
    tokens = random_tokens(config, batch=1)
    variants = jnp.repeat(tokens, 7, axis=0)
    variants = variants.at[jnp.arange(7), jnp.arange(7)].add(1) % config.vocab_size
    logits = jax.jit(apply_fn)(params, jnp.concatenate([tokens, variants]))
    change = np.abs(np.asarray(logits[1:] - logits[0])).max(axis=-1)
    before = np.tri(7, k=-1, dtype=bool)
    np.testing.assert_allclose(change[before], 0.0, atol=2e-6)
    assert change[~before].min() > 1e-4


def test_groups_whose_heads_are_copies_are_multi_head_attention():
    """GQA with G groups is MHA whose keys and values repeat each group's for its heads."""
    grouped, full = dataclasses.replace(SMALL, num_kv_heads=2), SMALL
    apply_fn, params = built(grouped)
    apply_full, _ = functional(nnx.eval_shape(lambda: Decoder(full, rngs=nnx.Rngs(0))))
    apply_full = jax.jit(apply_full)
    wide = jax.tree.map(lambda x: x, params)
    for name in ("key", "value"):
        kernel = params["layers"]["attention"][name]["kernel"].reshape(2, 16, 2, 1, 4)
        wide["layers"]["attention"][name]["kernel"] = jnp.repeat(kernel, 2, axis=3).reshape(2, 16, 16)
    tokens = random_tokens(full)
    np.testing.assert_allclose(apply_full(wide, tokens), jax.jit(apply_fn)(params, tokens), atol=2e-5)
    same, _ = functional(nnx.eval_shape(lambda: Decoder(dataclasses.replace(SMALL, num_kv_heads=4), rngs=nnx.Rngs(0))))
    np.testing.assert_array_equal(jax.jit(same)(wide, tokens), apply_full(wide, tokens))


@pytest.mark.parametrize("name", [*map(slow, ["gqa", "moe_mla"]), "hourglass"])
def test_scanned_unrolled_and_recomputed_layers_are_one_function(name):
    config = small(name)
    tokens = random_tokens(config)
    _, params = built(config)

    def value_and_gradient(config):
        apply_fn, _ = functional(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
        return jax.jit(jax.value_and_grad(lambda p: jnp.sin(apply_fn(p, tokens)).sum()))(params)

    value, gradient = value_and_gradient(config)
    for change in ({"unroll": True}, {"remat": True}):
        other, other_gradient = value_and_gradient(dataclasses.replace(config, **change))
        np.testing.assert_allclose(other, value, rtol=1e-4)
        for a, b in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("name", [*map(slow, ["gqa", "mla_query", "hourglass", "moe"]), "moe_mla"])
def test_gradient_of_every_leaf_by_finite_differences(name, x64):
    config = small(name, dtype="float64")
    apply_fn, params = built(config)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    tokens, balance = random_tokens(config), random_balance(config).astype(jnp.float64)
    leaves, treedef = jax.tree.flatten(params)
    random = np.random.default_rng(3)
    directions = [jnp.asarray(random.normal(size=x.shape)) for x in leaves]

    def loss(leaves):
        logits = apply_fn(jax.tree.unflatten(treedef, leaves), tokens, balance=balance)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits)[:, :-1], tokens[:, 1:, None], axis=-1).mean()

    def along(i):
        """Central difference of the loss with leaf i moved along its direction."""

        def at(step):
            moves = jnp.where(jnp.arange(len(leaves)) == i, step, 0.0)
            return loss([x + move * d for x, move, d in zip(leaves, moves, directions, strict=True)])

        ahead, behind = jax.lax.map(at, jnp.array([1e-5, -1e-5]))
        return (ahead - behind) / 2e-5

    gradient, numeric = jax.jit(lambda x: (jax.grad(loss)(x), jax.lax.map(along, jnp.arange(len(x)))))(leaves)
    assert all(g.dtype == jnp.float64 for g in gradient)
    exact = [jnp.vdot(g, d) for g, d in zip(gradient, directions, strict=True)]
    assert np.abs(exact).min() > 1e-3
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-8)


def test_balance_gets_no_gradient_and_information_carries_none():
    config = small("moe")
    apply_fn, params = built(config)
    tokens = random_tokens(config)

    def loss(params, balance):
        logits, info = apply_fn(params, tokens, balance=balance, with_info=True)
        return logits.sum(), (info.max_attention_logit.sum() + info.load.sum())

    value = jax.jit(jax.grad(lambda p, b: loss(p, b)[0], argnums=1))
    weight = jax.jit(jax.grad(lambda p: loss(p, None)[1]))
    np.testing.assert_array_equal(value(params, random_balance(config)), 0.0)
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(weight(params)))


@pytest.mark.parametrize("name", [*map(slow, ["mla", "moe"]), "moe_mla"])
def test_models_and_batches_under_vmap(name):
    config = small(name)
    apply_fn, first = built(config)
    _, second = built(config, seed=1)
    tokens = jnp.stack([random_tokens(config), random_tokens(config, seed=2)])
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, second)
    together, alone = jax.jit(jax.vmap(apply_fn))(stacked, tokens), jax.jit(apply_fn)
    for params, batch, out in zip((first, second), tokens, together, strict=True):
        np.testing.assert_allclose(out, alone(params, batch), atol=1e-4)


@pytest.mark.parametrize("name", ["gqa", *map(slow, ["mla", "hourglass", "moe"])])
def test_half_precision_is_finite_and_near(name):
    config = small(name)
    _, params = built(config)
    tokens = random_tokens(config)
    half, _ = functional(nnx.eval_shape(lambda: Decoder(small(name, dtype="bfloat16"), rngs=nnx.Rngs(0))))

    @jax.jit
    def run(params):
        gradient = jax.grad(lambda p: jnp.square(half(p, tokens)).mean())(params)
        return half(params, tokens), half(params, tokens, only_hidden=True), gradient

    logits, hidden, gradient = run(params)
    expected = forward(params, tokens, config)[0]
    assert logits.dtype == jnp.float32 and hidden.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    # A near tie between experts may fall the other way, so the bound is on most tokens.
    assert np.median(np.abs(logits - expected)) < 0.05 * expected.std()


def test_at_first_logits_have_unit_variance():
    config = DecoderConfig(vocab_size=64, width=96, num_layers=6, num_heads=4, hidden=192, dtype="float32")
    apply_fn, params = functional(Decoder(config, rngs=nnx.Rngs(0)))
    logits = jax.jit(apply_fn)(params, random_tokens(config, batch=4, length=32))
    assert 0.8 < np.std(logits) < 1.2
    attention = params["layers"]["attention"]
    assert np.std(attention["query"]["kernel"]) == pytest.approx(1 / np.sqrt(96), rel=0.02)
    assert np.std(attention["output"]["kernel"]) == pytest.approx(1 / np.sqrt(96 * 12), rel=0.02)
    assert np.abs(attention["query"]["kernel"]).max() < 2.3 / np.sqrt(96)
    assert np.std(params["embedding"]) == pytest.approx(1 / np.sqrt(96), rel=0.03)


def test_layers_do_not_start_alike():
    _, params = functional(Decoder(small("moe"), rngs=nnx.Rngs(0)))
    query = params["layers"]["attention"]["query"]["kernel"]
    expert = params["layers"]["feed_forward"]["experts"]["up"]["kernel"]
    assert not np.allclose(query[0], query[1]) and not np.allclose(expert[0, 0], expert[0, 1])
    assert expert.shape == (2, 6, 16, 8)


def test_equal_configurations_are_one_static_argument():
    first, _ = functional(Decoder(small("moe_mla"), rngs=nnx.Rngs(0)))
    second, _ = functional(nnx.eval_shape(lambda: Decoder(small("moe_mla"), rngs=nnx.Rngs(1))))
    other, _ = functional(nnx.eval_shape(lambda: Decoder(small("moe_mla", remat=True), rngs=nnx.Rngs(1))))
    assert first == second and hash(first) == hash(second) and first != other


def test_scanning_keeps_the_program_as_small_as_one_layer():
    def operations(num_layers):
        config = dataclasses.replace(SMALL, num_layers=num_layers)
        apply_fn, params = functional(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
        tokens = jax.ShapeDtypeStruct((2, 7), "int32")
        return jax.jit(apply_fn).lower(params, tokens).as_text().count(" = ")

    assert operations(8) == operations(2)


def test_tokens_outside_the_vocabulary_are_seen():
    config = SMALL
    apply_fn, params = built(config)
    logits = jax.jit(apply_fn)(params, jnp.array([[1, 2, config.vocab_size, 3], [1, 2, 0, 3], [-1, 2, 0, 3]]))
    assert np.isnan(logits[::2]).all() and np.isfinite(logits[1]).all()


def call(**changes):
    """A call of a small mixture of experts with some arguments replaced."""
    config = small("moe")
    decoder = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    apply_fn, params = functional(decoder)
    arguments = {"tokens": jnp.zeros((2, 5), jnp.int32)} | changes
    tokens = arguments.pop("tokens")
    return jax.eval_shape(lambda p: apply_fn(p, tokens, **arguments), params)


def cache_of(name="moe", *, batch=2, length=8, **changes):
    return init_cache(small(name, **changes), batch=batch, length=length)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: {"tokens": jnp.zeros((2, 5))}, "tokens has dtype float32"),
        (lambda: {"tokens": jnp.zeros(5, int)}, "tokens has shape"),
        (lambda: {"tokens": "text"}, "tokens is 'text'"),
        (lambda: {"tokens": jnp.zeros((2, 0), int)}, "tokens has length 0"),
        (lambda: {"tokens": jnp.zeros((2, 21), int)}, "tokens has length 21"),
        (lambda: {"balance": jnp.zeros((2, 5))}, "balance has shape"),
        (lambda: {"balance": jnp.zeros((2, 6), int)}, "balance has dtype"),
        (lambda: {"cache": cache_of(), "with_info": True}, "with_info is True with a cache"),
        (lambda: {"cache": cache_of(batch=3)}, "cache.entries"),
        (lambda: {"cache": cache_of("mla")}, "cache has entries"),
        (lambda: {"cache": cache_of(num_kv_heads=2)}, "cache.entries"),
        (lambda: {"cache": cache_of(length=4)}, "tokens has length 5; expected at most the cache's 4 slots"),
        (lambda: {"cache": jnp.zeros(3)}, "cache is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_calls_are_refused(make, message):
    with pytest.raises(ValueError, match=f"Decoder: {message}"):
        call(**make())


def test_a_balance_for_a_decoder_without_experts_is_empty():
    apply_fn, params = built(SMALL)
    tokens = random_tokens(SMALL)
    assert init_balance(SMALL).shape == (2, 0)
    with_balance = apply_fn(params, tokens, balance=init_balance(SMALL))
    np.testing.assert_array_equal(with_balance, apply_fn(params, tokens))
    with pytest.raises(ValueError, match="Decoder: balance"):
        apply_fn(params, tokens, balance=jnp.zeros((2, 4)))
