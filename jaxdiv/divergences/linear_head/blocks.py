"""Which blocks the work goes in: of tokens, or of the vocabulary.

Blocks of tokens make the logits of some tokens against the whole vocabulary, and from them those tokens' logit
gradients in the arguments' dtype. The logit gradients of a group of blocks are held until one product each makes the
gradients of the arrays: four matrix products in all. If the group is not everything, the head's gradient is summed in
float32.
Blocks of the vocabulary keep no row of logits, but look at the logits three times: eight products.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxdiv import checks

DEFAULT_MEMORY = 2_650_000_000
# Measured on an H100 (`benchmarks.linear_head --parts curve`): products of 256 tokens with the head cost a tenth of the
# whole, more than adding to a float32 head every 2,048 tokens, and that costs more than blocks of 512.
# On an H200 2,048 took 2 % less than 1,024 where neither leaves room for all gradients, in less memory.
_TOKEN_BLOCKS = (2048, 1024, 512, 256, 128)
_GOOD_TOKEN_BLOCK = 512
_GOOD_GROUP = 2048
TOKEN_TILE = 128


class Blocks(NamedTuple):
    """Block sizes: either ``tokens`` or ``vocab`` is everything there is, or both."""

    tokens: int
    vocab: int
    group: int = 1
    """Blocks of tokens whose logit gradients are held at a time."""


class Sizes(NamedTuple):
    """What the choice depends on: numbers of tokens and categories, widths, and bytes per number."""

    num_tokens: int
    vocab: int
    p_width: int
    q_width: int
    itemsize: int
    differentiate_p: bool
    pair_bytes: int = 8
    """Of a logit of p and the same of q: two float32 numbers, or packed 16-bit ones."""


def token_block_bytes(sizes: Sizes, tokens: int, group: int = 1) -> int:
    """Temporary bytes of groups of blocks of ``tokens``: a block's logits, a group's gradients, float32 heads.

    >>> token_block_bytes(Sizes(8192, 128_256, 4096, 2048, 2, False), 256, group=32)
    2364014592
    """
    return _held_bytes(sizes, tokens, min(tokens * group, sizes.num_tokens), tokens * group < sizes.num_tokens)


def _held_bytes(sizes: Sizes, with_logits: int, with_gradients: int, summed: bool) -> int:
    sides = 2 if sizes.differentiate_p else 1
    held = sizes.vocab * (sizes.pair_bytes * with_logits + sides * sizes.itemsize * with_gradients)
    widths = sizes.q_width + (sizes.p_width if sizes.differentiate_p else 0)
    return held + (4 * sizes.vocab * widths if summed else 0)


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
    """The fastest blocks of tokens that fit the limit, or blocks of the vocabulary where not even small ones do.

    >>> choose_blocks(Sizes(8192, 128_256, 4096, 2048, 2, False), DEFAULT_MEMORY)
    Blocks(tokens=512, vocab=128256, group=16)
    >>> choose_blocks(Sizes(16_384, 128_256, 4096, 2048, 2, False), DEFAULT_MEMORY)
    Blocks(tokens=1024, vocab=128256, group=2)
    >>> choose_blocks(Sizes(8192, 128_256, 4096, 2048, 2, False, pair_bytes=4), DEFAULT_MEMORY)
    Blocks(tokens=1024, vocab=128256, group=8)
    >>> choose_blocks(Sizes(16_384, 128_256, 4096, 2048, 2, False, pair_bytes=4), DEFAULT_MEMORY)
    Blocks(tokens=2048, vocab=128256, group=1)
    >>> choose_blocks(Sizes(2048, 256_000, 8192, 8192, 2, False), 2_000_000_000)
    Blocks(tokens=384, vocab=256000, group=6)
    >>> choose_blocks(Sizes(8192, 256_000, 8192, 8192, 2, False), 2_000_000_000)
    Blocks(tokens=8192, vocab=21120, group=1)
    """
    name = "linear_head_divergence"
    for argument, value in (("token_block", token_block), ("vocab_block", vocab_block)):
        if value is not None:
            checks.check_integer(name, argument, value, low=1)
    if token_block is not None and vocab_block is not None:
        raise checks.fail(name, "vocab_block", f"is {vocab_block} beside token_block {token_block}", "one of the two")
    if vocab_block is not None:
        return Blocks(sizes.num_tokens, min(vocab_block, sizes.vocab))
    if token_block is not None:
        tokens = min(token_block, sizes.num_tokens)
        return Blocks(tokens, sizes.vocab, max(_group(sizes, memory_limit, tokens), 1))
    if token_block_bytes(sizes, sizes.num_tokens) <= memory_limit:
        return Blocks(sizes.num_tokens, sizes.vocab)
    # The largest that leaves room for the logit gradients of all tokens, if it is a good one.
    fitting = _fitting(memory_limit, lambda tokens: _held_bytes(sizes, tokens, sizes.num_tokens, False))
    beside = fitting // TOKEN_TILE * TOKEN_TILE
    if beside >= _GOOD_TOKEN_BLOCK:
        return Blocks(beside, sizes.vocab, _group(sizes, memory_limit, beside))
    groups = {size: _group(sizes, memory_limit, size) for size in (*_TOKEN_BLOCKS, max(beside, _TOKEN_BLOCKS[-1]))}
    held = {size: min(size * group, sizes.num_tokens) for size, group in groups.items() if group >= 1}
    if held:
        good = [size for size in held if held[size] >= min(_GOOD_GROUP, sizes.num_tokens)]
        tokens = max(good) if good else max(held, key=lambda size: (held[size], size))
        return Blocks(tokens, sizes.vocab, groups[tokens])
    fitting = _fitting(memory_limit, lambda vocab: vocab_block_bytes(sizes, vocab))
    return Blocks(sizes.num_tokens, min(max(fitting // TOKEN_TILE, 1) * TOKEN_TILE, sizes.vocab))


def whole_tiles(blocks: Blocks, num_tokens: int) -> Blocks:
    """Blocks of whole tiles of tokens, an even number of them if it can be, that pad ``num_tokens`` little.

    At most as large as ``blocks`` but for the last tile; a group holds as many tokens as before.

    >>> whole_tiles(Blocks(1024, 128_256, 8), 8192), whole_tiles(Blocks(1024, 128_256, 9), 8200)
    (Blocks(tokens=1024, vocab=128256, group=8), Blocks(tokens=768, vocab=128256, group=12))
    >>> whole_tiles(Blocks(300, 128_256, 1), 300)
    Blocks(tokens=384, vocab=128256, group=1)
    """
    most, tiles = -(-blocks.tokens // TOKEN_TILE), -(-num_tokens // TOKEN_TILE)

    def cost(size: int) -> tuple[float, int]:
        # Two programs of an even block share what they fetch: measured, 5 %.
        return -(-tiles // size) * size * (1.05 if size % 2 else 1.0), -size

    tokens = min(range(-(-most // 2), most + 1), key=cost) * TOKEN_TILE
    return blocks._replace(tokens=tokens, group=-(-blocks.group * blocks.tokens // tokens))


def equal_groups(num_tokens: int, blocks: Blocks) -> tuple[int, int]:
    """(groups, blocks in each): as few groups as hold at most ``blocks.group`` blocks, then as few blocks.

    Full groups with a short last one would be padded with tokens that cost as much as others.

    >>> equal_groups(16_384, Blocks(512, 128_256, 10))
    (4, 8)
    """
    num_blocks = -(-num_tokens // blocks.tokens)
    num_groups = -(-num_blocks // blocks.group)
    return num_groups, -(-num_blocks // num_groups)


def _group(sizes: Sizes, memory_limit: int, tokens: int) -> int:
    """How many blocks of ``tokens`` can have their gradients held within the limit."""
    everything = -(-sizes.num_tokens // tokens)
    if token_block_bytes(sizes, tokens, everything) <= memory_limit:
        return everything
    return min(_fitting(memory_limit, lambda group: _held_bytes(sizes, tokens, tokens * group, True)), everything - 1)


def _fitting(limit: int, size: Callable[[int], int]) -> int:
    """The largest count whose size, affine in the count, is within the limit; may be negative."""
    return (limit - size(0)) // (size(1) - size(0))
