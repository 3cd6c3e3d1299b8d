"""What a configuration means and what it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from experiments.speedrun.config import Config, NetworkConfig, StudentConfig, TeacherConfig
from jaxdiv import distillation
from jaxdiv.distillation import LogNormal
from jaxdiv.networks import cifar10_edm


def of_student(**settings):
    method = settings.pop("method", "uni_instruct")
    return Config(method=method, student=StudentConfig(**settings)).distillation_method


def test_methods_are_the_published_ones_with_a_mean_over_pixels():
    for name in ("sid", "sida", "dmd2", "uni_instruct", "f_distill", "diff_instruct"):
        settings = StudentConfig(gan_weight=None, fake_steps=None)
        published, ours = distillation.METHODS[name], Config(method=name, student=settings).distillation_method
        # Under reverse KL the ratio does not enter, so none is asked for.
        ratio = "one" if name == "uni_instruct" else published.objective.ratio
        expected = dataclasses.replace(
            published,
            objective=dataclasses.replace(published.objective, reduction="mean", ratio=ratio),
        )
        assert ours == expected, name


def test_defaults_weigh_the_adversarial_term_of_methods_that_have_one():
    for name in ("sid", "sida", "dmd2", "f_distill"):
        published, ours = distillation.METHODS[name], Config(method=name).distillation_method
        assert ours.gan_weight == (1.0 if published.gan_weight else 0.0)
        assert ours.num_fake_steps == 1


def test_every_knob_reaches_the_method():
    method = of_student(
        fake_steps=3, ratio="one", time_weight="uniform", noise_mean=-0.5, noise_std=1.0, sample_weight="none",
        gan_weight=0.2, discriminator_weight=0.3, r1_weight=0.4, feature_source="teacher",
    )  # fmt: skip
    assert (method.r1_weight, method.r1_scale) == (0.4, 0.1)
    assert method.num_fake_steps == 3 and method.feature_source == "teacher"
    assert (method.gan_weight, method.discriminator_weight) == (0.2, 0.3)
    assert method.student_noise == method.fake_noise == LogNormal(-0.5, 1.0)
    objective = method.objective
    assert (objective.ratio, objective.sample_weight, objective.time_weight) == ("one", "none", distillation.uniform)


def test_without_its_adversarial_term_a_method_may_be_data_free():
    assert not Config(method="sida").is_data_free
    assert Config(method="sida", student=StudentConfig(gan_weight=0.0)).is_data_free
    assert Config(method="sid").is_data_free
    assert Config(method="uni_instruct", student=StudentConfig(gan_weight=0.0)).is_data_free  # reverse KL
    assert not Config(method="uni_instruct", divergence="kl", student=StudentConfig(gan_weight=0.0)).is_data_free


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({}, {"student": 12.0}),
        ({"minutes": 4.0}, {"student": 4.0}),
        ({"track": "scratch"}, {"teacher": 10.4, "student": 15.6}),
        ({"track": "scratch", "minutes": 10.0, "teacher_share": 0.3}, {"teacher": 3.0, "student": 7.0}),
    ],
)
def test_minutes_of_the_stages(changes, stages):
    assert Config(**changes).stage_minutes == pytest.approx(stages)


def test_the_folder_names_the_run():
    path = Config(method="sid", seed=3).run_directory
    assert path.parent == Path("runs/speedrun") and re.fullmatch(r"teacher-sid-reverse_kl-\w{6}-seed3", path.name)
    assert Config(directory=Path("here")).run_directory == Path("here")


def test_runs_that_differ_in_more_than_the_seed_have_folders_and_lines_of_their_own():
    config = Config(method="sid")
    same = [{"seed": 1}, {"minutes": 12.0}, {"resume": True}, {"cache": None}, {"piece_minutes": 9.0}, {"change": "x"}]
    assert {dataclasses.replace(config, **changes).settings_hash for changes in same} == {config.settings_hash}
    other = [
        {"alpha": 0.5}, {"minutes": 4.0}, {"num_samples": 100}, {"student": StudentConfig(ratio="one")},
        {"track": "scratch"}, {"teacher": Path("other.npz")},
    ]  # fmt: skip
    hashes = {dataclasses.replace(config, **changes).settings_hash for changes in other}
    assert len(hashes | {config.settings_hash}) == len(other) + 1


def test_the_network_of_a_run_from_scratch():
    assert NetworkConfig(channel_mult=(2, 2, 2), num_blocks=4).unet(label_dim=0) == cifar10_edm(dropout=0.0)
    assert NetworkConfig().unet(label_dim=10).label_dim == 10


def test_a_stage_resumes_with_its_own_settings_only():
    config = Config(track="scratch")
    other_student = dataclasses.replace(config, student=StudentConfig(learning_rate=1e-3), change="faster")
    assert config.fingerprint("teacher") == other_student.fingerprint("teacher")
    assert config.fingerprint("student") != other_student.fingerprint("student")
    other_teacher = dataclasses.replace(config, training=TeacherConfig(batch_size=256))
    assert config.fingerprint("teacher") != other_teacher.fingerprint("teacher")
    json.dumps(config.fingerprint("student"))
    # From the fixed teacher none of its training matters.
    fixed, other = Config(), Config(training=TeacherConfig(batch_size=256))
    assert fixed.fingerprint("student") == other.fingerprint("student")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"track": "both"}, "track"),
        ({"method": "gan"}, "method"),
        ({"method": "dmd"}, "method is dmd; expected one that regresses onto no pairs"),
        ({"method": "sid", "divergence": "kl"}, "divergence"),
        ({"divergence": "kll"}, "divergence"),
        ({"minutes": 0.0}, "minutes"),
        ({"piece_minutes": -1.0}, "piece_minutes"),
        ({"teacher_share": 1.0}, "teacher_share"),
        ({"num_samples": 0}, "num_samples"),
        ({"curve_points": -1}, "curve_points"),
        ({"teacher_levels": (18, 0)}, "teacher_levels"),
        ({"seed": -1}, "seed"),
        ({"track": "scratch", "teacher": Path("weights.npz")}, "teacher"),
        ({"student": StudentConfig(batch_size=0)}, "student.batch_size"),
        ({"student": StudentConfig(init_sigma=0.0)}, "student.init_sigma"),
        ({"student": StudentConfig(warmup=0.6, decay_from=0.5)}, "student.warmup"),
        ({"student": StudentConfig(adam_b1=1.5)}, "student.adam_b1"),
        ({"student": StudentConfig(clip_norm=-1.0)}, "student.clip_norm"),
        ({"student": StudentConfig(fake_rate_factor=-2.0)}, "student.fake_rate_factor"),
        ({"student": StudentConfig(noise_std=0.0)}, "student.noise_std"),
        ({"student": StudentConfig(optimizer="sgd")}, "student.optimizer"),
        ({"student": StudentConfig(fake_optimizer="sgd")}, "student.fake_optimizer"),
        ({"student": StudentConfig(time_weight="x")}, "student.time_weight"),
        ({"student": StudentConfig(fake_steps=0)}, "student.fake_steps"),
        ({"method": "sid", "student": StudentConfig(gan_layers=(0,))}, "gan_layers is given; expected none"),
        ({"method": "sid", "student": StudentConfig(r1_weight=3.0)}, "r1_weight is 3.0; expected 0 without"),
        ({"method": "sid", "student": StudentConfig(discriminator_weight=0.5)}, "discriminator_weight is given"),
        ({"method": "sid", "student": StudentConfig(feature_source="teacher")}, "feature_source is given"),
        ({"track": "scratch", "student": StudentConfig(gan_layers=(4,))}, "student.gan_layers"),
        ({"track": "scratch", "network": NetworkConfig(channels=3)}, "model_channels"),
        ({"training": TeacherConfig(steps=0)}, "training.steps"),
        ({"training": TeacherConfig(ema_images=0)}, "training.ema_images"),
        ({"training": TeacherConfig(learning_rate=0.0)}, "training.learning_rate"),
    ],
)
def test_refusals_name_the_setting(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
