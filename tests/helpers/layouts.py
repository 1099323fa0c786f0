"""Message types that tests and their child processes share."""

import numpy as np

from psyne import Array, Struct, f32, u8, u64

__all__ = ["CHANGED", "Line", "Number", "Picture", "Record", "Sample", "Walk", "broken_lines", "line_of", "lines_of"]


class Number(Struct):
    """The smallest message that can be told from another."""

    n = u64()


class Sample(Struct):
    """Scalars and an array, with padding between."""

    stamp = u64()
    kind = u8()
    values = f32(3)


class Record(Struct):
    """What stages read and write: `seen` is for a mutating one."""

    n = u64()
    seen = u64()
    body = u8(64)


class Walk(Struct):
    """What crosses a graph: each mutating stage adds itself to `path`, between a mark before and one after."""

    sender = u64()
    number = u64()
    path = u64()
    begun = u64()
    count = u64()
    done = u64()


Picture = Array("u1", (4, 6))
CHANGED = 1 << 20  # what a stage that changes lines adds to their sender
Line = Array("u8", 8)  # 64 bytes: sender, count, and six words that belong to these two

_MIX = np.arange(3, 15, 2, dtype="u8") * np.uint64(0x9E3779B97F4A7C15)


def lines_of(sender: int, start: int, n: int) -> np.ndarray:
    """The messages start … start + n - 1 of a sender, as Line has them."""
    lines = np.empty((n, 8), "u8")
    lines[:, 0] = sender
    lines[:, 1] = np.arange(start, start + n, dtype="u8")
    lines[:, 2:] = (lines[:, 1:2] + np.uint64(sender << 40)) * _MIX
    return lines


def line_of(sender: int, count: int) -> np.ndarray:
    """One message of a sender."""
    return lines_of(sender, count, 1)[0]


def broken_lines(lines: np.ndarray) -> int:
    """How many of these messages are torn."""
    expected = (lines[:, 1:2] + (lines[:, 0:1] << np.uint64(40))) * _MIX
    return int((lines[:, 2:] != expected).any(axis=1).sum())
