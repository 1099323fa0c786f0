"""Sessions: what outlives a connection, so that the next one goes on where it was cut."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from typing import Any, Literal, Protocol

from ..errors import ChannelBusy

__all__ = ["SESSION_TIMEOUT", "Backoff", "Session", "Sessions"]

FIRST, MOST = 0.1, 10.0  # seconds between tries to connect
SESSION_TIMEOUT = 30.0  # seconds that a session waits for the next connection
MOST_SESSIONS = 256

State = Literal["connected", "waiting", "over"]


class Later(Protocol):
    """Of a driver, what sessions use."""

    def later(self, seconds: float, callback: Callable[[], object]) -> Callable[[], object]: ...


class Backoff:
    """Pauses before the next try: random, up to a limit that doubles (full jitter), so that peers spread out."""

    def __init__(self, first: float = FIRST, most: float = MOST, chance: Callable[[], float] = random.random) -> None:
        self._first, self._most, self._chance = first, most, chance
        self._limit = first

    def pause(self) -> float:
        """Seconds to wait now."""
        seconds = self._chance() * self._limit
        self._limit = min(self._most, self._limit * 2)
        return seconds

    def reset(self) -> None:
        """A connection was made."""
        self._limit = self._first


class Session:
    """One side of a session.

              connected()                 lost()
    waiting ──────────────▶ connected ──────────────▶ waiting ──▶ over, after `timeout` seconds
       ▲                        │ │                      │
       └── at first             │ └ connected(): another │ end()
                                ▼   connection, the one  ▼
                          end() over    before is stale over

    ``on_over`` is called once, with whether it was in time: False where the other side did not come back. Its driver's
    thread alone uses it.
    """

    def __init__(self, id: str, driver: Later, timeout: float, on_over: Callable[[bool], object]) -> None:
        self.id = id
        self.state: State = "waiting"
        self.connection: Any = None
        """What carries it now; None while it waits."""
        self._driver, self._timeout, self._on_over = driver, timeout, on_over
        self._cancel: Callable[[], object] | None = None
        self._wait()

    def connected(self, connection: Any) -> Any:
        """Go on over this one. Returns the connection before, which is stale and to be closed, or None."""
        assert self.state != "over"
        stale, self.connection = self.connection, connection
        self._stop()
        self.state = "connected"
        return stale

    def lost(self, connection: Any) -> None:
        """This connection broke. Nothing happens where another one has taken its place, or all is over."""
        if connection is self.connection:
            self.connection = None
            self._wait()

    def end(self) -> None:
        """It came to its end on purpose; again is harmless."""
        self._over(True)

    def _wait(self) -> None:
        self.state = "waiting"
        self._cancel = self._driver.later(self._timeout, lambda: self._over(False))

    def _stop(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _over(self, on_purpose: bool) -> None:
        if self.state == "over":
            return
        self._stop()
        self.state = "over"
        self.connection = None
        self._on_over(on_purpose)

    def __repr__(self) -> str:
        return f"<psyne session {self.id[:8]}…, {self.state}>"


class Sessions:
    """The sessions of a bound end, by their ids."""

    def __init__(self, driver: Later, timeout: float = SESSION_TIMEOUT, most: int = MOST_SESSIONS) -> None:
        self._driver, self._timeout, self._most = driver, timeout, most
        self._table: dict[str, Session] = {}

    def open(self, on_over: Callable[[bool], object]) -> Session:
        """A new session, which waits for `Session.connected`. Raises ChannelBusy where there are too many."""
        if len(self._table) >= self._most:
            raise ChannelBusy(
                f"there are {len(self._table)} sessions, those that wait included, and may be {self._most}"
            )
        id = secrets.token_hex(16)

        def over(on_purpose: bool) -> None:
            del self._table[id]
            on_over(on_purpose)

        session = self._table[id] = Session(id, self._driver, self._timeout, over)
        return session

    def find(self, id: str) -> Session | None:
        """The session that a client wants to go on with; None where it is over, or never was."""
        return self._table.get(id)

    def end(self) -> None:
        """All are over."""
        for session in list(self._table.values()):
            session.end()

    def __len__(self) -> int:
        return len(self._table)
