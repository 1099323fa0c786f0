"""Keeps messages until a device has read them, whoever does what meanwhile."""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress

from .contract import Event

__all__ = ["keep_until"]

IDLE = 1.0  # seconds without work, after which the thread ends

_lock = threading.Lock()
_waiting: queue.SimpleQueue[tuple[Event, object]] = queue.SimpleQueue()
_thread: threading.Thread | None = None


def keep_until(event: Event, kept: object) -> None:
    """A thread of the process waits for the event and then drops `kept`."""
    global _thread
    with _lock:
        _waiting.put((event, kept))
        if _thread is None:
            _thread = threading.Thread(target=_run, name="psyne device", daemon=True)
            _thread.start()


def _run() -> None:
    global _thread
    while True:
        try:
            event, kept = _waiting.get(timeout=IDLE)
        except queue.Empty:
            with _lock:
                if _waiting.empty():
                    _thread = None
                    return
            continue
        with suppress(Exception):  # what failed is told to who asks the event
            event.wait()
        del event, kept


def _forked() -> None:
    global _lock, _waiting, _thread
    _lock, _waiting, _thread = threading.Lock(), queue.SimpleQueue(), None


os.register_at_fork(after_in_child=_forked)
