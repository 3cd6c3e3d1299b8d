"""The cell of the notebooks that installs the library."""

import builtins
import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from colab.build import INSTALL


def _installed(monkeypatch, present, in_colab=True):
    """What the cell gives to pip, on a machine with these modules."""
    calls = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    monkeypatch.setattr(builtins, "input", lambda prompt: "ADDRESS")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in present or None)
    if in_colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(compile(INSTALL, "install", "exec"), {})
    return [command[command.index("-q") + 1 :] for command in calls]


@pytest.mark.parametrize(
    "present, extras",
    [
        (["jax", "numpy"], []),
        (["jax", "jax_cuda12_plugin"], ["jax[cuda12]"]),
        (["jax", "jax_cuda13_plugin"], ["jax[cuda13]"]),
        (["libtpu", "jax"], ["jax[tpu]"]),
    ],
)
def test_jax_and_its_plugin_come_together(present, extras, monkeypatch):
    assert _installed(monkeypatch, present) == [["jaxdiv[experiments] @ git+ADDRESS", *extras]]


def test_elsewhere_nothing_is_installed(monkeypatch):
    assert _installed(monkeypatch, ["jax"], in_colab=False) == []
