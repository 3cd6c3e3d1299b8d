import numpy as np
import pytest

from jaxdiv.metrics.array_cache import cached_arrays, digest


def test_digest_tells_values_shapes_and_dtypes_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    x = np.arange(6, dtype=np.int32)
    parts = [(x,), (x[::-1],), (x.reshape(2, 3),), (x.astype(np.int64),), (x.view(np.uint32),), (1,), ("1",), (x, 1)]
    parts += [(1, x), ((x.tobytes()),), (tmp_path / "a",), (tmp_path / "b",), ("ab", "c"), ("a", "bc"), (None,), ()]
    assert len({digest(*p) for p in parts}) == len(parts)


def test_digest_is_of_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"same")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(np.arange(8)[::2]) == digest(np.array([0, 2, 4, 6]))


def test_computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": np.arange(3), "text": np.array("words")}

    for _ in range(2):
        arrays = cached_arrays(tmp_path / "new" / "folder", "name", compute)
        np.testing.assert_array_equal(arrays["x"], [0, 1, 2])
        assert str(arrays["text"]) == "words"
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["name.npz"]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cached_arrays(None, "name", lambda: {"x": np.ones(1)})["x"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_a_damaged_file_is_computed_again(tmp_path, keep):
    cached_arrays(tmp_path, "name", lambda: {"x": np.zeros(9)})
    path = tmp_path / "name.npz"
    path.write_bytes(path.read_bytes()[:keep])
    for _ in range(2):
        assert cached_arrays(tmp_path, "name", lambda: {"x": np.ones(9)})["x"].sum() == 9


def test_objects_are_refused_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        cached_arrays(tmp_path, "name", lambda: {"x": np.array([{}], object)})
    assert list(tmp_path.iterdir()) == []
