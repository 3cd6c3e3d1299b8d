"""Settings are values, and a bad one is named."""

import dataclasses

import optax
import pytest

from jaxdiv.distillation import METHODS, Config, KarrasUniform, Method, Networks, NoiseBins, Objective
from jaxdiv.divergences import kl

ADAM = optax.adam(1e-3)


def config(**change):
    settings = dict(
        method=METHODS["sid"], sample_shape=(4, 4, 1), batch_size=8, student_optimizer=ADAM, fake_optimizer=ADAM
    )
    return Config(**{**settings, **change})


def test_settings_are_equal_by_content():
    assert config() == config() and hash(config()) == hash(config())
    assert config(bins=NoiseBins(num=3)) != config()
    assert dataclasses.replace(config(), batch_size=16) == config(batch_size=16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().batch_size = 3


def test_networks_need_no_head():
    assert Networks(min, max, sum).head_fn is None


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"sample_shape": ()}, "sample_shape"),
        ({"sample_shape": (4, 0)}, "sample_shape"),
        ({"batch_size": 0}, "batch_size"),
        ({"sigma_data": 0.0}, "sigma_data"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"ema_decay": -0.1}, "ema_decay"),
        ({"num_classes": 0}, "num_classes"),
        ({"ratio_decay": 1.0}, "ratio_decay"),
        ({"ratio_limit": 0.0}, "ratio_limit"),
        ({"student_start": -1}, "student_start"),
        ({"gan_start": -1}, "gan_start"),
    ],
)
def test_a_bad_setting_of_a_run(change, argument):
    with pytest.raises(ValueError, match=rf"^Config: {argument}.*expected"):
        config(**change)


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"gan_weight": -1.0}, "gan_weight"),
        ({"discriminator_weight": -1.0}, "discriminator_weight"),
        ({"r1_weight": float("nan")}, "r1_weight"),
        ({"r1_scale": 0.0}, "r1_scale"),
        ({"regression_weight": -0.5}, "regression_weight"),
        ({"num_fake_steps": 0}, "num_fake_steps"),
        ({"feature_source": "student"}, "feature_source"),
        ({"r1_weight": 1.0}, "r1_weight"),
    ],
)
def test_a_bad_setting_of_a_method(change, argument):
    with pytest.raises(ValueError, match=rf"^Method: {argument}.*expected"):
        Method(Objective(kl()), **change)


@pytest.mark.parametrize(
    ("settings", "argument"), [({"sigma_min": 1.0, "sigma_max": 1.0}, "sigma_min"), ({"rho": -1.0}, "rho")]
)
def test_a_bad_noise_law_is_refused_when_it_is_made(settings, argument):
    with pytest.raises(ValueError, match=f"^KarrasUniform: {argument}"):
        KarrasUniform(**settings)
