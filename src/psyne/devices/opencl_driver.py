"""pyopencl, imported where it is used; what it raises as errors of psyne; the events of its queues."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..errors import DeviceUnavailable, InvalidArgument, NoSpace, SystemFailure
from .contract import Event, check_process

if TYPE_CHECKING:
    import pyopencl as cl

__all__ = ["OpenClError", "OpenClEvent", "found", "told"]


class OpenClError(SystemFailure):
    """A call of OpenCL failed, or work of a device; ``errno`` is its code."""


def found() -> list[cl.Device]:
    """The devices of all platforms, GPUs before CPUs. Raises DeviceUnavailable."""
    try:
        import pyopencl as cl
    except ImportError as error:
        raise DeviceUnavailable(f"OpenCL needs pyopencl ({error}): pip install 'psyne[opencl]'") from error
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader finds none
        platforms = []
    there: list[cl.Device] = []
    for platform in platforms:
        with suppress(cl.Error):  # a platform without a device
            there += [it for it in platform.get_devices() if it.available and it.compiler_available]
    if not there:
        raise DeviceUnavailable(
            f"OpenCL sees no device, of {len(platforms)} platforms: the driver of a GPU brings its own (look in "
            "/etc/OpenCL/vendors); apt install ocl-icd-libopencl1 pocl-opencl-icd has one for the CPU"
        )
    return sorted(there, key=lambda it: bool(it.type & cl.device_type.CPU))


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raises what OpenCL says as InvalidArgument, NoSpace or OpenClError; `what` was tried."""
    import pyopencl as cl

    try:
        yield
    except cl.LogicError as error:
        raise InvalidArgument(f"{what}: {error}") from error
    except cl.MemoryError as error:
        raise NoSpace(f"{what}: {error}") from error
    except cl.Error as error:
        raise OpenClError(error.code, f"{what}: {error}") from error


class OpenClEvent(Event):
    """Work that an OpenCL device has been given. Who drops it waits for it, so a kernel that nobody asks about is done.

    It keeps the messages that the work uses until it is done.
    """

    def __init__(self, work: cl.Event, kept: tuple[object, ...]) -> None:
        self.work: cl.Event = work
        """For pyopencl code, as in ``wait_for=[event.work]``."""
        self._kept = kept
        self._pid = os.getpid()

    def done(self) -> bool:
        check_process(self._pid)
        status = int(self.work.command_execution_status)  # 0: complete, below: failed, above: under way
        if status > 0:
            return False
        with suppress(Exception):  # said below
            self.work.wait()  # and pyopencl lets go of the memory that it has copied
        self._kept = ()
        if status < 0:
            raise OpenClError(status, f"the work on the device failed, with error {status} of OpenCL")
        return True

    def wait(self, timeout: float | None = None) -> bool:
        """As `Event.wait`. Without a ``timeout`` the driver waits, and Ctrl-C comes when the work is done."""
        import pyopencl as cl

        if timeout is not None:
            return self._polled(timeout)
        while not self.done():
            try:
                self.work.wait()
            except cl.Error as error:
                self.done()  # says what the work failed with
                raise OpenClError(error.code, f"the driver does not wait: {error}") from error
        return True

    def __del__(self) -> None:
        if self._kept and os.getpid() == self._pid:
            with suppress(Exception):  # nobody asks
                self.work.wait()

    def __repr__(self) -> str:
        return f"<psyne.devices event of OpenCL, {'under way' if self._kept else 'done'}>"
