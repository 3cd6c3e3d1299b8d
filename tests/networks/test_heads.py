import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import ConvHead, MLPHead, feature_shapes, functional

VECTORS = ((6,), (4,), (6,))
MAPS = ((5, 6, 4), (2, 2, 4), (2, 2, 4))


def draw(shapes, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(batch, *shape)), jnp.float32) for shape in shapes)


def test_feature_shapes_of_arrays_and_of_abstract_values():
    assert feature_shapes(draw(MAPS)) == MAPS
    assert feature_shapes(jax.eval_shape(lambda: tuple(jnp.zeros((3, *shape)) for shape in VECTORS))) == VECTORS


@pytest.mark.parametrize("head, shapes", [(MLPHead, VECTORS), (ConvHead, MAPS)])
def test_one_float32_logit_per_example_that_uses_every_input(head, shapes):
    apply_fn, params = functional(head(shapes, rngs=nnx.Rngs(0)))
    features, c_noise = draw(shapes), jnp.array([-1.0, 0.0, 1.0])
    for dtype in (jnp.float32, jnp.bfloat16):
        logits = jax.eval_shape(apply_fn, params, tuple(f.astype(dtype) for f in features), c_noise)
        assert logits.shape == (3,) and logits.dtype == jnp.float32
    gradient = jax.jit(jax.grad(lambda f, c: apply_fn(params, f, c).sum(), (0, 1)))
    by_feature, by_noise = gradient(features, c_noise)
    for gradient in (*by_feature, by_noise):
        assert (np.abs(gradient).reshape(3, -1).max(axis=1) > 0).all()


@pytest.mark.parametrize("head, shapes", [(MLPHead, VECTORS), (ConvHead, MAPS)])
def test_layers_choose_features(head, shapes):
    apply_fn, params = functional(head(shapes, layers=(0, -1), rngs=nnx.Rngs(0)))
    features, c_noise = draw(shapes), jnp.zeros(3)
    gradient = jax.jit(jax.grad(lambda f: apply_fn(params, f, c_noise).sum()))(features)
    assert np.abs(gradient[0]).max() > 0 and np.abs(gradient[2]).max() > 0
    np.testing.assert_array_equal(gradient[1], 0.0)


def test_conv_head_is_the_mean_of_its_scales():
    both, params = functional(ConvHead(MAPS[1:], rngs=nnx.Rngs(0)))
    features, c_noise = draw(MAPS[1:]), jnp.zeros(3)
    singles = []
    for i in range(2):
        apply_fn, _ = functional(ConvHead(MAPS[1:], layers=(i,), rngs=nnx.Rngs(1)))
        singles.append(apply_fn({"heads": {f"scale{i}": params["heads"][f"scale{i}"]}}, features, c_noise))
    np.testing.assert_allclose(both(params, features, c_noise), (singles[0] + singles[1]) / 2, atol=1e-6)


def test_conv_head_shrinks_maps_to_at_most_four():
    shapes = ((32, 32, 8), (8, 8, 8), (4, 4, 8))
    _, params = functional(nnx.eval_shape(lambda: ConvHead(shapes, hidden=12, rngs=nnx.Rngs(0))))
    layers = [params["heads"][f"scale{i}"] for i in range(3)]
    assert [len(scale.get("convs", {})) for scale in layers] == [3, 1, 0]
    assert [scale["dense"]["kernel"].shape for scale in layers] == [(4 * 4 * 12, 12), (4 * 4 * 12, 12), (4 * 4 * 8, 12)]
    assert layers[0]["convs"]["layer0"]["kernel"].shape == (4, 4, 8, 12)


def test_penalty_on_the_input_gradient_has_a_gradient():
    """R1 needs the gradient of a gradient."""
    apply_fn, params = functional(ConvHead(MAPS[2:], rngs=nnx.Rngs(0)))
    features, c_noise = draw(MAPS[2:]), jnp.zeros(3)

    def penalty(params):
        (gradient,) = jax.grad(lambda f: apply_fn(params, f, c_noise).sum())(features)
        return jnp.sum(gradient**2)

    assert np.abs(jax.jit(jax.grad(penalty))(params)["heads"]["scale0"]["dense"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    "head, shapes, layers, message",
    [
        (MLPHead, MAPS, None, r"MLPHead: shapes\[0\] is \(5, 6, 4\); expected a vector"),
        (ConvHead, VECTORS, None, r"ConvHead: shapes\[0\] is \(6,\); expected a map"),
        (MLPHead, VECTORS, (3,), "MLPHead: layers has index 3"),
        (ConvHead, MAPS, (-4,), "ConvHead: layers has index -4"),
    ],
)
def test_features_that_do_not_suit_the_head(head, shapes, layers, message):
    with pytest.raises(ValueError, match=message):
        head(shapes, layers=layers, rngs=nnx.Rngs(0))


def test_calls_with_other_features_are_refused():
    head = MLPHead(VECTORS, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="features has 2 arrays"):
        head(draw(VECTORS)[:2], jnp.zeros(3))
    with pytest.raises(ValueError, match=r"features\[0\] has shape \(3, 6\)"):
        head(draw(VECTORS), jnp.zeros(4))
    with pytest.raises(ValueError, match="c_noise"):
        head(draw(VECTORS), jnp.zeros((3, 1)))
