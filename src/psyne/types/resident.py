"""What lies in the slots of a channel whose messages are in memory of a GPU: a record that says where, and the fence.

::

    byte   0       8      24             88       96      104             168
           ┌───────┬──────┬──────────────┬────────┬───────┬───────────────┐
           │ magic │ uuid │ memory       │ size   │ begin │ fence         │
           └───────┴──────┴──────────────┴────────┴───────┴───────────────┘

By the handles ``memory`` and ``fence`` the driver of another process opens the sender's allocation, which has ``size``
bytes, and the event that is done when the message is there; ``begin`` is where the message begins in the allocation.
"""

from __future__ import annotations

import struct
import weakref
from typing import NamedTuple

import numpy as np

from .. import _native
from ..errors import InvalidArgument, PeerCorrupted
from .array import Array
from .message import Message, MessageMeta, made_once

__all__ = ["Record", "Resident", "resident_type"]

RECORD = struct.Struct("<8s16s64sQQ64s")
MAGIC = b"psyneGPU"


class Record(NamedTuple):
    """Where a message is."""

    uuid: bytes
    memory: bytes
    size: int
    begin: int
    fence: bytes

    def packed(self) -> bytes:
        return RECORD.pack(MAGIC, *self)

    @classmethod
    def of(cls, message: Resident) -> Record:
        """What another process wrote; nothing of it is believed yet. Raises PeerCorrupted for what is no record."""
        magic, *parts = RECORD.unpack(memoryview(message))
        if magic != MAGIC:
            raise PeerCorrupted(f"a slot has no record of a message in memory of a GPU: it begins with {magic!r}")
        return cls(*parts)


class Resident(Message):
    """The slot of a message that is in memory of a GPU; the ends that ``device=`` opens make their messages of it."""

    __of__: MessageMeta
    """What the message is: an `Array`."""

    def __init_subclass__(cls, of: MessageMeta, kind: str) -> None:
        cls.__of__ = of
        cls._lay_out(_native.Layout(np.dtype("u1"), (RECORD.size,)), {"resident": kind, **of.__schema__})

    def _write(self, record: bytes) -> None:
        memoryview(self)[:] = record


_made: weakref.WeakValueDictionary[tuple[MessageMeta, str], MessageMeta] = weakref.WeakValueDictionary()


def resident_type(of: MessageMeta, kind: str) -> MessageMeta:
    """The class of slots for arrays in memory of a kind of device. Raises InvalidArgument for other messages."""
    if not issubclass(of, Array) or of.__layout__.shaped:
        raise InvalidArgument(
            f"a channel with device= carries arrays of one shape: Array(dtype, shape) or Matrix(rows, columns), not "
            f"{of.__name__}"
        )
    name, body = f"Resident_{of.__name__}", {"__module__": __name__}
    key: tuple[MessageMeta, str] = (of, kind)
    return made_once(_made, key, lambda: MessageMeta(name, (Resident,), body, of=of, kind=kind))
