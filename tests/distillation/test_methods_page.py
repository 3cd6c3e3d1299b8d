"""The page of one-step distillation says what the code does: its table of methods, its coefficients."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergences
from jaxdiv.distillation import METHODS, KarrasUniform, coefficients
from jaxdiv.divergences import generators, mixtures

PAGE = (Path(__file__).parents[2] / "docs" / "one_step_distillation.md").read_text()
COLUMNS = ("method", "divergence", "gradient", "ratio", "time weight", "alpha", "reduction", "sigma", "besides")


def number(value):
    return f"{value:g}"


def noise(law):
    if isinstance(law, KarrasUniform):
        return f"Karras, u in [{law.low:g}, {law.high:g}]"
    return f"ln sigma ~ N({law.mean:g}, {law.std:g}^2)"


def besides(method):
    objective = method.objective
    terms = [
        ("per-sample scale", objective.sample_weight == "l1"),
        ("weights over their batch mean", objective.weight_scale == "batch_mean"),
        (f"GAN {method.gan_weight:g}, head on the {method.feature_source}", method.gan_weight > 0),
        (f"discriminator {method.discriminator_weight:g}", method.gan_weight > 0),
        (f"R1 {method.r1_weight:g}", method.r1_weight > 0),
        (f"regression {method.regression_weight:g}", method.regression_weight > 0),
        (f"{method.num_fake_steps} fake steps", method.num_fake_steps > 1),
        (f"fake sigma: {noise(method.fake_noise)}", method.fake_noise != method.student_noise),
    ]
    return "; ".join(text for text, holds in terms if holds)


def row(name):
    method = METHODS[name]
    objective = method.objective
    cells = (
        f"`{name}`",
        objective.divergence.name,
        objective.gradient,
        objective.ratio,
        objective.time_weight.__name__,
        number(objective.alpha) if objective.gradient == "expanded" else "",
        objective.reduction,
        noise(method.student_noise),
        besides(method),
    )
    return "| " + " | ".join(cells) + " |"


def test_the_table_of_methods_is_that_of_the_code():
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", *map(row, METHODS)]
    [table] = re.findall(r"<!-- methods -->\n\n(.*)\n\n<!-- /methods -->", PAGE, re.DOTALL)
    assert table.splitlines() == lines


def expressions():
    section = PAGE.split("## Coefficients")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [re.findall(r"`([^`]*)`", line) for line in rows]


def test_every_smooth_divergence_has_a_row_of_coefficients():
    made = {cells[0].split("(")[0] for cells in expressions()}
    named = {*vars(generators), *vars(mixtures)} & set(divergences.__all__)
    assert made == named - {"FDivergence", "Formula", "total_variation"}


@pytest.mark.parametrize("cells", expressions(), ids=lambda cells: cells[0])
def test_coefficients_are_those_of_the_code(cells, x64):
    names = {"log": jnp.log, "sqrt": jnp.sqrt}
    rho = jnp.linspace(-3.0, 3.0, 13)
    divergence = eval(cells[0], vars(divergences))
    found = coefficients(divergence, rho)

    def second(r):
        """The second derivative of the page's f."""
        return jax.grad(jax.grad(lambda x: eval(cells[1], {**names, "r": x})))(r)

    r = jnp.exp(rho)
    np.testing.assert_allclose(r**2 * jax.vmap(second)(r), found.c, rtol=1e-9)
    for expression, wanted in zip(cells[2:], (found.c, found.k, -found.dk), strict=True):
        np.testing.assert_allclose(eval(expression, {**names, "r": r}) + 0 * r, wanted, rtol=1e-9, atol=1e-12)
