"""A socket until both sides agree: connecting, TLS, the handshake; and the last words to one with whom they do not."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable

from ..errors import PsyneError, SystemFailure
from .bodies import refusal
from .driver import Driver
from .handshake import Handshake, Server
from .inherited import not_inherited
from .security import speaks_no_tls, tls_failure

__all__ = ["FAREWELL", "HANDSHAKE", "Farewell", "Greeting"]

HANDSHAKE = 5.0  # seconds that it may take in all
FAREWELL = 1.0  # seconds that a peer has to hear the last words
ROUNDS = 16  # of reading, before others have their turn
WAITS = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Farewell:
    """Says the last words and closes the socket.

    To close it with bytes that nobody read resets the connection, and the reset may overtake the words. So the writing
    half is shut, and what still comes is dropped until the peer closes too, or has had its time.
    """

    def __init__(
        self, driver: Driver, sock: socket.socket, words: bytes, gone: Callable[[], object] = lambda: None
    ) -> None:
        not_inherited(sock)
        self._driver, self._sock, self._gone = driver, sock, gone
        self._left = memoryview(words)
        self._shut = False
        self._cancel = driver.later(FAREWELL, self._over)
        driver.watch(sock.fileno(), True, True, self._step)

    def close(self) -> None:
        """At once; nobody is called."""
        self._cancel()
        if self._sock.fileno() >= 0:
            self._driver.unwatch(self._sock.fileno())
            self._sock.close()

    def _over(self) -> None:
        self.close()
        self._gone()

    def _step(self) -> None:
        try:
            while self._left:
                self._left = self._left[self._sock.send(self._left) :]
            if not self._shut:
                self._shut = True
                self._sock.shutdown(socket.SHUT_WR)  # of TLS, too: what comes is not decrypted any more
                self._driver.watch(self._sock.fileno(), True, False, self._step)
            for _ in range(ROUNDS):
                if not self._sock.recv(1 << 16):
                    self._over()
                    return
        except WAITS:
            pass
        except OSError:
            self._over()


class Greeting:
    """Drives one handshake.

    ``done`` gets the socket when it is over; ``failed`` hears why it never will be, and then ``gone``, when the last
    words are said and the socket is closed. ``secure`` puts TLS around a socket once it is connected. The server is
    done when it has got something behind the handshake, too: until then the client may not know that it is welcome.
    """

    def __init__(
        self, driver: Driver, sock: socket.socket, machine: Handshake, peer: str,
        done: Callable[[Greeting, socket.socket], object], failed: Callable[[Greeting, PsyneError], object],
        secure: Callable[[socket.socket], socket.socket] | None = None,
        gone: Callable[[Greeting], object] = lambda greeting: None,
    ) -> None:  # fmt: skip
        not_inherited(sock)
        self.machine, self.peer = machine, peer
        self._driver, self._sock, self._done, self._failed, self._gone = driver, sock, done, failed, gone
        self._out = memoryview(b"")
        self._secure = secure
        self._greets = secure is None and not isinstance(sock, ssl.SSLSocket)  # TLS first
        self._farewell: Farewell | None = None
        self._cancel = driver.later(HANDSHAKE, self._too_late)
        driver.watch(sock.fileno(), True, True, self._step)

    def close(self) -> None:
        """Not any more; nobody is called."""
        self._cancel()
        if self._farewell is not None:
            self._farewell.close()
        elif self._sock.fileno() >= 0:
            self._driver.unwatch(self._sock.fileno())
            self._sock.close()

    def _too_late(self) -> None:
        late = SystemFailure(errno.ETIMEDOUT, f"{self.peer} did not finish the handshake within {HANDSHAKE:.0f} s")
        self._fail(late, refusal(late) if self._greets and not self._out else b"")

    def _step(self) -> None:
        try:
            if error := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise SystemFailure(error, f"{self.peer} cannot be reached: {os.strerror(error)}")
            if self._sock.getsockname() == self._sock.getpeername():  # it had the very port that it was looking for
                raise SystemFailure(errno.ECONNREFUSED, f"{self.peer} cannot be reached: nobody listens")
            if self._secure is not None:
                self._sock, self._secure = self._secure(self._sock), None
                not_inherited(self._sock)
            if not self._greets:
                assert isinstance(self._sock, ssl.SSLSocket)
                self._sock.do_handshake()
                self._greets = True
            self._write()
            self._read()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._driver.watch(self._sock.fileno(), True, bool(self._out), self._step)
        except ssl.SSLWantWriteError:
            self._driver.watch(self._sock.fileno(), True, True, self._step)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._fail(SystemFailure(errno.ECONNRESET, f"{self.peer} closed the connection before TLS was agreed"))
        except ssl.SSLError as error:
            failure = tls_failure(error, self.peer)
            self._plain()  # OpenSSL has said what it says; whoever speaks no TLS hears it in the clear
            self._fail(failure, refusal(failure) if speaks_no_tls(error) else b"", lingers=True)
        except SystemFailure as error:
            self._fail(error)
        except PsyneError as error:
            self._fail(error, bytes(self._out) + self.machine.take())
        except OSError as error:
            self._fail(SystemFailure(error.errno, f"{self.peer}: {error.strerror or error}"))
        else:
            self._cancel()
            self._driver.unwatch(self._sock.fileno())
            self._done(self, self._sock)

    def _write(self) -> None:
        while True:
            if not self._out:
                self._out = memoryview(self.machine.take())
            if not self._out:
                return
            self._out = self._out[self._sock.send(self._out) :]

    def _read(self) -> None:
        while not self.machine.done:
            self.machine.feed(self._sock.recv(1 << 16))
            self._write()
        if isinstance(self.machine, Server) and not self.machine.rest:
            self.machine.rest = self._sock.recv(1 << 12)
            if not self.machine.rest:
                raise SystemFailure(errno.ECONNRESET, f"{self.peer} closed the connection at once")

    def _plain(self) -> None:
        """The socket without TLS."""
        self._driver.unwatch(self._sock.fileno())
        self._sock = socket.socket(fileno=self._sock.detach())
        not_inherited(self._sock)
        self._sock.setblocking(False)

    def _fail(self, error: PsyneError, words: bytes = b"", *, lingers: bool = False) -> None:
        self._cancel()
        if words or lingers:
            self._farewell = Farewell(self._driver, self._sock, words, lambda: self._gone(self))
        else:
            self.close()
        self._failed(self, error)
        if self._farewell is None:
            self._gone(self)
