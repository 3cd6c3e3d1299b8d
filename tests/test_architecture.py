"""The floors of the library: who may import whom, how large a module may be, and what every public name has."""

import ast
import importlib
import inspect
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GROUND = {"checks", "numerics", "typing"}
ARRAYS = {"jax", "numpy"}

# Area -> (areas of jaxdiv it may use, installed packages it may use). A new area needs a row.
FLOORS = {
    "checks": (GROUND, ARRAYS),
    "numerics": (GROUND, ARRAYS),
    "typing": (GROUND, ARRAYS),
    "divergences": (GROUND, ARRAYS | {"optax"}),
    "transport": (GROUND | {"divergences"}, ARRAYS),
    "diffusion": (GROUND, ARRAYS | {"optax"}),
    "distillation": (GROUND | {"divergences", "diffusion"}, ARRAYS | {"optax"}),
    "optimizers": (GROUND, ARRAYS | {"optax"}),
    "information": (GROUND | {"divergences", "diffusion", "optimizers"}, ARRAYS | {"optax"}),
    "networks": (GROUND, ARRAYS | {"flax"}),
    "data": (GROUND, ARRAYS | {"PIL", "absl", "etils", "grain", "sklearn", "tensorflow_datasets"}),
    "training": (GROUND | {"data"}, ARRAYS | {"flax", "grain", "optax", "orbax", "tensorboardX", "tqdm"}),
    "metrics": (GROUND | {"networks"}, ARRAYS | {"flax", "optax", "scipy"}),
}
AREAS = [
    "data",
    "diffusion",
    "distillation",
    "divergences",
    "information",
    "metrics",
    "networks",
    "optimizers",
    "training",
    "transport",
]
MODULES = sorted((ROOT / "jaxdiv").rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(source: str) -> set[str]:
    """Every dotted name that an import statement anywhere in the source may load; relative imports are refused."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def violations(module: str, source: str) -> list[str]:
    """What a module of jaxdiv imports and its floor does not allow."""
    area = module.split(".")[1]
    inside, outside = FLOORS[area]
    wrong = []
    for name in sorted(imported_names(source)):
        top, *rest = name.split(".")
        if top == "jaxdiv":
            allowed = bool(rest) and (rest[0] == area or rest[0] in inside)
        else:
            allowed = top in outside or top in sys.stdlib_module_names
        if not allowed:
            wrong.append(f"{module} imports {name}")
    return wrong


def resolve(name: str, modules: Iterable[str]) -> str | None:
    """The module that holds a dotted name: its longest prefix that is one."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or an empty list."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :] + [node]
        if node in done:
            return []
        for target in sorted(graph[node]):
            if circle := visit(target, [*path, node]):
                return circle
        done.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := visit(node, []))), [])


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent != ROOT / "jaxdiv" or p.stem in GROUND], ids=module_name
)
def test_a_module_imports_only_what_its_floor_allows(path):
    assert violations(module_name(path), path.read_text()) == []


def test_every_area_has_a_row_of_floors():
    areas = {module_name(path).split(".")[1] for path in MODULES if path != ROOT / "jaxdiv" / "__init__.py"}
    assert areas - set(FLOORS) == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jaxdiv.divergences.x", "import flax"),
        ("jaxdiv.divergences.x", "from jaxdiv.distillation import init"),
        ("jaxdiv.diffusion.x", "def f():\n    import matplotlib.pyplot"),
        ("jaxdiv.distillation.x", "from experiments.one_step_image import run"),
        ("jaxdiv.networks.x", "from jaxdiv import distillation"),
        ("jaxdiv.training.x", "import jaxdiv.diffusion.loss as loss"),
        ("jaxdiv.data.x", "import tensorflow as tf"),
        ("jaxdiv.metrics.x", "import jaxdiv"),
    ],
)
def test_a_forbidden_import_is_seen(module, source):
    assert len(violations(module, source)) == 1


def test_no_circle_of_imports():
    names = {module_name(path): path for path in MODULES}
    graph = {}
    for name, path in names.items():
        targets = {resolve(target, names) for target in imported_names(path.read_text())}
        graph[name] = {target for target in targets if target and target != name}
    assert find_circle(graph) == []


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_nothing_imports_experiments():
    for folder in ("jaxdiv", "colab"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            assert not any(name.split(".")[0] == "experiments" for name in imported_names(path.read_text())), path


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name != "training"], ids=module_name)
def test_the_library_does_not_print(path):
    """Library functions return what they found. A training loop reports, and so does a program's `main`."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", "") != "main"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"print", "jax.debug.print"}, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_library_checks_input_without_assert(path):
    """`python -O` removes assertions, and their message names neither function nor argument."""
    lines = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize("folder", ["jaxdiv", "experiments", "benchmarks"])
def test_module_sizes(folder):
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): size for path, size in sizes.items() if size > 400} == {}
    if folder == "jaxdiv":
        assert statistics.median(sizes.values()) < 180


def test_there_are_tests_enough():
    def lines(folder: str) -> int:
        return sum(len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py"))

    assert lines("tests") >= 0.8 * lines("jaxdiv")


@pytest.mark.parametrize("area", AREAS)
def test_public_names(area):
    """`__all__` names what exists, once, and everything in it says what it is."""
    module = importlib.import_module(f"jaxdiv.{area}")
    assert len(module.__all__) == len(set(module.__all__))
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        assert not inspect.ismodule(value), f"{area}.{name} is a module"
        if inspect.isroutine(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{area}.{name} has no docstring"
        if inspect.isclass(value):
            assert not inspect.getdoc(value).startswith(f"{name}("), f"{area}.{name} has only a generated docstring"


@pytest.mark.parametrize("area", AREAS)
def test_public_functions_are_tested(area):
    """Each function of `__all__` occurs in a test file; what it does there is the reviewer's to judge."""
    module = importlib.import_module(f"jaxdiv.{area}")
    functions = {name for name in module.__all__ if inspect.isroutine(getattr(module, name))}
    words = set(re.findall(r"\w+", "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))))
    assert functions - words == set()
