"""A stranger at a handshake: what any bytes may do to it, and inputs that are made from right ones.

An input is one byte that chooses the side, a token and the cuts between reads, and the bytes of a connection.
"""

import random
import sys
from itertools import pairwise

import psyne
from psyne.network.bodies import Challenge, Reply, Request, decode_refusal
from psyne.network.frames import HEADER_BYTES, LIMITS, MAGIC, TYPES, Frame, Header, Type, frame
from psyne.network.handshake import Client, Handshake, Server
from psyne.network.security import proof

from .handshakes import ADDRESS, HELLO, NONCE, OPEN, PEER, TOKEN, WELCOME, reply, request, written

__all__ = ["MOST", "SEEDS", "mended", "mutated", "try_input"]

CLIENT, WANTS_TOKEN, MENDED = 1, 2, 128  # bits of the first byte; those between are for the cuts
OURS = bytes(range(32))  # our nonce
MOST = 4096
LONGEST_ANSWER = LIMITS[Type.WELCOME] + 2 * HEADER_BYTES + LIMITS[Type.REFUSE]


def try_input(data: bytes) -> Handshake:
    """Feeds it. Raises AssertionError for what must not be, and whatever else than a PsyneError gets out."""
    choice, stream = data[0], data[1:]
    if choice & MENDED:
        stream = mended(stream)
    token = TOKEN if choice & WANTS_TOKEN else None
    machine: Client | Server

    def opened(asked: Request) -> Reply:
        assert isinstance(machine, Server)
        assert machine.authenticated
        if asked.channel == "none":
            raise psyne.ChannelNotFound("there is no channel")
        return reply(asked)

    machine = Client(request(), ADDRESS, token) if choice & CLIENT else Server(opened, PEER, token)
    machine._nonce = OURS
    answer = machine.take()
    cuts = random.Random(choice)
    size, at, error = choice >> 2 & 31, 0, None
    while at < len(stream) and not machine.done and error is None:
        n = cuts.randint(1, size) if size else len(stream)
        try:
            machine.feed(stream[at : at + n])
        except psyne.PsyneError as raised:
            error = raised
        at += n
        answer += machine.take()
        assert machine._reader.held <= min(at, max(LIMITS.values()))
    if not machine.done and error is None:
        try:
            machine.feed(b"")  # it hangs up
        except psyne.PsyneError as raised:
            error = raised
        assert error is not None
        answer += machine.take()
    assert len(answer) <= LONGEST_ANSWER
    check_answer(answer)
    if machine.opened is not None:
        assert machine.opened.next < 1 << 63
        assert stream.endswith(machine.rest) or not machine.rest or at < len(stream)
    return machine


def check_answer(answer: bytes) -> None:
    """Whole right frames, and a REFUSE that is last and can be read."""
    while answer:
        header = Header.decode(answer[:HEADER_BYTES])
        body = answer[HEADER_BYTES : HEADER_BYTES + header.length]
        assert len(body) == header.length <= LIMITS[header.type]
        answer = answer[HEADER_BYTES + header.length :]
        if header.type is Type.REFUSE:
            assert str(decode_refusal(Frame(header.type, body), PEER)).isprintable()
            assert not answer


def mended(stream: bytes) -> bytes:
    """Headers say the length of what lies behind them up to the next, and have the right checksum."""
    places, at = [], stream.find(MAGIC)
    while at >= 0:
        places.append(at)
        at = stream.find(MAGIC, at + HEADER_BYTES)
    out = bytearray(stream)
    for here, behind in pairwise([*places, len(stream)]):
        kind = stream[here + 5] if here + HEADER_BYTES <= len(stream) else 0
        if kind in TYPES:
            out[here : here + HEADER_BYTES] = Header(Type(kind), behind - here - HEADER_BYTES).encode()
    return bytes(out)


def _seeds() -> list[bytes]:
    hello, asks = written(Type.HELLO, HELLO), written(Type.OPEN, OPEN)
    added = written(Type.OPEN, OPEN | {"role": "receiver", "added": [["main"], True, False], "capacity": 4})
    resumed = written(
        Type.OPEN, OPEN | {"role": "tap", "session": "0f" * 16, "next": 7, "capacity": 4, "channel": "none"}
    )
    theirs = bytes.fromhex(NONCE)
    blank, proved = frame(Type.PROOF, bytes(32)), frame(Type.PROOF, proof(TOKEN, "client", theirs, OURS))
    refused = written(Type.REFUSE, {"error": "NoSpace", "message": "full"})
    welcome = [written(Type.WELCOME, WELCOME | {"proof": p}) for p in ("", proof(TOKEN, "server", OURS, theirs).hex())]
    challenge = [Challenge(sys.byteorder, 8, NONCE, token).encode() for token in (False, True)]
    sessions = [
        (0, hello + blank + asks + b"rest"),
        (0, hello + blank + added),
        (0, hello + blank + resumed),
        (0, hello + refused),
        (WANTS_TOKEN, hello + proved + asks),
        (WANTS_TOKEN, hello + blank + asks),
        (CLIENT, challenge[0] + welcome[0] + b"rest"),
        (CLIENT, challenge[0] + refused),
        (CLIENT | WANTS_TOKEN, challenge[1] + welcome[1]),
        (CLIENT | WANTS_TOKEN, challenge[1] + welcome[0]),
    ]
    return [bytes([side | cuts | more]) + s for side, s in sessions for cuts in (0, 28) for more in (0, MENDED)]


SEEDS = _seeds()
PIECES = [
    b"null", b"true", b"false", b"-1", b"0", b"9" * 25, b"1e400", b"[", b"[[[[[[[[", b"{}", b'""', b'"\\ud800"',
    b'"\\u0000"', b'"\\n"', b"\xff", b'"role":', b'"added":[null,true,true]', b'"next":', b"NaN", MAGIC,
    b"\x16\x03\x01", b"[" * 2000,
]  # fmt: skip


def mutated(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Another input like it, with pieces of another one."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at, n = chance.randrange(1, len(out) + 1), chance.choice((1, 1, 2, 4, 8, 32))
        match chance.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(out):
                out[at] = chance.choice((0, 1, 2, 5, 6, 0x22, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 2:
                del out[at : at + n]
            case 3:
                out[at:at] = out[(begin := chance.randrange(len(out))) : begin + n]
            case 4:
                out[at:at] = chance.choice(PIECES)
            case 5:
                piece = chance.choice(PIECES)
                out[at : at + len(piece)] = piece
            case 6:
                out[at:] = other[chance.randrange(1, len(other)) :]
            case _:
                out[0] = chance.randrange(256)
        out = out[:MOST]
        if len(out) < 2:
            out += b"\0\0"
    return bytes(out)
