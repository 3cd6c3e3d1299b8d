"""Which blocks the work goes in: of tokens, or of the vocabulary.

Blocks of tokens make the logits of some tokens against the whole vocabulary: four matrix products in all (the logits of
both sides, two gradients), and a float32 accumulator as large as the head when there is more than one block. Blocks of
the vocabulary keep no accumulator and no row of logits, but look at the logits three times: eight products.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxdiv import checks

DEFAULT_MEMORY = 2_400_000_000
_SMALLEST_TOKEN_BLOCK = 128
_TILE = 128


class Blocks(NamedTuple):
    """Block sizes; exactly one of the two is less than everything, or neither."""

    tokens: int
    vocab: int


class Sizes(NamedTuple):
    """What the choice depends on: numbers of tokens and categories, widths, and bytes per gradient element."""

    num_tokens: int
    vocab: int
    p_width: int
    q_width: int
    itemsize: int
    differentiate_p: bool


def token_block_bytes(sizes: Sizes, tokens: int) -> int:
    """Temporary bytes of blocks of ``tokens``: both logits in float32, their gradients, the accumulators.

    >>> token_block_bytes(Sizes(8192, 128_256, 4096, 2048, 2, False), 1024)
    2364014592
    """
    sides = 2 if sizes.differentiate_p else 1
    block = tokens * sizes.vocab * (8 + sides * sizes.itemsize)
    if tokens >= sizes.num_tokens:
        return block
    return block + 4 * sizes.vocab * (sizes.q_width + (sizes.p_width if sizes.differentiate_p else 0))


def vocab_block_bytes(sizes: Sizes, vocab: int) -> int:
    """Temporary bytes of blocks of the vocabulary: both logits and gradients of a block, and the hidden gradients.

    >>> vocab_block_bytes(Sizes(8192, 128_256, 4096, 2048, 2, False), 4096)
    402653184
    """
    sides = 2 if sizes.differentiate_p else 1
    hidden = sizes.q_width + (sizes.p_width if sizes.differentiate_p else 0)
    return sizes.num_tokens * (vocab * (8 + sides * sizes.itemsize) + 4 * hidden)


def choose_blocks(
    sizes: Sizes, memory_limit: int, token_block: int | None = None, vocab_block: int | None = None
) -> Blocks:
    """The largest blocks of tokens that fit the limit, or blocks of the vocabulary where not even small ones do.

    >>> choose_blocks(Sizes(8192, 128_256, 4096, 2048, 2, False), DEFAULT_MEMORY)
    Blocks(tokens=1024, vocab=128256)
    >>> choose_blocks(Sizes(2048, 256_000, 8192, 8192, 2, False), 2_000_000_000)
    Blocks(tokens=2048, vocab=94336)
    """
    name = "linear_head_divergence"
    for argument, value in (("token_block", token_block), ("vocab_block", vocab_block)):
        if value is not None:
            checks.check_integer(name, argument, value, low=1)
    if token_block is not None and vocab_block is not None:
        raise checks.fail(name, "vocab_block", f"is {vocab_block} beside token_block {token_block}", "one of the two")
    if token_block is not None:
        return Blocks(min(token_block, sizes.num_tokens), sizes.vocab)
    if vocab_block is not None:
        return Blocks(sizes.num_tokens, min(vocab_block, sizes.vocab))
    if token_block_bytes(sizes, sizes.num_tokens) <= memory_limit:
        return Blocks(sizes.num_tokens, sizes.vocab)
    fitting = _fitting(memory_limit, lambda tokens: token_block_bytes(sizes, tokens))
    if fitting >= min(_SMALLEST_TOKEN_BLOCK, sizes.num_tokens):
        num_blocks = -(-sizes.num_tokens // fitting)
        return Blocks(-(-sizes.num_tokens // num_blocks), sizes.vocab)
    fitting = _fitting(memory_limit, lambda vocab: vocab_block_bytes(sizes, vocab))
    return Blocks(sizes.num_tokens, min(max(fitting // _TILE, 1) * _TILE, sizes.vocab))


def _fitting(limit: int, size: Callable[[int], int]) -> int:
    """The largest count whose size, affine in the count, is within the limit; may be negative."""
    return (limit - size(0)) // (size(1) - size(0))
