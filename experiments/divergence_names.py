"""Divergences by the name that a command line gives them: ``kl``, ``jensen_shannon``, ``alpha(0.3)``."""

import re

from jaxdiv import divergences
from jaxdiv.checks import check_choice, fail
from jaxdiv.divergences import FDivergence

WITHOUT_PARAMETER = (
    "kl", "reverse_kl", "jensen_shannon", "jeffreys", "squared_hellinger", "pearson_chi2", "neyman_chi2",
    "softened_reverse_kl", "le_cam", "total_variation",
)  # fmt: skip
WITH_PARAMETER = ("alpha", "jensen_shannon", "skew_kl")


def parse_divergence(text: str) -> FDivergence:
    """The divergence of that name, its parameter in parentheses.

    Raises:
      ValueError: for an unknown name or a missing, superfluous or malformed parameter.

    >>> parse_divergence("alpha(0.5)").name, parse_divergence("kl").name
    ('alpha(0.5)', 'kl')
    """
    match = re.fullmatch(r"(\w+)(?:\((-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)\))?", text.strip())
    if match is None:
        raise fail("parse_divergence", "text", f"is {text!r}", "a name such as kl or alpha(0.5)")
    name, parameter = match.groups()
    check_choice("parse_divergence", "divergence", name, sorted({*WITHOUT_PARAMETER, *WITH_PARAMETER}))
    if parameter is None:
        if name not in WITHOUT_PARAMETER:
            raise fail("parse_divergence", "divergence", f"is {text!r}", f"a parameter, such as {name}(0.5)")
        return getattr(divergences, name)()
    if name not in WITH_PARAMETER:
        raise fail("parse_divergence", "divergence", f"is {text!r}", f"{name} without a parameter")
    return getattr(divergences, name)(float(parameter))
