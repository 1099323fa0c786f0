"""What calls the network's callbacks: a thread of its own, or an event loop that is there anyway."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from ..errors import ForkedError
from ..log import logger

__all__ = ["Callback", "Driver", "LoopDriver", "ThreadDriver", "thread_driver"]

Callback = Callable[[], object]
IDLE = 5.0  # seconds after which a thread with nothing to do ends
MANY = 64  # cancelled timers that are kept in the heap, even if they are more than half of it


class Driver(Protocol):
    """Calls back, one callback at a time. A callback that raises is logged, and its descriptor watched no more.

    Everything may be called from any thread. `watch` and `unwatch` from another one wait neither for the callback that
    runs just then nor for a loop to come to them, so close a descriptor in a callback (`soon`), after `unwatch`.
    """

    pumps: bool
    """The native thread moves bytes; else the driver's callbacks do."""

    def watch(self, fd: int, read: bool, write: bool, callback: Callback) -> None:
        """Call whenever it can be read, or written (level-triggered). Again: from now on this instead."""

    def unwatch(self, fd: int) -> None:
        """No more of it; of one that is not watched nothing happens."""

    def later(self, seconds: float, callback: Callback) -> Callback:
        """Call once, after so long. Returns what cancels that."""
        ...

    def soon(self, callback: Callback) -> None:
        """Call once, as soon as possible, in the order of these calls."""


def _called(callback: Callback, caught: type[BaseException]) -> bool:
    """Calls it; False if it raised."""
    try:
        callback()
    except caught as error:
        logger.error("a callback of the network failed: %r", error, exc_info=error)
        return False
    return True


class _Timer:
    """A callback that is called once, or cancelled before."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback
        self.waits = False  # it lies in the heap of a thread
        self.handle: asyncio.TimerHandle | None = None

    def take(self) -> Callback | None:
        """The callback, if it was neither called nor cancelled; now it is."""
        callback, self.callback = self.callback, None
        return callback


@dataclass(eq=False)
class _Watched:
    callback: Callback
    events: int  # 0: left alone for now


class ThreadDriver:
    """A daemon thread that is there while it has something to do. `thread_driver` has the one of this process."""

    pumps = True

    def __init__(self, idle: float = IDLE) -> None:
        self._idle = idle
        self._pid = os.getpid()
        # Guards all below; held neither in select() nor in callbacks. A finaliser may ask while its thread is asking.
        self._lock = threading.RLock()
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, _Watched] = {}
        self._timers: list[tuple[float, int, _Timer]] = []  # a heap
        self._number = itertools.count()  # timers of one time keep their order
        self._cancelled = 0  # timers in the heap
        self._soon: deque[Callback] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._rung, self._ringing = socket.socketpair()
        self._rung.setblocking(False)
        self._ringing.setblocking(False)
        self._selector.register(self._rung, selectors.EVENT_READ, None)

    def watch(self, fd: int, read: bool, write: bool, callback: Callback) -> None:
        events = selectors.EVENT_READ * read | selectors.EVENT_WRITE * write
        watched = _Watched(callback, events)
        with self._changed():
            before = self._watched.get(fd)
            if before is not None and before.events and events:
                self._selector.modify(fd, events, watched)
            else:
                self._forget(fd)
                if events:
                    self._selector.register(fd, events, watched)
            self._watched[fd] = watched

    def unwatch(self, fd: int) -> None:
        if self._is_ours():
            with self._lock:
                self._forget(fd)
                self._ring_if_idle()

    def later(self, seconds: float, callback: Callback) -> Callback:
        timer = _Timer(callback)
        with self._changed():
            timer.waits = True
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._number), timer))
        return functools.partial(self._cancel, timer)

    def soon(self, callback: Callback) -> None:
        with self._changed():
            self._soon.append(callback)

    @property
    def running(self) -> bool:
        """Is the thread there?"""
        return self._thread is not None

    def stop(self) -> None:
        """Ends the thread, after the callback that runs. What is asked for later starts another one."""
        if not self._is_ours():
            return
        with self._lock:
            thread, self._stopping = self._thread, self._thread is not None
            self._ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def forked(self) -> None:
        """In a forked child: closes what it has inherited. What the parent watches is not touched."""
        self._selector.close()
        self._rung.close()
        self._ringing.close()

    def _is_ours(self) -> bool:
        return self._pid == os.getpid()

    @contextlib.contextmanager
    def _changed(self) -> Iterator[None]:
        """The lock; afterwards the thread is there, and looks anew."""
        if not self._is_ours():
            raise ForkedError("the network thread belongs to the parent process: open the end in this one")
        with self._lock:
            yield
            self._stopping = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="psyne network", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter ends, or the system has no more threads
                    self._thread = None
                    raise
            else:
                self._ring()

    def _ring(self) -> None:
        if self._thread is not threading.current_thread():
            with contextlib.suppress(BlockingIOError):  # it has not read thousands of them, but will
                self._ringing.send(b"\0")

    def _ring_if_idle(self) -> None:
        """It would wait for what does not come any more."""
        if self._thread is not None and not self._is_busy():
            self._ring()

    def _is_busy(self) -> bool:
        return bool(self._soon or self._watched or len(self._timers) > self._cancelled)

    def _forget(self, fd: int) -> None:
        before = self._watched.pop(fd, None)
        if before is not None and before.events:
            self._selector.unregister(fd)

    def _cancel(self, timer: _Timer) -> None:
        if not self._is_ours():
            return
        with self._lock:
            if timer.take() is None or not timer.waits:
                return
            self._cancelled += 1
            self._ring_if_idle()
            if self._cancelled > MANY and self._cancelled * 2 > len(self._timers):
                self._timers[:] = [entry for entry in self._timers if entry[2].callback is not None]
                heapq.heapify(self._timers)
                self._cancelled = 0

    def _run(self) -> None:
        rested = False  # a whole pause with nothing to do is over
        while True:
            for take in self._due():
                if (callback := take()) is not None:  # not cancelled by one before
                    _called(callback, BaseException)
            with self._lock:
                busy = self._is_busy()
                if self._stopping or (rested and not busy):
                    self._thread = None
                    return
                pause = self._pause()
            events = self._selector.select(pause)
            rested = not events and not busy
            for key, _ in events:
                if key.data is None:
                    self._rung.recv(1 << 16)
                else:
                    self._call_watched(key.fd, key.data)

    def _due(self) -> list[Callable[[], Callback | None]]:
        """What gives the callbacks whose time has come, or None for one that is cancelled meanwhile."""
        with self._lock:
            due = []
            while self._soon:
                due.append(_Timer(self._soon.popleft()).take)
            now = time.monotonic()
            while self._timers and (self._timers[0][0] <= now or self._timers[0][2].callback is None):
                timer = heapq.heappop(self._timers)[2]
                timer.waits = False
                if timer.callback is None:
                    self._cancelled -= 1
                else:
                    due.append(timer.take)
            return due

    def _pause(self) -> float | None:
        if self._soon:
            return 0.0
        if len(self._timers) > self._cancelled:
            return max(0.0, self._timers[0][0] - time.monotonic())
        return None if self._watched else self._idle

    def _call_watched(self, fd: int, watched: _Watched) -> None:
        with self._lock:
            if self._watched.get(fd) is not watched:  # a callback before has changed it
                return
        if not _called(watched.callback, BaseException):
            with self._lock:
                if self._watched.get(fd) is watched:
                    self._forget(fd)


class LoopDriver:
    """An event loop of asyncio, or uvloop. Where it is closed nothing is called any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pumps: bool = False) -> None:
        self._loop = loop
        self.pumps: bool = pumps

    def watch(self, fd: int, read: bool, write: bool, callback: Callback) -> None:
        self._inside(self._watch, fd, read, write, callback)

    def unwatch(self, fd: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._inside(self._unwatch, fd)

    def later(self, seconds: float, callback: Callback) -> Callback:
        timer = _Timer(callback)
        self._inside(self._begin, seconds, timer)
        return functools.partial(self._cancel, timer)

    def soon(self, callback: Callback) -> None:
        self._loop.call_soon_threadsafe(_called, callback, Exception)

    def _inside(self, function: Callable[..., object], *arguments: object) -> None:
        if asyncio._get_running_loop() is self._loop:
            function(*arguments)
        else:
            self._loop.call_soon_threadsafe(function, *arguments)

    def _watch(self, fd: int, read: bool, write: bool, callback: Callback) -> None:
        call = functools.partial(self._call, fd, callback)
        if read:
            self._loop.add_reader(fd, call)
        else:
            self._loop.remove_reader(fd)
        if write:
            self._loop.add_writer(fd, call)
        else:
            self._loop.remove_writer(fd)

    def _unwatch(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    def _call(self, fd: int, callback: Callback) -> None:
        if not _called(callback, Exception):
            self._unwatch(fd)

    def _begin(self, seconds: float, timer: _Timer) -> None:
        timer.handle = self._loop.call_later(seconds, self._due, timer)

    def _cancel(self, timer: _Timer) -> None:
        if timer.take() is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._inside(self._end, timer)

    def _end(self, timer: _Timer) -> None:
        if timer.handle is not None:
            timer.handle.cancel()

    def _due(self, timer: _Timer) -> None:
        if (callback := timer.take()) is not None:
            _called(callback, Exception)


_driver: ThreadDriver | None = None
_making = threading.RLock()


def thread_driver() -> ThreadDriver:
    """The thread that this process has for all its connections."""
    global _driver
    with _making:
        if _driver is None:
            _driver = ThreadDriver()
            atexit.register(_driver.stop)
        return _driver


def _after_fork() -> None:
    global _driver, _making
    _making = threading.RLock()
    if _driver is not None:
        _driver.forked()
        _driver = None


os.register_at_fork(after_in_child=_after_fork)
