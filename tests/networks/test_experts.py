import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import DecoderConfig, init_balance, update_balance
from jaxdiv.networks.experts import choose_experts, routed_swiglu
from jaxdiv.networks.feed_forward import SwiGLU
from tests.networks.decoder_oracle import SMALL, built, random_tokens, small

WIDTH, HIDDEN = 6, 5


def routing(num_tokens, num_experts, num_chosen, seed=0):
    """Tokens, their experts and weights, and kernels; the choice is skewed and leaves an expert without tokens."""
    random = np.random.default_rng([seed, num_tokens])
    scores = 1 / (1 + np.exp(-random.normal(size=(num_tokens, num_experts)) - np.linspace(2, -2, num_experts)))
    scores[:, -1] = 1e-3
    experts, weights = choose_experts(
        jnp.asarray(np.log(scores / (1 - scores)), jnp.float32),
        jnp.zeros(num_experts),
        num_chosen=num_chosen,
        scale=1.3,
    )
    shapes = {"gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    kernels = {k: (random.normal(size=(num_experts, *s)) / 2).astype(np.float32) for k, s in shapes.items()}
    return random.normal(size=(num_tokens, WIDTH)).astype(np.float32), experts, weights, kernels


def routed(x, experts, weights, kernels, kernel):
    num_experts = kernels["gate"].shape[0]
    swiglu = nnx.eval_shape(
        lambda: SwiGLU(WIDTH, HIDDEN, stack=(num_experts,), out_scale=1.0, rngs=nnx.Rngs(0)),
    )
    nnx.update(swiglu, {name: {"kernel": value} for name, value in kernels.items()})
    return routed_swiglu(x, experts, weights, swiglu, kernel=kernel)


def dense(x, experts, weights, kernels):
    """Every expert on every token, and zero weight where it was not chosen."""
    inner = jax.nn.silu(jnp.einsum("nd,edf->nef", x, kernels["gate"])) * jnp.einsum("nd,edf->nef", x, kernels["up"])
    out = jnp.einsum("nef,efd->ned", inner, kernels["down"])
    full = (jax.nn.one_hot(experts, kernels["gate"].shape[0]) * weights[..., None]).sum(axis=1)
    return jnp.einsum("ne,ned->nd", full, out)


@pytest.mark.parametrize("kernel", ["ragged", "blocks"])
@pytest.mark.parametrize("num_tokens, num_experts, num_chosen", [(1, 4, 2), (7, 3, 1), (50, 5, 3), (400, 6, 2)])
def test_values_and_gradients_are_those_of_all_experts(kernel, num_tokens, num_experts, num_chosen):
    x, experts, weights, kernels = routing(num_tokens, num_experts, num_chosen)

    def loss(fn, x, weights, kernels):
        out = fn(x, experts, weights, kernels)
        out = out[0] if isinstance(out, tuple) else out
        return jnp.sin(out).sum(), out

    @jax.jit
    def both(x, weights, kernels):
        gradient = jax.grad(loss, argnums=(1, 2, 3), has_aux=True)
        return [gradient(fn, x, weights, kernels) for fn in (lambda *args: routed(*args, kernel), dense)]

    ours, oracle = both(x, weights, kernels)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(oracle), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))
    sizes = routed(x, experts, weights, kernels, kernel)[1]
    np.testing.assert_array_equal(sizes, np.bincount(np.ravel(experts), minlength=num_experts))


@pytest.mark.parametrize("kernel", ["ragged", "blocks"])
def test_all_tokens_to_one_expert(kernel):
    x, _, _, kernels = routing(64, 4, 1)
    for expert in (0, 3):
        experts = jnp.full((64, 1), expert)
        out, sizes = routed(x, experts, jnp.ones((64, 1)), kernels, kernel)
        np.testing.assert_allclose(out, dense(x, experts, jnp.ones((64, 1)), kernels), atol=2e-5)
        assert sizes[expert] == 64 and sizes.sum() == 64


def test_the_choice_sees_the_balance_and_the_weights_do_not():
    logits = jax.scipy.special.logit(jnp.array([[0.9, 0.5, 0.4, 0.1]]))
    experts, weights = choose_experts(logits, jnp.zeros(4), num_chosen=2, scale=1.0)
    assert experts.tolist() == [[0, 1]]
    np.testing.assert_allclose(weights, [[0.9 / 1.4, 0.5 / 1.4]], rtol=1e-6)
    experts, weights = choose_experts(logits, jnp.array([-1.0, 0.0, 0.0, 0.35]), num_chosen=2, scale=2.0)
    assert experts.tolist() == [[1, 3]]
    np.testing.assert_allclose(weights, [[2 * 0.5 / 0.6, 2 * 0.1 / 0.6]], rtol=1e-6)


def test_scores_below_every_float_still_have_shares():
    _, weights = choose_experts(jnp.array([[-90.0, -91.0, -300.0]]), jnp.zeros(3), num_chosen=2, scale=1.0)
    np.testing.assert_allclose(weights, [jax.nn.softmax(jnp.array([-90.0, -91.0]))], rtol=1e-5)


def test_experts_may_be_numbered_in_any_order():
    config = small("moe")
    apply_fn, params = built(config)
    order = np.array([3, 0, 5, 1, 4, 2])
    other = jax.tree.map(lambda x: x, params)
    part = other["layers"]["feed_forward"]
    part["router"]["kernel"] = part["router"]["kernel"][..., order]
    part["experts"] = jax.tree.map(lambda x: x[:, order], part["experts"])
    tokens = random_tokens(config)
    run = jax.jit(lambda p: apply_fn(p, tokens, with_info=True))
    (logits, info), (permuted, permuted_info) = run(params), run(other)
    np.testing.assert_allclose(permuted, logits, atol=2e-5)
    np.testing.assert_allclose(permuted_info.load, info.load[:, order], atol=1e-6)


def dot_flops(jaxpr):
    flops = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracting = eqn.params["dimension_numbers"][0][0]
            flops += 2 * int(np.prod([eqn.invars[0].aval.shape[i] for i in contracting])) * eqn.outvars[0].aval.size
        flops += sum(dot_flops(inner.jaxpr) for inner in eqn.params.values() if hasattr(inner, "jaxpr"))
    return flops


@pytest.mark.parametrize("num_experts", [2, 8, 64])
def test_the_arithmetic_of_blocks_does_not_grow_with_the_number_of_experts(num_experts):
    x, experts, weights, kernels = routing(4096, num_experts, 2)
    jaxpr = jax.make_jaxpr(lambda *args: routed(*args, "blocks"))(x, experts, weights, kernels)
    needed = 2 * 3 * WIDTH * HIDDEN * experts.size
    assert needed <= dot_flops(jaxpr.jaxpr) <= 1.15 * needed


def test_one_token_meets_only_its_own_experts():
    x, experts, weights, kernels = routing(1, 64, 2)
    jaxpr = jax.make_jaxpr(lambda *args: routed(*args, "blocks"))(x, experts, weights, kernels)
    gathered = [eqn.outvars[0].aval.shape for eqn in jaxpr.jaxpr.eqns if eqn.outvars[0].aval.ndim == 3]
    assert max(shape[0] for shape in gathered if shape[1:] == (WIDTH, HIDDEN) and shape[0] != 64) == 2


def test_balance_moves_against_the_load():
    load = jnp.array([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
    out = update_balance(jnp.full((2, 4), 0.1), load, rate=0.01)
    np.testing.assert_allclose(out, [[0.09, 0.09, 0.11, 0.11], [0.1] * 4], rtol=1e-6)
    assert update_balance(jnp.zeros((2, 0)), jnp.zeros((2, 0))).shape == (2, 0)
    gradient = jax.grad(lambda b, m: update_balance(b, m).sum(), argnums=(0, 1))(jnp.zeros(4), load[0])
    np.testing.assert_array_equal(gradient, np.zeros((2, 4)))
    assert update_balance(jnp.zeros(4, jnp.bfloat16), load[0]).dtype == jnp.bfloat16


def test_initial_balance():
    balance = init_balance(small("moe"))
    assert balance.shape == (2, 6) and balance.dtype == jnp.float32 and not balance.any()
    assert init_balance(SMALL).shape == (2, 0)


def skewed_problem():
    """A mixture whose tokens share a direction that half of the routers' columns follow and half avoid."""
    config = dataclasses.replace(small("moe"), num_experts=8)
    apply_fn, params = built(config)
    direction = np.random.default_rng(0).normal(size=config.width)
    direction /= np.linalg.norm(direction)
    params["embedding"] = params["embedding"] + direction
    router = params["layers"]["feed_forward"]["router"]
    router["kernel"] = router["kernel"] + np.outer(direction, np.linspace(1.5, -1.5, 8))
    return config, apply_fn, params


def test_the_bias_balances_what_is_skewed_without_it():
    config, apply_fn, params = skewed_problem()

    def step(balance, key):
        tokens = jax.random.randint(key, (8, 16), 0, config.vocab_size)
        _, info = apply_fn(params, tokens, balance=balance, with_info=True)
        return update_balance(balance, info.load, rate=5e-3), (info.load, balance)

    @jax.jit
    def train(balance):
        return jax.lax.scan(step, balance, jax.random.split(jax.random.key(0), 400))[1]

    loads, balances = train(init_balance(config))

    def unevenness(load):
        return np.asarray(load.max(axis=-1) / load.mean(axis=-1))

    np.testing.assert_allclose(loads.sum(axis=-1), 1.0, rtol=1e-5)
    assert unevenness(loads[0]).min() > 2.5
    assert unevenness(loads[-100:].mean(axis=0)).max() < 1.5
    assert np.abs(balances[-1]).max() < 2.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((jnp.zeros((2, 4)), jnp.zeros((4,))), "load has shape"),
        ((jnp.zeros((2, 4), int), jnp.zeros((2, 4))), "balance has dtype"),
        ((jnp.zeros((2, 4)), "load"), "load is"),
        ((jnp.zeros(()), jnp.zeros(())), "balance has shape"),
        ((jnp.zeros(4), jnp.zeros(4), -1.0), "rate is -1.0"),
        ((jnp.zeros(4), jnp.zeros(4), jnp.ones(())), "rate is"),
    ],
    ids=["shape", "dtype", "text", "scalar", "negative", "array"],
)
def test_malformed_updates_are_refused(arguments, message):
    balance, load, *rate = arguments
    with pytest.raises(ValueError, match=f"update_balance: {message}"):
        update_balance(balance, load, **({"rate": rate[0]} if rate else {}))


def test_initial_balance_wants_a_configuration():
    with pytest.raises(ValueError, match="init_balance: config"):
        init_balance({"num_layers": 2})
    assert DecoderConfig(num_experts=4).num_routed == 0
