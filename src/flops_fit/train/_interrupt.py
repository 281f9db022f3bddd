"""Asked to stop, a run ends after the step it is in, so that nothing is half done."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which SIGINT and SIGTERM are noted instead of ending the process.

    Only the main thread hears signals; elsewhere nothing changes. A signal that is ignored stays
    ignored. A second SIGINT raises KeyboardInterrupt at once, for steps that take too long.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    @property
    def asked(self) -> int:
        """The number of the signal that asked to stop; 0 where none did."""
        return self._asked

    def obey(self, number: int) -> NoReturn:
        """End as the signal would have: KeyboardInterrupt, or exit 128 + its number."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
