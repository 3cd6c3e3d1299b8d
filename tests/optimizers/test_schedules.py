import dataclasses

import numpy as np
import pytest

from jaxdiv.optimizers import SCHEDULES, Schedule, orthogonalize
from jaxdiv.optimizers.schedules import find_schedule
from tests.optimizers.oracles import scalar_map

# Name: (least sigma, where [least sigma, 1] lands), of the scalar map; what the sources of the records say.
INTERVALS = {
    "jordan": (0.003, 0.68, 1.21),
    "you": (0.01, 0.977, 1.032),
    "polar_express": (0.0011, 0.858, 1.142),
    "polar_express_8": (0.001, 1 - 1e-4, 1 + 1e-4),
    "aol": (0.01, 0.940, 1.051),
    "cans": (0.0011, 0.884, 1.120),
    "deepseek_v4": (0.001, 0.999, 1.001),
    "cubic": (0.011, 0.77, 1.301),
}
TURBO_MUON = (
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
)


def test_every_schedule_has_its_interval():
    assert set(INTERVALS) == set(SCHEDULES)
    assert {len(s.coefficients) for s in SCHEDULES.values()} == {4, 5, 8, 10}


@pytest.mark.parametrize("name", sorted(INTERVALS))
def test_where_singular_values_land(name):
    least, low, high = INTERVALS[name]
    image = scalar_map(SCHEDULES[name], np.geomspace(least, 1.0, 200_001))
    assert low <= image.min() and image.max() <= high
    # The bounds are close: a table with a wrong digit lands elsewhere.
    assert image.min() < low + 0.006 and image.max() > high - 0.009


def test_the_wider_interval_of_the_default():
    image = scalar_map(SCHEDULES["you"], np.geomspace(0.003, 1.0, 100_001))
    assert 0.977 < image.min() and 1.14 < image.max() < 1.146


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_no_schedule_turns_a_singular_value_around_or_leaves_it_small(name):
    sigma = np.geomspace(1e-6, 1.0, 200_001)
    schedule = SCHEDULES[name]
    image = scalar_map(schedule, sigma)
    assert image.min() > 0.0
    np.testing.assert_allclose(image[0] / sigma[0], schedule.slope / schedule.safety, rtol=2e-2)


def test_the_table_that_is_left_out_turns_the_identity_around():
    schedule = Schedule("turbo_muon", TURBO_MUON, rescale="aol")
    assert scalar_map(schedule, np.array([0.88]))[0] > 0.0 > scalar_map(schedule, np.array([0.89]))[0]
    turned = orthogonalize(np.eye(4, dtype=np.float32), schedule=schedule, dtype="float32")
    # A matrix of orthogonal rows has singular values 1 after the rescaling, and comes back with the wrong sign.
    np.testing.assert_allclose(turned, -0.9935 * np.eye(4), atol=1e-4)
    kept = orthogonalize(np.eye(4, dtype=np.float32), schedule="aol", dtype="float32")
    np.testing.assert_allclose(kept, scalar_map(SCHEDULES["aol"], 1.0) * np.eye(4), atol=1e-5)


def test_where_a_first_step_grows_beyond_its_range():
    """What safety is for: rounding may leave a singular value above 1, and some schedules answer with far more."""
    sigma = np.linspace(1.0, 1.01, 101)
    assert all(abs(scalar_map(schedule, sigma) - 1.0).max() < 0.35 for schedule in SCHEDULES.values())
    bare = {name: scalar_map(dataclasses.replace(s, safety=1.0), np.array([1.005]))[0] for name, s in SCHEDULES.items()}
    assert bare["cans"] > 1e6 and bare["cubic"] < 0.0
    assert all(abs(bare[name] - 1.0) < 0.35 for name in set(SCHEDULES) - {"cans", "cubic"})


def test_a_schedule_is_a_value():
    you = SCHEDULES["you"]
    assert hash(you) == hash(dataclasses.replace(you)) and you == dataclasses.replace(you)
    assert you != dataclasses.replace(you, safety=1.01)
    with pytest.raises(dataclasses.FrozenInstanceError):
        you.safety = 2.0
    with pytest.raises(TypeError):
        SCHEDULES["mine"] = you
    assert all(s.source and s.name == name for name, s in SCHEDULES.items())


def test_schedules_are_found_by_name():
    assert find_schedule("f", "cans") is SCHEDULES["cans"]
    mine = Schedule("mine", ((2, -1.5, 0.5),))
    assert find_schedule("f", mine) is mine
    for wrong in ("yuo", None, 5, [1.0], ((1.0, 2.0, 3.0),)):
        with pytest.raises(ValueError, match="f: schedule is .*one of 'jordan'"):
            find_schedule("f", wrong)


ROW = (2.0, -1.5, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3),
        ("coefficients", ()),
        ("coefficients", [ROW]),
        ("coefficients", (ROW, (1.0, 2.0))),
        ("coefficients", ((1.0, float("nan"), 0.0),)),
        ("coefficients", (("a", 1.0, 2.0),)),
        ("coefficients", ROW),
        ("safety", 0.0),
        ("safety", -1.0),
        ("safety", float("inf")),
        ("safety", "1"),
        ("rescale", "spectral"),
        ("source", None),
    ],
    ids=str,
)
def test_a_malformed_schedule_is_refused(field, value):
    fields = {"name": "mine", "coefficients": (ROW,)} | {field: value}
    with pytest.raises(ValueError, match=f"^Schedule: {field} "):
        Schedule(**fields)
