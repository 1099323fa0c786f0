"""Connections whose handshake is over: who drives them, signs of life, and what becomes of them."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import time
import weakref
from contextlib import suppress
from typing import Protocol

from .. import _native
from .driver import Callback, Driver
from .handshake import Opened

__all__ = ["Owner", "Running"]

PING = 5.0  # seconds between signs of life
SILENT = 15.0  # seconds without any, after which a connection is dead
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


class Running:
    """One connection in use.

    The thread of the native pump moves the bytes, or whoever waits for them; with TLS, or in an event loop, the driver.
    """

    def __init__(
        self, driver: Driver, link: _native.Connection, sock: socket.socket, opened: Opened, rest: bytes, owner: Owner
    ) -> None:
        self.link = link
        self._driver, self._owner = driver, owner
        self._gone = self._over = False
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._fd = -1  # that the driver watches
        if self._tls is not None:
            self._fd = self._tls.fileno()
        elif not driver.pumps:
            self._fd = os.dup(sock.fileno())  # our own: the link closes its one when it likes
        self._watched = (False, False)
        self._bell = -1
        self._cancel: Callback | None = None
        self._cancel_look: Callback | None = None
        self._look_at = 0.0  # time.monotonic()
        _all.add(self)
        if driver.pumps:
            _listen(driver)
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
        for cancel in (self._cancel, self._cancel_look):
            if cancel is not None:
                cancel()
        if self._bell >= 0:
            self._driver.unwatch(self._bell)
            os.close(self._bell)
        if self._fd >= 0:
            self._driver.unwatch(self._fd)
            if self._tls is not None:
                self._tls.close()
            else:
                os.close(self._fd)
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
            self._lose(f"the peer refused: {refused}")
        elif failure := self.link.failure:
            self._lose(failure)
        elif self._over and self.link.finished:
            self._lose("")

    def _lose(self, why: str) -> None:
        self.close()
        self._owner.lost(self, why)

    def _later(self) -> None:
        self._cancel = self._driver.later(PING, self._sign_of_life)

    def _sign_of_life(self) -> None:
        if self._gone:
            return
        if (silent := self.link.silent) > SILENT:
            self._lose(f"nothing was heard for {silent:.0f} s")
            return
        self._later()
        self.link.ping(next(_words))
        self.move()

    # ---- the driver moves the bytes ---------------------------------------------------------------------------------

    def move(self) -> None:
        """Read and write what can be, unless the native thread does."""
        if self._gone or self._fd < 0:
            return
        try:
            if self._tls is None:
                reads, writes, bell, seconds = self.link.drive()
            else:
                writes = self._move(self._tls, self.link)
                bell, seconds = self.link.wants
                reads = len(self.link.buffer()) != 0
        except Exception as error:  # of the link and of TLS alike: this connection is over
            self._lose(str(error))
            return
        self.look()
        if not self._gone:
            self._watch(reads, writes, bell, seconds)

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

    def _watch(self, reads: bool, writes: bool, bell: int, seconds: float) -> None:
        if (reads, writes) != self._watched:
            self._watched = (reads, writes)
            self._driver.watch(self._fd, reads, writes, self.move)
        if bell >= 0 and self._bell < 0:  # it stays: there is one for the life of the link
            self._bell = os.dup(bell)
            self._driver.watch(self._bell, True, False, self.move)
        if seconds >= 0:
            self._look_within(seconds)

    def _look_within(self, seconds: float) -> None:
        """One timer at a time. One that is early does no harm, and costs less than another one for each message."""
        at = time.monotonic() + seconds
        if self._cancel_look is not None:
            if self._look_at <= at:
                return
            self._cancel_look()
        self._look_at = at
        self._cancel_look = self._driver.later(seconds, self._due)

    def _due(self) -> None:
        self._cancel_look = None
        self.move()


def _listen(driver: Driver) -> None:
    """Hear of what becomes of connections that the pump drives."""
    fd = _native.network_news()
    if (os.getpid(), fd) in _listened:
        return
    _listened.add((os.getpid(), fd))

    def hear() -> None:
        with suppress(BlockingIOError):
            os.read(fd, 4096)
        for running in list(_all):
            running._driver.soon(running.look)

    driver.watch(fd, True, False, hear)
