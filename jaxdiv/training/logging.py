"""Metrics as one JSON object per line, exact, and equal whether or not a run was killed and resumed on the way."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np


def read_metrics(path: str | Path, *, split: str | None = None) -> list[dict[str, Any]]:
    """The records of a metrics file in order; a last line that a kill cut short is left out.

    Args:
        path: a file that ``MetricsWriter`` wrote.
        split: only records of this split ("train", "eval") if given.
    """
    records, _ = _whole_lines(Path(path))
    return [record for record in records if split is None or record["split"] == split]


class MetricsWriter:
    """Appends records ``{"step", "split", "time", ...}`` to a JSONL file and, if asked, to TensorBoard.

    ``time`` is Unix time in seconds. Numbers are written with ``repr``, so a float32 comes back exactly; NaN and
    infinities are written as ``NaN`` and ``Infinity``, as Python's json reads them.
    """

    def __init__(self, path: str | Path, *, tensorboard: str | Path | None = None, resume_step: int = 0):
        """Opens the file and drops what lies beyond the step from which a run goes on.

        Args:
            path: the JSONL file; its folder is made.
            tensorboard: a folder for event files.
            resume_step: records of later steps are removed: the resumed run writes them again.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _truncate(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # here, since most runs write none

            self._board = SummaryWriter(str(tensorboard), purge_step=resume_step + 1)

    def write(self, step: int, metrics: dict[str, Any], *, split: str = "train") -> None:
        """One record; values are scalars or arrays (written as lists)."""
        values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        if taken := {"step", "split", "time"} & values.keys():
            raise ValueError(f"MetricsWriter.write: metrics has {sorted(taken)}; expected other names")
        record = {"step": step, "split": split, "time": time.time(), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, bool | int | float):
                    self._board.add_scalar(f"{split}/{name}", value, step)

    def sync(self) -> None:
        """Forces what was written to disk; called before a checkpoint that relies on it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _truncate(path: Path, last_step: int) -> None:
    if not path.exists():
        return
    records, lines = _whole_lines(path)
    kept = [line for record, line in zip(records, lines, strict=True) if record["step"] <= last_step]
    temporary = path.with_name(path.name + ".unfinished")
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    temporary.replace(path)


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    *lines, _ = path.read_text(encoding="utf-8").split("\n")  # what follows the last newline is empty or torn
    return [json.loads(line) for line in lines], lines
