"""Keeps messages until a device has read them, whoever does what meanwhile."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress

from .contract import Event

__all__ = ["Keeper", "keep_until"]

IDLE = 1.0  # seconds without work, after which the thread ends
AT_EXIT = 2.0  # seconds that the end of the process waits for what is under way

_keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()


class Keeper:
    """A thread that waits for one event after the other. What waits for the same streams may share one."""

    def __init__(self) -> None:
        self._begin()
        _keepers.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Event, object]] = deque()
        self._runs = self._busy = False

    def keep_until(self, event: Event, kept: object) -> None:
        """The thread waits for the event and then drops `kept`."""
        if self._pid != os.getpid():
            self._begin()  # the thread is the parent's
        with self._changed:
            self._waiting.append((event, kept))
            self._changed.notify_all()
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="psyne device", daemon=True).start()

    def kept(self) -> int:
        """How much is kept now."""
        with self._changed:
            return len(self._waiting) + self._busy if self._pid == os.getpid() else 0

    def less(self, than: int, timeout: float) -> None:
        """Wait until less is kept, so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) + self._busy < than, timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is kept; false when the time was over."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._changed.wait_for(lambda: self._waiting, IDLE):
                    self._runs = False
                    return
                event, kept = self._waiting.popleft()
                self._busy = True
            with suppress(Exception):  # what failed is told to who asks the event
                event.wait()
            del event, kept


_of_all = Keeper()


def keep_until(event: Event, kept: object) -> None:
    """A thread of the process waits for the event and then drops `kept`."""
    _of_all.keep_until(event, kept)


@atexit.register
def _finish() -> None:
    """A message that a device still reads would seem to be held by a process that died."""
    deadline = time.monotonic() + AT_EXIT
    for keeper in list(_keepers):
        if keeper._pid == os.getpid():
            keeper.join(max(0.0, deadline - time.monotonic()))
