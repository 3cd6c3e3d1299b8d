"""From the metrics of a call to records, to the bar's numbers and to a count of values that are not finite."""

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdiv.checks import check_choice
from jaxdiv.training.logging import MetricsWriter


class Report:
    """One training run's output: a progress bar on stderr and, with a writer, records."""

    def __init__(
        self, writer: MetricsWriter | None, *, description: str, start: int, num_steps: int, shown: Sequence[str] | None
    ):
        """Opens the bar at step ``start``; ``shown`` names the metrics on it, None hides it."""
        self._writer, self._description, self._shown = writer, description, shown or ()
        self._non_finite: Counter[str] = Counter()
        self._bar = tqdm(
            total=num_steps,
            initial=start,
            desc=description,
            unit="step",
            disable=shown is None,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            dynamic_ncols=True,
        )

    def train(self, step: int, metrics: dict[str, Any]) -> None:
        """The record of one step; NaN and infinities are written as they are, and counted."""
        for name in self._shown:
            check_choice("train", "progress", name, metrics)
        self._record(step, metrics, "train")
        self._bar.set_postfix({name: f"{np.mean(metrics[name]):.4g}" for name in self._shown}, refresh=False)

    def evaluation(self, step: int, metrics: dict[str, Any]) -> None:
        """The record of one evaluation."""
        self._record(step, jax.device_get(metrics), "eval")

    def advance(self, num_steps: int) -> None:
        """Moves the bar."""
        self._bar.update(num_steps)

    def say(self, text: str) -> None:
        """One line on stderr that leaves the bar whole."""
        tqdm.write(f"{self._description}: {text}", file=sys.stderr)

    def sync(self) -> None:
        """Forces the records to disk."""
        if self._writer is not None:
            self._writer.sync()

    def close(self) -> None:
        """Closes bar and files, and names the metrics that were not finite."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()
        if self._non_finite:
            counts = ", ".join(f"{name} {count}x" for name, count in sorted(self._non_finite.items()))
            self.say(f"not finite among the recorded metrics: {counts}")

    def _record(self, step: int, metrics: dict[str, Any], split: str) -> None:
        self._non_finite.update(name for name, value in metrics.items() if not np.all(np.isfinite(value)))
        if self._writer is not None:
            self._writer.write(step, metrics, split=split)
