"""Waiting for a descriptor in whichever event loop runs: asyncio, uvloop or trio (so under anyio)."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import weakref
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import TYPE_CHECKING

from .. import _native

if TYPE_CHECKING:
    from ..network.driver import LoopDriver

__all__ = ["Doorbell", "Wake", "caller", "driver_here", "readable", "sleep", "this_loop", "trio"]

SLICE = 0.1  # seconds between looks after the dead
End = _native.SenderEnd | _native.ReceiverEnd | _native.TapEnd


def trio() -> ModuleType | None:
    """The module trio, in a task of it. It is never imported here: whoever runs it has."""
    module = sys.modules.get("trio")
    return module if module is not None and module.lowlevel.in_trio_task() else None


def this_loop() -> object:
    """What tells the running event loop from others."""
    return module.lowlevel.current_trio_token() if (module := trio()) else asyncio.get_running_loop()


def driver_here(address: object) -> LoopDriver | None:
    """What moves the bytes of an end of a network in the running loop; None: the thread of this process does."""
    if not isinstance(address, str) or not address.startswith("tcp://") or trio() is not None:
        return None
    loop = asyncio._get_running_loop()
    if loop is None:
        return None
    from ..network.driver import LoopDriver

    return LoopDriver(loop)


def caller(wake: Callable[[], object]) -> Callable[[], object]:
    """What calls `wake` in the loop that runs here; from any thread."""
    if module := trio():
        return functools.partial(module.lowlevel.current_trio_token().run_sync_soon, wake)
    return functools.partial(asyncio.get_running_loop().call_soon_threadsafe, wake)


async def sleep(seconds: float) -> None:
    """Lets the others run; 0 is one turn of the loop."""
    await (module.sleep if (module := trio()) else asyncio.sleep)(seconds)


async def readable(fd: int, seconds: float) -> None:
    """Waits until a descriptor is readable, or for so long."""
    if module := trio():
        with module.move_on_after(seconds):
            await module.lowlevel.wait_readable(fd)
        return
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, _settle, future)
    loop.add_reader(fd, _settle, future)
    try:
        await future
    finally:
        loop.remove_reader(fd)
        timer.cancel()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Wake:
    """Wakes one task, now or when it waits the next time. Its loop alone uses it."""

    def __init__(self) -> None:
        self._woken = False
        self._wake: Callable[[], object] | None = None

    def set(self) -> None:
        self._woken = True
        if self._wake is not None:
            self._wake()

    async def wait(self) -> None:
        if not self._woken:
            try:
                if module := trio():
                    event = module.Event()
                    self._wake = event.set
                    await event.wait()
                else:
                    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._wake = functools.partial(_settle, future)
                    await future
            finally:
                self._wake = None
        self._woken = False


class Doorbell:
    """The bell of one end, in event loops.

    asyncio watches it until it rings and nobody waits: watching anew for each wait would cost more than the wake.
    It watches a descriptor of our own, so that the end's may be closed at any time.
    """

    def __init__(self, end: End) -> None:
        self._end = weakref.ref(end)
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the slices; runs on between waits that follow each other

    def rung(self) -> Awaitable[None]:
        """Waits until the armed end was woken, or a slice says that it must look. Call `answered` afterwards."""
        if module := trio():
            return self._rung_in_trio(module)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._watch(loop)
        if self._timer is None:
            self._timer = loop.call_later(SLICE, self._look)
        self._future = loop.create_future()
        return self._future

    def answered(self) -> None:
        """Nobody waits any more."""
        self._future = None

    def leave(self) -> None:
        """The end was closed, or is gone: its loop need not watch any more. From any thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            self._unwatch()
        elif asyncio._get_running_loop() is loop:
            self._ring()
        else:
            try:
                loop.call_soon_threadsafe(self._ring)
            except RuntimeError:  # closed just now
                self._unwatch()

    def _ring(self) -> None:
        future = self._future
        if future is None:
            self._unwatch()
            return
        if (end := self._end()) is not None:
            _native.hush(end)
        if not future.done():
            future.set_result(None)

    def _look(self) -> None:
        self._timer = None
        end, future = self._end(), self._future
        if end is None or future is None or future.done() or self._loop is None:
            return
        try:
            delay = _native.slice(end)
        except Exception as error:
            future.set_exception(error)
            return
        if delay:
            self._timer = self._loop.call_later(delay, self._look)
        else:
            _settle(future)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._unwatch()
        end = self._end()
        assert end is not None
        self._fd = os.dup(_native.bell(end))
        self._loop = loop
        loop.add_reader(self._fd, self._ring)

    def _unwatch(self) -> None:
        loop, self._loop = self._loop, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._fd)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:  # its loop was closed
            os.close(self._fd)

    async def _rung_in_trio(self, module: ModuleType) -> None:
        end = self._end()
        assert end is not None
        delay = SLICE
        while delay:
            with module.move_on_after(delay):
                await module.lowlevel.wait_readable(_native.bell(end))
                _native.hush(end)
                return
            delay = _native.slice(end)
