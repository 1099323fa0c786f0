"""OpenCL devices: messages as buffers of kernels in OpenCL C, and as arrays of pyopencl. pip install 'psyne[opencl]'

A slab becomes one buffer over its pages (CL_MEM_USE_HOST_PTR); a message is a region of that. Where device and CPU have
one memory (PoCL, which the tests run on, and integrated GPUs), nothing is copied. Elsewhere the driver has a copy of
its own, which OpenCL lets it keep for as long as it likes: there a kernel of psyne first brings its messages to the
device, each over the bus, and what it writes back before its event is done. `DeviceInfo.zero_copy` says which it is.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import CannotShare, DeviceUnavailable
from .contract import Device, DeviceInfo, Uploaded, View, Viewable
from .opencl_driver import OpenClEvent, found, told
from .opencl_kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyopencl as cl
    from numpy.typing import NDArray
    from pyopencl.array import Array

    from .registry import Registration

__all__ = ["OpenCl", "OpenClCopy", "OpenClView", "devices", "open_device"]


class OpenClView(View):
    """A message as OpenCL has it. Kernels of psyne take it as it is; other OpenCL code takes `region` or `pyopencl`."""

    def __init__(self, device: OpenCl, registration: Registration, array: NDArray[Any], region: _native.Region) -> None:
        super().__init__(device, registration, array, region)
        self._opencl = device

    def region(self) -> cl.Buffer:
        """A buffer of these bytes alone; it keeps the view.

        Use it in `OpenCl.queue`: what is there is done before the memory goes. Nobody checks any more whether it may be
        written, and where memory is not unified, nobody brings it to the device and back.
        """
        slab: cl.Buffer = self._registration.handle
        made = slab.get_sub_region(self.offset, self.nbytes)
        keeps: Any = made
        keeps.view = self
        return made

    def pyopencl(self) -> Array:
        """The same bytes as an array of pyopencl, in `OpenCl.queue`: ``view.pyopencl().fill(0)``. It keeps the view.

        Raises ReadOnly, because these arrays have no word for it, and CannotShare where memory is not unified.
        """
        self.check_writable("an array of pyopencl")
        if not self.device.info.unified:
            raise CannotShare(
                f"{self.device.name} has a memory of its own, and an array of pyopencl would not see what the CPU "
                "writes: upload() the message, and take pyopencl() of that"
            )
        return _array(self._opencl, self.region(), self.shape, self.dtype, self.strides)

    def check_writable(self, what: str) -> None:
        """Raises ReadOnly; CannotShare where all that lies between would come back from a memory of its own too."""
        super().check_writable(what)
        if not self.device.info.unified and self.nbytes != self.array.nbytes:
            raise CannotShare(
                f"{what} would write {self.array.nbytes} bytes with gaps between, and {self.device.name}, which has a "
                f"memory of its own, would write {self.nbytes} back: hand over parts without gaps"
            )

    def sent(self, region: cl.Buffer) -> list[cl.Event]:
        """Before a kernel: what the CPU wrote goes to a device that has a memory of its own."""
        return [] if self.device.info.unified else [self._moved(region, self._pages())]

    def fetched(self, region: cl.Buffer) -> list[cl.Event]:
        """After a kernel: what the device wrote goes to the CPU."""
        return [] if self.device.info.unified else [self._moved(self._pages(), region)]

    def _moved(self, destination: Any, source: Any) -> cl.Event:
        import pyopencl as cl

        return cl.enqueue_copy(self._opencl.queue, destination, source, is_blocking=False)

    def _pages(self) -> Any:
        # OpenCL allows such a move for the very address that the buffer lies over, and its driver knows whether there
        # is anything to do. To map the region instead would bring what the device has over what the CPU wrote.
        return _memory(self._registration.mapping.address + self.offset, self.nbytes)


class OpenClCopy(Uploaded):
    """A copy in memory of the device, in C order; kernels take it as they take a view."""

    def __init__(self, device: OpenCl, array: NDArray[Any], queue: cl.CommandQueue) -> None:
        import pyopencl as cl

        with told(f"{device.name} does not take a copy of {array.nbytes:,} bytes"):
            self._buffer: cl.Buffer = cl.Buffer(device.context, cl.mem_flags.READ_WRITE, array.nbytes)
            packed = _bytes(np.ascontiguousarray(array))
            work = cl.enqueue_copy(queue, self._buffer, packed, is_blocking=False)
            queue.flush()
        super().__init__(device, array, OpenClEvent(work, (array, packed)))
        self._opencl, self._work = device, work

    def region(self) -> cl.Buffer:
        """The buffer."""
        return self._buffer

    def pyopencl(self) -> Array:
        """It as an array of pyopencl, in `OpenCl.queue`."""
        self.event.wait()
        return _array(self._opencl, self._buffer, self.shape, self.dtype)

    def numpy(self) -> NDArray[Any]:
        import pyopencl as cl

        self.event.wait()
        made = np.empty(self.shape, self.dtype)
        with told(f"{self.device.name} does not give its copy back"):
            cl.enqueue_copy(self._opencl.queue, _bytes(made), self._buffer)
        return made

    def sent(self, region: cl.Buffer) -> list[cl.Event]:
        """Before a kernel: perhaps it comes by another queue."""
        return [self._work]

    def fetched(self, region: cl.Buffer) -> list[cl.Event]:
        """After a kernel it stays where it is."""
        return []


class OpenCl(Device):
    """An OpenCL device of this process, with a context and a queue, which is in order."""

    def __init__(self, info: DeviceInfo, device: cl.Device) -> None:
        super().__init__(info)
        import pyopencl as cl

        try:
            self._context: cl.Context = cl.Context([device])
            self._queue: cl.CommandQueue = cl.CommandQueue(self._context, device)
        except cl.Error as error:
            raise DeviceUnavailable(f"{info.product} cannot be opened: {error}") from error
        self._largest = int(device.max_mem_alloc_size)  # bytes of one buffer

    @property
    def context(self) -> cl.Context:
        """For OpenCL code of one's own."""
        self.check_open()
        return self._context

    @property
    def queue(self) -> cl.CommandQueue:
        """For OpenCL code of one's own. All that psyne does is in it."""
        self.check_open()
        return self._queue

    def kernel(self, source: str, name: str | None = None, *, options: Sequence[str] = ()) -> Kernel:
        """A kernel from OpenCL C. ``name``: which one, if the source has several.

        ``options``: of the compiler, as ``["-cl-fast-relaxed-math", "-DN=4"]``. Raises InvalidArgument, with what the
        compiler says. A kernel is trusted as any code is.
        """
        return Kernel(self, source, name, options)

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> OpenClView:
        view = super().view(message, writable=writable)
        assert isinstance(view, OpenClView)
        return view

    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> OpenClCopy:
        """A copy in memory of the device. The message may lie at any address and have strides.

        ``stream``: the cl.CommandQueue that copies; None: `queue`. Raises NoSpace.
        """
        array = self._array(message)
        queue = self.queue if stream is None else stream
        return OpenClCopy(self, array, queue)

    def event(self, stream: cl.CommandQueue | cl.Event | None = None, *views: OpenClView) -> OpenClEvent:
        """What a loan is sent after, for OpenCL code of one's own. The views' messages are kept until then.

        ``stream``: an event of pyopencl, or a queue for all that is in it now; None: `queue`.
        """
        import pyopencl as cl

        source = self.queue if stream is None else stream
        if isinstance(source, cl.CommandQueue):
            queue, source = source, cl.enqueue_marker(source)
            queue.flush()
        return OpenClEvent(source, views)

    def _register(self, mapping: _native.Mapping, writable: bool) -> cl.Buffer:
        if mapping.nbytes > self._largest:
            raise CannotShare(
                f"a buffer on {self.name} has at most {self._largest:,} bytes, and this memory of a channel "
                f"{mapping.nbytes:,}: a smaller capacity= makes smaller slabs"
            )
        import pyopencl as cl

        flags = cl.mem_flags.USE_HOST_PTR | (cl.mem_flags.READ_WRITE if writable else cl.mem_flags.READ_ONLY)
        try:
            return cl.Buffer(self._context, flags, hostbuf=_memory(mapping.address, mapping.nbytes))
        except cl.Error as error:
            raise CannotShare(
                f"{self.name} does not take {mapping.nbytes:,} bytes at {mapping.address:#x} in place: {error}"
            ) from error

    def _unregister(self, handle: cl.Buffer) -> None:
        with suppress(Exception):
            self._queue.finish()
            handle.release()  # before its pages go

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> OpenClView:
        return OpenClView(self, registration, array, region)


def _memory(address: int, nbytes: int) -> Any:
    """Something with the buffer protocol; it keeps nothing."""
    return (ctypes.c_char * nbytes).from_address(address)


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The same memory; not every dtype has the buffer protocol."""
    return array.reshape(-1).view("u1")


def _array(
    device: OpenCl, buffer: cl.Buffer, shape: tuple[int, ...], dtype: np.dtype[Any], strides: Any = None
) -> Array:
    from pyopencl.array import Array

    return Array(device.queue, shape, dtype, data=buffer, strides=strides)


@functools.cache
def _found() -> list[cl.Device]:
    return found()


def devices() -> list[DeviceInfo]:
    """Those of all platforms, GPUs before CPUs. Raises DeviceUnavailable."""
    return [_info(number, it) for number, it in enumerate(_found())]


def open_device(info: DeviceInfo) -> OpenCl:
    return OpenCl(info, _found()[int(info.name.partition(":")[2])])


def _info(number: int, it: cl.Device) -> DeviceInfo:
    unified = bool(it.host_unified_memory)
    return DeviceInfo(
        name=f"opencl:{number}",
        kind="opencl",
        product=it.name.strip(),
        driver=f"{it.platform.name.strip()} {it.driver_version}",
        unified=unified,
        zero_copy=(
            "reads and writes messages in place"
            if unified
            else "nothing: its driver brings a message over before a kernel, and what was written back after it"
        ),
        alignment=max(1, it.mem_base_addr_align // 8),  # it counts bits
    )
