"""Which messages of several channels belong together, by their stamps. Channels and clocks are not known here.

Each channel has a line: what of it waits, oldest first. Line 0 is the reference; a set is one message of it and what
the other lines have for it. Stamps are compared as the numbers that they are, whole numbers exactly. Only the order
within each line matters: in which order messages of different lines come changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import Any

import numpy as np

from . import _native
from .batch import Batch
from .errors import InvalidArgument
from .types import Message

__all__ = ["AlignedStatistics", "Between", "By", "Line", "Matching", "Nearest", "Runs", "Stamps"]

By = str | Callable[[Any], Any]


@dataclass(frozen=True)
class AlignedStatistics:
    """What an alignment has counted; ``aligned.statistics()`` takes it. Tuples have a number for each receiver."""

    sets: int
    """Sets that were given."""
    unmatched: int
    """Messages of the reference that were left out: another channel had nothing within the tolerance."""
    let_go: tuple[int, ...]
    """Messages that were ended undecided, because ``hold`` newer ones waited."""
    late: tuple[int, ...]
    """Messages passed over: with a stamp below the one before it in its channel, or one that is not finite."""
    copied: tuple[int, ...]
    """Messages that were copied into a batch, because they were not consecutive in one ring."""
    held: tuple[int, ...]
    """Messages that wait now."""


def end(message: Any) -> None:
    """As the end of a step of a loop: arrays that the user keeps go on keeping the slot."""
    message.__exit__(None, None, None)


class Stamps:
    """Reads the stamps of one channel: a field of its messages, or what a function makes of each."""

    def __init__(self, by: By, address: str) -> None:
        if not isinstance(by, str) and not callable(by):
            raise TypeError(f"by= is the name of a field or a function of a message, not {by!r}")
        self.by: By = by
        self.address: str = address
        self.places: dict[type, _native.Field] = {}  # of the classes that were checked

    def check(self, cls: Any) -> None:
        """Raises InvalidArgument or TypeError for a class whose messages have no such field, or another thing there."""
        if not isinstance(self.by, str):
            return
        fields = getattr(cls, "__fields__", {})
        function = "or give a function: by=lambda m: …; by=(…, …) has one for each channel"
        if self.by not in fields:
            has = f"they have {', '.join(fields)}" if fields else "they have no fields"
            raise InvalidArgument(
                f"{cls.__name__} of {self.address} has no field {self.by!r} ({has}); name one of them {function}"
            )
        field = fields[self.by]
        if field.shape or field.dtype.kind not in "iuf":
            what = f"{field.dtype}{list(field.shape)}" if field.shape else str(field.dtype)
            raise TypeError(
                f"{cls.__name__}.{self.by} of {self.address} is {what}; name a field that is one number, {function}"
            )
        self.places[cls] = cls.__places__[self.by]

    def of(self, message: Message) -> Any:
        """The stamp of one message."""
        if not isinstance(self.by, str):
            return self.number(self.by(message))
        cls = type(message)
        if cls not in self.places:
            self.check(cls)
        return self.places[cls].__get__(message)

    def of_all(self, batch: Batch[Any]) -> list[Any]:
        """The stamps of all messages of a batch."""
        return [self.of(m) for m in batch]  # an array would count as written to, in a mutating stage

    def number(self, made: Any) -> Any:
        if isinstance(made, np.generic):
            made = made.item()  # the difference of two numpy.uint64 would be one
        if not isinstance(made, Real):
            raise TypeError(f"by= made {made!r} of a message of {self.address}; it is to make a number")
        return made


class Line:
    """What waits of one channel, each message by itself."""

    def __init__(self, stamps: Stamps) -> None:
        self.stamps: Stamps = stamps
        self.waiting: deque[tuple[Any, Any]] = deque()  # stamp, message
        self.newest: Any = -inf  # stamp of the last one that came
        self.gone: Any = -inf  # stamp of the last one that was let go
        self.ended: bool = False
        self.lost: bool = False
        self.let_go: int = 0
        self.late: int = 0
        self.copied: int = 0
        self.behind: int = 0  # late ones in a row: they went on in the ring, which what waits stands in the way of

    def __len__(self) -> int:
        return len(self.waiting)

    def put(self, message: Any) -> None:
        stamp = self.stamps.of(message)
        if self.in_order(stamp):
            self.waiting.append((stamp, message))
        else:
            end(message)

    def in_order(self, stamp: Any) -> bool:
        if -inf < stamp < inf and self.newest <= stamp:
            self.newest, self.behind = stamp, 0
            return True
        self.late += 1
        self.behind += 1
        return False

    def shorten(self, most: int) -> None:
        """Lets the oldest go until `most` wait."""
        while self.waiting and len(self.waiting) + self.behind > most:
            self.gone, message = self.waiting.popleft()
            self.let_go += 1
            end(message)

    def clear(self) -> None:
        while self.waiting:
            end(self.waiting.popleft()[1])

    def nearest(self, stamp: Any, tolerance: Any) -> tuple[bool, Any]:
        """Whether it is certain which message is the nearest, and that; None if none is within the tolerance.

        Ends those before the nearest so far: no later reference will need them.
        """
        best, least = 0, inf
        for i, (other, _) in enumerate(self.waiting):
            distance = abs(other - stamp)
            if distance > least:
                break
            if distance < least:
                best, least = i, distance
        for _ in range(best):
            end(self.waiting.popleft()[1])
        ahead = self.newest - stamp  # all that comes is as far or farther
        if not (self.ended or ahead >= least or ahead > tolerance):
            return False, None
        if least > tolerance or abs(stamp - self.gone) <= least:  # the nearest was let go
            return True, None
        return True, self.waiting[0][1]


class Runs(Line):
    """What waits of one channel in batches, consecutive ones joined."""

    gone: Any
    let_go: int
    copied: int

    def __init__(self, stamps: Stamps, receiver: Any) -> None:
        super().__init__(stamps)
        self.receiver = receiver  # makes a batch of what is copied
        self.batches: deque[Any] = deque()
        self.times: deque[Any] = deque()  # the stamps of all their messages

    def __len__(self) -> int:
        return len(self.times)

    def put(self, message: Any) -> None:
        batch, good = message, 0
        for stamp in self.stamps.of_all(batch):
            if self.in_order(stamp):
                self.times.append(stamp)
                good += 1
                continue
            if good:
                self._append(_native.split(batch, good))
                good = 0
            if len(batch) == 1:
                end(batch)
            else:
                end(_native.split(batch, 1))
        if good:
            self._append(batch)

    def _append(self, batch: Any) -> None:
        if not self.batches or not _native.join(self.batches[-1], batch):
            self.batches.append(batch)

    def _oldest(self, n: int) -> list[Any]:
        """Takes the n oldest out; their stamps are gone already."""
        batches = []
        while n:
            batch = self.batches[0]
            oldest: Any = _native.split(batch, n) if len(batch) > n else self.batches.popleft()
            batches.append(oldest)
            n -= len(oldest)
        return batches

    def shorten(self, most: int) -> None:
        n = min(len(self.times), max(0, len(self.times) + self.behind - most))
        for _ in range(n):
            self.gone = self.times.popleft()
        self.let_go += n
        for batch in self._oldest(n):
            end(batch)

    def clear(self) -> None:
        self.times.clear()
        while self.batches:
            end(self.batches.popleft())

    def up_to(self, stamp: Any) -> Any:
        """All that wait with this stamp or a lower one, as one batch: the slots themselves if they are consecutive."""
        n = 0
        while self.times and self.times[0] <= stamp:
            self.times.popleft()
            n += 1
        batches = self._oldest(n)
        if len(batches) == 1:
            return batches[0]
        made = _native.gather(self.receiver, batches)
        self.copied += n
        for batch in batches:
            end(batch)
        return made


class Matching(ABC):
    """Puts sets together. What waits for what is in `pending` when `take` had nothing to give."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines: Sequence[Any] = lines
        self.pending: list[int] = [0]  # the lines whose next message may bring the next set
        self.sets: int = 0
        self.unmatched: int = 0
        self._given: tuple[Any, ...] = ()  # ends with the next step

    @abstractmethod
    def take(self) -> tuple[Any, ...] | None:
        """The next set that is certain."""

    @abstractmethod
    def over(self) -> bool:
        """After a `take` without a set: will there be none any more?"""

    def give(self, message: Any, *others: Any, ends: int) -> tuple[Any, ...]:
        """A set, the first `ends` of which end with the next step."""
        self.sets += 1
        self.lines[0].waiting.popleft()
        made = (message, *others)
        self._given = made[:ends]
        return made

    def finish(self) -> None:
        """Ends the set that was given last; what a later one may need goes on waiting."""
        given, self._given = self._given, ()
        for message in given:
            end(message)

    def clear(self) -> None:
        """Ends all messages."""
        self.finish()
        for line in self.lines:
            line.clear()

    def statistics(self) -> AlignedStatistics:
        let_go, late, copied, held = zip(*((it.let_go, it.late, it.copied, len(it)) for it in self.lines), strict=True)
        return AlignedStatistics(self.sets, self.unmatched, let_go, late, copied, held)


class Nearest(Matching):
    """For each message of the reference the nearest of each other line, the earlier of two, within the tolerance."""

    pending: list[int]
    unmatched: int

    def __init__(self, lines: Sequence[Line], tolerance: Any) -> None:
        super().__init__(lines)
        self.tolerance = tolerance

    def take(self) -> tuple[Any, ...] | None:
        reference, *others = self.lines
        while reference.waiting:
            stamp, message = reference.waiting[0]
            found = [line.nearest(stamp, self.tolerance) for line in others]
            if any(certain and nearest is None for certain, nearest in found):
                self.unmatched += 1
                reference.waiting.popleft()
                end(message)
                continue
            self.pending = [i for i, (certain, _) in enumerate(found, 1) if not certain]
            if self.pending:
                return None
            return self.give(message, *(nearest for _, nearest in found), ends=1)
        self.pending = [0]
        return None

    def over(self) -> bool:
        reference, *others = self.lines
        return not reference.waiting and (
            reference.ended
            or any(
                line.ended and (not line.waiting or reference.newest - line.waiting[-1][0] > self.tolerance)
                for line in others
            )
        )


class Between(Matching):
    """For each message of the reference all of each other line since the one before, up to its stamp."""

    pending: list[int]

    def take(self) -> tuple[Any, ...] | None:
        reference, *others = self.lines
        self.pending = [0]
        if not reference.waiting or self._lost():
            return None
        stamp, message = reference.waiting[0]
        self.pending = [i for i, line in enumerate(others, 1) if not line.ended and line.newest <= stamp]
        if self.pending:
            return None
        return self.give(message, *(line.up_to(stamp) for line in others), ends=len(self.lines))

    def over(self) -> bool:
        reference = self.lines[0]
        return self._lost() or (reference.ended and not reference.waiting)

    def _lost(self) -> bool:
        """A sender died, and all that it sent was given: what is missing from now on is no silence."""
        return any(line.lost and not line for line in self.lines[1:])
