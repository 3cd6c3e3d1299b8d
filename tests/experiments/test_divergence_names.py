"""Names of divergences on a command line."""

import pytest

from experiments.divergence_names import WITH_PARAMETER, WITHOUT_PARAMETER, parse_divergence
from jaxdiv import divergences


@pytest.mark.parametrize("name", WITHOUT_PARAMETER)
def test_a_name_alone_is_the_record_of_that_name(name):
    assert parse_divergence(name) == getattr(divergences, name)()
    assert parse_divergence(f"  {name} ") == parse_divergence(name)


@pytest.mark.parametrize("name", WITH_PARAMETER)
@pytest.mark.parametrize("number", ["0.3", ".3", "3e-1"])
def test_a_parameter_stands_in_parentheses(name, number):
    assert parse_divergence(f"{name}({number})") == getattr(divergences, name)(0.3)


def test_a_negative_parameter():
    assert parse_divergence("alpha(-1)") == divergences.alpha(-1.0)


def test_every_named_member_can_be_asked_for():
    members = {name for name in divergences.__all__ if name.islower() and name in dir(divergences)}
    known = {*WITHOUT_PARAMETER, *WITH_PARAMETER}
    assert known <= members and len(known) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "divergence is 'nonsense'; expected one of 'alpha', 'jeffreys'"),
        ("kl(0.5)", "divergence is 'kl(0.5)'; expected kl without a parameter"),
        ("alpha", "divergence is 'alpha'; expected a parameter, such as alpha(0.5)"),
        ("alpha(1.2.3)", "text is 'alpha(1.2.3)'; expected a name such as kl or alpha(0.5)"),
        ("alpha(x)", "expected a name such as"),
        ("alpha(.)", "expected a name such as"),
        ("alpha()", "expected a name such as"),
        ("", "text is ''; expected a name such as"),
        ("jensen_shannon(2)", "pi is 2.0"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError) as error:
        parse_divergence(text)
    assert message in str(error.value)
