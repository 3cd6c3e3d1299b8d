import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.networks import DecoderCache, cache_bytes_per_token, generate, init_cache
from tests.networks.decoder_oracle import OTHERS, SMALL, built, random_balance, random_tokens, slow, small


@pytest.mark.parametrize("name", ["gqa", "moe_mla", *map(slow, ["mla_query", "hourglass", *OTHERS])])
def test_prefill_and_steps_equal_the_full_forward(name):
    """For latent attention this is naive against absorbed."""
    config = small(name)
    apply_fn, params = built(config)
    tokens, balance = random_tokens(config, length=9), random_balance(config)
    full = jax.jit(lambda p: apply_fn(p, tokens, balance=balance))(params)
    decode = jax.jit(lambda p, tokens, cache: apply_fn(p, tokens, cache=cache, balance=balance))
    cache = init_cache(config, batch=2, length=11)
    # What unused slots hold must not matter.
    cache = cache._replace(entries={name: entry + 50.0 for name, entry in cache.entries.items()})
    parts = []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
        logits, cache = decode(params, tokens[:, start:stop], cache)
        assert logits.dtype == jnp.float32 and cache.length == stop
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), full, atol=1e-5 * np.abs(full).max())


def test_hidden_states_come_from_a_cache_too():
    apply_fn, params = built(SMALL)
    tokens = random_tokens(SMALL)
    run = jax.jit(lambda params, **cache: apply_fn(params, tokens, only_hidden=True, **cache))
    hidden, cache = run(params, cache=init_cache(SMALL, batch=2))
    np.testing.assert_allclose(hidden, run(params), atol=1e-5)
    assert cache.num_slots == SMALL.max_length


def test_a_cache_that_is_full_is_seen():
    apply_fn, params = built(SMALL)
    decode = jax.jit(lambda p, tokens, cache: apply_fn(p, tokens, cache=cache))
    cache = init_cache(SMALL, batch=1, length=5)
    for _ in range(2):
        logits, cache = decode(params, jnp.ones((1, 2), jnp.int32), cache)
        assert np.isfinite(logits).all()
    logits, _ = decode(params, jnp.ones((1, 2), jnp.int32), cache)
    assert np.isnan(logits).all()


def test_a_cache_of_half_precision_is_near():
    config = small("mla")
    apply_fn, params = built(config)
    tokens = random_tokens(config)
    full = jax.jit(apply_fn)(params, tokens)
    decode = jax.jit(lambda p, tokens, cache: apply_fn(p, tokens, cache=cache))
    cache = init_cache(config, batch=2, dtype=jnp.bfloat16)
    for t in range(tokens.shape[1]):
        logits, cache = decode(params, tokens[:, t : t + 1], cache)
        assert cache.entries["latent"].dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert 0 < np.abs(logits[:, 0] - full[:, -1]).max() < 0.05 * np.std(full)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["mha", "gqa", "mla", "mla_query"])
def test_bytes_of_a_cache_are_the_formula(name, dtype):
    config = small(name)
    cache = init_cache(config, batch=3, length=7, dtype=dtype)
    measured = sum(entry.nbytes for entry in cache.entries.values())
    per_layer = {"mha": 2 * 4 * 4, "gqa": 2 * 2 * 6, "mla": 6 + 4, "mla_query": 6 + 4}[name]
    assert cache_bytes_per_token(config, dtype) == 2 * per_layer * jnp.dtype(dtype).itemsize
    assert measured == 3 * 7 * cache_bytes_per_token(config, dtype)


def test_latents_take_the_published_share_of_a_cache():
    """1 - (r + d_rope) / (2 H d) of multi-head attention's, measured; with r = d/2, 75% - d_rope / (2 d)."""
    full, latent = (
        sum(x.nbytes for x in init_cache(small(name, kv_rank=8, rope_dim=4), batch=2, dtype="float32").entries.values())
        for name in ("mha", "mla")
    )
    assert 1 - latent / full == 0.75 - 4 / (2 * 16)


def greedy_by_full_forwards(apply_fn, params, prompt, num_tokens):
    tokens = np.asarray(prompt)
    for _ in range(num_tokens):
        padded = np.zeros((len(tokens), 12), np.int32)
        padded[:, : tokens.shape[1]] = tokens
        last = np.asarray(apply_fn(params, padded))[:, tokens.shape[1] - 1]
        tokens = np.concatenate([tokens, last.argmax(axis=-1)[:, None]], axis=1)
    return tokens


@pytest.mark.parametrize("name", [*map(slow, ["gqa", "moe_mla"]), "mla"])
def test_the_most_probable_tokens_without_a_cache(name):
    config = small(name)
    apply_fn, params = built(config)
    prompt = random_tokens(config, batch=3, length=4)
    settings = {"config": config, "num_tokens": 8, "key": jax.random.key(0)}
    expected = greedy_by_full_forwards(jax.jit(apply_fn), params, prompt, 8)
    out = jax.jit(lambda p, x: generate(apply_fn, p, x, temperature=0.0, **settings))(params, prompt)
    assert out.shape == (3, 12) and out.dtype == jnp.int32
    np.testing.assert_array_equal(out, expected)


def test_samples_follow_their_key():
    apply_fn, params = built(SMALL)
    run = jax.jit(lambda key: generate(apply_fn, params, prompt, config=SMALL, num_tokens=10, key=key))
    prompt = random_tokens(SMALL, batch=4, length=3)
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:, :3], prompt)
    assert np.any(first != other)
    assert 0 <= first.min() and first.max() < SMALL.vocab_size


@pytest.mark.parametrize("temperature, top_k", [pytest.param(0.7, None, marks=pytest.mark.slow), (2.0, 3), (1.0, 1)])
def test_samples_follow_the_softmax(temperature, top_k):
    """Both generated tokens: the second given that the first was the most probable one."""
    apply_fn, params = built(SMALL)
    prompt = jnp.tile(jnp.array([[3, 1]]), (4000, 1))
    settings = {"temperature": temperature, "top_k": top_k, "key": jax.random.key(2)}
    run = jax.jit(lambda p, prompt: generate(apply_fn, p, prompt, config=SMALL, num_tokens=2, **settings))
    out = np.asarray(run(params, prompt))[:, 2:]
    forward = jax.jit(apply_fn)

    def expected(tokens):
        logits = np.asarray(forward(params, jnp.array([tokens]))[0, -1], np.float64) / temperature
        if top_k is not None:
            logits = np.where(logits >= np.sort(logits)[-top_k], logits, -np.inf)
        return np.exp(logits) / np.exp(logits).sum()

    def check(drawn, probability):
        counts = np.bincount(drawn, minlength=11)
        assert counts[probability == 0].sum() == 0
        deviation = np.sqrt(len(drawn) * probability * (1 - probability)) + 1
        assert np.all(np.abs(counts - len(drawn) * probability) < 4.5 * deviation)

    first = expected([3, 1])
    check(out[:, 0], first)
    likely = first.argmax()
    check(out[out[:, 0] == likely, 1], expected([3, 1, likely]))


def test_balance_reaches_the_decoder():
    config = small("moe")
    apply_fn, params = built(config)
    prompt = random_tokens(config, batch=4, length=3)
    balance = jnp.zeros((2, 6)).at[:, :2].set(5.0)

    @jax.jit
    def run(balance):
        settings = {"config": config, "num_tokens": 6, "key": jax.random.key(0), "temperature": 0.0}
        return generate(apply_fn, params, prompt, balance=balance, **settings)

    assert np.any(run(jnp.zeros((2, 6))) != run(balance))


def test_one_token_and_the_longest_sequence():
    apply_fn, params = built(SMALL)

    def shape(num_tokens):
        settings = {"config": SMALL, "num_tokens": num_tokens, "key": jax.random.key(0)}
        return jax.eval_shape(lambda p: generate(apply_fn, p, [[1, 2]], **settings), params).shape

    assert shape(1) == (1, 3) and shape(18) == (1, SMALL.max_length)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_tokens": 19}, "num_tokens is 19; expected at most 18: max_length 20 less the prompt's 2"),
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"num_tokens": 2.0}, "num_tokens is 2.0"),
        ({"prompt": np.zeros((1, 0), int)}, "prompt has shape"),
        ({"prompt": np.zeros((0, 2), int)}, "prompt has shape"),
        ({"prompt": [1, 2]}, "prompt has shape"),
        ({"prompt": [[1.0, 2.0]]}, "prompt has dtype"),
        ({"prompt": "text"}, "prompt is"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 12}, "top_k is 12"),
        ({"key": 0}, "key has dtype"),
        ({"key": np.zeros(2, np.uint32)}, "key has dtype"),
        ({"config": None}, "config is None"),
    ],
)
def test_malformed_requests_are_refused(changes, message):
    arguments = {"prompt": [[1, 2]], "config": SMALL, "num_tokens": 2, "key": jax.random.key(0)} | changes
    with pytest.raises(ValueError, match=f"generate: {message}"):
        generate(None, None, arguments.pop("prompt"), **arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1.0}, "batch is 1.0"),
        ({"length": 0}, "length is 0"),
        ({"length": 21}, "length is 21"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"dtype": "text"}, "dtype is 'text'"),
        ({"config": 3}, "config is 3"),
    ],
)
def test_malformed_caches_are_refused(changes, message):
    arguments = {"config": SMALL, "batch": 2} | changes
    with pytest.raises(ValueError, match=f"init_cache: {message}"):
        init_cache(arguments.pop("config"), **arguments)


def test_a_cache_is_a_pytree():
    cache = init_cache(SMALL, batch=2)
    assert isinstance(jax.tree.map(lambda x: x, cache), DecoderCache)
    assert cache.length == 0 and cache.length.dtype == jnp.int32
