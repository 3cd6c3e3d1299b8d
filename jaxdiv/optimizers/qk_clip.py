"""QK-clip: after a step, the query and key weights of every head whose logits grew too large are scaled back."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_real, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers.routing import path_name
from jaxdiv.typing import Array, ArrayLike, PyTree

_ROLES = ("query", "rotary", "key", "keep")

QK_RULES: tuple[tuple[str, Any], ...] = (
    (r"(^|/)query/kernel(/value)?$", "query"),
    (r"(^|/)key/kernel(/value)?$", "key"),
)
"""The kernels of multi-head and grouped-query attention."""


def clip_qk(
    params: PyTree,
    max_logits: ArrayLike,
    *,
    rules: Sequence[tuple[str, Any]] = QK_RULES,
    tau: float = 100.0,
    num_kv_heads: int | None = None,
) -> tuple[PyTree, Array]:
    r"""Scales attention weights so that the largest logit seen in each head becomes at most ``tau``.

    With ``S_h`` the largest logit of head h and ``g_h = min(1, tau / S_h)``, every logit of the head is multiplied by
    g_h: queries and keys by ``sqrt(g_h)`` each. What heads share is scaled by what all of them allow: keys of a group
    (grouped-query attention) by the root of the least g of its heads, and each query by the rest. The rotary key that
    latent attention shares among all heads stays, and the rotary queries take g_h whole.

    Args:
        params: a pytree of parameters.
        max_logits: ``[..., H]``, S by layer and head, after the scale and before the softmax. The leading axes (layers)
            are those of the leaves. NaN and infinite ones are left alone.
        rules: pairs of a regular expression on the path and what the columns of its leaves ``[layer..., in, heads *
            size]`` (or ``[layer..., heads * size]``) are: "query", "rotary" (queries of a shared key), "key" or "keep"
            (values), or a tuple of pairs (role, size) where a head's columns are of several. Latent attention:
            ``((r"(^|/)query/kernel$", (("query", 64), ("rotary", 32))), (r"(^|/)key/kernel$", "key"))``.
        tau: above 0.
        num_kv_heads: heads of the leaves with role "key"; None: H. It divides H.

    Returns:
        The parameters, in their own dtypes, and the number of heads clipped, int32. Under query-key normalisation
        the weights' sizes do not reach the logits, and clipping does nothing to them.

    Raises:
        ValueError: a rule that matches no leaf, or whose leaves have other shapes; any other wrong argument.

    Source: Kimi team, Kimi K2: open agentic intelligence (2025), arXiv 2507.20534, section 2.1.

    >>> params = {"query": {"kernel": jnp.ones((3, 4))}, "key": {"kernel": jnp.ones((3, 4))}}
    >>> clipped, count = clip_qk(params, jnp.array([50.0, 400.0]))
    >>> [float(x) for x in clipped["key"]["kernel"][0]], int(count)
    ([1.0, 1.0, 0.5, 0.5], 1)
    """
    top = promote(floating_array("clip_qk", "max_logits", max_logits))
    if not top.ndim or not top.shape[-1]:
        raise fail("clip_qk", "max_logits", f"has shape {top.shape}", "shape (..., heads)")
    check_real("clip_qk", "tau", tau, 0.0, math.inf, open_low=True, open_high=True)
    heads = top.shape[-1]
    groups = heads if num_kv_heads is None else num_kv_heads
    check_integer("clip_qk", "num_kv_heads", groups, 1, heads)
    if heads % groups:
        raise fail("clip_qk", "num_kv_heads", f"is {groups}", f"a divisor of {heads} heads")
    clip = jnp.isfinite(top) & (top > tau)
    g = jnp.where(clip, tau / jnp.where(clip, top, 1.0), 1.0)
    shared = jnp.sqrt(jnp.min(g.reshape(*g.shape[:-1], groups, -1), axis=-1))
    ones = jnp.ones_like(g)
    # query and key of a head together make g
    factors = {"query": g / jnp.repeat(shared, heads // groups, axis=-1), "rotary": g, "key": shared, "keep": ones}
    compiled = _compile_rules(rules)
    matched, sizes = set(), {"query": set(), "key": set()}

    def scaled(path: tuple, leaf: Array) -> Array:
        name = path_name(path)
        for index, (pattern, parts) in enumerate(compiled):
            if pattern.search(name):
                matched.add(index)
                scaled_leaf = _scale_heads(name, leaf, parts, factors)
                if (role := parts[0][0]) in sizes and parts[0][1] is None:
                    sizes[role].add(leaf.shape[-1] // factors[role].shape[-1])
                return scaled_leaf
        return leaf

    clipped = jax.tree_util.tree_map_with_path(scaled, params)
    for index, (pattern, _) in enumerate(compiled):
        if index not in matched:
            raise fail("clip_qk", "rules", f"holds {pattern.pattern!r}", "a regular expression that some path matches")
    if sizes["query"] and sizes["key"] and sizes["query"] != sizes["key"]:
        columns = " and ".join(f"{role} heads of {sorted(found)}" for role, found in sizes.items())
        raise fail("clip_qk", "num_kv_heads", f"is {num_kv_heads}, which makes {columns}", "columns of one number")
    return clipped, jnp.sum(clip, dtype=jnp.int32)


def _scale_heads(name: str, leaf: Array, parts: tuple[tuple[str, int | None], ...], factors: dict[str, Array]) -> Array:
    roles = {role for role, _ in parts}
    counts = {factors[role].shape[-1] for role in roles - {"keep"}}
    num_heads = counts.pop() if len(counts) == 1 else 0
    lead = factors["keep"].shape[:-1]
    width = leaf.shape[-1] // num_heads if num_heads else 0
    sizes = [width if size is None else size for _, size in parts]
    stacked = leaf.ndim > len(lead) and leaf.shape[: len(lead)] == lead
    if not num_heads or not stacked or num_heads * sum(sizes) != leaf.shape[-1]:
        columns = " + ".join("any" if size is None else str(size) for _, size in parts)
        expected = f"leading axes {lead} and {columns} columns for each of {num_heads or 'equally many'} heads"
        raise fail("clip_qk", f"params of {name}", f"has shape {leaf.shape}", expected)
    ones = jnp.ones((*lead, num_heads), factors["keep"].dtype)
    columns = [
        jnp.broadcast_to((ones if role == "keep" else factors[role])[..., None], (*ones.shape, size))
        for (role, _), size in zip(parts, sizes, strict=True)
    ]
    factor = jnp.concatenate(columns, axis=-1).reshape(*lead, *(1,) * (leaf.ndim - len(lead) - 1), leaf.shape[-1])
    return (promote(leaf) * factor).astype(leaf.dtype)


def _compile_rules(rules: Any) -> list[tuple[re.Pattern[str], tuple[tuple[str, int | None], ...]]]:
    expected = "pairs of a regular expression and 'query', 'rotary', 'key', 'keep', or pairs of these with sizes"
    if not isinstance(rules, Sequence) or isinstance(rules, str | bytes) or not rules:
        raise fail("clip_qk", "rules", f"is {rules!r}", expected)
    compiled = []
    for rule in rules:
        try:
            pattern, parts = rule
            parts = ((parts, None),) if isinstance(parts, str) else tuple((role, size) for role, size in parts)
            right = bool(parts) and all(
                role in _ROLES and (size is None or (type(size) is int and size > 0)) for role, size in parts
            )
            right = right and (len(parts) == 1 or all(size for _, size in parts))
            compiled.append((re.compile(pattern), parts))
        except (TypeError, ValueError, re.error) as error:
            raise fail("clip_qk", "rules", f"holds {rule!r}", expected) from error
        if not right:
            raise fail("clip_qk", "rules", f"holds {rule!r}", expected)
    return compiled
