"""Which optimizer a parameter gets: rules on its path, as data; what no rule decides is listed and refused.

Neither the rank nor the order of axes tells a matrix from a stack of vectors, so nothing is inferred from them alone:
a rule names a path and says how the axes are to be read, and a leaf of another rank than the rule's is ambiguous.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optax.contrib import MuonDimensionNumbers

from jaxdiv.checks import fail
from jaxdiv.optimizers.matrices import MatrixAxes, as_matrix_axes, fit_axes, matrix_shapes
from jaxdiv.typing import PyTree

Route = str | MatrixAxes
Rule = tuple[str, Any]

ADAMW = "adamw"

ADAMW_RULES: tuple[Rule, ...] = (
    (r"embed|(?<![a-z])emb(?![a-z])", ADAMW),
    (r"^((params|model)/)?(output|logits|classifier)(/|$)", ADAMW),  # within a layer these are its own projections
    (r"(^|/)w[tp]e(/|$)", ADAMW),
    # a word of its own at the end of a part of the path: lm_head and head_0, but not multi_head or heads
    (r"(?<![a-z])(?<!multi_)head[_\d]*(/|$)", ADAMW),
    (r"router|gating", ADAMW),
    (r"norm(?!al(?!i))", ADAMW),
    (r"(?<![a-z])scales?[_\d]*(/|$)", ADAMW),
    (r"(?<![a-z])bias(es)?(?![a-z])", ADAMW),
)
"""Embeddings, output heads, routers, norms, scales and biases, stacked over layers or not."""

# In a state of flax.nnx, as nnx.Optimizer hands it over, the path of a parameter ends in "/value".
_MATRIX_NAMES = (
    r"(^|/)(\w+_)?(kernel|weight)s?(_?\d+)?(/value)?$"
    r"|(^|/)w(\d+|[qkvoui]|_?(in|out|up|down|gate)|_?qkv)?(_\w+)?(/value)?$"
)

DEFAULT_RULES: tuple[Rule, ...] = (*ADAMW_RULES, (_MATRIX_NAMES, MatrixAxes(inputs=0, outputs=1)))
"""`ADAMW_RULES`, then leaves called kernel, weight or w (wq, w1, w_in, ...) of rank 2 as ``[in, out]``."""

STACKED_RULES: tuple[Rule, ...] = (
    *ADAMW_RULES,
    (
        _MATRIX_NAMES,
        (
            MatrixAxes(inputs=0, outputs=1),
            MatrixAxes(inputs=1, outputs=2, batch=0),
            MatrixAxes(inputs=2, outputs=3, batch=(0, 1)),
        ),
    ),
)
"""For layers stacked by a scan: kernels ``[in, out]``, ``[layer, in, out]`` and ``[layer, expert, in, out]``.

Not for a network with convolutions, whose ``[h, w, in, out]`` these rules would read as experts.
"""


def route_parameters(params: PyTree, *, rules: Sequence[Rule] = DEFAULT_RULES) -> PyTree:
    """The route of every parameter: "adamw", or the `MatrixAxes` by which Muon reads it.

    Scalars and vectors go to AdamW. For any other leaf the first rule decides whose regular expression is found (upper
    and lower case alike) in its path, the keys joined by "/"; those of a flax.nnx state end in "/value".

    Args:
        params: a pytree of arrays or of ``jax.ShapeDtypeStruct``.
        rules: pairs of a regular expression and a route: "adamw" or None, `MatrixAxes`, optax's
            ``MuonDimensionNumbers``, or a tuple of these, of which the first counts that fits the leaf's shape. Put
            your own before `DEFAULT_RULES` or `STACKED_RULES`.

    Returns:
        A pytree of params' structure.

    Raises:
        ValueError: leaves that no rule matches, or whose rule does not fit their shape; the message lists them all.

    >>> params = {"embed": jnp.zeros((50, 8)), "mlp": {"kernel": jnp.zeros((8, 32)), "bias": jnp.zeros(32)}}
    >>> route_parameters(params)["mlp"]
    {'bias': 'adamw', 'kernel': MatrixAxes(inputs=(0,), outputs=(1,), batch=(), splits=None)}
    """
    compiled = _compile_rules(rules)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    routes, problems = [], []
    for path, leaf in leaves:
        name, shape = path_name(path), np.shape(leaf)
        route = _find_route(name, shape, compiled)
        routes.append(route)
        if not _is_final(route):
            problems.append(f"  {name} {shape}: {route}")
    if problems:
        raise ValueError(
            f"route_parameters: params has {len(problems)} ambiguous leaves; expected a rule for each:\n"
            + "\n".join(problems)
            + "\nRoute each by a rule before the others, rules=((r'regular expression of the path', route), "
            "*DEFAULT_RULES), with the route 'adamw' or MatrixAxes(inputs=..., outputs=..., batch=...): a convolution "
            "[h, w, in, out] is MatrixAxes(inputs=(0, 1, 2), outputs=3). Kernels stacked by a scan over layers: "
            "rules=STACKED_RULES."
        )
    return jax.tree.unflatten(treedef, routes)


def resolve_routes(function: str, params: PyTree, routes: Any) -> list[MatrixAxes | None]:
    """What each leaf of params is to Muon, None for AdamW, from what `muon` takes as routes.

    Args:
        function: named in errors.
        params: a pytree of arrays; nodes without leaves, such as optax's masked ones, are left out.
        routes: None for `route_parameters`, a function of params, or a (prefix) tree of routes as
            `route_parameters` returns it or as optax takes it.
    """
    tree = routes(params) if callable(routes) else route_parameters(params) if routes is None else routes
    expected = "a prefix of theirs; rules go through functools.partial(route_parameters, rules=rules)"
    full = broadcast_prefix(function, "routes", tree, params, _is_route, expected)
    found = []
    for (path, leaf), route in zip(jax.tree_util.tree_leaves_with_path(params), full, strict=True):
        name = f"of {path_name(path)}"
        if not _is_route(route):
            raise fail(function, f"routes {name}", f"is {route!r}", "'adamw', None, MatrixAxes, MuonDimensionNumbers")
        if route is None or isinstance(route, str):
            found.append(None)
            continue
        axes = as_matrix_axes(route)
        if isinstance(misfit := fit_axes(np.shape(leaf), axes), str):
            raise fail(function, f"routes {name} {np.shape(leaf)}", misfit, "every axis named exactly once")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise fail(function, f"params {name}", f"has dtype {leaf.dtype}", "a floating dtype for Muon")
        found.append(axes)
    return found


def format_routes(params: PyTree, routes: Any = None) -> str:
    """The routing as a table: path, shape, route, number of matrices, and their shorter x longer side.

    Args:
        params: a pytree of arrays or of ``jax.ShapeDtypeStruct``.
        routes: as `muon` takes them.

    >>> print(format_routes({"head": jnp.zeros((8, 50)), "up": {"kernel": jnp.zeros((8, 32))}}))
    path       shape    route  matrices
    head       (8, 50)  adamw
    up/kernel  (8, 32)  muon   1 of 8 x 32
    muon: 256 parameters in 1 matrices of 1 shapes; adamw: 400 parameters in 1 leaves
    """
    rows, shapes, sizes = [("path", "shape", "route", "matrices")], [], {"muon": 0, "adamw": 0}
    found = resolve_routes("format_routes", params, routes)
    for (path, leaf), axes in zip(jax.tree_util.tree_leaves_with_path(params), found, strict=True):
        groups = [] if axes is None else matrix_shapes(leaf.shape, axes)
        route = "adamw" if axes is None else "muon"
        text = ", ".join(f"{g.count} of {min(g[1:])} x {max(g[1:])}" for g in groups)
        rows.append((path_name(path), str(tuple(leaf.shape)), route, text))
        shapes += groups
        sizes[route] += leaf.size
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    num_matrices, num_shapes = sum(g.count for g in shapes), len({(min(g[1:]), max(g[1:])) for g in shapes})
    lines.append(
        f"muon: {sizes['muon']} parameters in {num_matrices} matrices of {num_shapes} shapes; "
        f"adamw: {sizes['adamw']} parameters in {found.count(None)} leaves"
    )
    return "\n".join(lines)


def path_name(path: Sequence[Any]) -> str:
    """The keys of a path joined by "/"."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def broadcast_prefix(
    function: str,
    argument: str,
    prefix: PyTree,
    tree: PyTree,
    is_leaf: Callable[[Any], bool],
    expected: str = "a prefix of theirs",
) -> list[Any]:
    """For every leaf of a tree the leaf of the argument, a prefix tree, above it."""
    found: list[Any] = []

    def note(value: Any, part: PyTree) -> None:
        found.extend([value] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(note, prefix, tree, is_leaf=is_leaf)
    except (ValueError, TypeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise fail(function, argument, f"is no tree for these parameters ({reason})", expected) from error
    return found


def _is_route(value: Any) -> bool:
    return value is None or _is_adamw(value) or isinstance(value, MatrixAxes | MuonDimensionNumbers)


def _is_adamw(value: Any) -> bool:
    return isinstance(value, str) and value == ADAMW


def _is_final(route: Any) -> bool:
    return _is_adamw(route) or isinstance(route, MatrixAxes)


def _compile_rules(rules: Any) -> list[tuple[re.Pattern[str], tuple[Any, ...]]]:
    expected = "pairs of a regular expression and 'adamw', MatrixAxes or MuonDimensionNumbers (or a tuple of these)"
    compiled = []
    if not isinstance(rules, Sequence) or isinstance(rules, str | bytes):
        raise fail("route_parameters", "rules", f"is {rules!r}", expected)
    for rule in rules:
        pair = isinstance(rule, Sequence) and not isinstance(rule, str) and len(rule) == 2
        several = pair and isinstance(rule[1], tuple) and not _is_route(rule[1])
        options = (rule[1] if several else rule[1:]) if pair else ()
        if not options or not isinstance(rule[0], str) or not all(map(_is_route, options)):
            raise fail("route_parameters", "rules", f"holds {rule!r}", expected)
        try:
            pattern = re.compile(rule[0], re.IGNORECASE)
        except re.error as error:
            raise fail("route_parameters", "rules", f"holds {rule[0]!r} ({error})", "a regular expression") from error
        compiled.append((pattern, options))
    return compiled


def _find_route(name: str, shape: tuple[int, ...], rules: list[tuple[re.Pattern[str], tuple[Any, ...]]]) -> Route:
    """The route, or what is wrong in words."""
    if len(shape) < 2:
        return ADAMW
    for pattern, options in rules:
        if not pattern.search(name):
            continue
        misfits = []
        for option in options:
            if option is None or isinstance(option, str):
                return ADAMW
            axes = as_matrix_axes(option)
            misfit = fit_axes(shape, axes)
            if not isinstance(misfit, str):
                return axes
            misfits.append(misfit)
        return f"matches a rule, but {misfits[0]}"
    return "no rule matches its path"
