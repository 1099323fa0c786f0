"""The line between a worker and its supervisor.

supervisor ──▶ worker   "go"     all are ready: a source begins
                        "stop"   a source comes to its end
                        "over"   no source sends any more, or somebody is lost for good: take what is there
                        (end)    the supervisor is dead: "stop" and "over"
worker ──▶ supervisor   "ready", "done", or "failed" and why
"""

import contextlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Event, Lock, Thread

__all__ = ["PERIOD", "Leash"]

PERIOD = 0.25  # seconds between the figures that a worker publishes


class Leash:
    """A worker's side: a thread hears the words and publishes figures meanwhile."""

    def __init__(self, link: "Connection[object, object]", on_stop: Callable[[], None]) -> None:
        self.go, self.over = Event(), Event()
        self.publish: Callable[[], None] = lambda: None
        self._link, self._on_stop, self._lock = link, on_stop, Lock()
        Thread(target=self._hear, name="psyne pipeline leash", daemon=True).start()

    def tell(self, word: str, text: str = "") -> None:
        """To the supervisor, if it lives."""
        with self._lock, contextlib.suppress(OSError):
            self._link.send((word, text))

    def _hear(self) -> None:
        while True:
            began = time.monotonic()
            try:
                word = self._link.recv() if self._link.poll(PERIOD) else None
            except (EOFError, OSError):
                word = "end"
            if word == "go":
                self.go.set()
            if word in ("over", "end"):
                self.over.set()
            if word in ("stop", "end"):
                self._on_stop()
                self.go.set()
            if word == "end":
                break
            if word is None or time.monotonic() - began >= PERIOD:
                self.publish()
        self._link.close()
