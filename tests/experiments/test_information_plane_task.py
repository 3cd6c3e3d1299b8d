"""The twelve bits: their symmetry, their information to the last digit, and what a user's file may hold."""

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import savemat

from experiments.information_plane.measure import bottleneck_bound, label_entropy
from experiments.information_plane.task import icosahedral_task, icosahedron, pair_counts, read_task
from jaxdiv.information import discrete_mutual_information, information_bottleneck_curve

TASK = icosahedral_task()


def rotations() -> list[np.ndarray]:
    """All permutations of the vertices by a rotation: each takes one directed edge to another, and so is fixed."""
    vertices = icosahedron()
    cosines = vertices @ vertices.T
    edges = [(i, j) for i, j in itertools.permutations(range(12), 2) if abs(cosines[i, j] - 5**-0.5) < 1e-6]

    def frame(i, j):
        normal = np.cross(vertices[i], vertices[j])
        return np.stack([vertices[i], vertices[j], normal / np.linalg.norm(normal)], axis=1)

    found = []
    for edge in edges:
        rotation = frame(*edge) @ np.linalg.inv(frame(*edges[0]))
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
        distance = np.linalg.norm((vertices @ rotation.T)[:, None] - vertices, axis=-1)
        assert (np.sort(distance, axis=1)[:, 0] < 1e-9).all() and np.linalg.det(rotation) > 0
        found.append(distance.argmin(axis=1))
    return found


def codes(patterns: np.ndarray) -> np.ndarray:
    return (patterns.astype(np.int64) << np.arange(12)).sum(axis=1)


@pytest.fixture(scope="module")
def orbits():
    """The smallest code among a pattern's rotations, by pattern."""
    return np.stack([codes(TASK.patterns[:, rotation]) for rotation in rotations()]).min(axis=0)


def entropy(p: float) -> float:
    """Of a bit, in bits."""
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def test_the_vertices_are_an_icosahedron():
    vertices = icosahedron()
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1.0)
    distances = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    edge = np.sort(distances, axis=1)[:, 1]
    np.testing.assert_allclose(edge, 4 / np.sqrt(10 + 2 * 5**0.5))  # of circumradius 1
    assert ((distances < edge[0] + 1e-6).sum(axis=1) == 6).all()


def test_all_patterns_occur_once_in_the_order_of_their_codes():
    assert TASK.patterns.dtype == np.float32 and TASK.labels.dtype == np.int32
    np.testing.assert_array_equal(codes(TASK.patterns), np.arange(4096))
    np.testing.assert_array_equal(icosahedral_task().labels, TASK.labels)


def test_labels_are_the_same_for_all_sixty_rotations():
    group = rotations()
    assert len({tuple(rotation) for rotation in group}) == 60
    counts = pair_counts(TASK.patterns)
    for rotation in group:
        turned = codes(TASK.patterns[:, rotation])
        np.testing.assert_array_equal(TASK.labels[turned], TASK.labels)
        np.testing.assert_array_equal(counts[turned], counts)
    swapped = TASK.patterns[:, [1, 0, *range(2, 12)]]  # no symmetry: the labels do depend on places
    assert (TASK.labels[codes(swapped)] != TASK.labels).any()


def test_pair_counts_are_those_of_a_loop_over_pairs():
    vertices = icosahedron()
    rows = TASK.patterns[::337]
    expected = np.zeros((len(rows), 3), int)
    for n, row in enumerate(rows):
        for i, j in itertools.combinations(np.flatnonzero(row), 2):
            angle = np.degrees(np.arccos(np.clip(vertices[i] @ vertices[j], -1, 1)))
            expected[n, 0 if angle < 64 else 1 if angle < 117 else 2] += 1
    np.testing.assert_array_equal(pair_counts(rows), expected)


def test_the_label_is_nearly_a_bit_and_no_function_of_the_number_of_ones():
    share = TASK.labels.mean()
    assert TASK.labels.sum() == 1998
    assert label_entropy(TASK.labels) / np.log(2) == pytest.approx(entropy(share), abs=1e-12)
    assert entropy(share) > 0.99
    numbers = TASK.patterns.sum(axis=1)
    open_bits = sum((numbers == n).mean() * entropy(np.clip(TASK.labels[numbers == n].mean(), 1e-15, 1 - 1e-15))
                    for n in range(13))  # fmt: skip
    assert open_bits == pytest.approx(0.2911, abs=1e-3)


def test_a_pattern_tells_its_label():
    table = np.zeros((4096, 2))
    table[np.arange(4096), TASK.labels] = 1.0
    found = float(discrete_mutual_information(jnp.asarray(table))) / np.log(2)
    assert found == pytest.approx(entropy(1998 / 4096), abs=1e-6)


def test_every_bit_tells_the_same():
    """By transitivity a bit is 1 in as many labelled patterns as these have ones, over twelve."""
    ones = TASK.patterns[TASK.labels == 1].sum() / 12
    assert ones == int(ones)
    given_1, given_0 = ones / 2048, (1998 - ones) / 2048
    closed_form = entropy(1998 / 4096) - (entropy(given_1) + entropy(given_0)) / 2
    for bit in range(12):
        values = TASK.patterns[:, bit].astype(int)
        table = np.array([[np.sum((values == a) & (TASK.labels == b)) for b in (0, 1)] for a in (0, 1)], np.float32)
        assert table[1, 1] == ones
        found = float(discrete_mutual_information(table)) / np.log(2)
        assert found == pytest.approx(closed_form, abs=1e-6) == pytest.approx(0.03545, abs=1e-5)


def test_the_bottleneck_curve_is_the_bound(orbits):
    """On the 96 classes of patterns that a rotation joins: every stationary point lies on min(I_X, H(Y))."""
    values, numbers = np.unique(orbits, return_inverse=True)
    assert len(values) == 96  # (2^12 + 24 * 2^4 + 20 * 2^4 + 15 * 2^6) / 60 by Burnside's count
    table = np.zeros((96, 2), np.float32)
    np.add.at(table, (numbers, TASK.labels), 1.0)
    assert (np.count_nonzero(table, axis=1) == 1).all()
    curve = information_bottleneck_curve(table, tishby_betas=[50.0, 4.0, 0.5])
    bound = bottleneck_bound(np.asarray(curve.information_x), label_entropy(TASK.labels))
    np.testing.assert_allclose(curve.information_y, bound, atol=2e-3)
    assert float(curve.information_y[0]) == pytest.approx(label_entropy(TASK.labels), abs=2e-3)


def save(path: Path, **arrays: np.ndarray) -> Path:
    if path.suffix == ".mat":
        savemat(path, arrays)
    else:
        np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_a_file_of_the_user_is_read(suffix, tmp_path):
    order = np.random.default_rng(0).permutation(4096)
    patterns, labels = TASK.patterns[order].astype(np.uint8), TASK.labels[order]
    read = read_task(save(tmp_path / f"labels{suffix}", F=patterns, y=labels[None]))  # y lies in the file as a row
    np.testing.assert_array_equal(read.patterns, patterns)
    np.testing.assert_array_equal(read.labels, labels)
    assert read.patterns.dtype == np.float32 and read.labels.shape == (4096,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"F": None}, "labels_file has no F; expected"),
        ({"F": None, "y": None}, "labels_file has no F and no y"),
        ({"F": TASK.patterns[:, :11]}, r"F has shape \(4096, 11\); expected shape \(4096, 12\)"),
        ({"y": TASK.labels[1:]}, "y has 4095 entries; expected 4096"),
        ({"F": TASK.patterns + 1}, "F has other entries; expected 0 and 1 only"),
        ({"y": 2 * TASK.labels}, "y has other entries"),
        ({"F": np.concatenate([TASK.patterns[:-1], TASK.patterns[:1]])}, "F has 4095 distinct rows"),
        ({"y": np.zeros(4096)}, "y has one class"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(changes, message, tmp_path):
    arrays = {"F": TASK.patterns, "y": TASK.labels} | changes
    path = save(tmp_path / "labels.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match="^read_task: " + message):
        read_task(path)


def test_a_file_that_is_none_is_refused(tmp_path):
    for path in (tmp_path / "none.mat", save(tmp_path / "labels.npz", y=TASK.labels).rename(tmp_path / "labels.dat")):
        with pytest.raises(ValueError, match="^read_task: labels_file is .*; expected a .mat or .npz file"):
            read_task(path)
    for name in ("broken.mat", "broken.npz"):
        (tmp_path / name).write_bytes(b"no arrays in here" * 20)
        with pytest.raises(ValueError, match="^read_task: labels_file is .*unreadable"):
            read_task(tmp_path / name)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_a_file_that_was_cut_short_is_named(share, tmp_path):
    """scipy has errors of its own for these, no ValueError, and OSErrors that do not say which file."""
    path = save(tmp_path / "labels.mat", F=TASK.patterns, y=TASK.labels)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="^read_task: labels_file is .*labels.mat', unreadable"):
        read_task(path)


def test_a_compressed_file_with_a_wrong_bit_is_named(tmp_path):
    path = tmp_path / "labels.mat"
    savemat(path, {"F": TASK.patterns, "y": TASK.labels}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF  # of the checksum
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^read_task: labels_file is .*labels.mat', unreadable"):
        read_task(path)
