"""The random numbers of the data: words that depend on (seed, stream, index) alone, and the order drawn from them."""

import numpy as np

# Independent streams below one seed.
ORDER_STREAM, FLIP_STREAM = 0, 1


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``range(num_examples)`` drawn from ``(seed, epoch)``, int64.

    The argsort of raw generator words: numpy freezes these for all versions, unlike ``Generator.permutation``.
    Grain's own index shuffle costs about 20 microseconds an example, more than a whole batch may take here.

    >>> epoch_order(5, seed=0, epoch=0)
    array([2, 0, 4, 3, 1])
    """
    return np.argsort(random_words(seed, ORDER_STREAM, epoch, num_examples), kind="stable")


def random_words(seed: int, stream: int, index: int, count: int) -> np.ndarray:
    """``count`` raw 64-bit words of one stream, uint64."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, index))).random_raw(count)
