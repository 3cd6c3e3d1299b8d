"""Corpora of bytes: what is read, how it is split, and which windows a step sees."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model import text as text_module
from experiments.language_model.text import (
    Corpus,
    corpus_from_files,
    draw_windows,
    load_corpus,
    read_folder,
    read_standard_library,
    validation_windows,
)

FILES = {f"folder/{i}.py": f"# file {i}\n".encode() * (i + 1) for i in range(60)}


def sides(files: dict[str, bytes]) -> tuple[set[str], set[str]]:
    """Which files are in training and which in validation, found from the content."""
    marked = {name: f"<{name}>".encode() for name in files}
    corpus = corpus_from_files("marked", marked)
    found = [{name for name in files if marked[name] in split.tobytes()} for split in (corpus.train, corpus.validation)]
    return found[0], found[1]


def test_the_standard_library_is_read_alike_twice_and_split_by_file():
    files = read_standard_library()
    assert list(files) == sorted(files, key=lambda name: Path(name).parts)
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= set(files)
    assert all(name.endswith(".py") for name in files)
    parts = {part for name in files for part in name.split("/")}
    assert parts & {"site-packages", "test", "tests", "idlelib", "encodings", "lib2to3", "__pycache__"} == set()
    assert not any(name.startswith(("_sysconfigdata", "config-")) for name in files)
    first, again = load_corpus(), load_corpus("stdlib")
    assert first.digest == again.digest and first.name == "stdlib"
    assert first.train.size > 4e6 and 0.02 < first.validation.size / first.train.size < 0.25
    assert sum(first.num_files) == len(files)
    assert first.train.size + first.validation.size == sum(map(len, files.values())) + len(files) - 2
    training, validation = sides(files)
    assert training & validation == set() and training | validation == set(files)


def test_the_digest_is_that_of_the_content():
    corpus = corpus_from_files("some", FILES)
    train, validation = corpus.train.tobytes(), corpus.validation.tobytes()
    expected = hashlib.sha256(len(train).to_bytes(8, "big") + train + validation).hexdigest()[:16]
    assert corpus.digest == expected
    changed = corpus_from_files("some", FILES | {"folder/3.py": b"# file 4\n" * 4})
    assert changed.digest != corpus.digest
    assert f"{len(train):,} bytes of {corpus.num_files[0]} files" in corpus.describe() and expected in corpus.describe()


def test_a_file_stays_on_its_side_whatever_else_there_is():
    training, validation = sides(FILES)
    assert training | validation == set(FILES) and not training & validation
    assert 2 <= len(validation) <= 12
    fewer = {name: content for name, content in FILES.items() if name not in sorted(training)[:20]}
    assert sides(fewer) == (training & set(fewer), validation & set(fewer))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("first", [0, 10, 20])
def test_few_files_leave_neither_side_empty(first, count):
    training, validation = sides({f"{i}": b"" for i in range(first, first + count)})
    assert training and validation and len(training) + len(validation) == count


def test_a_folder_gives_its_text_files(tmp_path):
    for name, content in {
        "b.txt": b"beta", "a/x.md": "naïve".encode(), "a/.hidden": b"no", ".git/config": b"no", "c.bin": b"a\0b",
        "latin.txt": b"caf\xe9", "__pycache__/m.py": b"no", "late.bin": b"x" * 9000 + b"\0", "empty": b"",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = read_folder(tmp_path)
    assert files == {"a/x.md": "naïve".encode(), "b.txt": b"beta", "empty": b""}
    assert list(files) == ["a/x.md", "b.txt", "empty"]
    corpus = corpus_from_files("x", {name: content for name, content in files.items() if content})
    assert corpus.train.size + corpus.validation.size == 10
    (tmp_path / "more.txt").write_bytes(b"gamma" * 20)
    (tmp_path / "empty").unlink()
    loaded = load_corpus(str(tmp_path))
    assert sum(loaded.num_files) == 3 and loaded.name == str(tmp_path)


def test_of_a_file_the_last_tenth_is_for_validation(tmp_path):
    content = bytes(range(200))
    (tmp_path / "book.txt").write_bytes(content)
    corpus = load_corpus(str(tmp_path / "book.txt"))
    assert corpus.train.tobytes() == content[:180] and corpus.validation.tobytes() == content[180:]


def prepare(folder: Path, name: str, splits: dict[str, list[str]], *, with_text: bool = True) -> None:
    """A tensorflow-datasets directory as a user would have prepared it."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class Texts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self):
            self.name = name
            super().__init__(data_dir=folder, file_format="array_record")

        def _info(self):
            feature = tfds.features.Text() if with_text else tfds.features.Tensor(shape=(), dtype=np.int64)
            features = tfds.features.FeaturesDict({"number": np.int64, "sentence": feature})
            return tfds.core.DatasetInfo(builder=self, features=features, description="texts")

        def _split_generators(self, dl_manager):
            def rows(texts):
                for i, text in enumerate(texts):
                    yield i, {"number": i, "sentence": text if with_text else i}

            return {split: rows(texts) for split, texts in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    Texts().download_and_prepare(file_format="array_record")


def test_a_prepared_data_set_by_name(tmp_path):
    texts = [f"sentence {i}" for i in range(40)]
    prepare(tmp_path, "two_splits", {"train": texts, "test": ["other one", "other two"]})
    corpus = load_corpus("two_splits", data_dir=tmp_path)
    assert sorted(corpus.train.tobytes().split(b"\n\n")) == sorted(text.encode() for text in texts)
    assert sorted(corpus.validation.tobytes().split(b"\n\n")) == [b"other one", b"other two"]
    assert corpus.num_files == (40, 2)

    prepare(tmp_path, "one_split", {"train": texts})
    corpus = load_corpus("one_split", data_dir=tmp_path)
    parts = [set(split.tobytes().split(b"\n\n")) for split in (corpus.train, corpus.validation)]
    assert parts[0] & parts[1] == set() and parts[0] | parts[1] == {text.encode() for text in texts}
    assert corpus.digest == load_corpus("one_split", data_dir=tmp_path).digest

    prepare(tmp_path, "numbers", {"train": texts}, with_text=False)
    with pytest.raises(ValueError, match="numbers has features .*; expected one that is text"):
        load_corpus("numbers", data_dir=tmp_path)
    with pytest.raises(ValueError, match="is 'not_there', neither folder nor file nor a data set prepared in"):
        load_corpus("not_there", data_dir=tmp_path)


def test_without_tensorflow_datasets_a_name_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="neither folder nor file; expected one, or tensorflow-datasets installed"):
        load_corpus("wiki40b")


@pytest.mark.parametrize("data", ["/no/such/folder", "no such thing", ""])
def test_what_is_nothing_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("alone")
    with pytest.raises(ValueError, match="load_corpus: data"):
        load_corpus(data)


def test_too_little_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("alone")
    with pytest.raises(ValueError, match="holds 1 text files; expected at least 2"):
        load_corpus(str(tmp_path))
    with pytest.raises(ValueError, match="0 bytes for validation; expected from 2"):
        load_corpus(str(tmp_path / "one.txt"))
    monkeypatch.setattr(text_module.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="'stdlib' has no sources"):
        load_corpus()


def test_windows_are_a_function_of_key_and_step_alone():
    text = jnp.asarray(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8))
    draw = jax.jit(draw_windows, static_argnames=("batch_size", "length"))
    sizes = {"batch_size": 4, "length": 16}
    one = draw_windows(text, jax.random.key(3), 7, **sizes)
    assert one.shape == (4, 17) and one.dtype == jnp.int32
    np.testing.assert_array_equal(draw(text, jax.random.key(3), jnp.int32(7), **sizes), one)
    for key, step in ((3, 8), (4, 7)):
        assert (draw(text, jax.random.key(key), step, **sizes) != one).any()


def test_windows_are_runs_of_the_text_from_everywhere():
    text = jnp.arange(20, dtype=jnp.uint8)
    windows = np.asarray(draw_windows(text, jax.random.key(0), 0, batch_size=2000, length=15))
    assert (np.diff(windows, axis=1) == 1).all()
    starts, counts = np.unique(windows[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3, 4]
    assert (abs(counts - 400) < 5 * np.sqrt(400 * 0.8)).all()  # five standard deviations of a fair draw
    whole = draw_windows(text, jax.random.key(0), 0, batch_size=3, length=19)
    assert (np.asarray(whole) == np.arange(20)).all()
    with pytest.raises(ValueError, match="draw_windows: length is 20"):
        draw_windows(text, jax.random.key(0), 0, batch_size=3, length=20)


@pytest.mark.parametrize(("size", "length", "limit", "starts"), [
    (41, 10, None, [0, 10, 20, 30]), (40, 10, None, [0, 10, 20]), (41, 10, 4, [0, 10, 20, 30]),
    (41, 10, 2, [0, 20]), (90, 8, 3, [0, 24, 56]), (11, 10, None, [0]),
])  # fmt: skip
def test_validation_windows_are_fixed(size, length, limit, starts):
    windows = validation_windows(np.arange(size, dtype=np.uint8), length=length, limit=limit)
    assert windows[:, 0].tolist() == starts and windows.shape[1] == length + 1
    assert (np.diff(windows.astype(int), axis=1) == 1).all()


def test_a_text_without_a_window_is_refused():
    with pytest.raises(ValueError, match="has 10 bytes; expected at least 11"):
        validation_windows(np.zeros(10, np.uint8), length=10)


def test_a_corpus_is_described():
    corpus = Corpus("x", np.zeros(12345, np.uint8), np.zeros(20, np.uint8), (3, 1), "abc")
    assert corpus.describe() == "x: training on 12,345 bytes of 3 files, validation on 20 bytes of 1 files, sha256 abc"
