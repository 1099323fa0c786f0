"""Loans that are sent when work of a device is done: ``out.send(m, after=event)``."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from . import _native
from .errors import EventFailed

__all__ = ["After", "Events", "Future", "Waitable", "send_after"]

LINGER = 0.2  # seconds that a thread waits for more to do


class Waitable(Protocol):
    """An event of a device."""

    def done(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Future(Protocol):
    """As of `concurrent.futures`."""

    def done(self) -> bool: ...

    def result(self, timeout: float | None = None) -> Any: ...


After = Waitable | Future


def wait_of(event: After) -> Callable[[], object]:
    """What waits until it is done, and raises what its work failed with. Raises TypeError."""
    wait: Callable[[], object] | None = getattr(event, "wait", None) or getattr(event, "result", None)
    if wait is None or not callable(wait) or not callable(getattr(event, "done", None)):
        raise TypeError(
            f"after= is an event, which has done() and wait(), or a concurrent.futures.Future; {event!r} is neither"
        )
    return wait


def why_failed(loan: _native.Later, error: BaseException) -> str:
    work = f"the work that it was to be sent after failed ({error!r})"
    return f"message {loan.position} of {loan.address} was not sent: {work}"


class Events:
    """What one sender sends when its events are done.

    ::

        thread 1   wait · publish 4   wait · publish 5   …     in the order of the loans: who receives goes in it, too
        thread 2   wait · publish 3                            a loan that was sent after later ones

    Each thread waits for one event after the other, and ends when there is nothing to do for a while.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._left = 0
        self._queues: list[_Queue] = []
        self._then: list[Callable[[], object]] = []

    def add(self, loan: _native.Later, wait: Callable[[], object]) -> None:
        """Publish it once `wait` returns. Any thread."""
        with self._changed:
            for queue in self._queues:
                if queue.last < loan.position:
                    break
            else:
                queue = _Queue()
                threading.Thread(target=self._run, args=(queue,), name="psyne-after", daemon=True).start()
                self._queues.append(queue)
            queue.last = loan.position
            queue.jobs.append((loan, wait))
            self._left += 1
            self._changed.notify_all()

    @property
    def forked(self) -> bool:
        """They are the parent's, and so are the threads."""
        return os.getpid() != self._pid

    def left(self) -> int:
        """Loans that wait; in a forked child none."""
        return 0 if self.forked else self._left

    def join(self, timeout: float | None = None) -> bool:
        """Wait until none is left; false when the time was over."""
        if not self.left():
            return True
        with self._changed:
            return self._changed.wait_for(lambda: not self._left, timeout)

    def then(self, call: Callable[[], object]) -> None:
        """Call once none is left; in whatever thread."""
        with self._changed:
            if self.left():
                self._then.append(call)
                return
        call()

    def _run(self, queue: _Queue) -> None:
        while self._next(queue):
            loan, wait = queue.jobs[0]
            try:
                wait()
            except BaseException as error:
                loan.take_back(why_failed(loan, error))
            else:
                loan.publish()
            del loan, wait  # what they keep is not kept while there is nothing to do

    def _next(self, queue: _Queue) -> bool:
        """The first job is done, if there was one. False when there is no other one for a while."""
        calls: list[Callable[[], object]] = []
        with self._changed:
            if queue.begun:
                queue.jobs.popleft()
                self._left -= 1
                self._changed.notify_all()
                if not self._left:
                    calls, self._then = self._then, []
            queue.begun = True
        for call in calls:
            call()
        with self._changed:
            if self._changed.wait_for(lambda: queue.jobs, LINGER):
                return True
            self._queues.remove(queue)
            return False


class _Queue:
    """Of one thread."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[_native.Later, Callable[[], object]]] = deque()
        self.last = -1
        """The highest position in it."""
        self.begun = False


def send_after(end: Any, loan: object, event: After, events: Events) -> bool:
    """Ends a loan of this sender, which is sent when the event is done; False: it was dropped before."""
    wait = wait_of(event)
    later = _native.hold_back(end, loan)
    if later is None:
        return False
    try:
        if not event.done():
            events.add(later, wait)
            return True
        wait()
    except BaseException as error:
        later.take_back("")
        if not isinstance(error, Exception):
            raise
        raise EventFailed(why_failed(later, error)) from error
    return later.publish()
