"""The thread that a bridge runs on, and what it has counted."""

from __future__ import annotations

import atexit
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from ..errors import SystemFailure
from .network import zenoh

__all__ = ["SLICE", "Bridge", "Bridged", "Carrier"]

SLICE = 0.1  # seconds after which what cannot be woken looks whether it shall stop


@dataclass(frozen=True)
class Bridged:
    """What a bridge has counted; ``bridge.statistics()`` takes it."""

    carried: int = 0
    """Messages that were put, or sent into the channel."""
    missed: int = 0
    """Messages lost on the way here: by the tap at the source, by ``full="drop"`` or by Zenoh, as their numbers say."""
    refused: int = 0
    """Messages that were not what their source had said, or of a source that is refused."""
    skipped: int = 0
    """Messages that stayed where they were, so that nothing goes in circles: of a bridge to ``zenoh://`` those that
    another bridge had brought, of a bridge to ``ipc://`` those that came from that very channel."""
    sources: int = 0
    """Sources that were taken, each time that one started; of a bridge from ``ipc://`` the channels that it met."""


class Carrier(Protocol):
    """One direction."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
    def statistics(self) -> Bridged: ...


class Bridge:
    """A thread that carries messages; `psyne.bridge` starts one. The end of its ``with`` block closes it."""

    def __init__(self, source: str, target: str, session: Any, carrier: Carrier) -> None:
        self.source: str = source
        self.target: str = target
        self._session = session
        self._carrier = carrier
        self._error: BaseException | None = None
        self._pid = os.getpid()
        self._ended = threading.Event()  # a join() that Ctrl-C interrupts makes Python take the thread for ended
        self._thread = threading.Thread(target=self._run, name=f"psyne bridge {source}", daemon=True)
        self._thread.start()
        atexit.register(self._exit)

    @property
    def closed(self) -> bool:
        """Has it ended? In a forked child it has: the thread is the parent's."""
        return self._ended.is_set() or self._pid != os.getpid()

    def stop(self) -> None:
        """End soon, and do not wait for it; also from a signal handler.

        What it has not carried stays in its stage. A put that waits for the network is given up by Zenoh after some
        seconds.
        """
        if not self.closed:
            self._carrier.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False after ``timeout`` seconds.

        Raises what ended it, unless that was `stop` or the end of its source: SenderLost for a source that was lost,
        SystemFailure for Zenoh's errors.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while not self.closed:
            # Python sees a signal that comes just before a wait only behind it: so no wait is long.
            left = SLICE if until is None else min(SLICE, until - time.monotonic())
            if left <= 0:
                return False
            self._ended.wait(left)
        if self._error is not None:
            raise self._error
        return True

    def close(self) -> None:
        """`stop` and `join`."""
        self.stop()
        self.join()

    def statistics(self) -> Bridged:
        """What was counted so far."""
        return self._carrier.statistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # the block's own exception is the one to see
            self._exit()

    def __repr__(self) -> str:
        return f"<psyne.Bridge {self.source} → {self.target}{', closed' if self.closed else ''}>"

    def _exit(self) -> None:
        """Also where a program forgot to close it: a thread that is in Zenoh when Python ends aborts the program."""
        self.stop()
        while not self.closed:
            self._ended.wait(SLICE)

    def _run(self) -> None:
        failure = zenoh().ZError
        try:
            self._carrier.run()
        except failure as error:
            self._error = SystemFailure(f"Zenoh fails between {self.source} and {self.target}: {error}")
        except BaseException as error:
            self._error = error
        finally:
            with suppress(failure):  # the network holds it up: it is gone with the process
                self._session.close()
            atexit.unregister(self._exit)
            self._ended.set()
