"""The experiment's settings: what they become, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.one_step_image.config import Config, StudentConfig, TeacherConfig
from jaxdiv import distillation
from jaxdiv.distillation import LogNormal
from jaxdiv.divergences import alpha

PLAIN = StudentConfig(
    fake_steps=None, noise_mean=None, gan_weight=None, discriminator_weight=None, sample_weight=None
)  # fmt: skip


@pytest.mark.parametrize("name", distillation.METHODS)
def test_without_settings_of_the_task_a_method_is_the_published_one(name):
    published = distillation.METHODS[name]
    objective = dataclasses.replace(published.objective, reduction="mean")
    config = Config(method=name, distill=PLAIN, alpha=1.2 if name == "sid" else None)
    assert config.distillation_method == dataclasses.replace(published, objective=objective)


@pytest.mark.parametrize("name", distillation.METHODS)
def test_the_task_changes_what_its_fields_say(name):
    student = StudentConfig(fake_steps=3, noise_mean=-0.2, noise_std=0.7, gan_weight=0.4, discriminator_weight=0.6)
    method, published = Config(method=name, distill=student).distillation_method, distillation.METHODS[name]
    assert method.num_fake_steps == 3
    assert method.student_noise == method.fake_noise == LogNormal(-0.2, 0.7)
    assert method.objective.sample_weight == "l1" and method.objective.reduction == "mean"
    assert method.objective.gradient == published.objective.gradient
    # A method without an adversarial term gets none.
    assert method.gan_weight == (0.4 if published.gan_weight > 0 else 0.0)
    expected = 0.6 if published.gan_weight > 0 else published.discriminator_weight
    assert method.discriminator_weight == expected


def test_the_automatic_noise_law_depends_on_the_discriminator():
    assert Config(method="sid").distillation_method.student_noise == LogNormal(-0.5, 1.0)
    assert Config(method="dmd2").distillation_method.student_noise == LogNormal(-1.0, 1.0)
    assert Config(method="f_distill").distillation_method.student_noise == LogNormal(-0.5, 1.0)


def test_diff_instruct_has_its_own_decay_and_wider_noise():
    assert Config(method="diff_instruct").distillation_method.fake_noise == LogNormal(-0.5, 1.5)
    assert [Config(method=name).adam_b1 for name in ("diff_instruct", "sid", "uni_instruct")] == [0.0, 0.9, 0.9]
    given = Config(method="diff_instruct", distill=StudentConfig(adam_b1=0.5, noise_std=1.0))
    assert given.adam_b1 == 0.5 and given.distillation_method.student_noise == LogNormal(-0.5, 1.0)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({}, 1e-3),
        ({"method": "sid"}, 1e-3),
        ({"divergence": "kl"}, 5e-4),
        ({"method": "f_distill"}, 5e-4),
        ({"method": "f_distill", "divergence": "reverse_kl"}, 1e-3),
        ({"method": "f_distill", "distill": StudentConfig(learning_rate=3e-4)}, 3e-4),
    ],
)
def test_the_automatic_rate_depends_on_whether_the_ratio_enters(settings, rate):
    assert Config(**settings).learning_rate == rate


def test_divergence_and_alpha_reach_the_objective():
    objective = Config(method="f_distill", divergence="alpha(0.3)").distillation_method.objective
    assert objective.divergence == alpha(0.3)
    assert Config(method="sid").distillation_method.objective.alpha == 0.5
    assert Config(method="sim", alpha=0.7).distillation_method.objective.alpha == 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nonsense"}, "Config: method is 'nonsense'; expected one of 'diff_instruct'"),
        ({"divergence": "nonsense"}, "divergence is 'nonsense'"),
        ({"divergence": "total_variation"}, "divergence is total_variation"),
        ({"method": "sid", "divergence": "kl"}, "divergence is kl; expected none with sid"),
        ({"method": "dmd2", "alpha": 0.5}, "alpha is 0.5; expected none with dmd2"),
        ({"method": "dmd", "pairs": 0}, "pairs is 0; expected at least 1, since dmd regresses"),
        ({"num_samples": 99}, "num_samples is 99"),
        ({"pairs": -1}, "pairs is -1"),
        ({"teacher_levels": ()}, "teacher_levels is 0"),
        ({"save_every": 0}, "Config: save_every is 0"),
        ({"control_steps": 0}, "Config: control_steps is 0"),
        ({"classifier_steps": 0}, "Config: classifier_steps is 0"),
        ({"channels": 0}, "Config: channels is 0"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError) as error:
        Config(**settings)
    assert message in str(error.value)


def test_the_teachers_samples_as_real_need_pairs():
    student = StudentConfig(real="teacher")
    with pytest.raises(ValueError, match="pairs is 0; expected at least 1, since distill.real is 'teacher'"):
        Config(pairs=0, distill=student)
    # diff_instruct shows nothing as real
    assert Config(method="diff_instruct", pairs=0, distill=student).pairs == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", -1.0), ("fake_rate_factor", 0.0), ("clip_norm", -1.0), ("noise_std", 0.0), ("adam_b1", 1.5)]
    + [("ema_decay", 1.5), ("init_sigma", 0.0)],
)
def test_a_bad_rate_is_named_before_the_teacher_is_trained(name, value):
    with pytest.raises(ValueError, match=f"Config: distill.{name} is {value}"):
        StudentConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("learning_rate", -1.0), ("ema_decay", 2.0)])
def test_a_bad_rate_of_the_teacher_is_named(name, value):
    with pytest.raises(ValueError, match=f"Config: training.{name} is {value}"):
        TeacherConfig(**{name: value})


@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_a_bad_teacher_setting_is_named(name):
    with pytest.raises(ValueError, match=f"Config: training.{name} is 0"):
        TeacherConfig(**{name: 0})


@pytest.mark.parametrize("name", ["cycles", "batch_size", "evaluations", "latent_dims", "init_sigma"])
def test_a_bad_student_setting_is_named(name):
    with pytest.raises(ValueError, match=f"Config: distill.{name} is 0"):
        StudentConfig(**{name: 0})


@pytest.mark.parametrize("kind", [TeacherConfig, StudentConfig])
def test_a_negative_seed_is_refused(kind):
    with pytest.raises(ValueError, match="seed is -1"):
        kind(seed=-1)


def test_the_directory_tells_runs_apart():
    assert Config().run_directory == Path("runs/one_step_image/digits-uni_instruct-reverse_kl-seed0")
    names = {
        Config(method="sid").run_directory,
        Config(divergence="kl").run_directory,
        Config(data="mnist").run_directory,
        Config(distill=StudentConfig(seed=1)).run_directory,
        Config().run_directory,
    }
    assert len(names) == 5
    assert Config(directory=Path("here")).run_directory == Path("here")


def test_fingerprints_hold_what_must_not_change_and_nothing_else():
    base = Config()
    changed = {
        "method": Config(method="sid"),
        "divergence": Config(divergence="kl"),
        "cycles": Config(distill=StudentConfig(cycles=7)),
    }
    for config in changed.values():
        assert config.student_fingerprint() != base.student_fingerprint()
        assert config.teacher_fingerprint() == base.teacher_fingerprint()
    teacher = Config(training=TeacherConfig(steps=3))
    assert teacher.teacher_fingerprint() != base.teacher_fingerprint()
    for data in (Config(data="mnist"), Config(network="unet")):
        assert data.student_fingerprint() != base.student_fingerprint()
        assert data.teacher_fingerprint() != base.teacher_fingerprint()
    free = Config(num_samples=100, save_every=5, directory=Path("x"), resume=True, control_steps=1, tensorboard=True)
    assert free.student_fingerprint() == base.student_fingerprint()
    fingerprint = base.student_fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint
