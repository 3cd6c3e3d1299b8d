"""Which parameters go where: the default rules, what they refuse to guess, and every form that routes may have."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optax.contrib import MuonDimensionNumbers

from jaxdiv.optimizers import (
    ADAMW_RULES,
    DEFAULT_RULES,
    STACKED_RULES,
    MatrixAxes,
    clip_qk,
    format_routes,
    muon,
    route_parameters,
)
from jaxdiv.optimizers.routing import resolve_routes

PLAIN = MatrixAxes(inputs=0, outputs=1)


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def tree(path, shape):
    value = leaf(*shape)
    for key in reversed(path.split("/")):
        value = {key: value}
    return value


def route(path, shape, rules=DEFAULT_RULES):
    (found,) = jax.tree.leaves(route_parameters(tree(path, shape), rules=rules))
    return found


@pytest.mark.parametrize(
    "path",
    ["embedding", "embed_tokens/kernel", "pos_embed", "unembed/kernel", "Embed_0/embedding", "wte", "gpt/wpe/weight"]
    + ["head/kernel", "lm_head/kernel", "head_0/kernel", "LM_Head/w", "out_head/w", "router/kernel"]
    + ["moe/router/gate/kernel", "norm/scale", "LayerNorm_0/scale", "rmsnorm/weight", "q_norm/kernel", "layers/bias"]
    + ["tok_emb/weight", "pos_emb/weight", "output/weight", "params/output/kernel", "logits/kernel", "classifier/w"]
    + ["dense/biases", "bias_stack", "normalization/kernel", "batch_normalize/w", "gating/kernel", "layer/scale"],
)  # fmt: skip
def test_names_for_adamw_at_any_rank(path):
    assert route(path, (6, 4)) == route(path, (3, 6, 4)) == "adamw"


@pytest.mark.parametrize(
    "path",
    ["kernel", "dense/kernel", "attention/query/weight", "w", "mlp/w1", "mlp/w_in", "wq", "wo", "w_qkv", "wi_0"]
    + ["query_kernel", "kernel_0", "Dense_0/kernel", "weights", "heads/kernel", "multi_head_attention/query/kernel"]
    + ["MultiHeadDotProductAttention_0/key/kernel", "mlp/gate/kernel", "gate_proj/kernel", "upscale/kernel"]
    + ["normal_cell/kernel", "headroom/kernel", "attention/output/kernel", "layers/output/w", "member/kernel"],
)  # fmt: skip
def test_names_for_muon(path):
    assert route(path, (6, 4)) == PLAIN


@pytest.mark.parametrize("path", ["w", "kernel", "alpha", "dense/kernel"])
@pytest.mark.parametrize("shape", [(), (5,)])
def test_scalars_and_vectors_go_to_adamw(path, shape):
    assert route(path, shape) == "adamw"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("layers/kernel", (12, 6, 4)),  # stacked, which the plain rules do not know
        ("conv/kernel", (3, 3, 6, 4)),
        ("alpha", (6, 4)),
        ("b", (12, 4)),  # a stack of vectors looks like a matrix
        ("wide/matrix", (6, 4)),
        ("0", (6, 4)),
        ("wx", (6, 4)),
        ("kernel", (0, 4)),
    ],
)
def test_what_is_ambiguous_raises(path, shape):
    with pytest.raises(ValueError, match="route_parameters: params has 1 ambiguous leaves; expected a rule for each"):
        route(path, shape)


def test_one_error_lists_every_ambiguous_leaf():
    params = {"a": {"kernel": leaf(2, 3, 4)}, "b": [leaf(5, 6), leaf(7)], "fine": {"kernel": leaf(3, 4)}}
    with pytest.raises(ValueError) as info:
        route_parameters(params)
    text = str(info.value)
    assert "a/kernel (2, 3, 4): matches a rule, but has 3 axes" in text
    assert "b/0 (5, 6): no rule matches its path" in text
    assert "b/1" not in text and "fine" not in text
    assert "STACKED_RULES" in text and "MatrixAxes(inputs=(0, 1, 2), outputs=3)" in text


def test_stacked_rules_are_those_of_a_scanned_decoder():
    shapes = {
        "layers/attention/query/kernel": ((12, 8, 8), MatrixAxes(1, 2, batch=0)),
        "layers/experts/up/kernel": ((12, 4, 8, 16), MatrixAxes(2, 3, batch=(0, 1))),
        "mixer/kernel": ((8, 8), PLAIN),
        "layers/router/kernel": ((12, 8, 4), "adamw"),
        "layers/norm/scale": ((12, 8), "adamw"),
        "embedding": ((50, 8), "adamw"),
        "head/kernel": ((8, 50), "adamw"),
    }
    for path, (shape, expected) in shapes.items():
        assert route(path, shape, STACKED_RULES) == expected, path
    with pytest.raises(ValueError, match="ambiguous"):
        route("layers/kernel", (2, 3, 4, 5, 6), STACKED_RULES)


def test_the_first_rule_wins_and_routes_have_four_forms():
    axes = MatrixAxes(1, 2, batch=0)
    rules = (
        (r"^a/", None),
        (r"/KERNEL$", (MatrixAxes(0, 1), axes)),
        (r"conv", MuonDimensionNumbers((0, 1), 2)),
        (r"kernel", "adamw"),
    )
    assert route("a/kernel", (2, 3), rules) == "adamw"
    assert route("b/kernel", (2, 3), rules) == PLAIN
    assert route("b/kernel", (2, 3, 4), rules) == axes
    assert route("conv", (2, 3, 4), rules) == MatrixAxes((0, 1), 2, batch=None)
    assert route("kernel", (2, 3), rules) == "adamw"
    assert set(ADAMW_RULES) < set(DEFAULT_RULES)


@pytest.mark.parametrize(
    "rules",
    [None, "kernel", 5, [("kernel",)], [("kernel", "sgd")], [(3, "adamw")], [("(", "adamw")], [("kernel", ())]]
    + [[("kernel", ("adamw", "muon"))], ["ab"], [None]],
    ids=repr,
)
def test_malformed_rules(rules):
    with pytest.raises(ValueError, match=r"^route_parameters: rules (is|holds) "):
        route_parameters({"kernel": leaf(2, 3)}, rules=rules)


PARAMS = {"mlp": {"kernel": leaf(4, 6), "bias": leaf(6)}, "embed": leaf(9, 4)}
AS_ROUTED = [None, PLAIN, None]  # in the order of leaves: bias, kernel in mlp come after embed


@pytest.mark.parametrize(
    "routes",
    [
        None,
        {"embed": None, "mlp": {"bias": None, "kernel": MuonDimensionNumbers()}},
        {"embed": "adamw", "mlp": {"bias": "adamw", "kernel": PLAIN}},
        lambda params: route_parameters(params, rules=((r"mlp/kernel", PLAIN), (r"", "adamw"))),
        functools.partial(route_parameters, rules=STACKED_RULES),
    ],
    ids=["default", "optax", "tree", "function", "partial"],
)
def test_forms_of_routes(routes):
    found = resolve_routes("f", PARAMS, routes)
    assert found[:2] == [None, None] and (found[2].inputs, found[2].outputs) == ((0,), (1,))


def test_a_prefix_stands_for_all_below_it():
    params = {"mlp": {"a": leaf(4, 6), "b": leaf(6, 4)}, "rest": [leaf(3, 3), leaf(5)]}
    assert resolve_routes("f", params, {"mlp": PLAIN, "rest": None}) == [PLAIN, PLAIN, None, None]
    with pytest.raises(ValueError, match="f: routes of rest/1"):
        resolve_routes("f", params, PLAIN)
    for routes in ({"mlp": PLAIN}, [PLAIN], {"mlp": PLAIN, "rest": None, "more": None}):
        with pytest.raises(ValueError, match="f: routes is no tree for these parameters"):
            resolve_routes("f", params, routes)
    with pytest.raises(ValueError, match=r"f: routes is no tree .* rules go through functools.partial"):
        resolve_routes("f", params, STACKED_RULES)
    with pytest.raises(ValueError, match="f: routes of mlp/a is 'muon'"):
        resolve_routes("f", params, {"mlp": "muon", "rest": None})


def test_the_table():
    params = {"embed": leaf(9, 4), "layers": {"kernel": leaf(12, 4, 16), "qkv": leaf(4, 12), "bias": leaf(12, 16)}}
    rules = ((r"qkv", MatrixAxes(0, 1, splits=(8, 2, 2))), *STACKED_RULES)
    lines = format_routes(params, functools.partial(route_parameters, rules=rules)).splitlines()
    rows = {re.split(r"  +", line)[0]: re.split(r"  +", line)[1:] for line in lines[:-1]}
    assert rows["layers/kernel"] == ["(12, 4, 16)", "muon", "12 of 4 x 16"]
    assert rows["layers/qkv"] == ["(4, 12)", "muon", "1 of 4 x 8, 1 of 2 x 4, 1 of 2 x 4"]
    assert rows["layers/bias"] == ["(12, 16)", "adamw"] and rows["embed"] == ["(9, 4)", "adamw"]
    num_muon, num_adamw = 12 * 4 * 16 + 4 * 12, 9 * 4 + 12 * 16
    assert lines[-1] == (
        f"muon: {num_muon} parameters in 15 matrices of 3 shapes; adamw: {num_adamw} parameters in 2 leaves"
    )


def test_numpy_leaves_and_paths_of_lists():
    params = [{"kernel": np.zeros((2, 3), np.float32)}, (np.zeros(3, np.float32),)]
    assert route_parameters(params) == [{"kernel": PLAIN}, ("adamw",)]


class Model(nnx.Module):
    def __init__(self, rngs):
        self.query, self.key, self.norm = (
            nnx.Linear(6, 8, rngs=rngs),
            nnx.Linear(6, 8, rngs=rngs),
            nnx.RMSNorm(8, rngs=rngs),
        )
        self.w1, self.head = nnx.Param(jnp.ones((8, 4))), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.query(x) * self.key(x)) @ self.w1)


def test_a_state_of_flax_nnx_goes_where_its_arrays_do():
    """Its paths end in "/value": the default rules failed on every model that nnx.Optimizer was given."""
    state = nnx.state(Model(nnx.Rngs(0)), nnx.Param)
    found = resolve_routes("f", state, None)
    assert found == resolve_routes("f", nnx.to_pure_dict(state), None) and found.count(PLAIN) == 3
    clipped, _ = clip_qk(state, jnp.array([400.0, 50.0]))
    np.testing.assert_allclose(clipped["key"]["kernel"][:, 0], 0.5 * state["key"]["kernel"][:, 0], rtol=1e-6)


def test_muon_trains_a_model_of_flax_nnx():
    model, x = Model(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (16, 6))
    optimizer = nnx.Optimizer(model, muon(0.03, dtype="float32"), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradient = nnx.value_and_grad(lambda m: jnp.mean((m(x) - x[:, :3]) ** 2))(model)
        optimizer.update(model, gradient)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
