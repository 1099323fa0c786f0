"""Many calls of one sender at once: they wait for room in line, and one task watches the bell for all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .. import _native, ends, log
from ..errors import ConcurrentUse
from .loops import Wake, this_loop

__all__ = ["Calls"]

T = TypeVar("T")
LATE = 1.0  # seconds in which nothing moves, after which it is said why
Watch = Callable[[Callable[[], Any]], Awaitable[Any]]  # what an attempt gives, tried at each ring of the end's bell


class Wait:
    """A task that waits: a call for room and then for its answer, or another use of the end, in line with them."""

    def __init__(self, start: Callable[[], Any] | None = None) -> None:
        self.start = start  # sends the call, if there is room; None: another use, which looks itself
        self.message: Any = None  # once it is sent
        self.error: Exception | None = None
        self.over = False
        self.wake: Wake = Wake()


class Calls:
    """The calls of one sender. Whoever waits and finds no watcher is it, until its own wait is over."""

    def __init__(self, end: ends.Sender[Any]) -> None:
        self._end = end
        self._line: deque[Wait] = deque()  # wait for room
        self._sent: list[Wait] = []  # wait for their answers
        self._watched = False
        self._loop: object = None  # of those who wait
        self._moved = 0.0  # when a call last began or was answered; infinity: told since

    @property
    def first(self) -> bool:
        """Do calls wait for room, before anybody else?"""
        return bool(self._line) and self._line[0].start is not None

    async def call(self, message: object, watch: Watch) -> Any:
        """Send a message in its turn, and wait for its answer."""
        end = self._end
        self._enter()
        wait = Wait(lambda: _begin(end, message))
        if not self._line or _native.own_loan(end, message):  # which needs no room
            wait.message = _begin(end, message)
        (self._line if wait.message is None else self._sent).append(wait)
        try:
            await self._until(wait, lambda: wait.over or None, watch)
            if wait.error is not None:
                raise wait.error
            _native.check_answer(end, wait.message)
            return wait.message
        finally:
            self._leave(wait)

    async def other(self, attempt: Callable[[], T | None], watch: Watch) -> T:
        """Wait with another use of the end, in line with the calls."""
        self._enter()
        wait = Wait()
        self._line.append(wait)
        try:
            return await self._until(wait, attempt, watch)
        finally:
            self._leave(wait)

    def _enter(self) -> None:
        loop = this_loop()
        if not (self._line or self._sent):
            self._moved = time.monotonic()
        elif loop is not self._loop:
            raise ConcurrentUse(
                f"tasks of another event loop are calling on this end of {self._end.address}; an end has one loop at a "
                "time: open one for each"
            )
        self._loop = loop

    async def _until(self, wait: Wait, attempt: Callable[[], T | None], watch: Watch) -> T:
        while (got := attempt()) is None:
            if self._watched:
                await wait.wake.wait()
                continue
            self._watched = True

            def look() -> T | None:
                self._look()
                return attempt()

            try:
                found: T = await watch(look)
                return found
            finally:
                self._watched = False
        return got

    def _look(self) -> None:
        """Wakes the calls whose answers are there, and begins those that there is room for."""
        if self._sent:
            for i in reversed(_native.answered(self._end, [wait.message for wait in self._sent])):
                self._finish(self._sent.pop(i))
        self._start()

    def _start(self) -> None:
        while self._line:
            wait = self._line[0]
            if wait.start is None:
                wait.wake.set()
                return
            try:
                wait.message = wait.start()
            except Exception as error:
                wait.error = error
                self._finish(self._line.popleft())
                continue
            if wait.message is None:
                self._tell_late()
                return
            self._sent.append(self._line.popleft())
            self._moved = time.monotonic()

    def _finish(self, wait: Wait) -> None:
        wait.over = True
        wait.wake.set()
        self._moved = time.monotonic()

    def _tell_late(self) -> None:
        if time.monotonic() - self._moved > LATE:
            self._moved = float("inf")
            log.warn(f"calls on {self._end.address} have waited 1 s for room: {_native.why_no_room(self._end)}")

    def _leave(self, wait: Wait) -> None:
        """The wait is over, or was cancelled: others go on, one of them as the watcher."""
        if not wait.over:
            (self._line if wait.message is None else self._sent).remove(wait)
            self._start()
        wait.message = None
        if not self._watched and (others := self._sent or self._line):
            others[0].wake.set()


def _begin(end: ends.Sender[Any], message: object) -> Any:
    begun = _native.begin_call(end, message)
    if begun is None:
        _native.check_room(end, 1)
    return begun
