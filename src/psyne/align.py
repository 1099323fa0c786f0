"""Messages of several channels that belong together by their stamps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from . import _native
from .batch import Batch
from .ends import Receiver
from .errors import ChannelClosed, ConcurrentUse, Empty, EndOfChannel, InvalidArgument, LeaseLimit, SenderLost
from .matching import AlignedStatistics, Between, By, Line, Matching, Nearest, Runs, Stamps
from .types import Message
from .types.schema import types_in
from .waiting import ready, select

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Aligned", "Alignment", "align", "alone"]

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
D = TypeVar("D", bound=Message)
S = TypeVar("S", covariant=True)


class Alignment:
    """Takes of several receivers what the matching wants, and never waits."""

    def __init__(
        self, receivers: Sequence[Receiver[Any]], by: By | Sequence[By], tolerance: float | None, between: bool,
        hold: int | None,
    ) -> None:  # fmt: skip
        check_options(receivers, by, tolerance, between, hold)
        self.receivers: Sequence[Receiver[Any]] = receivers
        self.hold: int | None = hold
        self.closed: bool = False
        each = [by] * len(receivers) if isinstance(by, str) or callable(by) else by
        stamps = [Stamps(one, rx.address) for one, rx in zip(each, receivers, strict=True)]
        lines: list[Line] = [Line(one) for one in stamps]
        if between:
            lines[1:] = [Runs(one, rx) for one, rx in zip(stamps[1:], receivers[1:], strict=True)]
        nearest = inf if tolerance is None else tolerance
        self.matching: Matching = Between(lines) if between else Nearest(lines, nearest)
        self.unknown: set[int] = {i for i in range(len(receivers)) if not self._check_types(i)}

    def _check_types(self, i: int) -> bool:
        """Whether the types of a channel are known; then they must have stamps, and in batches be one."""
        rx, line = self.receivers[i], self.matching.lines[i]
        types = rx._asked
        if not types or Message in types:  # the channel describes itself
            if not rx.joined:
                return False
            types = types_in(_native.schema(rx))
        for cls in types:
            line.stamps.check(cls)
        if isinstance(line, Runs) and len(types) > 1:
            raise InvalidArgument(
                f"{rx.address} carries {', '.join(cls.__name__ for cls in types)}, which are no single batch: "
                "between=True is for channels of one type"
            )
        return True

    def step(self) -> tuple[Any, ...] | None:
        """Ends the set before; the next one, or None while more must come. Raises EndOfChannel, SenderLost."""
        if self.closed:
            raise ChannelClosed("this alignment was closed")
        matching = self.matching
        matching.finish()
        while (found := matching.take()) is None:
            if matching.over():
                self._raise_end()
            for i, line in enumerate(matching.lines):
                if len(line) + line.behind > 1:
                    line.shorten(self._most(i))
            every = range(len(self.receivers))
            # The others are taken only when nothing that was wanted is there: their rings keep them in order, too.
            if not any(map(self._pull, matching.pending)) and not any(map(self._pull, every)):
                return None
        return found

    def _most(self, i: int) -> int:
        """How many messages of a channel may wait: fewer than fill a ring."""
        ring = _native.smallest_ring(self.receivers[i])
        if self.hold is None:
            return max(1, ring // 2)
        return max(1, min(self.hold, ring - 1))

    def _pull(self, i: int) -> bool:
        """Takes something of a channel, or learns that it has ended; False when there is nothing now."""
        rx, line = self.receivers[i], self.matching.lines[i]
        if line.ended:
            return False
        if i in self.unknown:
            there = ready(rx)
            if rx.joined and self._check_types(i):
                self.unknown.remove(i)
            if not there:
                return False
        try:
            if isinstance(line, Runs):
                got: Any = rx.try_receive_many(max(1, self._most(i) - len(line)))
            else:
                got = rx.try_receive()
        except (EndOfChannel, SenderLost) as error:
            line.ended, line.lost = True, isinstance(error, SenderLost)
            return True
        except LeaseLimit:
            if len(line) < 2:
                raise
            line.shorten(len(line) - 1)
            return True
        if got is None:
            return False
        line.put(got)
        return True

    def _raise_end(self) -> None:
        lines = self.matching.lines
        lost = [rx.address for rx, line in zip(self.receivers, lines, strict=True) if line.lost]
        self.matching.clear()
        if lost:
            raise SenderLost(
                f"a sender of {', '.join(lost)} died or failed; all sets were given. follow=True waits for the next one"
            )
        over = [rx.address for rx, line in zip(self.receivers, lines, strict=True) if line.ended]
        raise EndOfChannel(f"{', '.join(over)} ended, and all sets were given")

    def close(self) -> None:
        self.closed = True
        self.matching.clear()

    def open(self) -> list[Receiver[Any]]:
        """The receivers that may bring something."""
        return [rx for rx, line in zip(self.receivers, self.matching.lines, strict=True) if not line.ended]

    def missing(self) -> str:
        """What the next set waits for."""
        reference = self.matching.lines[0]
        if not reference.waiting:
            return f"nothing of {self.receivers[0].address} waits"
        others = [
            f"{self.receivers[i].address} ({'nothing came' if (new := self.matching.lines[i].newest) == -inf else new})"
            for i in self.matching.pending
        ]
        return (
            f"{self.receivers[0].address} has a message with the stamp {reference.waiting[0][0]}, "
            f"and too low are the stamps of {', '.join(others)}"
        )

    def __repr__(self) -> str:
        return ", ".join(rx.address for rx in self.receivers) + (", closed" if self.closed else "")


def check_options(receivers: Sequence[object], by: object, tolerance: object, between: object, hold: object) -> None:
    """Raise InvalidArgument or TypeError for what can never be aligned."""
    if len(receivers) < 2 or len({id(rx) for rx in receivers}) < len(receivers):
        raise InvalidArgument(
            f"align() takes two or more different receivers, the reference first; got {len(receivers)}"
        )
    if not isinstance(by, str) and not callable(by) and not (isinstance(by, Sequence) and len(by) == len(receivers)):
        raise InvalidArgument(
            f"by= is the name of a field, a function of a message, or one of these for each of the {len(receivers)} "
            f"receivers; got {by!r}"
        )
    if between not in (True, False):
        raise InvalidArgument(f"between={between!r}; it is one of True, False")
    if tolerance is not None and (not isinstance(tolerance, Real) or not float(tolerance) >= 0):
        raise InvalidArgument(f"tolerance is a number in the unit of the stamps, 0 or more; got {tolerance!r}")
    if tolerance is not None and between:
        raise InvalidArgument("between=True gives all messages since the last, however far: leave tolerance= out")
    if hold is not None and (not isinstance(hold, int) or hold < 1):
        raise InvalidArgument(f"hold is a number of messages of each channel, 1 or more; got {hold!r}")


class Aligned(Generic[S]):
    """Sets of messages that belong together; `psyne.align` makes it. One thread uses it at a time.

    The next set, ``close()`` or the end of the ``with`` block ends the set before. A message that a later set may need
    stays held and comes again: leave it to the loop to end it. The receivers stay open.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment
        self._busy = threading.Lock()

    def receive(self, timeout: float | None = None) -> S:
        """The next set. Raises Empty after ``timeout`` seconds, EndOfChannel, SenderLost, ChannelClosed, LeaseLimit."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout is {timeout!r} seconds; it must be None (wait for ever), 0 or more")
        deadline = None if timeout is None else time.monotonic() + timeout
        with alone(self._busy):
            while (found := self._alignment.step()) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise Empty(f"no set in {timeout} s: {self._alignment.missing()}")
                select(*self._alignment.open(), timeout=left)
        return cast("S", found)

    def try_receive(self) -> S | None:
        """The next set, or None when it is not certain yet."""
        with alone(self._busy):
            return cast("S | None", self._alignment.step())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> S:
        try:
            return self.receive()
        except (EndOfChannel, ChannelClosed):
            raise StopIteration from None

    def statistics(self) -> AlignedStatistics:
        """What was given, left out and let go so far, and what waits now."""
        return self._alignment.matching.statistics()

    def close(self) -> None:
        """End all messages that are held. The receivers stay open."""
        with alone(self._busy):
            self._alignment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<psyne.Aligned {self._alignment}>"


@contextmanager
def alone(busy: threading.Lock) -> Iterator[None]:
    """Raises ConcurrentUse where another thread or task is inside."""
    if not busy.acquire(blocking=False):
        raise ConcurrentUse("another thread or task uses this alignment; it has one user at a time")
    try:
        yield
    finally:
        busy.release()


# Up to four receivers keep their types. More are Aligned[tuple[Any, ...]].
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
    """Join channels by a stamp in their messages: for each message of the first receiver what belongs to it.

    ``by``: the field of the stamp, or a function that makes a number of a message; or one of these for each receiver.
    A set has the message of the first receiver and the nearest of each other one (of two as near the earlier), and is
    given as soon as no nearer one can come. Farther than ``tolerance`` (in the unit of the stamps; None: any distance),
    and the message is left out. The stamps of a channel do not fall: what comes later with a lower one is passed over.

    ``between=True`` gives a `Batch` of each other channel in place of the nearest message: all since the set before, up
    to the stamp of this one; perhaps empty. Where they are consecutive in one ring they are read in place, else they
    are a read-only copy.

    At most ``hold`` messages of each channel wait (default: half of its smallest ring); of more the oldest are let go,
    so that no sender waits because another channel is silent.

    Raises InvalidArgument or TypeError for options, fields or types that cannot be aligned.
    """
    for rx in receivers:
        if not isinstance(rx, Receiver):
            raise TypeError(f"align() takes what psyne.receiver() opens, one by one, not {rx!r}")
    return Aligned(Alignment(receivers, by, tolerance, between, hold))
