"""Information: estimators that say what they are, bottleneck objectives, exact bottlenecks and generalization bounds.

Every estimator returns an `Estimate` in nats, unclipped, with its kind, its ceiling and its standard error.
"""

from jaxdiv.information.blahut_arimoto import (
    BottleneckCurve,
    CapacityBounds,
    RateDistortion,
    channel_capacity,
    information_bottleneck_curve,
    rate_distortion_curve,
)
from jaxdiv.information.bounds import (
    MineState,
    Objective,
    donsker_varadhan,
    jensen_shannon_bound,
    mine,
    nwj,
    smile,
    tuba,
)
from jaxdiv.information.cauchy_schwarz import conditional_cauchy_schwarz, cs_qmi
from jaxdiv.information.contrastive import flo, info_nce, interpolated_info_nce
from jaxdiv.information.density_bounds import club, leave_one_out
from jaxdiv.information.dependence import cka, hsic, normalized_hsic
from jaxdiv.information.estimate import Estimate
from jaxdiv.information.gaussian_bottleneck import GaussianBottleneck, gaussian_information_bottleneck
from jaxdiv.information.synthetic import TASKS, Task

__all__ = [
    "
    "BottleneckCurve",
    "
    "CapacityBounds",
    "
    "Estimate",
    "
    "GaussianBottleneck",
    "
    "MineState",
    "
    "Objective",
    "
    "RateDistortion",
    "
    "TASKS",
    "
    "Task",
    "
    "channel_capacity",
    "
    "club",
    "
    "donsker_varadhan",
    "
    "flo",
    "
    "gaussian_information_bottleneck",
    "
    "info_nce",
    "
    "information_bottleneck_curve",
    "
    "interpolated_info_nce",
    "
    "jensen_shannon_bound",
    "
    "leave_one_out",
    "
    "mine",
    "
    "nwj",
    "
    "rate_distortion_curve",
    "
    "smile",
    "
    "tuba",
    "cka",
    "conditional_cauchy_schwarz",
    "cs_qmi",
    "hsic",
    "normalized_hsic",
]
