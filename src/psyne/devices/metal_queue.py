"""The queue of a Metal device: what is recorded, committed and waited for. Not verified on hardware."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from . import metal_api as mtl
from .contract import Event, check_process

__all__ = ["MetalEvent", "Queue"]


class MetalEvent(Event):
    """Work that a Metal device has been given. Who drops it waits for it: macOS ends what takes too long.

    It keeps the messages that the work uses until it is done.
    """

    def __init__(self, runtime: mtl.Runtime, command: mtl.Object, kept: tuple[object, ...]) -> None:
        self._runtime = runtime
        self._command = command
        self._kept: tuple[object, ...] = kept

    def done(self) -> bool:
        check_process(self._runtime.pid)
        status = self._runtime.send(self._command, "status")
        if status < mtl.COMPLETED:
            return False
        self._kept = ()
        if status == mtl.FAILED:
            with self._runtime.pool():
                why = self._runtime.reason(self._runtime.send(self._command, "error"))
            raise mtl.MetalError(f"work of Metal failed: {why}")
        return True

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return self._polled(timeout)
        check_process(self._runtime.pid)
        with self._runtime.pool():
            self._runtime.send(self._command, "waitUntilCompleted")
        return self.done()

    def __del__(self) -> None:
        if self._kept and self._runtime.pid == os.getpid() and self._committed():
            with suppress(mtl.MetalError):  # nobody asks
                self.wait()

    def _committed(self) -> bool:
        """Else Ctrl-C came before, and it would be waited for in vain."""
        status: int = self._runtime.send(self._command, "status")
        return status >= mtl.COMMITTED

    def __repr__(self) -> str:
        return f"<psyne.devices event of Metal, {'under way' if self._kept else 'done'}>"


class Queue:
    """A command queue. Any thread may use it."""

    def __init__(self, runtime: mtl.Runtime, device: mtl.Object) -> None:
        self.runtime: mtl.Runtime = runtime
        with runtime.pool():
            queue = runtime.owned(runtime.send(device, "newCommandQueue"))
        if queue is None:
            raise mtl.MetalError("Metal gives no command queue")
        self._queue = queue

    def submit(self, record: Callable[[int], None], *kept: object) -> MetalEvent:
        """What `record` does with a MTLComputeCommandEncoder. The event has `kept` until it is done."""
        runtime = self.runtime
        with runtime.pool():
            made = runtime.send(self._queue, "commandBuffer")  # waits while 64 are under way
            if made is None:
                raise mtl.MetalError("Metal gives no command buffer")
            command = runtime.kept(made)
            encoding = runtime.send(command, "computeCommandEncoder")
            try:
                record(encoding)
            finally:
                runtime.send(encoding, "endEncoding")  # one that is dropped before ends the process
            event = MetalEvent(runtime, command, kept)
            runtime.send(command, "commit")
        return event

    def release(self) -> None:
        """No more work comes; what is under way goes on."""
        self._queue.release()
