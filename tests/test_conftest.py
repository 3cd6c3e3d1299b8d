"""How the suite compiles: fast by default on a CPU, as users do where that was asked for or could not start."""

import os
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import conftest

DEFAULT = "not slow and not accelerator"


def flags_after(markexpr: str) -> str | None:
    conftest.pytest_configure(SimpleNamespace(option=SimpleNamespace(markexpr=markexpr)))
    return os.environ.get("XLA_FLAGS")


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # for what is set below to be undone also where nothing was set
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(conftest, "entry_points", lambda group: [])


def test_the_default_run_compiles_fast(cpu):
    flags = flags_after(DEFAULT)
    assert flags and set(flags.split()) <= set(conftest.FAST_COMPILATION.split())


@pytest.mark.parametrize("markexpr", ["slow", "accelerator", ""])
def test_another_choice_of_tests_compiles_well(markexpr, cpu):
    assert flags_after(markexpr) is None


def test_an_accelerator_compiles_well(cpu, monkeypatch):
    monkeypatch.setattr(conftest, "entry_points", lambda group: ["cuda"])
    assert flags_after(DEFAULT) is None


def test_flags_of_the_environment_stay(cpu, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert flags_after(DEFAULT) == ""


def test_a_flag_that_this_xla_does_not_know_is_dropped(cpu, monkeypatch):
    known = "--xla_backend_optimization_level=1"
    monkeypatch.setattr(conftest, "FAST_COMPILATION", f"--xla_cpu_no_such_flag=true {known}")
    assert flags_after(DEFAULT) == known


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("tests/networks/test_unet.py", True),
        ("tests/experiments/speedrun/test_run.py", True),
        ("tests/divergences/test_laws.py", True),
        ("tests/divergences/test_families.py", False),
        ("tests/divergences/two_sample/test_transforms.py", True),
        ("tests/divergences/two_sample/test_gram.py", False),
        ("tests/test_guides.py", True),
        ("tests/test_numerics.py", False),
        ("jaxdiv/networks/unet.py", False),
        ("colab/muon.ipynb", False),
    ],
)
def test_what_is_held_to_a_few_roundings_is_optimized(file, expected, cpu, monkeypatch):
    assert not conftest.is_unoptimized(Path(conftest.ROOT) / file)
    monkeypatch.setenv("XLA_FLAGS", conftest.FAST_COMPILATION)
    assert conftest.is_unoptimized(Path(conftest.ROOT) / file) == expected


def test_every_exact_file_exists():
    for folder, names in conftest.EXACT.items():
        for name in names:
            assert (Path(conftest.ROOT) / "tests" / folder / f"test_{name}.py").exists()


def test_a_process_changes_its_level_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", conftest.FAST_COMPILATION)
    paths = [f"tests/{name}.py" for name in ("networks/test_mlp", "test_numerics", "data/test_digits", "test_docs")]
    items = [SimpleNamespace(path=Path(conftest.ROOT) / path) for path in paths]
    conftest.pytest_collection_modifyitems(items)
    assert [str(item.path.relative_to(conftest.ROOT)) for item in items] == [paths[i] for i in (1, 3, 0, 2)]


def test_the_level_follows_the_file(monkeypatch):
    f = jax.jit(lambda x: x + 1)
    f(1)
    conftest.unoptimized.__wrapped__(SimpleNamespace(path=Path(__file__)))
    assert f._cache_size() == 1
    monkeypatch.setattr(conftest, "is_unoptimized", lambda path: True)
    conftest.unoptimized.__wrapped__(SimpleNamespace(path=Path(__file__)))
    assert f._cache_size() == 0 and jax.config.read("jax_disable_most_optimizations")
    assert os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    monkeypatch.undo()
    conftest.unoptimized.__wrapped__(SimpleNamespace(path=Path(__file__)))
    assert not jax.config.read("jax_disable_most_optimizations")
    assert os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"


def test_programs_share_a_context():
    one, other = (jax.jit(f).lower(1.0).compiler_ir().context for f in (jax.numpy.sin, jax.numpy.cos))
    assert one is other
