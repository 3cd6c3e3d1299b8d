"""SIGTERM, Ctrl-C and an alarm as a request that the training loop honours at its next step boundary."""

import os
import signal
import threading
from types import FrameType
from typing import Any

_WATCHED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGALRM") if hasattr(signal, name))


class Interrupted(SystemExit):
    """Training stopped on a signal, after saving. Left alone it ends the process with 128 plus the signal's number.

    Attributes:
        code: 143 after SIGTERM, 130 after Ctrl-C, 142 after an alarm: the exit status of the process.
        step: the number of steps done and, if there is a directory, saved.
    """

    def __init__(self, signal_number: int, step: int):
        super().__init__(128 + signal_number)
        self.step = step


class SignalWatch:
    """While open, the first SIGTERM, SIGINT or SIGALRM is only remembered (``received``); a later Ctrl-C interrupts.

    An alarm is how a process asks itself to stop after some time: ``signal.setitimer(signal.ITIMER_REAL, seconds)``.
    Outside the main thread Python allows no handlers; there it watches nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalWatch":
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or number
        name = signal.Signals(number).name
        text = f"\n{name}: stopping after this step and saving; Ctrl-C now aborts without saving\n"
        os.write(2, text.encode())  # print may be in the middle of a write when a signal comes
