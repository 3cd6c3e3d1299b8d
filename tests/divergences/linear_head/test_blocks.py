"""How the blocks are chosen, and that no temporary is as large as the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import kl
from jaxdiv.divergences.linear_head import linear_head_divergence
from jaxdiv.divergences.linear_head.blocks import (
    DEFAULT_MEMORY,
    Blocks,
    Sizes,
    choose_blocks,
    token_block_bytes,
    vocab_block_bytes,
)

LARGE = Sizes(8192, 128_256, 4096, 2048, 2, False)


@pytest.mark.parametrize("limit", [3e8, 1e9, 1.5e9, DEFAULT_MEMORY, 8e9, 1e11])
@pytest.mark.parametrize("sizes", [LARGE, LARGE._replace(differentiate_p=True), LARGE._replace(q_width=16384)])
def test_blocks_fit_the_limit(sizes, limit):
    blocks = choose_blocks(sizes, int(limit))
    by_tokens = blocks.vocab == sizes.vocab
    assert by_tokens or blocks.tokens == sizes.num_tokens
    used = (
        token_block_bytes(sizes, blocks.tokens, blocks.group) if by_tokens else vocab_block_bytes(sizes, blocks.vocab)
    )
    assert used <= limit or blocks.vocab == 128, "more than the limit although smaller blocks exist"


def test_more_memory_means_faster_blocks():
    """By the measured order: small blocks, then large ones of which few are held, then all tokens held."""
    chosen = [choose_blocks(LARGE, int(limit)) for limit in np.geomspace(1.4e9, 2e10, 24)]
    held = [min(b.tokens * b.group, LARGE.num_tokens) for b in chosen]
    whole = [h == LARGE.num_tokens for h in held]
    assert whole == sorted(whole)
    for part in (chosen[: whole.index(True)], chosen[whole.index(True) :]):
        assert [b.tokens for b in part] == sorted(b.tokens for b in part)
    assert all(b.tokens >= 512 for b in chosen[whole.index(True) :])
    assert chosen[-1].tokens == LARGE.num_tokens


@pytest.mark.parametrize("limit", np.geomspace(1.2e9, 2e10, 12))
def test_no_better_block_fits(limit):
    """Against all multiples of 128: all tokens held in blocks of 512 or more, else 2,048 held in the largest block."""
    sizes = LARGE._replace(num_tokens=16_384)
    blocks = choose_blocks(sizes, int(limit))
    everything = [t for t in range(512, 16_385, 128) if token_block_bytes(sizes, t, -(-16_384 // t)) <= limit]
    if everything:
        assert (blocks.tokens, blocks.tokens * blocks.group >= 16_384) == (max(everything), True)
    else:
        fitting = [t for t in (2048, 1024, 512, 256, 128) if token_block_bytes(sizes, t, 2048 // t) <= limit]
        assert not fitting or (blocks.tokens, blocks.tokens * blocks.group >= 2048) == (max(fitting), True)


def test_by_hand():
    assert choose_blocks(LARGE, 1, token_block=100) == Blocks(100, LARGE.vocab, 1)
    assert choose_blocks(LARGE, 10**10, token_block=100) == Blocks(100, LARGE.vocab, 82)
    assert choose_blocks(LARGE, 1, vocab_block=1000) == Blocks(LARGE.num_tokens, 1000)
    assert choose_blocks(LARGE, 1, token_block=10**6) == Blocks(LARGE.num_tokens, LARGE.vocab)


FORMS = [{"token_block": 16, "memory_limit": 1_000_000}, {"vocab_block": 128}]


@pytest.mark.parametrize("form", FORMS, ids=["tokens", "vocabulary"])
def test_no_array_of_logits_in_the_program(form):
    tokens, vocab = 256, 2048
    shapes = dict(q_hidden=(tokens, 8), q_head=(vocab, 8), p_hidden=(tokens, 8), p_head=(vocab, 8))
    args = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    step = jax.jit(jax.value_and_grad(lambda a: linear_head_divergence(kl(), **a, **form, implementation="xla")))
    compiled = step.lower(args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < tokens * vocab * 4
