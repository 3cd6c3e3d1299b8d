"""The teacher: trained, resumed, loaded; and folders that hold none."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.one_step_image.teacher import denoising_loss, load_teacher, teacher_optimizer, train_teacher
from jaxdiv import networks
from jaxdiv.training import checkpoint_path, checkpoint_steps, load_leaves, read_metrics
from tests.experiments.small import contents, small_config

CONFIG = small_config()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("run")
    return folder, *train_teacher(CONFIG, images, folder / "teacher")


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_training_leaves_checkpoints_and_metrics(trained):
    folder, denoiser, params = trained
    assert checkpoint_steps(folder / "teacher" / "checkpoints") == [10, 20]
    assert [record["step"] for record in read_metrics(folder / "teacher" / "metrics.jsonl")] == [20]
    assert not same(params, denoiser.params)


def test_a_finished_training_is_not_done_again(trained, images):
    folder, _, params = trained
    before = contents(folder)
    _, again = train_teacher(CONFIG, images, folder / "teacher")
    assert same(params, again)
    assert contents(folder) == before


def test_an_interrupted_training_resumes_to_the_same_bits(trained, images, tmp_path):
    folder, _, params = trained
    shutil.copytree(folder / "teacher", tmp_path / "teacher", ignore=shutil.ignore_patterns("step_00000020"))
    assert checkpoint_steps(tmp_path / "teacher" / "checkpoints") == [10]
    _, again = train_teacher(CONFIG, images, tmp_path / "teacher")
    assert same(params, again)
    alone, resumed = (load_leaves(checkpoint_path(run / "teacher" / "checkpoints", 20)) for run in (folder, tmp_path))
    assert list(alone) == list(resumed) and len(alone) > len(jax.tree.leaves(params))  # the optimizer's state too
    for name, leaf in alone.items():
        assert np.asarray(leaf).tobytes() == np.asarray(resumed[name]).tobytes(), name
    assert [record["step"] for record in read_metrics(tmp_path / "teacher" / "metrics.jsonl")] == [20]


def test_a_trained_teacher_is_loaded(trained, images):
    folder, denoiser, params = trained
    loaded, weights = load_teacher(CONFIG, images, folder)
    assert same(params, weights) and loaded.sigma_data == denoiser.sigma_data and loaded.shape == (8, 8, 1)


def test_the_loss_follows_the_key(denoiser, images):
    batch = images.scaled("train")[:64]
    loss = jax.jit(lambda params, key: denoising_loss(denoiser, params, batch, key))
    a, b, other = (loss(denoiser.params, jax.random.key(seed)) for seed in (0, 0, 1))
    assert a == b != other and a.shape == () and 0.2 < a < 5


def test_the_rate_warms_up_and_falls():
    optimizer = teacher_optimizer(small_config(training={"steps": 4000, "learning_rate": 1e-2}).training)
    params = {"w": np.zeros(3, np.float32)}
    state = optimizer.init(params)

    def size_at(count):
        moved = jax.tree.map(lambda x: np.full_like(x, count) if np.asarray(x).dtype == np.int32 else x, state)
        # With equal moments of one constant gradient, bias correction aside, the update is the rate.
        updates, _ = optimizer.update({"w": np.ones(3, np.float32)}, moved, params)
        return -float(updates["w"][0])

    first, half, last = size_at(0), size_at(2000), size_at(7999)
    assert first == pytest.approx(1e-2 / 300, rel=1e-3)
    assert half > last > 0 and half / last == pytest.approx(2.0, rel=1e-2)


def test_folders_without_a_teacher_are_named(tmp_path, trained, images):
    folder, _, _ = trained
    with pytest.raises(ValueError, match=r"load_teacher: teacher .*nowhere holds none; expected teacher/checkpoints"):
        load_teacher(CONFIG, images, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"was trained on digits; expected one trained on mnist"):
        load_teacher(small_config(data="mnist"), images, folder)
    smaller = images._replace(train={"image": images.train["image"][:, :6, :6], "label": images.train["label"]})
    with pytest.raises(ValueError, match=r"restore_checkpoint: .* does not fit"):
        load_teacher(CONFIG, smaller, folder)


def test_an_unfinished_teacher_is_refused(tmp_path, trained, images):
    folder, _, _ = trained
    checkpoints = tmp_path / "teacher" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copytree(folder / "teacher" / "checkpoints" / "step_00000010", checkpoints / "step_00000010")
    with pytest.raises(ValueError, match="is at step 10; expected all 20; finish it first"):
        load_teacher(CONFIG, images, tmp_path)


EDM = {"img_resolution": 8, "img_channels": 1, "model_channels": 32, "channel_mult": [1], "num_blocks": 1}
EDM |= {"attn_resolutions": [], "sigma_data": 0.7}


def test_an_edm_teacher_of_other_images_is_refused(tmp_path, images, monkeypatch):
    config = networks.config_from_edm(EDM)
    monkeypatch.setattr(networks, "load_edm_weights", lambda path: (config, {"weights of": path.name}))
    (tmp_path / "small_teacher.npz").write_bytes(b"")
    (tmp_path / "check.npz").write_bytes(b"")  # other arrays beside it are not the teacher
    (tmp_path / "config.json").write_text(json.dumps({"EDMPrecond": EDM}))
    denoiser, params = load_teacher(CONFIG, images, tmp_path)
    assert params == {"weights of": "small_teacher.npz"} and denoiser.sigma_data == 0.7
    assert denoiser.shape == (8, 8, 1)
    large = images._replace(train={"image": np.zeros((4, 28, 28, 1), np.uint8), "label": np.zeros(4)})
    with pytest.raises(ValueError, match=r"makes images of \(8, 8, 1\); expected the data's \(28, 28, 1\)"):
        load_teacher(CONFIG, large, tmp_path)
