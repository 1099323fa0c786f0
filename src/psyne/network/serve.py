"""Offers the channels of this host to others, by name: ``tcp://host:9999/camera`` is ``ipc://camera`` of that host.

local ends ─▶ ipc://camera ◀─ member, tap or sender, one for each peer ══ socket ══ remote ends
"""

from __future__ import annotations

import asyncio
import atexit
import fnmatch
import os
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .. import _native
from ..address import tcp_place
from ..errors import InvalidArgument
from ..log import warn
from ..tls import Tls
from .bound import Bound
from .driver import LoopDriver, thread_driver
from .hosted import Hosted
from .options import HEARTBEAT, LINGER, MAX_CONNECTIONS, MAX_FRAME, NetworkOptions
from .sessions import SESSION_TIMEOUT

__all__ = ["Served", "Serving", "serve"]


@dataclass(frozen=True)
class Served:
    """What `Serving.statistics` has counted."""

    connected: int = 0
    """Far ends that are connected now."""
    waiting: int = 0
    """Far ends whose connection was lost, and that may come back."""
    strangers: int = 0
    """Connections whose handshake is not over."""
    accepted: int = 0
    """Handshakes that came to a good end, in all."""
    refused: int = 0
    """Connections that were closed for what came over them, or did not come, in all."""
    sent_away: int = 0
    """Connections for which there was no room, in all."""


def serve(
    address: str,
    channels: Iterable[str] | None = None,
    *,
    token: str | bytes | None = None,
    tls: Tls | ssl.SSLContext | None = None,
    checksum: bool = False,
    create: bool = True,
    session_timeout: float = SESSION_TIMEOUT,
    linger: float = LINGER,
    max_frame: int = MAX_FRAME,
    heartbeat: float = HEARTBEAT,
    max_connections: int = MAX_CONNECTIONS,
) -> Serving:
    """Offer the ``ipc://`` channels of this host at ``tcp://host:port``, until `Serving.close`.

    ``tcp://host:port/camera`` is then a sender, a tap or a member of a stage of ``ipc://camera``, by the rules of local
    ends. ``channels``: patterns of the names that are offered, as ``["camera", "imu.*"]``; default all. A remote sender
    makes a channel that is not there, unless ``create=False``: then it waits until a local one has made it.

    The other options are as for bound ends; of ``max_connections`` (default 256) at most a quarter are of one address.
    ``close()`` tells all peers and waits ``linger`` seconds for them. It runs on a thread of its own, with an event
    loop of uvloop where that is installed.

    Raises InvalidArgument, InsecureBind, SystemFailure for a port that is taken.
    """
    options = NetworkOptions.of(
        "server", token=token, tls=tls, checksum=checksum, session_timeout=session_timeout, linger=linger,
        max_frame=max_frame, heartbeat=heartbeat, max_connections=max_connections,
    )  # fmt: skip
    names = None if channels is None else [channels] if isinstance(channels, str) else list(channels)
    if names is not None and not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"channels is a list of names or patterns, as ['camera', 'imu.*']; got {channels!r}")
    if not isinstance(create, bool):
        raise InvalidArgument(f"create={create!r}; it is one of True, False")
    return Serving(address, names, options, create)


class Serving:
    """Channels that are offered; `psyne.serve` starts it. The end of its ``with`` block closes it."""

    def __init__(self, address: str, channels: list[str] | None, options: NetworkOptions, create: bool) -> None:
        host, port, channel = tcp_place(address)
        if channel:
            raise InvalidArgument(f"serve has a host and a port, and names channels besides; got {address!r}")
        self._names, self._create, self._linger = channels, create, options.linger
        self._pid = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        thread_driver()  # it hears what becomes of connections: at exit it stops behind `close`, if it is there before
        self._loop = _loop()
        self._driver = LoopDriver(self._loop, pumps=True)
        try:
            self._bound = Bound(self._driver, host, port, options, self._hosted, _native.Gateway(self._driver.pumps))
        except BaseException:
            self._loop.close()
            raise
        shown = f"[{host}]" if ":" in host else host
        self.address: str = f"tcp://{shown}:{self._bound.port}"
        """With the port that was free where 0 was asked for."""
        self._thread = threading.Thread(target=self._run, name="psyne serve", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def closed(self) -> bool:
        """Is nothing offered any more?"""
        return self._closed

    def close(self) -> None:
        """Offer nothing any more.

        Remote receivers and taps get what was taken for them and then the end of the channel; remote senders hear that
        nothing more is taken, and wait for another serve. What is still with a peer after ``linger`` seconds, other
        members of its stage get.
        """
        if self._pid != os.getpid():
            return
        with self._closing:
            if self._closed:
                return
            self._closed = True
            atexit.unregister(self.close)
            done = threading.Event()
            self._driver.soon(lambda: self._finish(done))
            done.wait()
            if not self._bound.quiet.wait(self._linger):
                warn(f"{self.address} closed, and not all peers have let go after {self._linger} s")
            self._driver.soon(self._bound.close)
            self._driver.soon(self._loop.stop)
            self._thread.join()

    def statistics(self) -> Served:
        """What was counted so far."""
        bound = self._bound
        peers = list(bound.peers)
        connected = sum(peer.running is not None for peer in peers)
        return Served(
            connected, len(peers) - connected, bound.strangers, bound.accepted, bound.refused, bound.sent_away
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<psyne.Serving {self.address}{', closed' if self._closed else ''}>"

    def _finish(self, done: threading.Event) -> None:
        try:
            self._bound.finish()
        finally:
            done.set()

    def _hosted(self, name: str) -> Hosted:
        if not name:
            raise InvalidArgument(f"name a channel: {self.address}/camera stands for ipc://camera there")
        if self._names is not None and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._names):
            raise InvalidArgument(f"channel {name!r} is not offered at {self.address}; {', '.join(self._names)} are")
        return Hosted(f"ipc://{name}", f"{self.address}/{name}", creates=self._create)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


def _loop() -> asyncio.AbstractEventLoop:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
