"""Both sides of a handshake, over nothing but memory."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psyne
from psyne.network.bodies import Challenge, Reply, Request
from psyne.network.frames import HEADER_BYTES, Type, frame
from psyne.network.handshake import Client, Handshake, Server

__all__ = [
    "ADDRESS", "HELLO", "NONCE", "OPEN", "PEER", "SCHEMA", "SESSION", "TOKEN", "WELCOME",
    "Meeting", "fed", "meet", "never", "opening", "reply", "request", "welcomed", "written",
]  # fmt: skip

ADDRESS, PEER = "tcp://host:9999/camera", "10.0.0.7:50123"
TOKEN = b"sixteen bytes or more"
SCHEMA = '{"text":65536}'
SESSION = "0123456789abcdef" * 2


def request(**changes: object) -> Request:
    """What a sender asks for."""
    return Request(**{"role": "sender", "channel": "camera", "schema": SCHEMA, "program": "camera.py"} | changes)  # type: ignore[arg-type]


def reply(_: Request) -> Reply:
    """A channel that takes everybody."""
    return Reply(schema=SCHEMA, session=SESSION, capacity=64)


@dataclass
class Meeting:
    """A handshake that is over: with what, and every byte of it."""

    client: Client
    server: Server
    client_error: psyne.PsyneError | None = None
    server_error: psyne.PsyneError | None = None
    sent: dict[str, list[bytes]] = field(default_factory=lambda: {"client": [], "server": []})


def meet(client: Client, server: Server, way: Callable[[bytes], list[bytes]] = lambda data: [data]) -> Meeting:
    """Lets them talk until nobody has anything to say. ``way`` cuts or changes what is under way."""
    meeting = Meeting(client, server)
    errors: dict[str, psyne.PsyneError | None] = {"client": None, "server": None}
    while True:
        quiet = True
        for name, here, other, there in (("client", client, "server", server), ("server", server, "client", client)):
            if data := here.take():
                quiet = False
                meeting.sent[name].append(data)
                errors[other] = errors[other] or fed(there, way(data))
        if quiet:
            meeting.client_error, meeting.server_error = errors["client"], errors["server"]
            return meeting


def fed(machine: Handshake, pieces: list[bytes]) -> psyne.PsyneError | None:
    """Feeds the pieces until it is over; what it raised."""
    for piece in pieces:
        if machine.done:
            break
        try:
            machine.feed(piece)
        except psyne.PsyneError as error:
            return error
    return None


# What they say, as JSON, with no token wanted.
NONCE = "5a" * 32
HELLO = {"byteorder": sys.byteorder, "word": 8, "nonce": NONCE, "psyne": "0.1.0"}
OPEN = json.loads(request().encode()[HEADER_BYTES:])
WELCOME = json.loads(reply(request()).encode("")[HEADER_BYTES:])


def written(kind: Type, fields: Any) -> bytes:
    return frame(kind, fields if isinstance(fields, bytes) else json.dumps(fields).encode())


def opening(server: Server, proof: bytes = bytes(32), **changes: Any) -> psyne.PsyneError | None:
    """What a client without a token would say to the server, with changes to its OPEN."""
    return fed(server, [written(Type.HELLO, HELLO), frame(Type.PROOF, proof), written(Type.OPEN, OPEN | changes)])


def welcomed(asked: Request, **changes: Any) -> psyne.PsyneError | None:
    """What a client makes of a WELCOME with these changes."""
    client = Client(asked, ADDRESS)
    challenge = Challenge(sys.byteorder, 8, NONCE, False).encode()
    return fed(client, [challenge, written(Type.WELCOME, WELCOME | {"proof": ""} | changes)])


def never(_: Request) -> Reply:
    raise AssertionError("opened for somebody who did not prove that he knows the token")
