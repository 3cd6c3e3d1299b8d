"""Corpora of bytes: Python's own standard library, any folder or file, or a prepared tensorflow-datasets name.

A corpus is two arrays of bytes. Files (or examples of a data set) go to one of them whole, by a hash of their name, so
that nothing is in both.
"""

import hashlib
import re
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_range, fail
from jaxdiv.typing import Array, PRNGKey

STANDARD_LIBRARY = "stdlib"
VALIDATION_SHARE = 0.1
# Parts of the library that some systems package apart or leave out, and tables and help texts, which are no programs.
_NOT_EVERYWHERE = {
    "__phello__", "__pycache__", "dist-packages", "distutils", "encodings", "ensurepip", "idlelib", "lib-dynload",
    "lib2to3", "msilib", "pydoc_data", "site-packages", "sitecustomize.py", "test", "tests", "tkinter", "turtledemo",
    "usercustomize.py", "venv",
}  # fmt: skip
_MADE_AT_INSTALLATION = ("_sysconfigdata", "config-", "__hello__")


class Corpus(NamedTuple):
    """Text as bytes, split by file.

    Attributes:
        name: what was asked for.
        train: uint8 ``[N]``, the files one after the other.
        validation: uint8 ``[M]``, other files.
        num_files: how many files (or examples) are in either.
        digest: the first 16 digits of a sha256 over both splits: equal digests are equal corpora.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    num_files: tuple[int, int]
    digest: str

    def describe(self) -> str:
        """Sizes and digest in one line."""
        sizes = [
            f"{array.size:,} bytes of {count} files"
            for array, count in zip((self.train, self.validation), self.num_files, strict=True)
        ]
        return f"{self.name}: training on {sizes[0]}, validation on {sizes[1]}, sha256 {self.digest}"


def load_corpus(data: str = STANDARD_LIBRARY, *, data_dir: Path | None = None) -> Corpus:
    """The corpus of a name.

    Args:
        data: "stdlib" for the sources of the running Python's standard library; else a folder, all of whose text files
            are read; or a file, whose last tenth is for validation; or the name of a tensorflow-datasets data set with
            a text feature that is prepared in ``data_dir``. Nothing is downloaded.
        data_dir: where prepared data sets lie; None is tensorflow-datasets' own place.

    Raises:
        ValueError: there is no such thing, or no text in it.
    """
    path = Path(data).expanduser()
    if data == STANDARD_LIBRARY:
        return corpus_from_files(data, read_standard_library())
    if path.is_dir():
        return corpus_from_files(data, read_folder(path))
    if path.is_file():
        content = np.frombuffer(path.read_bytes(), np.uint8)
        cut = content.size - int(VALIDATION_SHARE * content.size)
        return _corpus(data, content[:cut], content[cut:], (1, 1))
    if re.fullmatch(r"\w+(/[\w.-]+)*(:[\w.]+)?", data) and not data.startswith("/"):
        return _corpus_from_data_set(data, data_dir)
    raise fail("load_corpus", "data", f"is {data!r}", "stdlib, a folder, a file or the name of a data set")


def read_standard_library() -> dict[str, bytes]:
    """The standard library's sources by path, without those parts that are not in every installation."""
    root = Path(sysconfig.get_path("stdlib"))
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*.py"))
        if _is_everywhere(path.relative_to(root).parts)
    }
    if not files:
        raise fail("load_corpus", "data", f"'stdlib' has no sources in {root}", "a Python with them, or --data FOLDER")
    return files


def _is_everywhere(parts: tuple[str, ...]) -> bool:
    return not (set(parts) & _NOT_EVERYWHERE or parts[0].startswith(_MADE_AT_INSTALLATION))


def read_folder(root: Path) -> dict[str, bytes]:
    """Every text file below a folder by path; hidden ones, and those that are not UTF-8, are left out."""
    files = {}
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts) or not path.is_file():
            continue
        with path.open("rb") as file:
            content = file.read(8192)
            if b"\0" in content:
                continue
            content += file.read()
        if _is_text(content):
            files["/".join(parts)] = content
    return files


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def corpus_from_files(name: str, files: Mapping[str, bytes]) -> Corpus:
    """Splits files by a hash of their names, a tenth of them to validation and at least one to either side.

    >>> corpus = corpus_from_files("two", {"a": b"abc", "b": b"def"})
    >>> corpus.num_files, corpus.train.size, corpus.validation.size
    ((1, 1), 3, 3)
    """
    if len(files) < 2:
        raise fail("load_corpus", "data", f"{name} holds {len(files)} text files", "at least 2, or a single file")
    share = {path: _fraction(path) for path in sorted(files)}
    by_hash = sorted(share, key=lambda path: (share[path], path))
    held_out = {path for path in share if share[path] < VALIDATION_SHARE} or {by_hash[0]}
    held_out.discard(by_hash[-1])
    train = [files[path] for path in share if path not in held_out]
    validation = [files[path] for path in share if path in held_out]
    return _corpus(name, _join(train), _join(validation), (len(train), len(validation)))


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def _join(texts: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n".join(texts), np.uint8)


def _corpus(name: str, train: np.ndarray, validation: np.ndarray, num_files: tuple[int, int]) -> Corpus:
    for split, array in (("training", train), ("validation", validation)):
        if not 2 <= array.size < 2**31:  # positions are int32
            raise fail("load_corpus", "data", f"{name} has {array.size} bytes for {split}", "from 2 to 2^31 - 1")
    sha = hashlib.sha256(train.size.to_bytes(8, "big"))
    sha.update(train.tobytes())
    sha.update(validation.tobytes())
    return Corpus(name, train, validation, num_files, sha.hexdigest()[:16])


def _corpus_from_data_set(name: str, data_dir: Path | None) -> Corpus:
    """The first text feature of a prepared data set, examples apart by an empty line."""
    try:
        import tensorflow_datasets as tfds  # here, since the other corpora do without it
    except ImportError as error:
        raise fail(
            "load_corpus", "data", f"is {name!r}, neither folder nor file", "one, or tensorflow-datasets installed"
        ) from error
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir)
        builder.info.splits["train"]
    except Exception as error:  # an unknown name and a data set that is not prepared fail in several ways
        raise fail(
            "load_corpus", "data", f"is {name!r}, neither folder nor file nor a data set prepared in {data_dir}",
            f"one of these ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''})",
        ) from error  # fmt: skip
    texts = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Text)]
    if not texts:
        raise fail("load_corpus", "data", f"{name} has features {list(builder.info.features)}", "one that is text")
    key = "text" if "text" in texts else texts[0]

    def read(split: str) -> list[bytes]:
        return [_as_bytes(example[key]) for example in builder.as_data_source(split)]

    train = read("train")
    other = next((split for split in ("validation", "test") if split in builder.info.splits), None)
    if other is not None:
        validation = read(other)
    else:
        held_out = [_fraction(str(i)) < VALIDATION_SHARE for i in range(len(train))]
        validation = [text for text, out in zip(train, held_out, strict=True) if out]
        train = [text for text, out in zip(train, held_out, strict=True) if not out]
    return _corpus(name, _join_examples(train), _join_examples(validation), (len(train), len(validation)))


def _join_examples(texts: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"\n\n".join(texts), np.uint8)


def _as_bytes(value: Any) -> bytes:
    value = value.item() if isinstance(value, np.ndarray) else value
    return value.encode() if isinstance(value, str) else value


def draw_windows(text: Array, key: PRNGKey, step: Array | int, *, batch_size: int, length: int) -> Array:
    """The batch of a step: windows of ``length + 1`` bytes from random places, a function of key and step alone.

    Args:
        text: uint8 ``[N]``, on the device: nothing comes from the host.
        key: typed key of the run.
        step: the step's number.
        batch_size: windows per batch.
        length: tokens that the decoder sees; the last byte is only predicted.

    Returns:
        int32 ``[batch_size, length + 1]``.
    """
    check_range("draw_windows", "length", length, 1, text.shape[0] - 1)
    starts = jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, text.shape[0] - length)
    return text[starts[:, None] + jnp.arange(length + 1)].astype(jnp.int32)


def validation_windows(text: np.ndarray, *, length: int, limit: int | None = None) -> np.ndarray:
    """Consecutive windows ``[n, length + 1]`` that predict every byte once; of more than ``limit``, so many evenly.

    >>> validation_windows(np.arange(9, dtype=np.uint8), length=4).tolist()
    [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    """
    count = (text.size - 1) // length
    if count < 1:
        raise fail("validation_windows", "text", f"has {text.size} bytes", f"at least {length + 1} for one window")
    chosen = np.arange(count)
    if limit is not None and count > limit:
        chosen = np.arange(limit) * count // limit
    return text[length * chosen[:, None] + np.arange(length + 1)]
