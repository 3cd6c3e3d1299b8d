"""The student's training: its data, its metrics, and resumption that is refused where it would lie."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.one_step_image.student import Pairs, _batch_fn, digest, distil, distillation_config, linear_adam
from jaxdiv.training import checkpoint_path, checkpoint_steps, load_leaves, read_metrics
from tests.experiments.small import contents, random_images, small_config

PAIRS = Pairs(random_images(12, seed=1), random_images(12, seed=2))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, images, denoiser):
    folder = tmp_path_factory.mktemp("student")
    _, state = distil(small_config(), images, denoiser, denoiser.params, PAIRS, folder)
    return folder, state


def leaves_of(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.student, state.student_ema, state.fake, state.head))]


def test_training_moves_every_network_and_records_it(distilled, denoiser):
    folder, state = distilled
    assert int(state.step) == 20 and checkpoint_steps(folder / "checkpoints") == [10, 20]
    for tree in (state.student, state.student_ema, state.fake):
        assert digest(tree) != digest(denoiser.params)
    records = read_metrics(folder / "metrics.jsonl", split="train")
    assert [record["step"] for record in records] == [10, 20]
    for record in records:
        assert record["skipped"] == 0 and np.isfinite(record["gap"]) and np.isfinite(record["score_gap"]).all()
        assert sum(record["score_gap_count"]) == 16 and 0 < record["ess"] <= 1
        assert 0 <= record["discriminator_accuracy"] <= 1 and record["sample_std"] > 0.1


def test_a_truncated_checkpoint_is_refused_by_name_and_the_one_before_gives_the_same(
    distilled, images, denoiser, tmp_path, capsys
):
    folder, state = distilled
    copy = tmp_path / "student"
    copy.mkdir()
    for name, content in contents(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    newest = checkpoint_path(copy / "checkpoints", 20)
    data = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:1000])
    _, again = distil(small_config(), images, denoiser, denoiser.params, PAIRS, copy)
    errors = capsys.readouterr().err
    assert f"refused checkpoint {newest}" in errors and data.name in errors and "resumed at step 10" in errors
    for one, other in zip(leaves_of(state), leaves_of(again), strict=True):
        assert one.tobytes() == other.tobytes()
    steps = [record["step"] for record in read_metrics(copy / "metrics.jsonl")]
    assert steps == [10, 20]
    load_leaves(newest)  # written anew, and whole


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"method": "sida"}, ["config.method: stored uni_instruct, asked sida"]),
        ({"divergence": "kl"}, ["config.divergence: stored None, asked kl"]),
        ({"distill": {"cycles": 30, "seed": 2}}, ["config.distill.cycles: stored 20, asked 30", "distill.seed"]),
    ],
)
def test_another_configuration_is_refused_by_name(distilled, images, denoiser, changes, names):
    folder, _ = distilled
    before = contents(folder)
    with pytest.raises(ValueError, match="does not fit") as error:
        distil(small_config(**changes), images, denoiser, denoiser.params, PAIRS, folder)
    assert all(name in str(error.value) for name in names)
    assert contents(folder) == before


def test_another_teacher_is_refused(distilled, images, denoiser):
    folder, _ = distilled
    other = jax.tree.map(lambda leaf: leaf + 1e-3, denoiser.params)
    with pytest.raises(ValueError, match="config.teacher: stored [0-9a-f]{16}, asked [0-9a-f]{16}$"):
        distil(small_config(), images, denoiser, other, PAIRS, folder)


def test_the_digest_sees_every_bit():
    tree = {"a": jnp.ones(3), "b": jnp.zeros((2, 2))}
    assert digest(tree) == digest(jax.tree.map(np.asarray, tree)) and len(digest(tree)) == 16
    assert digest(tree) != digest(tree | {"a": jnp.ones(3).at[2].set(np.nextafter(np.float32(1), np.float32(2)))})


def test_pairs_stay_together():
    batches = PAIRS.rows(batch_size=5, seed=3)
    seen = np.concatenate([batches.at(step)["label"] for step in range(12)])
    assert np.bincount(seen).tolist() == [5] * 12  # five epochs of twelve


@pytest.mark.parametrize("method", ["uni_instruct", "dmd2", "sid", "diff_instruct", "dmd"])
@pytest.mark.parametrize("real", ["data", "teacher"])
def test_a_batch_holds_what_the_method_asks_for(images, method, real):
    config = small_config(method=method, distill={"fake_steps": 3, "real": real})
    number, batch = _batch_fn(config, images, PAIRS)(7)
    _, again = _batch_fn(config, images, PAIRS)(7)
    _, other = _batch_fn(config, images, PAIRS)(8)
    assert number == 7
    adversarial = config.distillation_method.needs_discriminator
    assert adversarial == (method in ("uni_instruct", "dmd2"))
    if adversarial:
        assert batch.real.shape == (3, 16, 8, 8, 1)
        np.testing.assert_array_equal(batch.real, again.real)
        assert not np.array_equal(batch.real, other.real)
        source = images.scaled("train") if real == "data" else PAIRS.samples
        assert all((source == image).all(axis=(1, 2, 3)).any() for image in batch.real[0, :4])
    else:
        assert batch.real is None
    if method == "dmd":
        rows = [np.flatnonzero((PAIRS.latents == z).all(axis=(1, 2, 3)))[0] for z in batch.pair_latents]
        np.testing.assert_array_equal(PAIRS.samples[rows], batch.pair_samples)
    else:
        assert batch.pair_latents is None and batch.pair_samples is None


def test_rates_fall_to_zero_over_the_whole_training():
    optimizer = linear_adam(0.1, steps=4, b1=0.9, clip_norm=10.0)
    params = jnp.zeros(1)
    state = optimizer.init(params)
    sizes = []
    for _ in range(5):
        updates, state = optimizer.update(jnp.ones(1), state, params)
        sizes.append(-float(updates[0]))
    np.testing.assert_allclose(sizes, [0.1, 0.075, 0.05, 0.025, 0.0], atol=1e-6)


def test_gradients_are_scaled_down_beyond_the_norm():
    optimizer = linear_adam(1.0, steps=10, b1=0.0, clip_norm=1.0)
    state = optimizer.init(jnp.zeros(2))
    _, state = optimizer.update(jnp.array([30.0, 40.0]), state, jnp.zeros(2))
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments, [0.6, 0.8], rtol=1e-5)  # b1 = 0 keeps the clipped gradient itself


def test_the_librarys_configuration(images):
    config = distillation_config(small_config(method="dmd2"), images.shape, 0.4)
    assert config.method == small_config(method="dmd2").distillation_method
    assert (config.sample_shape, config.batch_size, config.sigma_data) == ((8, 8, 1), 16, 0.4)
    assert config.ema_decay == small_config().distill.ema_decay
