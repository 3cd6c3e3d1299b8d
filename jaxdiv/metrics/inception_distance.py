"""FID: the Frechet distance between Inception features, called by that name only where it is that number."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.frechet import FeatureStatistics, frechet_distance
from jaxdiv.metrics.inception import NUM_FEATURES, InceptionParams, inception_features
from jaxdiv.metrics.inception_pixels import Scaling, inception_input, to_uint8
from jaxdiv.metrics.inception_weights import InceptionWeights
from jaxdiv.typing import Array, ArrayLike

_ROWS = 4096  # features are added up in large blocks: each update costs a 2048 x 2048 array or three


class FidResult(NamedTuple):
    """A distance and what it may be called."""

    value: float
    label: str
    """"FID", or "FD-Inception (unpinned weights)"."""
    num_samples: int
    num_reference: int


def fid(samples: FeatureStatistics, reference: FeatureStatistics, weights: InceptionWeights) -> FidResult:
    """Frechet distance between Inception statistics, labelled honestly.

    The label is "FID" only where the weights are the published file that its SHA-256 pins and the features are its
    2048 pooled ones; anything else is "FD-Inception (unpinned weights)". It vouches for the network alone: published
    figures also fix 50,000 samples, the reference set and the pixels' scaling.

    Args:
        samples: From ``inception_statistics`` with these weights.
        reference: The same for the reference set, or from ``read_fid_reference``.
        weights: Those that the statistics were made with.

    Raises:
        ValueError: Something else than statistics or weights, other lengths, fewer than two vectors.

    Source: Heusel et al., "GANs trained by a two time-scale update rule", arXiv 1706.08500, eq. 6.
    """
    checks.check_instance("fid", "samples", samples, FeatureStatistics)
    checks.check_instance("fid", "reference", reference, FeatureStatistics)
    checks.check_instance("fid", "weights", weights, InceptionWeights)
    checks.check_shape("fid", "reference.mean", reference.mean, samples.mean.shape)
    is_fid = weights.pinned and samples.mean.size == NUM_FEATURES
    label = "FID" if is_fid else "FD-Inception (unpinned weights)"
    return FidResult(frechet_distance(samples, reference), label, samples.count, reference.count)


@partial(jax.jit, static_argnames="scaling")
def _features(params: InceptionParams, images: Array, scaling: Scaling) -> Array:
    return inception_features(params, inception_input(images, scaling=scaling))


def inception_statistics(
    weights: InceptionWeights,
    images: ArrayLike | Iterable[ArrayLike],
    *,
    batch_size: int = 256,
    scaling: Scaling = "tensorflow",
) -> FeatureStatistics:
    """Mean and scatter of the Inception features of images that come in pieces.

    Pieces of any lengths are cut into batches of one size, the last filled up with black images that count for
    nothing, so one program is compiled for an image size. The device works on a batch while the host cuts the next;
    sums are float64 on the host.

    Args:
        weights: From ``load_inception``.
        images: One array ``[N, H, W, 3]`` or an iterable of such, of one height and width: uint8, or floating in
            [-1, 1] and then rounded to 8 bits as an image file would.
        batch_size: Images on the device at once.
        scaling: See ``inception_input``.

    Returns:
        Statistics of 2048 features.

    Raises:
        ValueError: No image at all, images of several sizes, NaN or infinite pixels, or a wrong shape or dtype.
    """
    function = "inception_statistics"
    checks.check_instance(function, "weights", weights, InceptionWeights)
    checks.check_integer(function, "batch_size", batch_size, 1)
    checks.check_choice(function, "scaling", scaling, ("symmetric", "tensorflow"))
    pieces = [images] if hasattr(images, "shape") else images
    statistics = FeatureStatistics.empty(NUM_FEATURES)
    rows: list[np.ndarray] = []
    running: tuple[Array, int] | None = None
    for batch in _batches(_bytes(function, pieces), batch_size):
        filled = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
        following = (_features(weights.params, filled, scaling), len(batch))
        # A batch is fetched after the next one is under way.
        if running is not None:
            rows.append(np.asarray(running[0])[: running[1]])
        running = following
        if sum(map(len, rows)) >= _ROWS:
            statistics, rows = statistics.update(np.concatenate(rows)), []
    if running is None:
        raise checks.fail(function, "images", "has no image", "one or more")
    rows.append(np.asarray(running[0])[: running[1]])
    return statistics.update(np.concatenate(rows))


def _bytes(function: str, pieces: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
    """Each piece as uint8 on the host; all of one height and width."""
    shape: tuple[int | None, ...] = (None, None, None, 3)
    for piece in pieces:
        checks.check_shape(function, "images", piece, shape)
        array = np.asarray(piece)
        if array.dtype != np.uint8:
            if not np.isfinite(array.astype(np.float32)).all():
                raise checks.fail(function, "images", "holds NaN or infinity", "finite pixels")
            array = np.asarray(to_uint8(array))
        shape = (None, *array.shape[1:])
        yield array


def _batches(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in pieces of one size, the last one shorter."""
    held: list[np.ndarray] = []
    for piece in pieces:
        held.append(piece)
        if sum(map(len, held)) < size:
            continue
        joined = np.concatenate(held)
        full = len(joined) - len(joined) % size
        yield from np.split(joined[:full], full // size)
        held = [joined[full:]]
    if any(map(len, held)):
        yield np.concatenate(held)


def read_fid_reference(path: str | Path, *, count: int = 50_000) -> FeatureStatistics:
    """Precomputed statistics of a reference set, as EDM and others publish them: an ``.npz`` with ``mu`` and ``sigma``.

    Args:
        path: The file; pickled arrays in it are refused.
        count: How many images it describes, which the file does not say; at least 2. It changes no distance: the
            covariance is ``sigma`` itself.

    Returns:
        Statistics whose mean is ``mu`` and whose unbiased covariance is ``sigma``.

    Raises:
        ValueError: No such file or arrays, shapes other than ``[D]`` and ``[D, D]``, NaN, or a sigma that is not
            symmetric with nonnegative diagonal.
    """
    function, path = "read_fid_reference", Path(path)
    checks.check_integer(function, "count", count, 2)
    try:
        with np.load(path, allow_pickle=False) as stored:
            mu, sigma = (np.asarray(stored[name], np.float64) for name in ("mu", "sigma"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise checks.fail(function, "path", f"is {str(path)!r} ({error})", "an .npz with mu and sigma") from error
    checks.check_shape(function, "mu", mu, (None,))
    checks.check_shape(function, "sigma", sigma, (mu.size, mu.size))
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise checks.fail(function, "path", f"is {str(path)!r}, which holds NaN or infinity", "finite statistics")
    symmetric = np.allclose(sigma, sigma.T, rtol=1e-5, atol=1e-6 * np.abs(sigma).max(initial=0.0))
    if not symmetric or (np.diag(sigma) < 0).any():
        raise checks.fail(function, "sigma", f"of {str(path)!r} is no covariance", "a symmetric matrix, diagonal >= 0")
    return FeatureStatistics(count, mu, (sigma + sigma.T) / 2 * (count - 1))
