"""Argument checks: what passes, what raises, and the wording."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import checks


def test_fail_returns_the_error():
    error = checks.fail("f", "x", "is -1", "a positive number")
    assert isinstance(error, ValueError)
    assert str(error) == "f: x is -1; expected a positive number"


@pytest.mark.parametrize(
    "value", [1.0, np.zeros(2, np.float16), jnp.zeros(2, jnp.bfloat16), jnp.zeros((), jnp.float32)]
)
def test_check_floating_accepts(value):
    checks.check_floating("f", x=value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1, "int"), (np.zeros(2, np.int8), "int8"), (True, "bool"), (np.zeros(1, np.complex64), "complex64")],
)
def test_check_floating_refuses(value, dtype):
    with pytest.raises(ValueError, match=rf"f: second has dtype {dtype}\d*; expected a floating dtype"):
        checks.check_floating("f", first=1.0, second=value)


@pytest.mark.parametrize("expected", [(2, 3), (None, 3), (2, None), (None, None), [2, 3]])
def test_check_shape_accepts(expected):
    checks.check_shape("f", "x", np.zeros((2, 3)), expected)


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [((3, 2), "3, 2"), ((2,), "2"), ((None, 3, None), "any, 3, any"), ((None, 4), "any, 4"), ((), "")],
)
def test_check_shape_refuses(expected, wanted):
    with pytest.raises(ValueError) as info:
        checks.check_shape("f", "x", np.zeros((2, 3)), expected)
    assert str(info.value) == f"f: x has shape (2, 3); expected shape ({wanted})"


def test_check_same_shape():
    checks.check_same_shape("f", a=np.zeros((2, 1)), b=jnp.zeros((2, 1)), c=[[0.0], [1.0]])
    with pytest.raises(ValueError, match=r"f: c has shape \(2,\); expected a's shape \(2, 1\)"):
        checks.check_same_shape("f", a=np.zeros((2, 1)), b=np.zeros((2, 1)), c=np.zeros(2))


def test_what_would_broadcast_is_refused():
    with pytest.raises(ValueError, match="expected a's shape"):
        checks.check_same_shape("f", a=np.zeros((2, 3)), b=np.zeros((1, 3)))


def test_check_batch():
    checks.check_batch("f", "sigma", np.zeros(4), 4)
    for wrong in (np.zeros(3), np.zeros(()), np.zeros((4, 1))):
        with pytest.raises(ValueError, match=r"f: sigma has shape .*; expected shape \(4\)"):
            checks.check_batch("f", "sigma", wrong, 4)


def test_check_choice():
    checks.check_choice("f", "mode", "a", ("a", "b"))
    checks.check_choice("f", "mode", "a", {"a": 1})
    with pytest.raises(ValueError, match="f: mode is 'c'; expected one of 'a', 'b'"):
        checks.check_choice("f", "mode", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (0.0, {"low": 0.0}),
        (1.0, {"high": 1.0}),
        (0.5, {"low": 0.0, "high": 1.0, "open_low": True, "open_high": True}),
        (-1e300, {}),
        (np.inf, {}),
        (3, {"low": 1}),
    ],
)
def test_check_range_accepts(value, options):
    checks.check_range("f", "x", value, **options)


@pytest.mark.parametrize(
    ("value", "options", "interval"),
    [
        (0.0, {"low": 0.0, "open_low": True}, "(0.0, inf)"),
        (1.0, {"high": 1.0, "open_high": True}, "(-inf, 1.0)"),
        (-1, {"low": 0, "high": 1}, "[0, 1]"),
        (2, {"low": 0, "high": 1}, "[0, 1]"),
        (float("nan"), {}, "(-inf, inf)"),
        (float("nan"), {"low": 0.0, "high": 1.0}, "[0.0, 1.0]"),
    ],
)
def test_check_range_refuses(value, options, interval):
    with pytest.raises(ValueError) as info:
        checks.check_range("f", "x", value, **options)
    assert str(info.value) == f"f: x is {value}; expected a number in {interval}"


def test_checks_work_on_traced_arrays():
    """Shapes and dtypes are known under `jit`, `vmap` and `grad`, so the checks hold there and read no number."""

    def checked(x):
        checks.check_floating("f", x=x)
        checks.check_shape("f", "x", x, (3,))
        checks.check_same_shape("f", x=x, y=x)
        return jnp.sum(x**2)

    x = jnp.arange(3.0)
    assert jax.jit(checked)(x) == 5.0
    np.testing.assert_array_equal(jax.grad(checked)(x), 2 * x)
    np.testing.assert_array_equal(jax.vmap(checked)(jnp.stack([x, x])), [5.0, 5.0])
    with pytest.raises(ValueError, match="f: x has shape"):
        jax.jit(checked)(jnp.zeros(4))


@pytest.mark.parametrize("value", [0.5, [0.5, 1.0], np.zeros((0, 2), np.float16), jnp.zeros(2, jnp.bfloat16)])
def test_floating_array_accepts(value):
    assert checks.floating_array("f", "x", value).shape == np.shape(value)


NO_FLOATS = [None, "a", ["a"], [0.5, None], [[0.5], [0.5, 1.0]], {}, object(), 1, True, [1, 2], 1j, jax.random.key(0)]


@pytest.mark.parametrize(
    "value", NO_FLOATS, ids=lambda v: type(v).__name__ + repr(v)[:20] if type(v) is not object else "object"
)
def test_floating_array_refuses(value):
    with pytest.raises(ValueError, match=r"^f: x (is|has dtype) .*; expected a"):
        checks.floating_array("f", "x", value)


@pytest.mark.parametrize(
    "value", [[1, 0], [1.0, 0.0], None, "ab", [True], [[True, False]], True, [True, None]], ids=str
)
def test_mask_array_refuses(value):
    with pytest.raises(ValueError, match=r"^f: where (is|has) .*; expected"):
        checks.mask_array("f", "where", value, (2,))
    assert checks.mask_array("f", "where", [True, False], (2,)).tolist() == [True, False]


def test_check_axis():
    assert [checks.check_axis("f", "axis", axis, (2, 0, 3)) for axis in (0, -1, 2, -3)] == [0, 2, 2, 0]
    for axis in (3, -4, 1, -2, 0.0, None, True, "0", (0,)):
        with pytest.raises(ValueError, match=r"^f: axis is .*; expected an axis"):
            checks.check_axis("f", "axis", axis, (2, 0, 3))
    with pytest.raises(ValueError):
        checks.check_axis("f", "axis", 0, ())


def test_check_instance_integer_and_real():
    checks.check_instance("f", "d", 1, int)
    checks.check_integer("f", "n", np.int64(3), 1, 3)
    checks.check_real("f", "a", np.float32(0.5), 0.0, 1.0, open_low=True)
    with pytest.raises(ValueError, match="f: d is 'kl'; expected a int"):
        checks.check_instance("f", "d", "kl", int)
    for value in (0, 4, True, 2.0, "2", None, [2]):
        with pytest.raises(ValueError, match="^f: n is "):
            checks.check_integer("f", "n", value, 1, 3)
    for value in (0.0, 1.5, float("nan"), True, "0.5", None, [0.5], 0.5j, jnp.float32(0.5)):
        with pytest.raises(ValueError, match="^f: a is "):
            checks.check_real("f", "a", value, 0.0, 1.0, open_low=True)


@pytest.mark.parametrize("value", [np.zeros(3), jnp.zeros(3), ["p"], {}, None, 1], ids=str)
def test_check_choice_refuses_what_no_choice_can_be(value):
    with pytest.raises(ValueError, match="(?s)^f: side is .*; expected one of 'p', 'q'"):
        checks.check_choice("f", "side", value, ("p", "q"))


def test_check_flag_and_scalar():
    checks.check_flag("f", "nesterov", np.bool_(True))
    for value in (1, 0.0, None, "True", jnp.bool_(True), [True]):
        with pytest.raises(ValueError, match="^f: nesterov is .*; expected True or False"):
            checks.check_flag("f", "nesterov", value)
    for value in (0.5, 0, jnp.float32(7.0), np.zeros((), np.float32)):  # of an array only shape and dtype are looked at
        checks.check_scalar("f", "rate", value, 0.0, 1.0, open_high=True)
    for value in (1.0, -0.1, True, "0.5", None, jnp.zeros(1), jnp.int32(0), float("nan")):
        with pytest.raises(ValueError, match="^f: rate (is|has) "):
            checks.check_scalar("f", "rate", value, 0.0, 1.0, open_high=True)


def test_check_key():
    checks.check_key("f", jax.random.key(0))
    for value in (0, None, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0))):
        with pytest.raises(ValueError, match="^f: key (is|has) "):
            checks.check_key("f", value)


@checks.register_checked(["x"])
@dataclasses.dataclass(frozen=True)
class _Record:
    """A record as `Kernel` is one: a leaf and a static field, both checked."""

    kind: str
    x: object

    def __post_init__(self):
        checks.check_choice("_Record", "kind", self.kind, ("a", "b"))
        checks.floating_array("_Record", "x", self.x)


def test_checked_records_are_pytrees_whose_leaves_jax_may_fill():
    record = _Record("a", jnp.ones(3))
    for wrong in (("c", jnp.ones(3)), ("a", "text"), ("a", None)):
        with pytest.raises(ValueError, match="_Record: (kind|x) .*expected"):
            _Record(*wrong)
    assert jax.tree.map(lambda _: None, record).x is None
    ((path, leaf),) = jax.tree_util.tree_leaves_with_path(record)
    assert jax.tree_util.keystr(path) == ".x" and leaf.shape == (3,)
    assert jax.tree.structure(record) == jax.tree.structure(_Record("a", 1.0)) != jax.tree.structure(_Record("b", 1.0))
    gradient = jax.jit(jax.grad(lambda r: jnp.sum(r.x**2)))(record)
    assert gradient.kind == "a" and gradient.x.tolist() == [2.0, 2.0, 2.0]
    assert jax.vmap(lambda r: r.x)(record).shape == (3,)
