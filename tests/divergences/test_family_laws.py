"""The laws of the families between logits, law by family, on random pairs in float32 and float64.

What a family does not have is tested as well: then some of the pairs break the law. Laws of the f-divergences are in
`test_categorical_laws`, values in `test_families` and `test_distances`.
"""

import functools
import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

from jaxdiv import divergences as dv

INF = math.inf
N, V = 16, 6
ROUNDING = {"float32": 1e-5, "float64": 1e-12}
POSITIONS = np.array([0.0, 0.5, 2.5, 1.5, 7.0, 4.0])


class Member(NamedTuple):
    """A divergence of rows ``fn(p_logits, q_logits, positions)``, and the laws that it has."""

    fn: Callable
    zero: str = "equal"
    """0 for equal distributions alone, or wherever p has every class of q ("support")."""
    is_symmetric: bool = False
    processed: str | None = None
    """What cannot increase it: any map of both sides ("channels"), one without expansion ("contractions"), nothing."""
    convex: str = ""
    """Jointly ("pq"), in one side alone, or not known to be in any; never jointly but for "pq"."""
    product: float | None = None
    """The c for which 1 + c D multiplies over independent components, 0 where D adds up, None for neither."""


MEMBERS: dict[str, Member] = {}


def add(name, fn, *parameters, **laws):
    MEMBERS[name] = Member(lambda p, q, _: fn(*parameters, p_logits=p, q_logits=q), **laws)


def of_order(a):
    return {"zero": "support" if a == 0.0 else "equal", "is_symmetric": a == 0.5, "processed": "channels"}


RENYI = (0.0, 0.3, 0.5, 0.7, 1.0, 2.0, INF)
TSALLIS = (0.0, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0)
for a in RENYI:
    add(f"renyi {a}", dv.renyi_divergence, a, convex="pq" if a <= 1.0 else "q", product=0.0, **of_order(a))
for a in TSALLIS:
    add(f"tsallis {a}", dv.tsallis_divergence, a, convex="pq", product=a - 1.0, **of_order(a))
# Powers of the probabilities themselves: merging classes may increase these, unless they are KL(p || q).
for c in (0.0, 0.5, 1.0, 2.0):
    kind = {"processed": None if c else "channels", "is_symmetric": c == 1.0}
    add(f"gamma {c}", dv.gamma_divergence, c, convex="" if c else "pq", product=0.0, **kind)
    # A Bregman divergence, so convex in p; in both where 1 / phi'', as p^{1 - beta}, is concave.
    add(f"beta {c}", dv.beta_divergence, c, convex="pq" if c <= 1.0 else "p", product=None if c else 0.0, **kind)
add("cauchy_schwarz", dv.cauchy_schwarz_divergence, is_symmetric=True, product=0.0)
add("bhattacharyya", dv.bhattacharyya_distance, is_symmetric=True, processed="channels", convex="pq", product=0.0)
F_DIVERGENCE = {"is_symmetric": True, "processed": "channels", "convex": "pq"}
add("total_variation", dv.total_variation_distance, **F_DIVERGENCE)
add("jensen_shannon", dv.js_divergence, **F_DIVERGENCE)
add("squared_hellinger", dv.squared_hellinger_distance, product=-0.5, **F_DIVERGENCE)
LINE = {"is_symmetric": True, "processed": "contractions", "convex": "pq"}
add("wasserstein", dv.ordered_wasserstein, **LINE)
MEMBERS["wasserstein at"] = Member(lambda p, q, x: dv.ordered_wasserstein(p_logits=p, q_logits=q, positions=x), **LINE)

# Powers that are metrics; the squares of some are not.
METRICS = {"total_variation": 1.0, "wasserstein": 1.0, "wasserstein at": 1.0}
METRICS |= {"jensen_shannon": 0.5, "squared_hellinger": 0.5, "beta 1.0": 0.5, "tsallis 0.5": 0.5}


@jax.jit
def every_member(p, q, positions):
    return {name: member.fn(p, q, positions) for name, member in MEMBERS.items()}


@functools.cache
def results(dtype, p, q, positions):
    """All members of one set of pairs, given as bytes: tests of other members find it computed."""
    p, q = (np.frombuffer(x).reshape(-1, V).astype(dtype) for x in (p, q))
    with jax.enable_x64(dtype == "float64"):
        values = every_member(p, q, np.frombuffer(positions).astype(dtype))
    assert all(v.dtype == dtype and v.shape == (N,) for v in values.values())
    return {name: np.asarray(v, np.float64) for name, v in values.items()}


def bind(name, dtype):
    """The member as a function of pairs ``[16, 6]`` in float64, computed in a dtype."""

    def divergence(p, q, positions=POSITIONS):
        return results(dtype, p.tobytes(), q.tobytes(), positions.tobytes())[name]

    return divergence


def draw(law, sides=2):
    """Log-probabilities, from a seed of the law's own; p lacks a class of q in every other pair."""
    p, *others = 1.5 * np.random.default_rng(zlib.crc32(law.encode())).normal(size=(sides, N, V))
    p[::2, 0] = -INF
    return [normalised(x) for x in (p, *others)]


def normalised(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def channel(x, matrix):
    """Log-probabilities behind a channel, whose row i says where class i goes."""
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x) @ matrix)


def mixture(x, y, share):
    return np.logaddexp(np.log(share) + x, np.log1p(-share) + y)


members = pytest.mark.parametrize("name", MEMBERS)
dtypes = pytest.mark.parametrize("dtype", ROUNDING)


@dtypes
@members
def test_non_negative_and_zero_only_for_equals(name, dtype):
    divergence = bind(name, dtype)
    p, q = draw("zero")
    for same in (p, q, 1e3 * p, p / 1e3):
        np.testing.assert_array_equal(divergence(same, same), 0.0)
    for other in (q, 2.0 * p, np.roll(p, 1, axis=-1), p[:, ::-1], mixture(p, q, 0.99)):
        value = divergence(p, other)
        if MEMBERS[name].zero == "support":
            lost = np.where(p > -INF, 0.0, np.exp(normalised(other))).sum(-1)
            np.testing.assert_array_equal(value > 0.0, lost > 0.0)
        else:
            assert (value > 1e-9).all()
    near = divergence(p, p + 1e-6 * q)
    assert (near >= 0.0).all() and (near < 1e-5).all()


@dtypes
@members
def test_symmetry(name, dtype):
    p, q = draw("symmetry")
    one, other = bind(name, dtype)(p, q), bind(name, dtype)(q, p)
    if MEMBERS[name].is_symmetric:
        np.testing.assert_allclose(one, other, rtol=ROUNDING[dtype])
    else:
        assert (np.abs(one - other) > 1e-3 * one)[::2].all()


@dtypes
@pytest.mark.parametrize("family", ["renyi", "tsallis"])
def test_reversal(family, dtype):
    """(1 - a) D_a(p || q) = a D_{1-a}(q || p) for 0 < a < 1."""
    p, q = draw("reversal")
    for a in (0.3, 0.5, 0.7):
        back = bind(f"{family} {round(1.0 - a, 1)}", dtype)(q, p)
        np.testing.assert_allclose((1.0 - a) * bind(f"{family} {a}", dtype)(p, q), a * back, rtol=ROUNDING[dtype])


@dtypes
@members
def test_permutations_and_shifts(name, dtype):
    """The order of the classes does not matter, on a line but for its direction; nor do shifts of the logits."""
    divergence = bind(name, dtype)
    p, q = draw("permutations")
    value = divergence(p, q)
    close = functools.partial(np.testing.assert_allclose, rtol=ROUNDING[dtype])
    close(divergence(p[:, ::-1], q[:, ::-1], POSITIONS[::-1]), value)
    order = np.random.default_rng(1).permutation(V)
    permuted = divergence(p[:, order], q[:, order], POSITIONS[order])
    if name == "wasserstein":
        assert (np.abs(permuted / value - 1.0) > 0.01).any()
    else:
        close(permuted, value)
    # What logits near 64 lose before they come: 4e-6 in float32.
    np.testing.assert_allclose(divergence(p + 8.0, q - 64.0), value, rtol=10.0 * ROUNDING[dtype])


MERGED = np.eye(V)[[0, 0, 2, 3, 4, 2]]
CHANNELS = (MERGED, np.eye(V)[[0, 1, 2, 3, 3, 3]], np.random.default_rng(2).dirichlet(0.3 * np.ones(V), size=V))
ON_THE_LINE = np.sort(POSITIONS)


@dtypes
@members
def test_data_processing(name, dtype):
    """Of p and q behind the same channel."""
    divergence = bind(name, dtype)
    p, q = draw("data processing")
    value = divergence(p, q, ON_THE_LINE)
    for index, matrix in enumerate(CHANNELS):
        behind = divergence(channel(p, matrix), channel(q, matrix), ON_THE_LINE)
        increases = behind > value * (1.0 + ROUNDING[dtype])
        # The second channel stops at the fourth place whatever is beyond it, which brings no two places further apart.
        if MEMBERS[name].processed == "channels" or (MEMBERS[name].processed == "contractions" and index == 1):
            assert not increases.any()
        elif index == 0:
            assert increases.any()


@dtypes
@pytest.mark.parametrize("name", [n for n, m in MEMBERS.items() if m.processed == "channels"])
def test_merging_classes_of_one_ratio_loses_nothing(name, dtype):
    p, q = draw("sufficiency")
    p[:, 0], q[:, 0] = p[:, 1] - 0.5, q[:, 1] - 0.5  # the first two have one ratio, the sixth is empty
    p[:, 5], q[:, 5] = -INF, -INF
    p[::2, 2] = -INF
    p, q = normalised(p), normalised(q)
    merged = bind(name, dtype)(channel(p, MERGED), channel(q, MERGED))
    np.testing.assert_allclose(merged, bind(name, dtype)(p, q), rtol=ROUNDING[dtype])


@dtypes
@members
def test_convexity(name, dtype):
    """Mixtures of two pairs, the second a random one or halfway from the first to one distribution on both sides."""
    divergence, convex = bind(name, dtype), MEMBERS[name].convex
    p, q, other, another = draw("joint convexity", 4)
    halfway = [mixture(x, other, 0.5) for x in (p, q)]
    rises = {sides: False for sides in ("p", "q", "pq")}
    for sides, far in (("p", (other, q)), ("q", (p, other)), ("pq", (other, another)), ("pq", halfway)):
        for share in (0.25, 0.5, 0.75):
            mixed = divergence(*(mixture(x, y, share) for x, y in zip((p, q), far, strict=True)))
            mean = share * divergence(p, q) + (1.0 - share) * divergence(*far)
            rises[sides] |= bool((mixed > mean * (1.0 + ROUNDING[dtype])).any())
    assert rises["pq"] == (convex != "pq")
    assert not any(rises[side] for side in convex)


@dtypes
@pytest.mark.parametrize("family, orders", [("renyi", RENYI), ("tsallis", TSALLIS)])
def test_monotonicity_in_the_order(family, orders, dtype):
    p, q = draw("orders")
    values = np.array([bind(f"{family} {a}", dtype)(p, q) for a in orders])
    assert (np.diff(values, axis=0) > 1e-3 * values[1:]).all()


@dtypes
def test_renyi_between_neighbouring_orders(dtype):
    """(1 - a) R_a is concave in a, and R_a (1 - a) / a falls (van Erven and Harremoes, arXiv:1206.2459)."""
    p, q = draw("neighbouring orders")
    orders = np.array(RENYI[:-1])
    scaled = np.array([(1.0 - a) * bind(f"renyi {a}", dtype)(p, q) for a in RENYI[:-1]])
    slopes = np.diff(scaled, axis=0) / np.diff(orders)[:, None]
    assert (np.diff(slopes, axis=0) < -1e-3).all()
    assert (np.diff(scaled[1:] / orders[1:, None], axis=0) < -1e-3).all()


@dtypes
@pytest.mark.parametrize("name", METRICS)
def test_triangle_inequality(name, dtype):
    """By way of a third distribution and of the middle, where differences of probabilities have equality."""
    p, q, other = draw("triangle", 3)
    divergence, power = bind(name, dtype), METRICS[name]
    for via in (other, mixture(p, q, 0.5), mixture(p, other, 0.8)):
        direct, first, second = divergence(p, q), divergence(p, via), divergence(via, q)
        assert (direct**power <= (first**power + second**power) * (1.0 + ROUNDING[dtype])).all()
    first, second = divergence(p, mixture(p, q, 0.5)), divergence(mixture(p, q, 0.5), q)
    if power == 1.0:
        np.testing.assert_allclose(first + second, divergence(p, q), rtol=ROUNDING[dtype])
    else:
        assert (first + second < 0.99 * divergence(p, q)).all()


def components(p, q):
    """Pairs of three classes and of two, and their products, as pairs of six."""
    one, two = (
        [np.pad(normalised(x), ((0, 0), (0, V - x.shape[-1])), constant_values=-INF) for x in xs]
        for xs in ((p[:, :3], q[:, :3]), (p[:, 3:5], q[:, 3:5]))
    )
    whole = [(x[:, :3, None] + y[:, None, :2]).reshape(N, V) for x, y in zip(one, two, strict=True)]
    return one, two, whole


@dtypes
@pytest.mark.parametrize("name", [n for n in MEMBERS if not n.startswith("wasserstein")])
def test_products(name, dtype):
    divergence = bind(name, dtype)
    one, two, whole = (divergence(*pair) for pair in components(*draw("products")))
    c = MEMBERS[name].product
    if c is None:
        assert (np.abs(whole / (one + two) - 1.0) > 0.01).any()
    else:
        np.testing.assert_allclose(whole, one + two + c * one * two, rtol=ROUNDING[dtype])
    if name == "total_variation":
        slack = 1.0 - ROUNDING[dtype]
        assert (whole >= np.maximum(one, two) * slack).all()
        assert (whole * slack <= 1.0 - (1.0 - one) * (1.0 - two)).all()


@dtypes
def test_places_on_the_line(dtype):
    """Wasserstein follows the places' unit and no origin, and lies between total variation times two distances."""
    p, q = draw("line")
    divergence, variation = bind("wasserstein at", dtype), bind("total_variation", dtype)(p, q)
    value = divergence(p, q)
    close = functools.partial(np.testing.assert_allclose, rtol=ROUNDING[dtype])
    close(divergence(p, q, 3.0 * POSITIONS), 3.0 * value)
    close(divergence(p, q, 2.0 - POSITIONS), value)
    close(divergence(p, q, np.arange(float(V))), bind("wasserstein", dtype)(p, q))
    close(divergence(p, q, 2.0 * (np.arange(V) % 2)), 2.0 * np.abs((np.exp(p) - np.exp(q))[:, ::2].sum(-1)))
    gaps = np.diff(ON_THE_LINE)
    assert (value >= variation * gaps.min()).all() and (value <= variation * gaps.sum()).all()
