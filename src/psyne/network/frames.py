"""The frames of a connection: a header of 32 bytes and a body. Python reads those of the handshake, C++ the others.

header   0 ┌──────────┬─────────┬──────┬───────┐ 8
           │ "PSYN"   │ version │ type │ flags │
         8 ├──────────┴─────────┼──────┴───────┤ 16      checksum: CRC-32C of the 32 bytes, this field zero
           │ count              │ checksum     │
        16 ├────────────────────┴──────────────┤ 24
           │ length of the body in bytes       │         all of it little-endian
        24 ├───────────────────────────────────┤ 32
           │ sequence                          │
           └───────────────────────────────────┘
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ProtocolError

__all__ = ["HEADER_BYTES", "LIMITS", "MAGIC", "VERSION", "Frame", "Header", "Reader", "Type", "crc32c", "frame"]

MAGIC = b"PSYN"
VERSION = 1
HEADER_BYTES = 32
LAYOUT = struct.Struct("<4sBBHIIQQ")
CHECKSUM_AT = 12
TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, and the begin of a TLS handshake


class Type(enum.IntEnum):
    """What a frame is. Below 16: the handshake."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    OPEN = 4
    WELCOME = 5
    REFUSE = 6
    DATA = 16
    ACK = 17
    PING = 18
    PONG = 19
    END = 20
    BYE = 21
    LEAVE = 22


# The most bytes of a body in the handshake.
LIMITS = {
    Type.HELLO: 1 << 10,
    Type.CHALLENGE: 1 << 10,
    Type.PROOF: 32,
    Type.OPEN: 1 << 20,
    Type.WELCOME: 1 << 20,
    Type.REFUSE: 64 << 10,
}


@dataclass(frozen=True)
class Header:
    """The 32 bytes before a body."""

    type: Type
    length: int = 0
    sequence: int = 0
    count: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        """The 32 bytes."""
        packed = LAYOUT.pack(MAGIC, VERSION, self.type, self.flags, self.count, 0, self.length, self.sequence)
        checksum = crc32c(packed).to_bytes(4, "little")
        return packed[:CHECKSUM_AT] + checksum + packed[CHECKSUM_AT + 4 :]

    @classmethod
    def decode(cls, packed: bytes) -> Header:
        """What 32 bytes say. Raises ProtocolError for bytes that are no header of this version."""
        check_start(packed)
        _, version, kind, flags, count, checksum, length, sequence = LAYOUT.unpack(packed)
        if version != VERSION:
            raise ProtocolError(f"the other side speaks version {version} of the protocol and this one {VERSION}")
        right = crc32c(packed[:CHECKSUM_AT] + bytes(4) + packed[CHECKSUM_AT + 4 :])
        if checksum != right:
            raise ProtocolError(f"a damaged header: its checksum is {checksum:#010x} and should be {right:#010x}")
        if kind not in TYPES:
            raise ProtocolError(f"a frame of the unknown type {kind}")
        return cls(Type(kind), length, sequence, count, flags)


class Frame(NamedTuple):
    """A whole frame of the handshake."""

    type: Type
    body: bytes


class Reader:
    """Cuts what arrives into frames of the handshake. It holds at most one, and no more of it than has arrived."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._header: Header | None = None

    @property
    def held(self) -> int:
        """Bytes of a frame that is not whole."""
        return len(self._held)

    def read(self, data: memoryview, expected: Type) -> tuple[Frame | None, memoryview]:
        """The frame if it is whole now, and what of ``data`` lies behind it.

        Raises ProtocolError for any frame but the one that is expected and REFUSE, and for one above its limit.
        """
        if self._header is None:
            data = self._fill(data, HEADER_BYTES)
            check_start(self._held)
            if len(self._held) < HEADER_BYTES:
                return None, data
            self._header = self._checked(Header.decode(bytes(self._held)), expected)
            self._held.clear()
        data = self._fill(data, self._header.length)
        if len(self._held) < self._header.length:
            return None, data
        whole = Frame(self._header.type, bytes(self._held))
        self._held.clear()
        self._header = None
        return whole, data

    def _fill(self, data: memoryview, size: int) -> memoryview:
        missing = size - len(self._held)
        self._held += data[:missing]
        return data[missing:]

    def _checked(self, header: Header, expected: Type) -> Header:
        if header.type not in (expected, Type.REFUSE):
            raise ProtocolError(f"{header.type.name} came where {expected.name} was due")
        if header.length > (most := LIMITS[header.type]):
            raise ProtocolError(f"{header.type.name} of {header.length} bytes; it has at most {most}")
        if header.flags or header.count or header.sequence:
            raise ProtocolError(
                f"{header.type.name} has no flags, count or sequence; "
                f"got {header.flags}, {header.count} and {header.sequence}"
            )
        return header


def frame(kind: Type, body: bytes) -> bytes:
    """A frame of the handshake as it is sent."""
    return Header(kind, len(body)).encode() + body


def check_start(packed: bytes | bytearray) -> None:
    """Raise ProtocolError as soon as the first bytes show that the other side speaks something else."""
    start = bytes(packed[: len(MAGIC)])
    if start[:2] in TLS_RECORDS:
        raise ProtocolError("the other side speaks TLS and this one does not: give tls= to both or to none")
    if not MAGIC.startswith(start):
        raise ProtocolError(f"the other side does not speak this protocol: its frame begins with {start!r}")


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the Castagnoli polynomial, reflected
        table.append(value)
    return table


TABLE = _table()
TYPES = frozenset(Type)


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
