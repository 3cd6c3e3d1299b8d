"""The examples of the documentation's pages run as printed, each page's in one program."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxdiv.diffusion import karras_noise_levels

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = ["guides/data.md", "guides/networks.md", "guides/training.md", "information.md", "muon.md"]
PAGES += ["one_step_distillation.md", "which_divergence.md"]


def test_every_page_with_examples_is_here():
    assert sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if BLOCK.search(path.read_text())) == PAGES


def run_page(page, folder, monkeypatch):
    """What the page's Python blocks define, run one after the other in an empty folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JAXDIV_DATA", str(folder / "data"))
    names = {"__name__": "page"}
    for block in BLOCK.findall((DOCS / page).read_text()):
        exec(compile(block, page, "exec"), names)
    return names


def test_data(tmp_path, monkeypatch, capsys):
    names = run_page("guides/data.md", tmp_path, monkeypatch)
    assert names["batch"]["image"].shape == (64, 8, 8, 1)
    assert capsys.readouterr().out.splitlines() == ["(64, 8, 8, 1) -1.0 1.0 int32", "10 1397", "(10, 16, 16, 3)"]


def test_training(tmp_path, monkeypatch, capsys):
    names = run_page("guides/training.md", tmp_path, monkeypatch)
    trained, sharded = capsys.readouterr().out.splitlines()[-2:]
    assert float(trained.split()[0]) == pytest.approx(2.0, abs=0.2)
    assert trained.endswith("[50, 100] 2")
    assert float(sharded) == pytest.approx(float((names["batch_fn"](0) ** 2).mean()), rel=1e-5)


def test_networks(tmp_path, monkeypatch, capsys):
    run_page("guides/networks.md", tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("(2, 8, 8, 1) 7")
    assert lines[1] == "(2,)"
    assert lines[2].startswith("load_edm_weights: state_dict does not fit: missing")


def test_muon(tmp_path, monkeypatch, capsys):
    names = run_page("muon.md", tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("muon: 100352 parameters in 14 matrices of 2 shapes; adamw: ")
    assert float(lines[1]) < 4.0  # log 256 = 5.5 at the start
    assert lines[6].startswith("muon: 16896 parameters in 4 matrices of 2 shapes")
    assert lines[7:] == ["True", "(2, 4) 0", "(4, 33, 256) (2, 4) 160", "(4, 28)"]
    assert names["updates"]["layers"]["attention"]["query"]["kernel"].shape == (2, 64, 64)


def test_information(tmp_path, monkeypatch, capsys):
    run_page("information.md", tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines() == ["plug-in True True", "lower bound True", "1.0"]


def test_which_divergence(tmp_path, monkeypatch, capsys):
    run_page("which_divergence.md", tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines() == ["(4, 7) ()", "(4, 7)", "() (32, 256)", "True (100, 3) True"]


def test_the_error_that_the_conventions_show():
    with pytest.raises(ValueError) as info:
        karras_noise_levels(0)
    assert str(info.value) in (DOCS / "conventions.md").read_text()


def test_a_teacher_of_ones_own(tmp_path, monkeypatch):
    """The linear student of the page ends at its teacher."""
    names = run_page("one_step_distillation.md", tmp_path, monkeypatch)
    for part in ("mean", "std"):
        np.testing.assert_allclose(names["state"].student_ema[part], names["teacher"][part], atol=0.03)
    assert names["info"].fake.denoising_loss > 0
