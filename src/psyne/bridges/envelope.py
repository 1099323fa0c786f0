"""What travels beside the payload: an envelope with each message, and a description of all.

    envelope, the attachment of a message; little-endian
     0   4  magic      50 53 59 4E ("PSYN")
     4   1  version    1
     5   1  ndim       dimensions of a message that brings its shape, else 0
     6   2  flags      1: an end, and a sender was lost; 2: a description follows the dimensions
     8   8  session    of the source: a random number, another one whenever it starts
    16   8  sequence   from 0 without holes; of an end: messages in all
    24   8  variant    VariantHdr of the message; of an end 0
    32   8  timestamp  nanoseconds of the source's monotonic clock, 0: it keeps no time
    40   8  missed     messages of its channel that the source missed just before
    48   8·ndim        the dimensions
     …   …             the description, with the first message of a source and with its end

Who subscribes later asks for the description; a source may be over before it is asked. The payload is the bytes of the
message alone, in the byte order that the types name.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import NamedTuple

__all__ = ["LOST", "Envelope", "Refused", "described", "description"]

MAGIC, VERSION, LOST, DESCRIBED = b"PSYN", 1, 1, 2
HEAD = struct.Struct("<4sBBHQQQQQ")
MAX_NDIM = 8
MAX_DESCRIPTION = 1 << 20
WORD = struct.calcsize("P")


class Refused(Exception):
    """Something that came is not what it has to be; says what, in numbers."""


class Envelope(NamedTuple):
    """About one message, or the end of a source."""

    session: int
    sequence: int
    variant: int = 0
    timestamp: int = 0
    missed: int = 0
    flags: int = 0
    shape: tuple[int, ...] = ()
    description: bytes = b""

    def encode(self) -> bytes:
        flags = self.flags | (DESCRIBED if self.description else 0)
        head = HEAD.pack(
            MAGIC, VERSION, len(self.shape), flags, self.session, self.sequence, self.variant, self.timestamp,
            self.missed,
        )  # fmt: skip
        dimensions = struct.pack(f"<{len(self.shape)}Q", *self.shape) if self.shape else b""
        return head + dimensions + self.description

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Raises Refused for whatever `encode` does not make."""
        if len(data) < HEAD.size or data[:4] != MAGIC:
            raise Refused(f"its attachment of {len(data)} bytes is no envelope of psyne")
        _, version, ndim, flags, session, sequence, variant, timestamp, missed = HEAD.unpack_from(data)
        if version != VERSION:
            raise Refused(f"its envelope has version {version}, and this psyne knows {VERSION}")
        rest = len(data) - HEAD.size - 8 * ndim
        if ndim > MAX_NDIM or rest < 0 or bool(rest) != bool(flags & DESCRIBED):
            raise Refused(f"its envelope has {len(data)} bytes, says {ndim} dimensions, and has the flags {flags:#x}")
        shape = struct.unpack_from(f"<{ndim}Q", data, HEAD.size) if ndim else ()
        said = data[len(data) - rest :]
        return cls(session, sequence, variant, timestamp, missed, flags & ~DESCRIBED, shape, said)


def description(schema: str, channel: str) -> bytes:
    """The types of a source, with its first message and for who asks. ``channel`` is its `horizon.identity`."""
    machine = {"byteorder": sys.byteorder, "word": WORD}
    return json.dumps({"psyne": VERSION, **machine, "channel": channel, "schema": schema}).encode()


def described(data: bytes) -> tuple[str, str]:
    """The schema text in a description, and the channel. Raises Refused for one of another kind of machine, or none."""
    if len(data) > MAX_DESCRIPTION:
        raise Refused(f"its description has {len(data)} bytes, more than {MAX_DESCRIPTION}")
    try:
        d = json.loads(data)
        version, byteorder, word = d["psyne"], d["byteorder"], d["word"]
        schema, channel = d["schema"], d["channel"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refused(f"its description cannot be read: {error!r}") from error
    if version != VERSION or not isinstance(schema, str):
        raise Refused(f"its description has version {version!r}, and this psyne knows {VERSION}")
    if (byteorder, word) != (sys.byteorder, WORD):
        raise Refused(
            f"its machine is {byteorder}-endian with words of {word} bytes, this one {sys.byteorder}-endian with {WORD}"
        )
    return schema, str(channel)
