"""Information: estimators that say what they are, bottleneck objectives, exact bottlenecks and generalization bounds.

Every estimator returns an `Estimate` in nats, unclipped, with its kind, its ceiling and its standard error.
"""

from jaxdiv.information.binning import binned_mutual_information
from jaxdiv.information.blahut_arimoto import (
    BottleneckCurve,
    CapacityBounds,
    RateDistortion,
    channel_capacity,
    information_bottleneck_curve,
    rate_distortion_curve,
)
from jaxdiv.information.bottleneck import (
    BottleneckLoss,
    ceb_loss,
    cs_bottleneck_loss,
    dib_loss,
    hsic_bottleneck_loss,
    nib_loss,
    vib_loss,
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
from jaxdiv.information.compression import PrincipalComponents, latent_mutual_information, principal_components
from jaxdiv.information.conditional import frenzel_pompe
from jaxdiv.information.consistency import ConsistencyCheck, additivity_check, data_processing_check, independence_check
from jaxdiv.information.contraction import (
    dobrushin_coefficient,
    dropconnect_contraction,
    dropout_contraction,
    gaussian_contraction,
)
from jaxdiv.information.contrastive import flo, info_nce, interpolated_info_nce
from jaxdiv.information.critics import Critic, bilinear_critic, concatenated_critic, separable_critic
from jaxdiv.information.density_bounds import club, leave_one_out
from jaxdiv.information.dependence import cka, hsic, normalized_hsic
from jaxdiv.information.discrete import discrete_mutual_information
from jaxdiv.information.estimate import Estimate
from jaxdiv.information.fit import CriticFit, fit_critic
from jaxdiv.information.gaussian_bottleneck import GaussianBottleneck, gaussian_information_bottleneck
from jaxdiv.information.generalization import (
    bottleneck_gap_scale,
    encoder_information,
    kl_generalization_bounds,
    mean_estimator_information,
    posterior_information,
    wasserstein_generalization_bounds,
)
from jaxdiv.information.kernel_density import kolchinsky_tracey_bounds
from jaxdiv.information.kozachenko import kozachenko_leonenko
from jaxdiv.information.kraskov import ksg
from jaxdiv.information.linear_gaussian import gaussian_mutual_information
from jaxdiv.information.mixed import mixed_ksg, ross
from jaxdiv.information.neighbors import Neighbors, count_within, find_neighbors
from jaxdiv.information.nonuniformity import lnc, nonuniformity_threshold
from jaxdiv.information.renyi import matrix_renyi_entropy, matrix_renyi_mutual_information
from jaxdiv.information.representation import l12_norm, matrix_entropy, mmcr_loss, token_directions
from jaxdiv.information.resampling import PermutationNull, SubsamplingInterval, permutation_null, subsampling_interval
from jaxdiv.information.score_based import denoising_information, score_mutual_information
from jaxdiv.information.sliced import sliced_mutual_information
from jaxdiv.information.synthetic import TASKS, Task

__all__ = [
    "TASKS",
    "BottleneckCurve",
    "BottleneckLoss",
    "CapacityBounds",
    "ConsistencyCheck",
    "Critic",
    "CriticFit",
    "Estimate",
    "GaussianBottleneck",
    "MineState",
    "Neighbors",
    "Objective",
    "PermutationNull",
    "PrincipalComponents",
    "RateDistortion",
    "SubsamplingInterval",
    "Task",
    "additivity_check",
    "bilinear_critic",
    "binned_mutual_information",
    "bottleneck_gap_scale",
    "ceb_loss",
    "channel_capacity",
    "cka",
    "club",
    "concatenated_critic",
    "conditional_cauchy_schwarz",
    "count_within",
    "cs_bottleneck_loss",
    "cs_qmi",
    "data_processing_check",
    "denoising_information",
    "dib_loss",
    "discrete_mutual_information",
    "dobrushin_coefficient",
    "donsker_varadhan",
    "dropconnect_contraction",
    "dropout_contraction",
    "encoder_information",
    "find_neighbors",
    "fit_critic",
    "flo",
    "frenzel_pompe",
    "gaussian_contraction",
    "gaussian_information_bottleneck",
    "gaussian_mutual_information",
    "hsic",
    "hsic_bottleneck_loss",
    "independence_check",
    "info_nce",
    "information_bottleneck_curve",
    "interpolated_info_nce",
    "jensen_shannon_bound",
    "kl_generalization_bounds",
    "kolchinsky_tracey_bounds",
    "kozachenko_leonenko",
    "ksg",
    "l12_norm",
    "latent_mutual_information",
    "leave_one_out",
    "lnc",
    "matrix_entropy",
    "matrix_renyi_entropy",
    "matrix_renyi_mutual_information",
    "mean_estimator_information",
    "mine",
    "mixed_ksg",
    "mmcr_loss",
    "nib_loss",
    "nonuniformity_threshold",
    "normalized_hsic",
    "nwj",
    "permutation_null",
    "posterior_information",
    "principal_components",
    "rate_distortion_curve",
    "ross",
    "score_mutual_information",
    "separable_critic",
    "sliced_mutual_information",
    "smile",
    "subsampling_interval",
    "token_directions",
    "tuba",
    "vib_loss",
    "wasserstein_generalization_bounds",
]
