"""What workers count, in memory that they share with their supervisor: a row each, written by it alone.

A killed worker leaves its figures there, and the one that takes its place counts on.
"""

import mmap
import os
import time
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ends import Receiver, Sender
from ..handover import Memory
from ..types import Struct, u64

__all__ = ["BUCKETS", "Board", "Figures", "Row", "Sample"]

BUCKETS = 48  # of a histogram: entry b counts times below 2**b ns and not below 2**(b-1)


class Row(Struct):
    """One worker's figures; times in nanoseconds."""

    messages = u64()
    calls = u64()  # of the stage's function
    busy = u64()  # time inside it
    since = u64()  # when the call began that is under way, by time.monotonic_ns(); 0: none is
    copied_bytes = u64()
    missed = u64()
    blocked = u64()
    at = u64()  # when these figures were published
    late_wakes = u64()  # from here on: of the whole channel
    redelivered = u64()
    poisoned = u64()
    dropped = u64()
    latency = u64(BUCKETS)  # a histogram


class Board:
    """As many rows as the pipeline has workers."""

    def __init__(self, rows: int) -> None:
        fd = os.memfd_create("psyne-pipeline", os.MFD_CLOEXEC)
        os.ftruncate(fd, max(rows, 1) * Row.__layout__.bytes)
        self.memory: Memory = Memory(fd)
        self._all: NDArray[np.void] = np.frombuffer(_pages(self.memory), Row.__layout__.dtype)

    def sample(self, now: float) -> "Sample":
        """All rows as they are."""
        return Sample(now, self._all.copy())


@dataclass(frozen=True)
class Sample:
    """The rows of all workers at one moment."""

    time: float
    rows: NDArray[np.void]


def _pages(memory: Memory) -> mmap.mmap:
    return mmap.mmap(memory.fd, os.fstat(memory.fd).st_size)


class Figures:
    """A worker counts here, and publishes now and then: what its predecessors counted, and its own."""

    def __init__(self, memory: Memory, number: int) -> None:
        self._row = Row.from_buffer(_pages(memory), number * Row.__layout__.bytes)
        self._before = self._row.copy()
        self._lock = Lock()  # of those who publish
        self.messages, self.calls, self.busy, self.since = 0, 0, 0, 0

    def begin(self) -> None:
        """A call of the stage's function begins."""
        self.since = time.monotonic_ns()

    def end(self, messages: int) -> None:
        """It has returned."""
        self.busy += time.monotonic_ns() - self.since
        self.since = 0
        self.calls += 1
        self.messages += messages

    def publish(self, end: Sender[Any] | Receiver[Any]) -> None:
        """Into the row: what was counted here and by the end itself."""
        with self._lock:
            seen, row, before = end.statistics(), self._row, self._before
            since, now = self.since, time.monotonic_ns()
            row.messages = before.messages + (seen.sent or self.messages)
            row.calls = before.calls + self.calls
            row.busy = before.busy + self.busy + (now - since if since else 0)
            row.since, row.at = since, now
            row.copied_bytes = before.copied_bytes + seen.copied_bytes
            row.missed = before.missed + seen.missed
            row.blocked = before.blocked + seen.blocked
            row.late_wakes, row.redelivered = seen.late_wakes, seen.redelivered
            row.poisoned, row.dropped = seen.poisoned, seen.dropped
            row.latency = before.latency + np.asarray(seen.latency_ns, "u8")
