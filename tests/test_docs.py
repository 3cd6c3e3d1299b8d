"""The documentation builds without a warning and has an entry for every public name; README's example runs."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    "data": "data",
    "diffusion": "diffusion",
    "distillation": "distillation",
    "divergences": "divergences",
    "information": "information",
    "metrics": "metrics",
    "networks": "networks",
    "optimizers": "optimizers",
    "training": "training",
    "transport": "transport",
    "checks": "ground",
    "numerics": "ground",
    "typing": "ground",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("area", PAGES)
def test_every_public_name_has_an_entry(site, area):
    page = (site / "api" / PAGES[area] / "index.html").read_text()
    entries = set(re.findall(rf'id="jaxdiv\.{area}\.(?:\w+\.)*(\w+)"', page))
    assert set(getattr(importlib.import_module(f"jaxdiv.{area}"), "__all__", [])) - entries == set()
    assert entries


def test_the_example_of_the_readme_runs():
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 9


def test_files_that_the_pages_name_exist():
    for page in ("README.md", "CONTRIBUTING.md", "BENCHMARKS.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page} links to {target}"
