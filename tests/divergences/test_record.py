"""The record as an object: identity, static use under jit, transformations, user-made records, errors."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergences as dv
from tests.divergences.reference import CASES

MEMBERS = [
    dv.kl,
    dv.reverse_kl,
    dv.jensen_shannon,
    dv.jeffreys,
    lambda: dv.alpha(0.5),
    dv.squared_hellinger,
    dv.pearson_chi2,
    dv.neyman_chi2,
    dv.total_variation,
    dv.softened_reverse_kl,
    dv.le_cam,
    lambda: dv.skew_kl(0.3),
]


def test_twelve_members_have_twelve_names():
    assert [member().name for member in MEMBERS] == [
        "kl",
        "reverse_kl",
        "jensen_shannon(0.5)",
        "jeffreys",
        "alpha(0.5)",
        "squared_hellinger",
        "pearson_chi2",
        "neyman_chi2",
        "total_variation",
        "softened_reverse_kl",
        "le_cam",
        "skew_kl(0.3)",
    ]
    assert len({member() for member in MEMBERS}) == 12


@pytest.mark.parametrize("case", CASES)
def test_equal_by_content_hashable_and_picklable(case):
    one, other = CASES[case].make(), CASES[case].make()
    assert one == other and hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != dv.alpha(0.123)
    with pytest.raises(AttributeError):
        one.name = "other"


def test_parameters_are_part_of_the_identity():
    assert dv.alpha(0.5) == dv.alpha(0.5) != dv.alpha(0.4)
    assert dv.alpha(1) == dv.alpha(1.0) != dv.kl()
    assert dv.jensen_shannon() == dv.jensen_shannon(0.5) != dv.jensen_shannon(0.5).normalized()


def test_static_argument_does_not_retrace():
    traces = []

    @jax.jit
    def as_leaf(state, rho):
        traces.append("leaf")
        return state["divergence"].weight(rho)

    def as_static(d, rho):
        traces.append("static")
        return d.weight(rho)

    static = jax.jit(as_static, static_argnums=0)
    rho = jnp.linspace(-1.0, 1.0, 3)
    for _ in range(3):
        static(dv.alpha(0.5), rho)
        as_leaf({"divergence": dv.alpha(0.5)}, rho)
    assert traces == ["static", "leaf"]
    static(dv.alpha(0.4), rho)
    assert traces == ["static", "leaf", "static"]


def test_a_record_has_no_leaves():
    assert jax.tree.leaves(dv.kl()) == []
    assert jax.tree.map(lambda x: x + 1, {"d": dv.kl(), "x": 1}) == {"d": dv.kl(), "x": 2}


@pytest.mark.parametrize("case", CASES)
def test_jit_vmap_and_grad_agree_with_eager(case):
    d = CASES[case].make()
    rho = jnp.array([[-2.0, -0.3], [0.4, 3.0]])

    def everything(x):
        return d.value(x), d.link(x), d.weight(x), d.score(x), d.phi(-jnp.abs(x)), d.phi_dual(-jnp.abs(x))

    eager = everything(rho)
    np.testing.assert_allclose(jax.jit(everything)(rho), eager, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(jax.vmap(everything)(rho), eager, rtol=2e-6, atol=1e-30)
    slope = jax.jit(jax.vmap(jax.vmap(jax.grad(d.value))))(rho)
    np.testing.assert_allclose(slope, jnp.exp(rho) * d.link(rho), rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_value_at_the_seam(case):
    """At rho = 0, where the halves meet, f has slope 0 and curvature f''(1); a kink has no NaN either."""
    d = CASES[case].make()
    assert not np.isnan(jax.grad(d.value)(0.0))
    if d.is_smooth:
        assert float(jax.grad(d.value)(0.0)) == 0.0
        np.testing.assert_allclose(jax.grad(jax.grad(d.value))(0.0), d.curvature, rtol=1e-5)


def test_smoothness_and_barrier():
    assert [m().name for m in MEMBERS if not m().is_smooth] == ["total_variation"]
    without = {m().name for m in MEMBERS if not m().has_barrier}
    assert without == {"pearson_chi2", "total_variation", "le_cam"}
    assert dv.alpha(0.999).has_barrier and dv.alpha(1.0).has_barrier and not dv.alpha(1.001).has_barrier


def test_normalized_refuses_a_kink():
    with pytest.raises(ValueError, match=r"normalized: divergence is total_variation, which has no f''\(1\)"):
        dv.total_variation().normalized()


@pytest.mark.parametrize("d", [dv.skew_kl(0.3), dv.skew_kl(0.3).reversed(), dv.skew_kl(0.3).normalized()])
def test_missing_conjugate_raises_by_name(d):
    with pytest.raises(ValueError, match=r"conjugate: divergence is .*skew_kl\(0\.3\)"):
        d.conjugate(0.1)


def triangle(x, power):
    return jnp.abs(jnp.expm1(x)) ** power


def test_a_record_of_ones_own():
    """A user's f = (r - 1)^4 without a partner: reversal and its double work on it, and its conjugate is refused."""
    own = dv.FDivergence(
        name="quartic",
        phi=dv.Formula(triangle, (4,)),
        phi_dual=dv.Formula(lambda x: jnp.expm1(x) ** 4 * jnp.exp(-3 * x)),
        at_zero=1.0,
        dual_at_zero=float("inf"),
        link=dv.Formula(lambda x: 4 * jnp.expm1(x) ** 3),
        weight=dv.Formula(lambda x: 12 * jnp.exp(2 * x) * jnp.expm1(x) ** 2),
        score=dv.Formula(lambda x: jnp.expm1(x) ** 4 - 4 * jnp.exp(x) * jnp.expm1(x) ** 3),
        conjugate=dv.Formula(triangle, (4 / 3,)),
        link_at_zero=-4.0,
        score_at_infinity=-float("inf"),
        curvature=None,
    )
    rho = jnp.array([-1.0, -0.2, 0.3, 0.8])
    back = own.reversed()
    assert back.name == "reversed(quartic)" and back.reversed() == own
    np.testing.assert_allclose(own.value(rho), jnp.expm1(rho) ** 4, rtol=1e-5)
    np.testing.assert_allclose(back.value(rho), jnp.exp(rho) * jnp.expm1(-rho) ** 4, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(back.value))(rho), jnp.exp(rho) * back.link(rho), rtol=1e-4)
    np.testing.assert_allclose(jax.vmap(jax.grad(back.link))(rho), jnp.exp(-rho) * back.weight(rho), rtol=1e-4)
    with pytest.raises(ValueError, match=r"reversed\(quartic\)"):
        back.conjugate(0.5)
