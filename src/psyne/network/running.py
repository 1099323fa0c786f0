"""Connections whose handshake is over: who drives them, signs of life, and what becomes of them."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import ssl
import time
import weakref
from contextlib import suppress
from typing import Protocol

from .. import _native
from ..errors import ProtocolError, PsyneError, SystemFailure
from .bodies import decode_refusal, refusal
from .driver import Callback, Driver, thread_driver
from .frames import Frame, Type
from .greeting import Farewell
from .handshake import Opened
from .inherited import not_inherited

__all__ = ["Owner", "Running"]

SILENT = 3  # signs of life that are not answered, after which a connection is dead
SLOWEST = 1024  # bytes per second that a frame which has begun comes or goes with at least
STANDS = 6  # signs of life in a row between which it was slower, after which a connection is dead
RECORD = 1 << 14  # bytes that one record of TLS has room for
RECORDS = 16  # that the link hears of at once
ROUNDS = 64  # records each way, before others have their turn

_words = itertools.count(1)
_all: weakref.WeakSet[Running] = weakref.WeakSet()
_listened: set[tuple[int, int]] = set()  # process and descriptor of the news


class Owner(Protocol):
    """Whose connection it is. Called by the driver."""

    def over(self, running: Running, why: str) -> None:
        """Once: ``closed``, ``failed``, ``understood``, ``left`` (see `_native.Connection.over`). It is still there."""

    def lost(self, running: Running, why: PsyneError | None) -> None:
        """Once, the connection is gone: it broke, or is finished (then ``why`` is None). Not after `Running.close`."""


class Pace:
    """How one direction gets on while it is in the middle of a frame; between frames it may rest for ever."""

    def __init__(self, least: float) -> None:
        self._least = least  # bytes from one look to the next
        self._bytes = self._slow = 0

    def slow(self, bytes: int, midway: bool) -> bool:
        """Was it too slow in each of the last looks?"""
        self._slow = self._slow + 1 if midway and bytes - self._bytes < self._least else 0
        self._bytes = bytes
        return self._slow > STANDS


class Running:
    """One connection in use.

    The thread of the native pump moves the bytes, or whoever waits for them; with TLS, or in an event loop, the driver.
    ``heartbeat``: seconds between signs of life. Raises ProtocolError where the peer goes on with a message that it
    cannot know.
    """

    def __init__(
        self, driver: Driver, gateway: _native.Gateway, link: _native.Connection, sock: socket.socket, opened: Opened,
        rest: bytes, owner: Owner, heartbeat: float,
    ) -> None:  # fmt: skip
        self.link = link
        self._comes, self._goes = Pace(SLOWEST * heartbeat), Pace(SLOWEST * heartbeat)
        self._driver, self._gateway, self._owner, self._heartbeat = driver, gateway, owner, heartbeat
        self._gone = self._over = False
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._fd = -1  # that the driver watches
        self._watched = (False, False)
        self._bell = -1
        self._cancel_sign: Callback | None = None
        self._cancel_move: Callback | None = None
        self._move_at = 0.0  # time.monotonic()
        self._asked: float | None = None  # when, for a sign of life beside the usual ones
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # of bytes that nobody acknowledges the kernel knows more than we do
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(SILENT * heartbeat * 1000)))
        # The link closes a descriptor of its own when it likes; where it raises, the socket is still the caller's.
        link.connect(os.dup(sock.fileno()) if self._tls is None else -1, opened.next, opened.capacity, rest)
        if self._tls is None and driver.pumps:
            sock.close()
        else:
            not_inherited(sock)
            self._sock, self._fd = sock, sock.fileno()
        _all.add(self)
        if driver.pumps:
            _listen()

    def start(self) -> None:
        """From here on bytes move, and the owner hears of it."""
        self._ping()  # a bound side begins when the other one has spoken
        self.look()

    def close(self) -> None:
        """No more of it; the owner is not called."""
        if self._gone:
            return
        self._gone = True
        _all.discard(self)
        for cancel in (self._cancel_sign, self._cancel_move):
            if cancel is not None:
                cancel()
        if self._bell >= 0:
            self._driver.unwatch(self._bell)
            os.close(self._bell)
        if self._fd >= 0:
            self._driver.unwatch(self._fd)
            self._sock.close()
        self.link.disconnect()

    def answers(self) -> bool:
        """Has it given a sign of life since it was asked? If nobody has asked this does, and says no."""
        if self._asked is None:
            self._asked = time.monotonic()
            self.link.ping(next(_words))
            self.move()
            return False
        if time.monotonic() - self.link.silent <= self._asked:
            return False
        self._asked = None
        return True

    def look(self) -> None:
        """Has something become of it?"""
        if self._gone:
            return
        if refused := self.link.refused:
            self._lose(_refusal(refused))
        elif failure := self.link.failure:
            if (fd := self.link.take_violator()) >= 0:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                Farewell(self._driver, sock, refusal(ProtocolError(failure)))
            self._lose(ProtocolError(failure) if self.link.violated else SystemFailure(errno.ECONNRESET, failure))
        elif self._tell() and self.link.finished:
            self._lose(None)

    def leave(self, *, keeps: bool = False) -> None:
        """Tells a sending side that no more is taken. It closes the connection then. ``keeps``: what has come stays."""
        self.link.leave(keeps)
        self.move()

    def finish(self) -> None:
        """Tells a receiving side that no more will come than was sent."""
        self.link.finish()
        self.move()

    def _tell(self) -> bool:
        """Is the link over? The owner hears of it once."""
        if not self._over and (why := self.link.over):
            self._over = True
            self._owner.over(self, why)
        return self._over and not self._gone

    def _lose(self, why: PsyneError | None) -> None:
        self._tell()  # what the peer said before counts
        if not self._gone:
            self.close()
            self._owner.lost(self, why)

    def _sign_of_life(self) -> None:
        if self._fd < 0:
            self.link.drive()  # the native thread may be late, too
        self.move()  # something may have come that was not read yet
        self.look()
        if self._gone:
            return
        if (silent := self.link.silent) > SILENT * self._heartbeat:
            self._lose(SystemFailure(errno.ETIMEDOUT, f"nothing was heard for {silent:.1f} s"))
            return
        came, in_frame, went, left = self.link.progress
        for slow, what in ((self._comes.slow(came, in_frame), "sends"), (self._goes.slow(went, left > 0), "takes")):
            if slow:
                seconds = f"for {STANDS * self._heartbeat:.1f} s"
                self._lose(ProtocolError(f"the peer {what} less than {SLOWEST} bytes per second of a frame, {seconds}"))
                return
        self._ping()

    def _ping(self) -> None:
        self._cancel_sign = self._driver.later(self._heartbeat, self._sign_of_life)
        self.link.ping(next(_words))
        self.move()
        self._gateway.wake()  # whoever waits for messages: they may have come here

    # ---- the driver moves the bytes ---------------------------------------------------------------------------------

    def move(self) -> None:
        """Read and write what can be, unless the native thread does."""
        if self._gone or self._fd < 0:
            return
        try:
            if self._tls is None:
                reads, writes, bell, seconds = self.link.drive()
            else:
                writes = self._move(self._tls)
                bell, seconds = self.link.wants
                reads = len(self.link.buffer()) != 0
        except PsyneError as error:
            if (
                self._tls is not None and isinstance(error, ProtocolError) and self.link.progress[3] == 0
            ):  # between two frames
                self._driver.unwatch(self._tls.fileno())
                Farewell(self._driver, self._tls, refusal(error))
                self._tls, self._fd = None, -1
            # What failed here, as the bell of a link may, is not what the peer has said.
            self._lose(error if isinstance(error, ProtocolError) else PsyneError(str(error)))
        except OSError as error:  # ssl.SSLError is one
            self._lose(SystemFailure(error.errno or errno.ECONNRESET, str(error)))
        else:
            self.look()
            if not self._gone:
                self._watch(reads, writes, bell, seconds)

    def _move(self, tls: ssl.SSLSocket) -> bool:
        """True: there is more to write when the socket takes it."""
        blocked = False
        for _ in range(ROUNDS):
            sent, blocked = self._send(tls)
            received = self._receive(tls)
            if received:
                self._gateway.wake()
            if not sent and not received:
                return blocked
        self._driver.soon(self.move)
        return blocked

    def _send(self, tls: ssl.SSLSocket) -> tuple[bool, bool]:
        """Was something written, and does the socket take no more?"""
        sent = False
        for _ in range(ROUNDS // RECORDS):
            pieces = self.link.gather(RECORD * RECORDS)
            if not pieces:
                break
            there = pieces[0] if len(pieces[0]) >= RECORD else memoryview(b"".join(pieces))
            left = there
            try:  # a record at a time; again with the same bytes, where the socket took none
                while left:
                    left = left[tls.send(left) :]
            except ssl.SSLWantWriteError:
                return sent, True
            except ssl.SSLWantReadError:
                break
            finally:
                if n := len(there) - len(left):
                    self.link.written(n)
                    sent = True
        return sent, False

    def _receive(self, tls: ssl.SSLSocket) -> bool:
        """Was something read?"""
        received = False
        for _ in range(ROUNDS // RECORDS):
            room = self.link.buffer()
            if not room:
                break
            left = room[: RECORD * RECORDS]
            try:
                while left:
                    n = tls.recv_into(left)
                    if n == 0:
                        raise ConnectionResetError("the peer closed the connection")
                    left = left[n:]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            finally:
                if n := min(len(room), RECORD * RECORDS) - len(left):
                    self.link.arrived(n)
                    received = True
        return received

    def _watch(self, reads: bool, writes: bool, bell: int, seconds: float) -> None:
        if (reads, writes) != self._watched:
            self._watched = (reads, writes)
            self._driver.watch(self._fd, reads, writes, self.move)
        if bell >= 0 and self._bell < 0:  # it stays: there is one for the life of the link
            self._bell = os.dup(bell)
            self._driver.watch(self._bell, True, False, self.move)
        if seconds >= 0:
            self._move_within(seconds)

    def _move_within(self, seconds: float) -> None:
        """One timer at a time. One that is early does no harm, and costs less than another one for each message."""
        at = time.monotonic() + seconds
        if self._cancel_move is not None:
            if self._move_at <= at:
                return
            self._cancel_move()
        self._move_at = at
        self._cancel_move = self._driver.later(seconds, self._due)

    def _due(self) -> None:
        self._cancel_move = None
        self.move()


def _refusal(text: str) -> PsyneError:
    try:
        return decode_refusal(Frame(Type.REFUSE, text.encode()), "the peer")
    except ProtocolError as error:
        return error


def _listen() -> None:
    """Hear of what becomes of connections that the pump drives; on the thread, as loops may be closed before others."""
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
