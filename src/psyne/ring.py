"""Rings of messages inside one process, both of their ends in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Generic, NoReturn, TypeVar

from .anonymous import channel
from .batch import Batch
from .ends import Receiver, Sender
from .options import Wait
from .statistics import Statistics
from .types import Message

__all__ = ["DynamicRingBuffer", "RingBuffer"]

M = TypeVar("M", bound=Message)


class RingBuffer(Generic[M]):
    """A ring of ``capacity`` messages of a type: one thread writes, another (or the same) reads, in place.

    It is a channel without a name, both of its ends in one object: the ring is the one that channels have, and
    ``loan``, ``try_loan``, ``loan_many`` and ``send`` are those of a `Sender`, ``receive``, ``try_receive`` and
    ``receive_many`` those of a `Receiver`; iterating receives. A full ring waits for room, an empty one for a message,
    without a ``timeout`` for ever.

    Raises NoSpace, InvalidArgument.
    """

    loan: Callable[..., M]
    try_loan: Callable[..., M | None]
    loan_many: Callable[..., Batch[M]]
    send: Callable[..., bool]
    receive: Callable[..., M]
    try_receive: Callable[[], M | None]
    receive_many: Callable[..., Batch[M]]

    def __init__(self, kind: type[M], /, *, capacity: int | None = None, wait: Wait = "adaptive") -> None:
        self._open(*channel(kind, pattern="spsc", capacity=capacity, wait=wait))

    def _open(self, tx: Sender[M], rx: Receiver[M]) -> None:
        self._tx, self._rx = tx.__enter__(), rx.__enter__()
        self.loan, self.try_loan, self.loan_many, self.send = tx.loan, tx.try_loan, tx.loan_many, tx.send
        self.receive, self.try_receive, self.receive_many = rx.receive, rx.try_receive, rx.receive_many

    def __iter__(self) -> Iterator[M]:
        """Every message; each step ends the one before it. Stops once the ring was closed and all was received."""
        return iter(self._rx)

    @property
    def capacity(self) -> int:
        """Messages in the ring."""
        return self._tx.capacity

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._tx.closed

    def close(self) -> None:
        """Send nothing any more. What was sent is still received; then comes EndOfChannel. From any thread."""
        self._tx.close()

    def statistics(self) -> Statistics:
        """What both ends have done and see, as numbers: ``blocked`` and ``wait_ns`` are those of the writer."""
        read = self._rx.statistics()
        written = self._tx.statistics()
        return replace(
            written, received=read.received, held=written.held + read.held, held_while_waiting=read.held_while_waiting,
            latency_ns=read.latency_ns,
        )  # fmt: skip

    def __enter__(self) -> RingBuffer[M]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} stays in its process; psyne.channel() makes ends that go to others")

    def __repr__(self) -> str:
        return f"<psyne.{type(self).__name__} of {self.capacity} messages{', closed' if self.closed else ''}>"


class DynamicRingBuffer(RingBuffer[M]):
    """A `RingBuffer` that grows and shrinks with the load.

    It begins with ``capacity`` messages (default what fits in 256 KiB, 8 to 4096), becomes larger when it is full or a
    message is longer than its slots, within ``budget`` bytes (default 1 GiB), and smaller after ``shrink_after``
    seconds (default 1.0) of low load; the memory goes back to the system. ``capacity`` is then that of the newest ring.

    Raises NoSpace, InvalidArgument.
    """

    def __init__(
        self, kind: type[M], /, *, capacity: int | None = None, budget: int | None = None,
        shrink_after: float | None = None, wait: Wait = "adaptive",
    ) -> None:  # fmt: skip
        self._open(
            *channel(
                kind,
                pattern="spsc",
                full="grow",
                capacity=capacity,
                budget=budget,
                shrink_after=shrink_after,
                wait=wait,
            )
        )
