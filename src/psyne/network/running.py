"""Connections whose handshake is over: who drives them, signs of life, and what becomes of them."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .. import _native
from ..errors import ProtocolError
from .bodies import printable, refusal
from .driver import Driver, thread_driver
from .greeting import Farewell
from .handshake import Opened

__all__ = ["Owner", "Running"]

PING = 5.0  # seconds between signs of life
SILENT = 15.0  # seconds without any, after which a connection is dead
SLOWEST = 1024  # bytes per second that a frame which has begun comes or goes with at least
STANDS = 30.0  # seconds below that, after which a connection is dead
GATHER = 1 << 18  # bytes that are given to TLS at once
ROUNDS = 64  # of reading and writing, before others have their turn

_words = itertools.count(1)
_all: weakref.WeakSet[Running] = weakref.WeakSet()
_listened: set[tuple[int, int]] = set()  # process and descriptor of the news


class Owner(Protocol):
    """Whose connection it is. Called by the driver."""

    def over(self, running: Running, why: str) -> None:
        """Once: ``closed``, ``failed``, ``understood``, ``left`` (see `_native.Connection.over`). It is still there."""

    def lost(self, running: Running, why: str) -> None:
        """Once, the connection is gone: it broke, or is finished (then ``why`` is "")."""


class Pace:
    """How fast one direction gets on while it is in the middle of something; between frames it may rest for ever."""

    def __init__(self) -> None:
        self._bytes = 0
        self._since: float | None = None

    def slow(self, bytes: int, midway: bool) -> float:
        """Seconds for which it has been too slow. Asked every `PING` seconds."""
        now = time.monotonic()
        if not midway or bytes - self._bytes >= SLOWEST * PING:
            self._since = None
        elif self._since is None:
            self._since = now
        self._bytes = bytes
        return 0.0 if self._since is None else now - self._since


class Running:
    """One connection in use.

    Without TLS the thread of the native pump moves the bytes, or whoever waits for them; with TLS the driver does.
    """

    def __init__(
        self, driver: Driver, link: _native.Connection, sock: socket.socket, opened: Opened, rest: bytes, owner: Owner
    ) -> None:
        self.link = link
        self.violated = False
        """The peer broke the protocol."""
        self._came, self._went = Pace(), Pace()
        self._driver, self._owner = driver, owner
        self._gone = self._over = False
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._bell = -1
        self._cancel: list[Callable[[], object]] = []
        self._cancel_look: Callable[[], object] | None = None
        _all.add(self)
        _listen()
        link.connect(sock.detach() if self._tls is None else -1, opened.next, opened.capacity, rest)
        self._later()

    def start(self) -> None:
        """From here on bytes move, and the owner hears of it."""
        self.move()
        self.look()

    def close(self) -> None:
        """No more of it; the owner is not called."""
        if self._gone:
            return
        self._gone = True
        _all.discard(self)
        for cancel in self._cancel:
            cancel()
        if self._cancel_look is not None:
            self._cancel_look()
        if self._bell >= 0:
            self._driver.unwatch(self._bell)
        if self._tls is not None:
            self._driver.unwatch(self._tls.fileno())
            self._tls.close()
        self.link.disconnect()

    def look(self) -> None:
        """Has something become of it?"""
        if self._gone:
            return
        if not self._over and (why := self.link.over):
            self._over = True
            self._owner.over(self, why)
        if self._gone:
            return
        if refused := self.link.refused:
            self._lose(f"the peer refused: {printable(refused)}")
        elif failure := self.link.failure:
            self.violated = self.link.violated
            if (fd := self.link.take_violator()) >= 0:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                Farewell(self._driver, sock, refusal(ProtocolError(failure)))
            self._lose(failure)
        elif self._over and self.link.finished:
            self._lose("")

    def _lose(self, why: str) -> None:
        self.close()
        self._owner.lost(self, why)

    def _later(self) -> None:
        self._cancel = [self._driver.later(PING, self._sign_of_life)]

    def _sign_of_life(self) -> None:
        if self._gone:
            return
        if (silent := self.link.silent) > SILENT:
            self._lose(f"nothing was heard for {silent:.0f} s")
            return
        came, in_frame, went, left = self.link.progress
        for slow, what in ((self._came.slow(came, in_frame), "sends"), (self._went.slow(went, left > 0), "takes")):
            if slow >= STANDS:
                self._lose(f"the peer {what} less than {SLOWEST} bytes per second of a frame, for {slow:.0f} s")
                return
        self._later()
        self.link.ping(next(_words))
        if self._tls is not None:
            self.move()

    # ---- TLS: the driver moves the bytes ----------------------------------------------------------------------------

    def move(self) -> None:
        """Read and write what can be."""
        if self._gone or self._tls is None:
            return
        try:
            writes = self._move(self._tls, self.link)
        except ProtocolError as error:
            self.violated = True
            if self.link.progress[3] == 0:  # between two frames
                self._driver.unwatch(self._tls.fileno())
                Farewell(self._driver, self._tls, refusal(error))
                self._tls = None
            self._lose(str(error))
            return
        except Exception as error:  # of the link and of TLS alike: this connection is over
            self._lose(str(error))
            return
        self.look()
        if not self._gone:
            self._watch(self._tls, writes)

    def _move(self, tls: ssl.SSLSocket, link: _native.Connection) -> bool:
        """True: there is more to write when the socket takes it."""
        for _ in range(ROUNDS):
            moved = writes = False
            for piece in link.gather(GATHER):
                try:
                    n = tls.send(piece)
                except ssl.SSLWantWriteError:
                    writes = True
                    break
                except ssl.SSLWantReadError:
                    break
                link.written(n)
                moved = True
                if n < len(piece):
                    break
            if len(room := link.buffer()):
                try:
                    n = tls.recv_into(room)
                    if n == 0:
                        raise ConnectionResetError("the peer closed the connection")
                    link.arrived(n)
                    moved = True
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLWantWriteError:
                    writes = True
            if not moved:
                return writes
        self._driver.soon(self.move)
        return writes

    def _watch(self, tls: ssl.SSLSocket, writes: bool) -> None:
        bell, seconds = self.link.wants
        reads = len(self.link.buffer()) != 0
        self._driver.watch(tls.fileno(), reads, writes, self.move)
        if bell != self._bell:
            if self._bell >= 0:
                self._driver.unwatch(self._bell)
            self._bell = bell
            if bell >= 0:
                self._driver.watch(bell, True, False, self.move)
        if self._cancel_look is not None:
            self._cancel_look()
        self._cancel_look = self._driver.later(seconds, self.move) if seconds >= 0 else None


def _listen() -> None:
    """Hear of what becomes of connections that the pump drives; on the thread, for a loop may be closed before others."""
    fd = _native.network_news()
    if (os.getpid(), fd) in _listened:
        return
    _listened.add((os.getpid(), fd))

    def hear() -> None:
        with suppress(BlockingIOError):
            os.read(fd, 4096)
        for running in list(_all):
            with suppress(RuntimeError):  # its loop is closed
                running._driver.soon(running.look)

    thread_driver().watch(fd, True, False, hear)
