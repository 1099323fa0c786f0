"""How two sides agree: state machines that take and give bytes, and know no sockets.

client                                     server
HELLO  byte order, nonce ────────────────▶
       ◀──────────────────────────────────  CHALLENGE  byte order, nonce, token?
PROOF  that the token is known ──────────▶
OPEN   channel, role, schema, session ───▶  looked at only if the proof was right
       ◀──────────────────────────────────  WELCOME  proof, schema, session

Either side may send REFUSE instead, with the error that the other one shall raise.
"""

from __future__ import annotations

import errno
import secrets
import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version

from ..errors import AuthenticationFailed, LayoutMismatch, PsyneError, SystemFailure
from ..log import logger
from ..types.schema import difference, types_in
from .bodies import Challenge, Hello, Reply, Request, decode_refusal, decode_welcome, printable, refusal
from .frames import LIMITS, Frame, Reader, Type, frame
from .security import proof, proves

__all__ = ["Client", "Handshake", "Opened", "Server", "check_schema"]

WORD = struct.calcsize("P")
NO_PROOF = bytes(LIMITS[Type.PROOF])


@dataclass(frozen=True)
class Opened:
    """What both sides agreed on."""

    request: Request
    reply: Reply

    @property
    def next(self) -> int:
        """The first sequence that the receiving side has not got; 0 in a new session."""
        if not self.reply.resumed:
            return 0
        return self.reply.next if self.request.role == "sender" else self.request.next

    @property
    def capacity(self) -> int:
        """Messages that the ring of the receiving side holds."""
        return self.reply.capacity


class Handshake(ABC):
    """What client and server have in common.

    After `feed` and at the start, `take` has what is to be sent; after `feed` raised as well, then the connection is
    to be closed. When it is over `opened` says what was agreed, and `rest` has the bytes behind the handshake.
    """

    def __init__(self, peer: str, token: bytes | None, expected: Type) -> None:
        self.opened: Opened | None = None
        self.rest: bytes = b""
        self._peer, self._token = peer, token
        self._nonce = secrets.token_bytes(32)
        self._reader = Reader()
        self._expected = expected
        self._outgoing = bytearray()
        self._failed = False

    @property
    def done(self) -> bool:
        """Did both sides agree?"""
        return self.opened is not None

    def take(self) -> bytes:
        """What is to be sent now."""
        taken = bytes(self._outgoing)
        self._outgoing.clear()
        return taken

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes that came; none: the connection was closed. What comes after an error or the end is not to be fed.

        Raises ProtocolError, AuthenticationFailed, LayoutMismatch, SystemFailure for a closed connection, and what
        the other side refused with.
        """
        assert not self.done
        assert not self._failed
        try:
            if not data:
                raise SystemFailure(
                    errno.ECONNRESET, f"{self._peer} closed the connection before its {self._expected.name}"
                )
            left = memoryview(data)
            while left and not self.done:
                whole, left = self._reader.read(left, self._expected)
                if whole is not None and whole.type is Type.REFUSE:
                    raise _Refused(decode_refusal(whole, self._peer))
                if whole is not None:
                    self.opened = self._step(whole)
            self.rest = bytes(left)
        except _Refused as refused:
            self._failed = True
            raise refused.error from None
        except PsyneError as error:
            self._failed = True
            self._outgoing += refusal(error)
            raise

    @abstractmethod
    def _step(self, whole: Frame) -> Opened | None:
        """Takes the frame that was expected. What was agreed, if it was the last."""

    def _check_host(self, byteorder: str, word: int) -> None:
        if (byteorder, word) != (sys.byteorder, WORD):
            raise LayoutMismatch(
                f"{self._peer} is a {printable(byteorder)}-endian host with words of {word} bytes, this one is "
                f"{sys.byteorder}-endian with {WORD}: messages are bytes of memory, and nobody converts them"
            )


class _Refused(Exception):
    """The other side sent REFUSE; nothing is answered."""

    def __init__(self, error: PsyneError) -> None:
        super().__init__(str(error))
        self.error = error


class Client(Handshake):
    """The side that connects. ``peer`` is the address, as it appears in errors."""

    def __init__(self, request: Request, peer: str, token: bytes | None = None) -> None:
        super().__init__(peer, token, Type.CHALLENGE)
        self._request = request
        self._theirs = b""
        self._outgoing += Hello(sys.byteorder, WORD, self._nonce.hex(), version("psyne")).encode()

    def _step(self, whole: Frame) -> Opened | None:
        if self._expected is Type.WELCOME:
            return self._welcomed(whole)
        self._prove(Challenge.decode(whole))
        self._expected = Type.WELCOME
        return None

    def _prove(self, challenge: Challenge) -> None:
        self._check_host(challenge.byteorder, challenge.word)
        if challenge.token and self._token is None:
            raise AuthenticationFailed(f"{self._peer} wants a token: give token=")
        if self._token is not None and not challenge.token:
            raise AuthenticationFailed(
                f"{self._peer} has no token, so it cannot prove that it knows this one: give token= to both or to none"
            )
        self._theirs = bytes.fromhex(challenge.nonce)
        proved = NO_PROOF if self._token is None else proof(self._token, "client", self._nonce, self._theirs)
        self._outgoing += frame(Type.PROOF, proved) + self._request.encode()

    def _welcomed(self, whole: Frame) -> Opened:
        given, reply = decode_welcome(whole, self._request)
        if self._token is not None and not proves(
            bytes.fromhex(given), self._token, "server", self._nonce, self._theirs
        ):
            raise AuthenticationFailed(f"{self._peer} does not know the token")
        if self._request.role == "sender" and reply.schema != self._request.schema:
            check_schema(self._request.schema or "", reply.schema, self._peer)
        return Opened(self._request, reply)


class Server(Handshake):
    """The side that is bound. ``open`` is called with what a client wants, when it has proved itself.

    What that raises of psyne.errors is raised at the client; of anything else it learns only that there was something.
    """

    def __init__(self, open: Callable[[Request], Reply], peer: str, token: bytes | None = None) -> None:
        super().__init__(peer, token, Type.HELLO)
        self._open = open
        self._theirs = b""
        self.authenticated: bool = False
        """Was its proof right, or none wanted?"""

    def _step(self, whole: Frame) -> Opened | None:
        if self._expected is Type.OPEN:
            return self._welcome(Request.decode(whole))
        if self._expected is Type.HELLO:
            hello = Hello.decode(whole)
            self._check_host(hello.byteorder, hello.word)
            self._theirs = bytes.fromhex(hello.nonce)
            self._outgoing += Challenge(sys.byteorder, WORD, self._nonce.hex(), self._token is not None).encode()
            self._expected = Type.PROOF
        else:
            self._check(whole.body)
            self.authenticated = True
            self._expected = Type.OPEN
        return None

    def _check(self, given: bytes) -> None:
        if self._token is None:
            right = given == NO_PROOF
        else:
            right = proves(given, self._token, "client", self._theirs, self._nonce)
        if not right:
            raise AuthenticationFailed(f"{self._peer} does not know the token")

    def _welcome(self, request: Request) -> Opened:
        try:
            reply = self._open(request)
        except PsyneError:
            raise
        except Exception as error:
            logger.error("a connection of %s failed here: %r", self._peer, error, exc_info=error)
            raise PsyneError("the bound side failed; its log says why") from error
        reply = replace(reply, checksum=reply.checksum or request.checksum)
        proved = "" if self._token is None else proof(self._token, "server", self._theirs, self._nonce).hex()
        self._outgoing += reply.encode(proved)
        return Opened(request, reply)


def check_schema(theirs: str, yours: str, address: str) -> None:
    """Raise LayoutMismatch if a sender's types are not those of the channel that it wants to send on.

    In words for the sender: ``theirs`` are the types of the channel, ``yours`` the sender's. Receivers and taps take
    what WELCOME says to `psyne.types.schema.read_kinds`, as they do with that of a local channel.
    """
    if theirs != yours:
        types_in(yours)  # raises for what is no description
        raise LayoutMismatch(f"{address} has another layout: {difference(theirs, yours)}")
