"""The task of twelve bits: all 4096 patterns, and a label that no rotation of them changes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiv.checks import fail

NUM_BITS, NUM_PATTERNS = 12, 4096
THRESHOLD = 5.5  # of a whole number: no pattern can lie on it


class BitTask(NamedTuple):
    """All patterns of twelve bits, each once, which is the law of X; and their labels."""

    patterns: np.ndarray
    """``[4096, 12]`` float32 of 0 and 1."""
    labels: np.ndarray
    """``[4096]`` int32 of 0 and 1, a function of the pattern."""


def icosahedron() -> np.ndarray:
    """The twelve vertices ``[12, 3]`` of length 1: (0, +-1, +-phi) and its cyclic shifts, phi the golden ratio.

    >>> cosines = icosahedron() @ icosahedron().T
    >>> sorted({round(float(c), 4) + 0.0 for c in cosines.flat})  # itself, 5 neighbours, 5 beyond them, 1 opposite
    [-1.0, -0.4472, 0.4472, 1.0]
    """
    golden = (1.0 + 5.0**0.5) / 2.0
    signs = [(a, b) for a in (-1.0, 1.0) for b in (-golden, golden)]
    vertices = [np.roll((0.0, a, b), shift) for a, b in signs for shift in range(3)]
    return np.array(vertices) / np.hypot(1.0, golden)


def pair_counts(patterns: np.ndarray) -> np.ndarray:
    """Pairs of ones ``[N, 3]`` of bits ``[N, 12]`` on the vertices: neighbours, pairs at two edges, opposite pairs.

    Rotations keep distances, so these numbers are the same for a pattern and its rotations, as is the power of every
    degree of its expansion in spherical harmonics, which is linear in them and the number of ones.

    >>> pair_counts(np.ones((1, 12))).tolist()  # all pairs that there are
    [[30, 30, 6]]
    """
    bits = patterns.astype(np.int64)
    cosines = icosahedron() @ icosahedron().T
    classes = [np.abs(cosines - value) < 1e-6 for value in (5**-0.5, -(5**-0.5), -1.0)]
    return np.stack([np.sum((bits @ near) * bits, axis=1) // 2 for near in classes], axis=1)


def icosahedral_task() -> BitTask:
    """Bits on the vertices of an icosahedron; label 1 where neighbouring pairs of ones outnumber opposite ones by 6.

    y = [neighbours - opposite > 5.5] of `pair_counts`. Of the thresholds of this whole number it is the one with about
    half ones: 1998 of 4096, so that H(Y) = 0.9996 bits. It is not linear in the bits: the number of ones leaves 0.29
    bits of it open. The bits are alike, each with I(X_j; Y) = 0.0354 bits. The task of Shwartz-Ziv and Tishby
    (arXiv:1703.00810) is made in the same way, from a function of the sphere whose formula is not published; its labels
    have H(Y) = 0.9992 bits and 0.0339 bits in every bit.

    >>> int(icosahedral_task().labels.sum())
    1998
    """
    patterns = (np.arange(NUM_PATTERNS)[:, None] >> np.arange(NUM_BITS)) & 1
    near, _, opposite = pair_counts(patterns).T
    return BitTask(patterns.astype(np.float32), (near - opposite > THRESHOLD).astype(np.int32))


def read_task(path: Path) -> BitTask:
    """The task in a file of the user's: .mat or .npz with F ``[4096, 12]``, all patterns of 0 and 1, and y of 4096.

    Raises:
        ValueError: the file is not of these, or does not hold that.
    """
    from scipy.io import loadmat

    function, expected = "read_task", "a .mat or .npz file with arrays F and y"
    if not Path(path).is_file() or path.suffix not in (".mat", ".npz"):
        raise fail(function, "labels_file", f"is {str(path)!r}", expected)
    try:
        held = loadmat(path) if path.suffix == ".mat" else dict(np.load(path))
    except Exception as error:  # the readers have a dozen kinds for what is no such file, some of them bare Exceptions
        raise fail(function, "labels_file", f"is {str(path)!r}, unreadable ({error})", expected) from error
    missing = [name for name in ("F", "y") if name not in held]
    if missing:
        raise fail(function, "labels_file", f"has no {' and no '.join(missing)}", expected)
    patterns, labels = np.asarray(held["F"]), np.asarray(held["y"]).reshape(-1)
    if patterns.shape != (NUM_PATTERNS, NUM_BITS):
        raise fail(function, "F", f"has shape {patterns.shape}", f"shape ({NUM_PATTERNS}, {NUM_BITS})")
    if labels.shape != (NUM_PATTERNS,):
        raise fail(function, "y", f"has {labels.size} entries", str(NUM_PATTERNS))
    for name, array in (("F", patterns), ("y", labels)):
        if not np.isin(array, (0, 1)).all():
            raise fail(function, name, "has other entries", "0 and 1 only")
    distinct = len(np.unique(patterns, axis=0))
    if distinct != NUM_PATTERNS:
        raise fail(function, "F", f"has {distinct} distinct rows", f"{NUM_PATTERNS}, every pattern once")
    if len(np.unique(labels)) != 2:
        raise fail(function, "y", "has one class", "both 0 and 1")
    return BitTask(patterns.astype(np.float32), labels.astype(np.int32))
