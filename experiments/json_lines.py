"""Files of one JSON value per line, which an interrupted run leaves readable."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file, or none where there is no file; without a line that an interruption cut off."""
    values = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return values


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    """The whole file anew, for a run that goes on."""
    replace_text(path, "".join(json.dumps(value) + "\n" for value in values))


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is the old one or the new one whenever the process dies."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def drop_torn_line(path: Path) -> None:
    """The file anew without a last line that an interruption cut off, for a run that goes on."""
    write_json_lines(path, read_json_lines(path))
