"""How an experiment is called from the command line, and what it says when something is wrong."""

import sys
from collections.abc import Callable
from typing import Any


def run_command(
    config_type: type,
    run: Callable[[Any], object],
    *,
    description: str | None,
    interrupted: str,
    errors: tuple[type[Exception], ...] = (ValueError, OSError),
) -> None:
    """run(a Config from the arguments): status 1 and one line for what is wrong, 130 for Ctrl-C.

    A training loop that saves first when it is interrupted leaves by SystemExit, which passes.

    Args:
        config_type: the dataclass of settings, in the module ``experiments.NAME.config``.
        run: the experiment.
        description: the help's text, a module's docstring.
        interrupted: what Ctrl-C leaves, and how to go on.
        errors: what is wrong with the settings or the files, and no mistake of the program.
    """
    import tyro  # here, since a machine that only trains need not have it

    command = f"python -m {config_type.__module__.removesuffix('.config')}.run"
    config = tyro.cli(config_type, prog=command, description=description)
    try:
        run(config)
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr, flush=True)
        sys.exit(130)
    except errors as error:
        sys.exit(f"error: {error}")


def say(text: str) -> None:
    """A line of progress, on stderr as the bars are."""
    print(text, file=sys.stderr, flush=True)
