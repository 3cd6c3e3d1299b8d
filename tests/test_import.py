"""`import jaxdiv` in a process of its own: what it loads and what it touches."""

import json
import subprocess
import sys

import pytest

HEAVY = [
    "flax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "tensorflow",
    "sklearn",
    "matplotlib",
    "tqdm",
    "tyro",
    "torch",
]

SCRIPT = f"""
import json, sys
import jax
import jax.numpy
from jax._src import xla_bridge

before = dict(jax.config.values)
loaded = set(sys.modules)
import jaxdiv
print(json.dumps({{
    "heavy": [name for name in {HEAVY!r} if name in sys.modules and name not in loaded],
    "backends": xla_bridge.backends_are_initialized(),
    "config": [name for name, value in jax.config.values.items() if before.get(name) is not value],
    "areas": [name for name in jaxdiv.__all__ if f"jaxdiv.{{name}}" in sys.modules],
    "all": jaxdiv.__all__,
    "dir": dir(jaxdiv),
}}))
"""


def report(script: str):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def imported():
    return report(SCRIPT)


def test_loads_only_the_mathematics(imported):
    assert imported["heavy"] == []
    assert imported["areas"] == ["diffusion", "distillation", "divergences", "information", "optimizers", "transport"]


def test_initialises_no_device(imported):
    assert imported["backends"] is False


def test_changes_no_setting(imported):
    assert imported["config"] == []


def test_every_area_is_announced(imported):
    assert set(imported["all"]) <= set(imported["dir"])


@pytest.mark.parametrize("area", ["data", "metrics", "networks", "training"])
def test_areas_load_on_first_use(area):
    import jaxdiv

    assert getattr(jaxdiv, area).__name__ == f"jaxdiv.{area}"


@pytest.mark.parametrize("area", ["data", "training", "metrics", "networks"])
def test_no_area_loads_tensorflow_or_plots(area):
    unwanted = "{'tensorflow', 'matplotlib', 'torch'}"
    script = f"import sys, json, jaxdiv.{area}; print(json.dumps(sorted({unwanted} & set(sys.modules))))"
    assert report(script) == []


def test_unknown_attribute():
    import jaxdiv

    with pytest.raises(AttributeError, match="no attribute 'divergence'"):
        _ = jaxdiv.divergence


def test_dir_names_everything_once():
    script = "import json, jaxdiv, jaxdiv.training; print(json.dumps(jaxdiv.__dir__()))"
    names = report(script)  # an area that has been loaded is in both of the lists that this joins
    assert len(names) == len(set(names))
