"""Something that happens once, and who wants to know."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Happening"]


class Happening:
    """An event that threads wait for and that calls back. Any thread."""

    def __init__(self) -> None:
        self._event, self._lock = threading.Event(), threading.Lock()
        self._calls: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Has it happened, within so many seconds?"""
        return self._event.wait(seconds)

    def then(self, call: Callable[[], object]) -> None:
        """Call once when it happens; at once if it has."""
        with self._lock:
            if not self._event.is_set():
                self._calls.append(call)
                return
        call()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    def clear(self) -> None:
        """It has not happened, after all."""
        self._event.clear()
