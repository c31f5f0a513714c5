"""Ctrl-C and SIGTERM as a wish that the loop meets between two steps."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

REPEAT_SECONDS = 1.0  # a launcher may pass on what the terminal has sent to all processes already


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM only sets `asked`; a later one acts at once.

    Signals reach the main thread alone: entered in another one, it changes nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._asked_at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._before[kind] = signal.signal(kind, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._asked_at = True, time.monotonic()
        elif time.monotonic() - self._asked_at > REPEAT_SECONDS:
            raise KeyboardInterrupt
