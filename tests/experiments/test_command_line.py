"""What the command line of every experiment does with settings, errors and Ctrl-C."""

import dataclasses
import sys

import pytest

from experiments.command_line import run_command, say
from experiments.monge_map import config as monge_map


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings."""

    size: int = 3
    """Of something."""


def call(monkeypatch, run, *arguments, **options):
    monkeypatch.setattr(sys, "argv", ["run", *arguments])
    run_command(Config, run, description="What it does.", interrupted="go on with --resume", **options)


def test_settings_reach_the_experiment(monkeypatch):
    seen = []
    call(monkeypatch, seen.append, "--size", "5")
    assert seen == [Config(size=5)]


def test_help_names_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "--help"])
    with pytest.raises(SystemExit) as stop:
        run_command(monge_map.Config, print, description="What it does.", interrupted="")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "python -m experiments.monge_map.run" in shown and "What it does." in shown and "--seed" in shown


def raising(error):
    def run(config):
        raise error

    return run


def test_what_is_wrong_is_one_line_and_mistakes_of_the_program_are_not_hidden(monkeypatch):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, raising(ValueError("run: size is 3")))
    assert stop.value.code == "error: run: size is 3"
    with pytest.raises(KeyError):
        call(monkeypatch, raising(KeyError("size")))
    with pytest.raises(SystemExit):
        call(monkeypatch, raising(KeyError("size")), errors=(KeyError,))


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, raising(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted; go on with --resume\n"
    with pytest.raises(SystemExit) as stop:  # a loop that has saved and leaves by itself
        call(monkeypatch, raising(SystemExit(143)))
    assert stop.value.code == 143


def test_progress_goes_to_stderr(capsys):
    say("at work")
    assert capsys.readouterr() == ("", "at work\n")
