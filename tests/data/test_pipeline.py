import numpy as np
import pytest

from jaxdiv import data


def make_arrays(count=10, shape=(4, 6, 3)):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    return {"image": images, "label": np.arange(count)}


def as_source(arrays):
    return [{"image": image, "label": label} for image, label in zip(arrays["image"], arrays["label"], strict=True)]


def make(arrays=None, *, batch_size=4, seed=0, on_disk=False, **settings):
    arrays = make_arrays() if arrays is None else arrays
    source = as_source(arrays) if on_disk else arrays
    return data.BatchSource(source, half_range=127.5, batch_size=batch_size, seed=seed, **settings)


def assert_equal(a, b):
    assert set(a) == set(b) == {"image", "label"}
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def stream(batches, steps):
    return np.concatenate([batches.at(step)["label"] for step in range(steps)])


def test_a_batch_is_scaled_and_belongs_together():
    arrays = make_arrays()
    batch = make(arrays).at(3)
    assert batch["image"].shape == (4, 4, 6, 3)
    assert batch["image"].dtype == np.float32 and batch["label"].dtype == np.int32
    np.testing.assert_allclose(batch["image"], arrays["image"][batch["label"]] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 10, 23])
def test_each_epoch_has_every_example_once(batch_size, on_disk):
    batches = make(batch_size=batch_size, on_disk=on_disk)
    labels = stream(batches, -(-30 // batch_size))[:30]
    np.testing.assert_array_equal(np.sort(labels.reshape(3, 10), axis=1), np.tile(np.arange(10), (3, 1)))


def test_epochs_and_seeds_differ():
    first, second = stream(make(batch_size=10), 2).reshape(2, 10)
    other = make(batch_size=10, seed=1).at(0)["label"]
    assert (first != second).any() and (first != other).any()
    # A seed's second epoch is not its neighbour's first, as it would be if seed and epoch were added.
    assert (second != other).any()


def test_the_same_seed_gives_the_same_batches_in_any_order_of_asking():
    forward, backward = make(flip=True), make(flip=True)
    late = {step: backward.at(step) for step in (25, 7, 0, 24)}
    for step in range(26):
        batch = forward.at(step)
        if step in late:
            assert_equal(batch, late[step])


def test_a_batch_belongs_to_the_caller():
    arrays = make_arrays()
    before = arrays["image"].copy()
    batches = make(arrays, flip=True)
    first = batches.at(0)
    kept = first["image"].copy()
    first["image"][:] = 9
    np.testing.assert_array_equal(batches.at(0)["image"], kept)
    np.testing.assert_array_equal(arrays["image"], before)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("process_count", [2, 3, 6])
def test_the_processes_share_the_global_batch(process_count, on_disk, flip):
    whole = make(batch_size=6, flip=flip)
    for step in (0, 1, 4, 30):
        parts = [
            make(batch_size=6, on_disk=on_disk, flip=flip, process_index=i, process_count=process_count).at(step)
            for i in range(process_count)
        ]
        assert {len(part["label"]) for part in parts} == {6 // process_count}
        assert_equal({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, whole.at(step))


@pytest.mark.parametrize("flip", [False, True])
def test_memory_and_grain_give_identical_batches(flip):
    memory, disk = make(flip=flip), make(flip=flip, on_disk=True)
    for step in (0, 1, 2, 5, 1000):
        assert_equal(memory.at(step), disk.at(step))
        assert_equal(memory.at(step), memory.dataset()[step])


def test_memory_and_disk_agree_on_the_real_digits(digits_dir):
    memory, disk = (
        data.load_batches("digits", batch_size=32, seed=7, data_dir=digits_dir, in_memory=in_memory, flip=True)
        for in_memory in (True, False)
    )
    # Batch 43 spans the end of the first epoch, 1397 = 43 * 32 + 21.
    for step in (0, 43, 44, 90):
        assert_equal(memory.at(step), disk.at(step))
    image = memory.at(0)["image"]
    assert (image.shape, image.min(), image.max()) == ((32, 8, 8, 1), -1, 1)
    np.testing.assert_array_equal(image * 8, np.round(image * 8))


@pytest.mark.parametrize("on_disk", [False, True])
def test_stacked_is_the_batches_in_a_row(on_disk):
    batches = make(on_disk=on_disk, flip=True, process_index=1, process_count=2)
    stacked = batches.stacked(3, 5)
    assert stacked["image"].shape == (5, 2, 4, 6, 3)
    for i in range(5):
        assert_equal({name: rows[i] for name, rows in stacked.items()}, batches.at(3 + i))


def test_flips_mirror_left_to_right_about_half_of_the_rows():
    arrays = make_arrays(64)
    plain, flipped = make(arrays, batch_size=64), make(arrays, batch_size=64, flip=True)
    mirrored = []
    for step in range(10):
        before, after = plain.at(step)["image"], flipped.at(step)["image"]
        same = (after == before).all((1, 2, 3))
        turned = (after == before[:, :, ::-1]).all((1, 2, 3))
        assert (same ^ turned).all()
        mirrored.append(turned)
    # 640 fair coins: five standard deviations are 63.
    assert abs(np.sum(mirrored) - 320) < 63
    assert len({tuple(row) for row in mirrored}) == 10


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_iterator_begins_anywhere_and_resumes_from_its_state(on_disk):
    batches = make(on_disk=on_disk, flip=True)
    iterator = batches.iterator(start_step=5, num_threads=2, prefetch=3)
    for step in (5, 6):
        assert_equal(next(iterator), batches.at(step))
    state = iterator.get_state()
    expected = [next(iterator) for _ in range(3)]
    resumed = make(on_disk=on_disk, flip=True).iterator()
    resumed.set_state(state)
    for i, batch in enumerate(expected):
        assert_equal(batch, batches.at(7 + i))
        assert_equal(next(resumed), batch)


def test_epoch_order_is_a_uniform_looking_permutation():
    orders = np.stack([data.epoch_order(4, seed=seed, epoch=epoch) for seed in range(40) for epoch in range(60)])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(4), (2400, 1)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    # Each of the 24 permutations comes about 100 times; chi-squared with 23 degrees of freedom exceeds 58 once in 1e4.
    assert np.sum((counts - 100.0) ** 2 / 100) < 58


def test_epoch_order_is_frozen():
    np.testing.assert_array_equal(data.epoch_order(8, seed=1, epoch=2), [4, 2, 6, 7, 3, 5, 1, 0])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"process_count": 0}, "process_count is 0"),
        ({"process_index": 2, "process_count": 2}, "process_index is 2"),
        ({"process_count": 3}, "batch_size is 4; expected a multiple of process_count 3"),
        ({"arrays": make_arrays(0)}, "number of examples is 0"),
        ({"arrays": {"image": np.zeros((3, 2, 2)), "label": np.zeros(3)}}, "data\\['image'\\] has shape"),
        ({"arrays": {"image": np.zeros((3, 2, 2, 1)), "label": np.zeros(2)}}, "data\\['label'\\] has shape"),
    ],
)
def test_bad_arguments_are_named(settings, match):
    with pytest.raises(ValueError, match=f"BatchSource: {match}"):
        make(**settings)


def test_bad_half_range_and_steps_are_named():
    with pytest.raises(ValueError, match="half_range is 0"):
        data.BatchSource(make_arrays(), half_range=0, batch_size=1, seed=0)
    for call in (lambda b: b.at(-1), lambda b: b.stacked(-1, 2), lambda b: b.iterator(start_step=-1)):
        with pytest.raises(ValueError, match="step is -1"):
            call(make())
    with pytest.raises(ValueError, match="num_steps is 0"):
        make().stacked(0, 0)
