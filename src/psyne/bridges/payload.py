"""The bytes of one message, to be carried and to be filled."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fill", "payload_of", "size_of"]


def payload_of(m: Any) -> bytearray:
    """A copy of its bytes: Zenoh's Python interface takes bytes or bytearray and no buffers, and copies them again."""
    return bytearray(_record_of(m) if m.__layout__.columns else _flat(m))


def size_of(cls: Any, shape: tuple[int, ...]) -> int:
    """Bytes that a message of a class has; of one that brings its shape, with this shape."""
    if not cls.__layout__.shaped:
        return int(cls.__layout__.bytes)
    elements = 1
    for n in shape:
        elements *= n
    return elements * int(cls.__layout__.dtype.itemsize)


def fill(m: Any, payload: bytes) -> None:
    """The one copy from what Zenoh gives into the slot."""
    if not m.__layout__.columns:
        _flat(m)[:] = np.frombuffer(payload, np.uint8)
        return
    record = np.frombuffer(payload, m.__layout__.dtype)[0]
    for name, place in m.__places__.items():
        place.__set__(m, record[name])


def _flat(m: Any) -> Any:
    """Its memory as bytes, in the order in which they lie."""
    return m.array.reshape(-1, order="A").view(np.uint8)


def _record_of(m: Any) -> Any:
    """A message in columns, put together."""
    record = np.zeros(1, m.__layout__.dtype)
    for name, place in m.__places__.items():
        record[name] = place.__get__(m)
    return record.view(np.uint8)
