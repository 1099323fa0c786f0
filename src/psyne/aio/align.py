"""Messages of several channels that belong together by their stamps, every wait a coroutine."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from ..align import Alignment, alone
from ..batch import Batch
from ..errors import ChannelClosed, EndOfChannel
from ..matching import AlignedStatistics, By
from ..types import Message
from .ends import LONGEST, MOST, Receiver
from .loops import sleep
from .waiting import select

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Aligned", "align"]

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
D = TypeVar("D", bound=Message)
S = TypeVar("S", covariant=True)


class Aligned(Generic[S]):
    """Sets of messages that belong together; `psyne.aio.align` makes it. One task uses it at a time.

    As `psyne.Aligned`: the next set, ``close()`` or the end of the ``async with`` block ends the set before.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment
        self._busy = threading.Lock()
        self._calls, self._since = 0, time.monotonic_ns()

    async def receive(self) -> S:
        """The next set. Raises EndOfChannel, SenderLost, ChannelClosed, LeaseLimit. Cancelling loses no message."""
        with alone(self._busy):
            self._calls += 1
            if self._calls >= MOST or time.monotonic_ns() - self._since > LONGEST:
                await sleep(0)
                self._calls, self._since = 0, time.monotonic_ns()
            while (found := self._alignment.step()) is None:
                await select(*self._alignment.open())
                self._calls, self._since = 0, time.monotonic_ns()
        return cast("S", found)

    def try_receive(self) -> S | None:
        """The next set, or None when it is not certain yet."""
        with alone(self._busy):
            return cast("S | None", self._alignment.step())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> S:
        try:
            return await self.receive()
        except (EndOfChannel, ChannelClosed):
            raise StopAsyncIteration from None

    def statistics(self) -> AlignedStatistics:
        """What was given, left out and let go so far, and what waits now."""
        return self._alignment.matching.statistics()

    def close(self) -> None:
        """End all messages that are held. The receivers stay open."""
        with alone(self._busy):
            self._alignment.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<psyne.aio.Aligned {self._alignment}>"


@overload
def align(
    a: Receiver[A], b: Receiver[B], /, *, by: By | Sequence[By], tolerance: float | None = None,
    between: Literal[False] = False, hold: int | None = None,
) -> Aligned[tuple[A, B]]: ...  # fmt: skip
@overload
def align(
    a: Receiver[A], b: Receiver[B], c: Receiver[C], /, *, by: By | Sequence[By], tolerance: float | None = None,
    between: Literal[False] = False, hold: int | None = None,
) -> Aligned[tuple[A, B, C]]: ...  # fmt: skip
@overload
def align(
    a: Receiver[A], b: Receiver[B], c: Receiver[C], d: Receiver[D], /, *, by: By | Sequence[By],
    tolerance: float | None = None, between: Literal[False] = False, hold: int | None = None,
) -> Aligned[tuple[A, B, C, D]]: ...  # fmt: skip
@overload
def align(
    a: Receiver[A], b: Receiver[B], /, *, by: By | Sequence[By], between: Literal[True], hold: int | None = None
) -> Aligned[tuple[A, Batch[B]]]: ...
@overload
def align(
    a: Receiver[A], b: Receiver[B], c: Receiver[C], /, *, by: By | Sequence[By], between: Literal[True],
    hold: int | None = None,
) -> Aligned[tuple[A, Batch[B], Batch[C]]]: ...  # fmt: skip
@overload
def align(
    a: Receiver[A], b: Receiver[B], c: Receiver[C], d: Receiver[D], /, *, by: By | Sequence[By],
    between: Literal[True], hold: int | None = None,
) -> Aligned[tuple[A, Batch[B], Batch[C], Batch[D]]]: ...  # fmt: skip
@overload
def align(
    *receivers: Receiver[Any], by: By | Sequence[By], tolerance: float | None = None, between: bool = False,
    hold: int | None = None,
) -> Aligned[tuple[Any, ...]]: ...  # fmt: skip
def align(
    *receivers: Receiver[Any], by: By | Sequence[By], tolerance: float | None = None, between: bool = False,
    hold: int | None = None,
) -> Aligned[Any]:  # fmt: skip
    """Join channels by a stamp in their messages, as `psyne.align` does."""
    for rx in receivers:
        if not isinstance(rx, Receiver):
            raise TypeError(
                f"aio.align() takes what psyne.aio.receiver() opens, one by one, not {rx!r}; aio.Receiver(rx) takes "
                "over a blocking end"
            )
    return Aligned(Alignment([rx._receiver for rx in receivers], by, tolerance, between, hold))
