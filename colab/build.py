"""Generates each notebook of this folder from the percent script of the same name.

    python -m colab.build            # write the notebooks
    python -m colab.build --check    # exit with 1 if one is out of step with its script

The result depends on the script alone: no outputs, cell ids by position. Every notebook starts with a cell that
installs the library in Colab and does nothing elsewhere.
"""

import argparse
import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent

INSTALL = """\
# In Colab this installs the library; elsewhere it does nothing.
import subprocess
import sys
from importlib.util import find_spec

if "google.colab" in sys.modules:
    source = "jaxdiv[experiments] @ git+" + input("address that the jaxdiv repository is cloned from: ")
    # A newer jax beside an older plugin for the GPU or TPU would compute on the CPU: both come together.
    extras = {"jax_cuda12_plugin": "jax[cuda12]", "jax_cuda13_plugin": "jax[cuda13]", "libtpu": "jax[tpu]"}
    plugins = [extra for module, extra in extras.items() if find_spec(module)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *plugins], check=True)"""


def scripts() -> list[Path]:
    """The percent scripts: every Python file of this folder but this one."""
    return sorted(path for path in FOLDER.glob("*.py") if path.name != "build.py")


def render(script: str) -> str:
    """The notebook of a percent script as JSON text."""
    cells = [nbformat.v4.new_code_cell(INSTALL), *jupytext.reads(script, fmt="py:percent").cells]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.validate(notebook)
    return nbformat.writes(notebook, indent=1) + "\n"


def main() -> int:
    """Writes or checks the notebooks; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m colab.build", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = {path.with_suffix(".ipynb") for path in scripts()} ^ set(FOLDER.glob("*.ipynb"))
    for path in scripts():
        target, text = path.with_suffix(".ipynb"), render(path.read_text())
        if not check:
            target.write_text(text)
        elif target.exists() and target.read_text() != text:
            stale.add(target)
    for path in sorted(stale) if check else []:
        print(f"{path.name} and its script differ, or one is missing; run python -m colab.build")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
