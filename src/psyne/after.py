"""What goes on when work of a device is done: loans by ``out.send(m, after=event)``, received messages by
``m.release(after=event)``."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from . import _native
from .errors import EventFailed

__all__ = ["After", "Events", "Future", "Waitable", "release_after", "send_after"]

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


def why_failed(m: _native.Later | _native.Held, error: BaseException) -> str:
    """In words."""
    if isinstance(m, _native.Later):
        work = f"the work that it was to be sent after failed ({error!r})"
        return f"message {m.position} of {m.address} was not sent: {work}"
    address = m.end.address if m.end is not None else "a channel"
    return f"the work that message {m.position} of {address} was to be released after failed ({error!r})"


class Events:
    """What one end sends, or passes on, when its events are done.

    ::

        thread 1   wait · finish 4   wait · finish 5   …     in the order of the loans: who receives goes in it, too
        thread 2   wait · finish 3                           a loan that was sent after later ones

    What was received goes on in the order in which it was released, by one thread.

    Each thread waits for one event after the other, and ends when there is nothing to do for a while.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._left = 0
        self._queues: list[_Queue] = []
        self._then: list[Callable[[], object]] = []

    def add(self, m: _native.Later | _native.Held, wait: Callable[[], object]) -> None:
        """Finish it once `wait` returns. Any thread."""
        with self._changed:
            for queue in self._queues:
                if queue.last < m.order:
                    break
            else:
                queue = _Queue()
                threading.Thread(target=self._run, args=(queue,), name="psyne-after", daemon=True).start()
                self._queues.append(queue)
            queue.last = m.order
            queue.jobs.append((m, wait))
            self._left += 1
            self._changed.notify_all()

    @property
    def forked(self) -> bool:
        """They are the parent's, and so are the threads."""
        return os.getpid() != self._pid

    def left(self) -> int:
        """Messages that wait; in a forked child none."""
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
            m, wait = queue.jobs[0]
            try:
                wait()
            except BaseException as error:
                m.fail(why_failed(m, error))
            else:
                m.finish()
            del m, wait  # what they keep is not kept while there is nothing to do

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
        self.jobs: deque[tuple[_native.Later | _native.Held, Callable[[], object]]] = deque()
        self.last = -1
        """The highest order in it."""
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
        later.fail("")
        if not isinstance(error, Exception):
            raise
        raise EventFailed(why_failed(later, error)) from error
    return later.finish()


def release_after(m: object, event: After) -> None:
    """Ends a received message, which goes on to the next stages when the event is done."""
    wait = wait_of(event)
    held = _native.hold(m)
    if held is None:
        return
    end: Any = held.end
    try:
        if not event.done():
            events: Events = end._events or vars(end).setdefault("_events", Events())
            events.add(held, wait)
            return
        wait()
    except BaseException as error:
        why = why_failed(held, error)
        held.fail("")
        if not isinstance(error, Exception):
            raise
        raise EventFailed(why) from error
    held.finish()
