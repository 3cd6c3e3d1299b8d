"""What several files of this folder share."""

import pytest

from experiments.one_step_image.models import Denoiser, build_denoiser
from tests.experiments.small import small_config, small_images


@pytest.fixture(scope="session")
def images():
    return small_images()


@pytest.fixture(scope="session")
def denoiser(images) -> Denoiser:
    return build_denoiser(small_config(), images.shape, images.sigma_data, seed=0)
