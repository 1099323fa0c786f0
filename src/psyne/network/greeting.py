"""A socket until both sides agree: connecting, TLS, the handshake."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from ..errors import PsyneError, SystemFailure
from .driver import Driver
from .handshake import Handshake, Server
from .security import tls_failure

__all__ = ["HANDSHAKE", "Greeting"]

HANDSHAKE = 5.0  # seconds that it may take in all


class Greeting:
    """Drives one handshake. ``done`` gets the socket when it is over, ``failed`` why it never will be.

    ``secure`` puts TLS around a socket once it is connected. The server is done when it has got something behind the
    handshake, too: until then the client may not know that it is welcome.
    """

    def __init__(
        self, driver: Driver, sock: socket.socket, machine: Handshake, peer: str,
        done: Callable[[Greeting, socket.socket], object], failed: Callable[[Greeting, PsyneError], object],
        secure: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:  # fmt: skip
        self.machine, self.peer = machine, peer
        self._driver, self._sock, self._done, self._failed = driver, sock, done, failed
        self._out = memoryview(b"")
        self._refusing: PsyneError | None = None
        self._secure = secure
        self._greets = secure is None and not isinstance(sock, ssl.SSLSocket)  # TLS first
        self._cancel = driver.later(HANDSHAKE, self._too_late)
        driver.watch(sock.fileno(), True, True, self._step)

    def close(self) -> None:
        """Not any more; nobody is called."""
        self._cancel()
        if self._sock.fileno() >= 0:
            self._driver.unwatch(self._sock.fileno())
            self._sock.close()

    def _too_late(self) -> None:
        self._fail(SystemFailure(110, f"{self.peer} did not finish the handshake within {HANDSHAKE:.0f} s"))

    def _step(self) -> None:
        try:
            if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise SystemFailure(error, f"{self.peer} cannot be reached: {os.strerror(error)}")
            if self._sock.getsockname() == self._sock.getpeername():  # it had the very port that it was looking for
                raise SystemFailure(errno.ECONNREFUSED, f"{self.peer} cannot be reached: nobody listens")
            if self._secure is not None:
                self._sock, self._secure = self._secure(self._sock), None
            if not self._greets:
                assert isinstance(self._sock, ssl.SSLSocket)
                self._sock.do_handshake()
                self._greets = True
            self._write()
            if self._refusing is None:
                self._read()
                self._write()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._driver.watch(self._sock.fileno(), True, bool(self._out), self._step)
        except ssl.SSLWantWriteError:
            self._driver.watch(self._sock.fileno(), True, True, self._step)
        except ssl.SSLError as error:
            self._fail(tls_failure(error, self.peer))
        except SystemFailure as error:
            self._fail(error)
        except PsyneError as error:
            self._refuse(error)
        except OSError as error:
            self._fail(SystemFailure(error.errno, f"{self.peer}: {error.strerror or error}"))
        else:
            self._settle()

    def _write(self) -> None:
        while self._out or (more := self.machine.take()):
            if not self._out:
                self._out = memoryview(more)
            self._out = self._out[self._sock.send(self._out) :]

    def _read(self) -> None:
        while not self.machine.done:
            self.machine.feed(self._sock.recv(1 << 16))
            self._write()
        if isinstance(self.machine, Server) and not self.machine.rest:
            self.machine.rest = self._sock.recv(1 << 12)
            if not self.machine.rest:
                raise SystemFailure(errno.ECONNRESET, f"{self.peer} closed the connection at once")

    def _settle(self) -> None:
        if self._refusing is not None:
            self._fail(self._refusing)
        elif self.machine.done:
            self._cancel()
            self._driver.unwatch(self._sock.fileno())
            self._done(self, self._sock)

    def _refuse(self, error: PsyneError) -> None:
        """The peer hears why, if it still listens."""
        self._refusing = error
        with suppress(OSError):
            self._write()
        self._fail(error)

    def _fail(self, error: PsyneError) -> None:
        self.close()
        self._failed(self, error)
