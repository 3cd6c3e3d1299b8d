"""Coefficient schedules of the Newton-Schulz iteration as data, each with its source and what it does to [0, 1].

A row (a, b, c) is one step, ``sigma <- a sigma + b sigma^3 + c sigma^5`` on every singular value. What a schedule
makes of an interval is a property of that scalar map; the intervals below were computed from it and are held by tests.
"""

import dataclasses
import math
import numbers
import types
from typing import Any

from jaxdiv.checks import check_choice, check_instance, check_real, fail

Row = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps of the iteration ``X <- a X + (b A + c A^2) X`` with ``A = X X^T``, and how its input is scaled.

    Frozen and hashable, so that it can be a static argument and a part of a configuration.

    >>> Schedule("classic", ((1.5, -0.5, 0.0),) * 3, source="Bjorck and Bowie, SIAM J. Numer. Anal. 8, 1971").slope
    3.375
    """

    name: str
    coefficients: tuple[Row, ...]
    """One row (a, b, c) per step."""
    safety: float = 1.0
    """The input is divided by ``safety`` times its Frobenius norm; above 1 where the first step grows fast beyond 1."""
    rescale: str = "frobenius"
    """"frobenius" divides by the norm and no more; "aol" then divides row i by the root of ``sum_j |A_ij|``, which
    keeps the spectral norm at most 1 and brings it closer to 1."""
    source: str = ""
    """Where the coefficients come from, and what was found when they were checked."""

    def __post_init__(self) -> None:
        check_instance("Schedule", "name", self.name, str)
        check_instance("Schedule", "source", self.source, str)
        expected = "a non-empty tuple of rows (a, b, c) of finite numbers"
        rows = self.coefficients
        if not isinstance(rows, tuple) or not rows or not all(map(_is_row, rows)):
            raise fail("Schedule", "coefficients", f"is {rows!r}", expected)
        check_real("Schedule", "safety", self.safety, 0.0, math.inf, open_low=True, open_high=True)
        check_choice("Schedule", "rescale", self.rescale, ("frobenius", "aol"))

    @property
    def slope(self) -> float:
        """What the steps multiply a very small singular value of the scaled input by: the product of the a's."""
        return math.prod(a for a, _, _ in self.coefficients)


def _is_row(row: Any) -> bool:
    numeric = isinstance(row, tuple) and len(row) == 3 and all(isinstance(x, numbers.Real) for x in row)
    return numeric and all(math.isfinite(x) for x in row)


def find_schedule(function: str, schedule: Any) -> Schedule:
    """The schedule, or the one of `SCHEDULES` that a name stands for.

    >>> find_schedule("f", "you").name
    'you'
    """
    if isinstance(schedule, Schedule):
        return schedule
    check_choice(function, "schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]


_JORDAN: Row = (3.4445, -4.7750, 2.0315)

# "sigma in [l, 1] lands in [p, q]": of the scalar map in exact arithmetic; half precision adds its rounding.
_ALL = (
    Schedule(
        "jordan",
        (_JORDAN,) * 5,
        source="Jordan et al., Muon: an optimizer for hidden layers (2024), the five equal steps that are torch's and "
        "optax's default. It does not converge: sigma in [0.003, 1] lands in [0.68, 1.21].",
    ),
    Schedule(
        "you",
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        source="Cesista, You and Jordan, Squeezing 1-2% efficiency gains out of Muon by optimizing the Newton-Schulz "
        "coefficients (2025); optax's 'dion' preset. Sigma in [0.01, 1] lands in [0.977, 1.032], in "
        "[0.003, 1] in [0.977, 1.146].",
    ),
    Schedule(
        "polar_express",
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        safety=1.02,
        source="Amsel et al., The Polar Express (2025), arXiv 2505.16932, five steps for 1.02 times the norm as "
        "modded-nanogpt uses them. Greedy minimax: sigma in [0.0011, 1] lands in [0.858, 1.142], the ends attained.",
    ),
    Schedule(
        "polar_express_8",
        (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        ),
        source="Amsel et al., The Polar Express (2025), arXiv 2505.16932, eight steps with a factor 1.01 folded in, as "
        "NVIDIA Emerging-Optimizers has them. Sigma in [0.001, 1] lands within 1e-4 of 1.",
    ),
    Schedule(
        "aol",
        (
            (4.6051, -9.6552, 5.6769),
            (4.7505, -6.0861, 2.1790),
            (2.7763, -2.3190, 0.5523),
            (2.4231, -2.2861, 0.8193),
        ),
        rescale="aol",
        source="Boissin et al., Turbo-Muon (2025), the almost-orthogonal rescaling; four steps with microsoft/dion's "
        "coefficients: sigma in [0.01, 1] lands in [0.940, 1.051]. Turbo-Muon's own table, (4.0098, -7.0585, 2.4635) "
        "first, is not offered: that row is negative above sigma = 0.884, so that the identity comes back as "
        "-0.99 times itself.",
    ),
    Schedule(
        "cans",
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        safety=1.02,
        source="Grishina et al., Accelerating Newton-Schulz iteration by Chebyshev-type polynomials (2025), arXiv "
        "2506.10935. Sigma in [0.0011, 1] lands in [0.884, 1.120]. The five steps have slope 49,000 at 1, so that a "
        "matrix of rank one, rounded, diverged: the safety is added here. bfloat16 still reaches 1.7 to 2.6.",
    ),
    Schedule(
        "deepseek_v4",
        (_JORDAN,) * 8 + ((2.0, -1.5, 0.5),) * 2,
        source="DeepSeek-V4 (2026): eight of Jordan's steps, then two that converge cubically. Sigma in [0.001, 1] "
        "lands in [0.999, 1.001].",
    ),
    Schedule(
        "cubic",
        (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        safety=1.02,
        source="NVIDIA Emerging-Optimizers, 'cubic5': no A^2, so a step costs two products of three. Sigma in "
        "[0.011, 1] lands in [0.77, 1.301]. Above 1.001 it turns the sign around; the safety is added here.",
    ),
)

SCHEDULES: types.MappingProxyType[str, Schedule] = types.MappingProxyType({s.name: s for s in _ALL})
"""The schedules by name; every `schedule` argument takes a name or a `Schedule`."""
