"""What the comparison of divergences counts as wrong, and that peers are asked for what our records give."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import divergence_accuracy, divergence_oracle
from benchmarks.divergence_oracle import Truth
from benchmarks.divergence_peers import peers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peers' own, on import
    PEERS, LINES = peers()
PAIRS = [(record, peer) for record, row in PEERS.items() for peer in row]
NONE = divergence_accuracy.Cell(0.0, 0.0, *[0] * 9)


def scored(values, gradients, truth):
    return divergence_accuracy.score(
        np.array(values), [(2, np.array(gradients))], truth, np.ones(len(truth), bool)
    )  # fmt: skip


def test_nan_and_infinity_are_two_faults_and_count_where_the_truth_is_finite():
    one = Truth(1.0, None, np.array([1.0, -1.0]))
    infinite = Truth(np.inf, None, None)
    nan = [np.nan, np.nan]
    cell = scored(
        [1.0, np.nan, np.inf, -1e-3, np.inf, np.nan],
        [[1.5, -1.0], nan, [np.inf, 0.0], [1.0, -1.0], nan, nan],
        [one, one, one, one, infinite, infinite],
    )
    assert cell == NONE._replace(
        value_error=1.001, gradient_error=0.5, finite_rows=4, nan_values=1, infinite_values=1, gradient_rows=4,
        nan_gradients=1, infinite_gradients=1, infinities=2, infinities_right=1, negative=1,
    )  # fmt: skip
    assert cell.text() == "1e+00 (NaN 25%) (inf 25%) ; 5e-01 (NaN 25%) (inf 25%) inf 1/2 neg 1"


def test_a_gradient_beyond_the_range_is_not_judged():
    cell = scored([1.0], [[np.nan, np.inf]], [Truth(1.0, None, None)])
    assert cell == NONE._replace(finite_rows=1) and cell.clean() and cell.text() == "0e+00"


@pytest.mark.parametrize(
    "field", ["nan_values", "nan_gradients", "infinite_values", "infinite_gradients", "infinities", "negative"]
)
def test_one_fault_breaks_the_promise_and_fails_the_regime(field):
    assert NONE.holds("float32") and not NONE.fails("float32")
    cell = NONE._replace(**{field: 1})
    assert not cell.holds("float32") and cell.fails("float32")


def test_an_error_fails_a_regime_by_the_dtype():
    cell = NONE._replace(gradient_error=0.05)
    assert cell.fails("float32") and not cell.fails("bfloat16")


def test_an_implementation_has_one_row_over_its_records():
    good, bad = dict.fromkeys(divergence_accuracy.REGIMES, NONE), dict.fromkeys(divergence_accuracy.REGIMES, NONE)
    bad["wide"] = NONE._replace(value_error=0.5, nan_gradients=2, infinities=3, infinities_right=1)
    bad["near-equal"] = NONE._replace(value_error=0.003)
    table = {"kl: a": good, "kl: b": good, "reverse_kl: a": bad}
    lines = divergence_accuracy.by_implementation({"float32": table, "bfloat16": table | {"kl: a": bad}})
    assert len(lines) == 4
    columns = ["a (2)", "5e-01 (3e-03) / 5e-01 (3e-03)", "0e+00 (0e+00) / 0e+00 (0e+00)", "0, 2 / 0, 4"]
    columns += ["2, 0 / 4, 0", "0 / 0", "wide 1", "wide 2"]
    assert lines[2] == f"| {' | '.join(columns)} |"
    assert lines[3].startswith("| b (1) | 0e+00") and lines[3].endswith("| none | none |")


def test_optax_is_here_and_every_package_has_its_line():
    assert len(LINES) == 4 and any(line.startswith("optax ") for line in LINES)
    assert ("kl", "optax") in PAIRS


@pytest.mark.parametrize(("record", "peer"), PAIRS, ids=[": ".join(pair) for pair in PAIRS])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # of a constant in tfp
def test_a_peer_is_asked_for_what_the_record_gives(record, peer):
    """Same direction, factor and unit, for value and gradient; in bfloat16 with a cast, as exact as in float32."""
    rng = np.random.default_rng(3)
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 1e-2)):
        a, b = (np.asarray(2 * rng.normal(size=(2, 6)), jnp.dtype(dtype)) for _ in "ab")
        value, gradient = PEERS[record][peer](jnp.asarray(a), jnp.asarray(b), True)
        for i, row in enumerate(divergence_oracle.truths([record], a, b)):
            assert divergence_oracle.relative_error(value[i], row[record].value) < 1e-4
            assert divergence_oracle.gradient_error(gradient[i], row[record].grad_q) < tolerance


def test_a_cast_is_left_out_unless_asked_for():
    a, b = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 64)), jnp.bfloat16)
    rounded, exact = (PEERS["kl"]["optax"](a, b, cast)[0] for cast in (False, True))
    assert np.all(rounded != exact) and np.allclose(rounded, exact, rtol=0.1)


def test_where_gives_optax_the_value_with_masks():
    a = jnp.array([[0.3, -jnp.inf, 1.0], [0.3, -jnp.inf, 1.0]])
    b = jnp.array([[0.1, -jnp.inf, 0.0], [0.1, 2.0, -jnp.inf]])
    value, gradient = PEERS["kl"]["optax log targets, where"](a, b, False)
    (truth, _) = divergence_oracle.truths(["kl"], np.asarray(a), np.asarray(b))
    assert value[0] == pytest.approx(float(truth["kl"].value), rel=1e-5) and value[1] == np.inf
    assert np.isfinite(gradient[0]).all() and np.isnan(PEERS["kl"]["optax"](a, b, False)[0][0])
