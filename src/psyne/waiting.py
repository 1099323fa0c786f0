"""Waiting for several ends and descriptors at once."""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeAlias, TypeVar, overload

from . import _native
from .ends import Receiver, Sender
from .errors import InvalidArgument, PsyneError
from .taps import Tap
from .types import Message

__all__ = ["End", "HasFileno", "Waiting", "select"]

SLICE = 0.1  # seconds between looks after the dead
End: TypeAlias = _native.SenderEnd | _native.ReceiverEnd | _native.TapEnd


class HasFileno(Protocol):
    """A socket, a pipe, an end: whatever has a descriptor."""

    def fileno(self) -> int: ...


M = TypeVar("M", bound=Message)
T = TypeVar("T", bound=HasFileno | int)
_turn = itertools.count()


class Waiting(Generic[T]):
    """Several things that somebody waits for. Inside its ``with`` block their ends are armed."""

    def __init__(self, things: Sequence[T], end_of: Callable[[T], End | None]) -> None:
        if not things:
            raise InvalidArgument("select() of nothing would wait for ever; give it ends, descriptors or both")
        start = next(_turn) % len(things)
        self._things = [*things[start:], *things[:start]]  # another one is first at each call
        self._ends = [end_of(thing) for thing in self._things]
        self._fds = [-1 if end else _descriptor(thing) for thing, end in zip(self._things, self._ends, strict=True)]
        self._bells: dict[int, End] = {}
        self._files: set[int] = set()
        self._found: set[End] = set()
        self._selector: selectors.DefaultSelector | None = None
        self._pause = SLICE
        self._looked_after = time.monotonic()

    def look(self) -> list[T]:
        """Those that have something now."""
        rung: set[int] = set()
        if self._bells or not all(self._ends):
            rung = {key.fd for key, _ in self._watched().select(0)} | self._files
        for fd in rung & self._bells.keys():
            if not self._bells[fd].closed:
                _native.arm(self._bells[fd])  # before it is looked at again
        found = [
            (thing, end)
            for thing, end, fd in zip(self._things, self._ends, self._fds, strict=True)
            if (ready(end) if end else fd in rung)
        ]
        self._found = {end for _, end in found if end}
        return [thing for thing, _ in found]

    def look_after_others(self) -> float:
        """Once a slice, what every wait does for the dead; seconds until the next time."""
        left = self._looked_after + self._pause - time.monotonic()
        if left > 0:
            return left
        self._looked_after = time.monotonic()
        self._pause = min((_native.slice(end) for end in self._bells.values()), default=SLICE) or SLICE
        return self._pause

    def wait(self, seconds: float) -> None:
        """Until one may have something, or the time is over."""
        self._watched().select(seconds)

    def fileno(self) -> int:
        """Readable when one may have something."""
        return self._watched().fileno()

    def _watched(self) -> selectors.DefaultSelector:
        if self._selector is None:
            self._selector = selectors.DefaultSelector()
            for fd in {fd for fd in self._fds if fd >= 0}:
                try:
                    self._selector.register(fd, selectors.EVENT_READ)
                except PermissionError:  # epoll does not watch files: they are always readable
                    self._files.add(fd)
        return self._selector

    def __enter__(self) -> Self:
        for end in self._ends:
            if end and not end.closed:
                fd = _native.bell(end)
                if fd not in self._bells:
                    self._watched().register(fd, selectors.EVENT_READ)
                    self._bells[fd] = end
                _native.arm(end)
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._bells.values():
            _native.get_up(end, end in self._found)

    def close(self) -> None:
        if self._selector is not None:
            self._selector.close()


def ready(end: End) -> bool:
    """Would its receive() or loan() return, or raise, at once? A receiver or tap without a channel looks for one."""
    if isinstance(end, (Receiver, Tap)) and not end.joined and not end.closed:
        try:
            if not end._join():
                return False
        except PsyneError:  # receive() raises it
            return True
    return _native.ready(end)


def _descriptor(thing: HasFileno | int) -> int:
    if not isinstance(thing, int) and not hasattr(thing, "fileno"):
        raise InvalidArgument(f"select() takes ends, descriptors and what has fileno(), one by one; got {thing!r}")
    fd = thing if isinstance(thing, int) else thing.fileno()
    if fd < 0:
        raise InvalidArgument(f"{thing!r} has no open descriptor")
    return fd


def end_of(thing: object) -> End | None:
    """The end that a thing is, if it is one."""
    return thing if isinstance(thing, (_native.SenderEnd, _native.ReceiverEnd, _native.TapEnd)) else None


@overload
def select(*ends: Receiver[M], timeout: float | None = None) -> list[Receiver[M]]: ...
@overload
def select(*ends: Tap[M], timeout: float | None = None) -> list[Tap[M]]: ...
@overload
def select(*ends: Sender[M], timeout: float | None = None) -> list[Sender[M]]: ...
@overload
def select(*ends_or_fds: T, timeout: float | None = None) -> list[T]: ...
def select(*ends_or_fds: T, timeout: float | None = None) -> list[T]:
    """Wait until one of several ends or descriptors has something; those that have.

    A receiver or tap has a message, or its end; a sender has room; a descriptor (a number, or anything with
    ``fileno()``) is readable. Which comes first in the list changes from call to call. After ``timeout`` seconds
    (None: never) the list is empty. In a stage with several members another one may take a message first: then use
    ``try_receive()``.

    Raises InvalidArgument without ends, ValueError for a negative time-out, ConcurrentUse, ForkedError.
    """
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout is {timeout!r} seconds; it must be None (wait for ever), 0 or more")
    deadline = None if timeout is None else time.monotonic() + timeout
    waiting = Waiting(ends_or_fds, end_of)
    try:
        if found := waiting.look():
            return found
        with waiting:
            while not (found := waiting.look()):
                pause = waiting.look_after_others()
                left = pause if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    break
                waiting.wait(min(pause, left))
            return found
    finally:
        waiting.close()
