"""Divergences of two samples, or of one sample and a score: blockwise, differentiable, with tests of level."""

from jaxdiv.divergences.two_sample.frechet import frechet_distance, frechet_distance_from_moments
from jaxdiv.divergences.two_sample.gram import center_gram, gram_matrix, gram_product, median_bandwidth
from jaxdiv.divergences.two_sample.kernels import (
    Kernel,
    distance_kernel,
    gaussian_kernel,
    inverse_multiquadric_kernel,
    laplace_kernel,
    linear_kernel,
    polynomial_kernel,
    rational_quadratic_kernel,
)
from jaxdiv.divergences.two_sample.mmd import energy_distance, kernel_cauchy_schwarz, squared_mmd
from jaxdiv.divergences.two_sample.neighbors import NeighborEstimate, knn_kl, knn_renyi, nearest_neighbors
from jaxdiv.divergences.two_sample.permutation import PermutationTest, kernel_permutation_test, permutation_test
from jaxdiv.divergences.two_sample.sliced import projected_wasserstein, sliced_wasserstein
from jaxdiv.divergences.two_sample.stein import squared_ksd, stein_bootstrap_test

__all__ = [
    "Kernel",
    "NeighborEstimate",
    "PermutationTest",
    "center_gram",
    "distance_kernel",
    "energy_distance",
    "frechet_distance",
    "frechet_distance_from_moments",
    "gaussian_kernel",
    "gram_matrix",
    "gram_product",
    "inverse_multiquadric_kernel",
    "kernel_cauchy_schwarz",
    "kernel_permutation_test",
    "knn_kl",
    "knn_renyi",
    "laplace_kernel",
    "linear_kernel",
    "median_bandwidth",
    "nearest_neighbors",
    "permutation_test",
    "polynomial_kernel",
    "projected_wasserstein",
    "rational_quadratic_kernel",
    "sliced_wasserstein",
    "squared_ksd",
    "squared_mmd",
    "stein_bootstrap_test",
]
