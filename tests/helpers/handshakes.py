"""Both sides of a handshake, over nothing but memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

import psyne
from psyne.network.bodies import Reply, Request
from psyne.network.handshake import Client, Handshake, Server

__all__ = ["ADDRESS", "PEER", "SCHEMA", "SESSION", "TOKEN", "Meeting", "meet", "reply", "request"]

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
