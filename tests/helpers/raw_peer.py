"""A far end made of nothing but a socket: it says what a test wants it to say, right or wrong."""

import json
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any, Self

from psyne.address import tcp_place
from psyne.network.bodies import Request
from psyne.network.frames import HEADER_BYTES, Header, Type, frame
from psyne.network.handshake import Client, Opened

__all__ = ["RawPeer", "ack", "data", "end"]

DATA_HEAD = struct.Struct("<QIIQ")  # type, missed, checksum, bytes of each message


def data(payload: bytes, sequence: int, size: int, **changes: Any) -> bytes:
    """A frame DATA of messages of ``size`` bytes each. ``changes`` to its header, ``variant`` and ``checksum``."""
    body = DATA_HEAD.pack(changes.pop("variant", 0), 0, changes.pop("checksum", 0), changes.pop("said", size)) + payload
    fields: dict[str, Any] = {"length": len(body), "sequence": sequence, "count": len(payload) // size} | changes
    return Header(Type.DATA, **fields).encode() + body


def ack(let_go: int, received: int) -> bytes:
    return Header(Type.ACK, 8, let_go).encode() + struct.pack("<Q", received)


def end(messages: int, why: int = 0) -> bytes:
    return Header(Type.END, 1, messages).encode() + bytes([why])


class RawPeer:
    """Connects. ``greet`` goes through the handshake; everything else is up to the test."""

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        host, port, _ = tcp_place(address)
        self.sock: socket.socket = socket.create_connection((host, port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.sock = context.wrap_socket(self.sock)
        self._held = b""
        self.said = b""
        """All that was sent."""

    def greet(
        self, channel: str, role: Any = "sender", *, token: bytes | None = None, speaks: bool = True, **fields: Any
    ) -> Opened:
        """Raises what the other side refuses with. ``speaks``: it shows that it knows that it is welcome."""
        client = Client(Request(role, channel, **fields), "the bound side", token)
        while not client.done:
            self.send(client.take())
            client.feed(self.sock.recv(1 << 16))
        self._held = client.rest
        if speaks:
            self.speak()
        assert client.opened is not None
        return client.opened

    def speak(self) -> None:
        """Only now it is somebody."""
        self.send(frame(Type.PING, bytes(8)))

    def send(self, *pieces: bytes) -> None:
        self.said += b"".join(pieces)
        self.sock.sendall(b"".join(pieces))

    def frame(self) -> tuple[Header, bytes] | None:
        """The next frame that comes; None at the end of the connection."""
        head = self._read(HEADER_BYTES)
        if head is None:
            return None
        header = Header.decode(head)
        body = self._read(header.length)
        return None if body is None else (header, body)

    def next(self, *types: Type, answers: bool = True) -> tuple[Header, bytes] | None:
        """The next frame of these types, or None at the end; PING is answered on the way."""
        while (got := self.frame()) is not None and got[0].type not in types:
            if got[0].type is Type.PING and answers:
                self.send(frame(Type.PONG, got[1]))
        return got

    def refusal(self) -> dict[str, str]:
        """The last words of the other side, behind which it closes."""
        got = self.next(Type.REFUSE, answers=False)
        assert got is not None, "the connection was closed without a word"
        said: dict[str, str] = json.loads(got[1])
        assert self.frame() is None
        return said

    def closed(self) -> None:
        """Waits until the other side has closed, with or without words."""
        with suppress(ConnectionError):
            while self.sock.recv(1 << 16):
                pass

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, size: int) -> bytes | None:
        while len(self._held) < size:
            more = self.sock.recv(1 << 16)
            if not more:
                return None
            self._held += more
        taken, self._held = self._held[:size], self._held[size:]
        return taken
