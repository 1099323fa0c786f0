"""The thread that a bridge runs on, and what it has counted."""

from __future__ import annotations

import threading
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
    sources: int = 0
    """Sources that were taken, each time that one started; of a bridge from ``ipc://`` the channels that it met."""


class Carrier(Protocol):
    """One direction."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
    def statistics(self) -> Bridged: ...


class Bridge:
    """A thread that carries messages; `psyne.bridge.bridge` starts one. The end of its ``with`` block stops it."""

    def __init__(self, source: str, target: str, session: Any, carrier: Carrier) -> None:
        self.source: str = source
        self.target: str = target
        self._session = session
        self._carrier = carrier
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"psyne bridge {source}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End soon; from any thread. A put that waits for the network is given up by Zenoh after some seconds."""
        self._carrier.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False after ``timeout`` seconds.

        Raises what ended it, unless that was `stop` or the end of its source: SenderLost for a source that was lost.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def statistics(self) -> Bridged:
        """What was counted so far."""
        return self._carrier.statistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.join()
        else:  # the block's own exception is the one to see
            self._thread.join()

    def __repr__(self) -> str:
        state = "running" if self._thread.is_alive() else "ended"
        return f"<psyne.Bridge {self.source} → {self.target}, {state}>"

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
