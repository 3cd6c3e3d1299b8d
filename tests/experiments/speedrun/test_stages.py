"""The fixed teacher, the networks of both stages, and what the student's settings do to gradients and optimizers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.speedrun import student, teacher
from experiments.speedrun.config import Config, StudentConfig
from experiments.speedrun.run import run
from experiments.speedrun.student import build_student, distillation_config
from experiments.speedrun.teacher import build_denoiser, load_teacher
from jaxdiv import distillation
from tests.experiments.speedrun.small import small_config
from tests.networks.edm_oracle import random_state_dict

NET = {
    "img_resolution": 32, "img_channels": 3, "model_channels": 8, "channel_mult": [1], "channel_mult_emb": 2,
    "num_blocks": 1, "attn_resolutions": [], "label_dim": 0, "augment_dim": 0,
}  # fmt: skip


def write_teacher(folder, name="small_teacher.npz", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / name, **random_state_dict(NET | changes, seed=0))
    (folder / "config.json").write_text(json.dumps({"EDMPrecond": NET | changes | {"sigma_data": 0.6}}))
    return folder / name


def test_the_fixed_teacher_is_found_in_the_data_folder_or_named(tmp_path):
    path = write_teacher(tmp_path / "teacher")
    for config in (Config(data_dir=tmp_path), Config(teacher=path)):
        denoiser, params = load_teacher(config)
        assert denoiser.sigma_data == 0.6 and denoiser.shape == (32, 32, 3)
        assert params["enc"]["32x32_conv"]["kernel"].shape == (3, 3, 3, 8)


def test_a_folder_with_none_or_two_teachers_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data_dir has 0 files teacher/\*_teacher.npz; expected one"):
        load_teacher(Config(data_dir=tmp_path))
    write_teacher(tmp_path / "teacher")
    write_teacher(tmp_path / "teacher", "other_teacher.npz")
    with pytest.raises(ValueError, match="has 2 files"):
        load_teacher(Config(data_dir=tmp_path))


@pytest.mark.parametrize(("label_dim", "conditional", "has"), [(0, True, "has no classes"), (10, False, "has classes")])
def test_a_teacher_must_know_the_classes_that_the_run_has(tmp_path, label_dim, conditional, has):
    path = write_teacher(tmp_path, label_dim=label_dim)
    with pytest.raises(ValueError, match=has):
        load_teacher(Config(teacher=path, conditional=conditional))
    denoiser, params = load_teacher(Config(teacher=path, conditional=not conditional))
    assert ("map_label" in params) != conditional


@pytest.mark.slow
def test_a_data_free_run_from_the_fixed_teacher(tmp_path, splits, measure):
    path = write_teacher(tmp_path / "teacher")
    changes = {"track": "teacher", "method": "sid", "teacher": path, "teacher_levels": (2,), "curve_points": 1}
    config = small_config(tmp_path / "run", student={"steps": 2}, **changes)
    results = run(config, splits, measure)
    assert list(results["stages"]) == ["student"] and results["facts"]["data"] == "data-free"
    assert list(results["rows"]) == ["test set", "teacher, 3 evaluations", "student"]
    assert [point["step"] for point in results["curve"]] == [2]


def test_the_student_begins_as_the_teacher_at_one_noise_level():
    config = small_config(None)
    denoiser = build_denoiser(config)
    z = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    for frozen in (False, True):
        student_fn = build_student(denoiser, StudentConfig(init_sigma=1.5, frozen_convolutions=frozen))
        expected = denoiser.denoise_fn(denoiser.params, 1.5 * z, jnp.full(2, 1.5))
        np.testing.assert_allclose(student_fn(denoiser.params, z, None), expected, rtol=1e-5, atol=1e-6)


def test_frozen_convolutions_have_no_gradient_and_the_rest_has_its_own():
    denoiser = build_denoiser(small_config(None))
    z = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))

    def gradient(frozen):
        student_fn = build_student(denoiser, StudentConfig(frozen_convolutions=frozen))
        return jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(student_fn(params, z, None)))))(denoiser.params)

    free, frozen = (jax.tree_util.tree_leaves_with_path(gradient(value)) for value in (False, True))
    convolutions = 0
    for (path, a), (_, b) in zip(free, frozen, strict=True):
        if a.ndim == 4:
            convolutions += 1
            assert np.any(a) and not np.any(b), path
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * float(jnp.abs(a).max()), err_msg=str(path))
    assert convolutions > 5


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_one_program_serves_every_seed(stage, splits, monkeypatch):
    module, programs, keys = {"teacher": teacher, "student": student}[stage], [], []

    class Seen(Exception):
        pass

    def run_stage(name, *, make_state, step_fn, batch_fn, **rest):
        programs.append(step_fn.lower(make_state(), batch_fn(0)).as_text())
        keys.append(jax.random.key_data(batch_fn(0)[1]))
        raise Seen

    monkeypatch.setattr(module, "run_stage", run_stage)
    for seed in (0, 1):
        config = small_config(None, seed=seed)
        with pytest.raises(Seen):
            if stage == "teacher":
                teacher.train_teacher(config, splits[0])
            else:
                denoiser = build_denoiser(config)
                student.distil(config, splits[0], denoiser, denoiser.params)
    assert programs[0] == programs[1] and np.any(keys[0] != keys[1])


def test_the_librarys_configuration_follows_the_settings():
    settings = {"batch_size": 4, "learning_rate": 0.5, "fake_rate_factor": 3.0, "warmup": 0.0, "decay_from": 1.0}
    config = small_config(None, conditional=True, student=settings | {"ema_images": 40.0, "clip_norm": 1e9})
    ours = distillation_config(config, build_denoiser(config))
    assert (ours.batch_size, ours.num_classes, ours.sample_shape) == (4, 10, (32, 32, 3))
    assert ours.ema_decay == pytest.approx(0.5**0.1) and ours.sigma_data == 0.5
    assert ours.method == config.distillation_method != distillation.METHODS["uni_instruct"]
    for optimizer, rate in ((ours.student_optimizer, 0.5), (ours.fake_optimizer, 1.5)):
        params = {"w": jnp.array([1.0, -2.0])}
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(updates["w"], [-rate, rate], rtol=1e-5)  # Adam's first step is the sign
        assert isinstance(optimizer, optax.GradientTransformation)
