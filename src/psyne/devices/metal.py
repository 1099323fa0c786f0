"""GPUs of Apple: messages as Metal buffers, kernels on them in place. ctypes is all it needs.

Not verified on hardware: it ran against a stand-in only (`tests/helpers/fakemetal.c`). On a Mac the same tests,
``pytest tests/test_metal.py tests/test_devices.py``, run on its GPU.

A slab is one MTLBuffer over the pages of the channel; a message is an offset in it. CPU and GPU of Apple Silicon have
one memory, so nothing goes over a bus.
"""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import CannotShare, DeviceUnavailable, NoSpace, ReadOnly
from . import metal_api as mtl
from .contract import Device, DeviceInfo, Finished, Uploaded, View, Viewable
from .metal_kernel import Kernel
from .metal_queue import Queue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .registry import Registration

__all__ = ["Metal", "MetalCopy", "MetalView", "devices", "open_device"]

KDL_METAL = 8
ALIGNMENT = 16  # bytes: of the largest type that a kernel reads at once


class _Buffer(ABC):
    """What kernels, MLX and torch take: a stretch of an MTLBuffer."""

    device: Device
    memory: mtl.Object
    offset: int
    number: int
    """Of the device."""

    @property
    def buffer(self) -> int:
        """The id<MTLBuffer>; the first element is `offset` bytes in it."""
        return self.memory.id

    @abstractmethod
    def _elements(self) -> tuple[NDArray[Any], bool]:
        """An array of the same shape, and whether the device may write."""

    def __dlpack__(
        self, *, stream: object = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> object:  # fmt: skip
        """For ``mx.from_dlpack(view, copy=False)`` and ``torch.from_dlpack(view)``.

        Raises ReadOnly: MLX puts results into arrays that nobody else has, and torch writes without asking. Who wrote
        last must be done before the other begins: `Event.wait`, ``mx.eval``, ``torch.mps.synchronize()``.
        """
        array, writable = self._elements()
        if not writable:
            raise ReadOnly(
                f"who takes a buffer of Metal may write it, and this message is read-only on {self.device.name}: it "
                "was received by a stage that does not mutate, is over, or was viewed with writable=False. upload() it"
            )
        kept = _native.array_at(array, int(array.__array_interface__["data"][0]), self, writable)
        asked = {"max_version": max_version, "dl_device": dl_device, "copy": copy, "byte_offset": self.offset}
        return _native.dlpack_on(kept, self.__dlpack_device__(), self.buffer, **asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (KDL_METAL, self.number)


class MetalView(_Buffer, View):
    """A message in a buffer of Metal: `buffer`, an id<MTLBuffer>, has it from `offset` on, `nbytes` long."""

    def __init__(self, device: Metal, registration: Registration, array: NDArray[Any], region: _native.Region) -> None:
        super().__init__(device, registration, array, region)
        self.memory: mtl.Object = registration.handle
        self.number: int = device.number

    def _elements(self) -> tuple[NDArray[Any], bool]:
        return self.array, self.writable


class MetalCopy(_Buffer, Uploaded):
    """A copy of a message in a buffer of its own, in C order; kernels take it as they take a view."""

    offset = 0

    def __init__(self, device: Metal, array: NDArray[Any]) -> None:
        super().__init__(device, array, Finished())
        self.memory: mtl.Object = device.allocated(array.nbytes)
        self.number: int = device.number
        address = device.queue.runtime.send(self.memory, "contents")
        self._array = _native.array_at(np.empty(array.shape, array.dtype), address, self.memory, True)
        self._array[...] = array

    def _elements(self) -> tuple[NDArray[Any], bool]:
        return self._array, True

    def numpy(self) -> NDArray[Any]:
        return self._array.copy()


class Metal(Device):
    """A GPU of this process, with one queue."""

    def __init__(self, info: DeviceInfo, number: int) -> None:
        super().__init__(info)
        self.number: int = number
        runtime = mtl.runtime()
        self.handle: mtl.Object = runtime.devices()[number]
        """The id<MTLDevice>."""
        self.queue: Queue = Queue(runtime, self.handle)
        self._most: int = runtime.send(self.handle, "maxBufferLength")

    def kernel(self, source: str, name: str) -> Kernel:
        """A kernel function of that name, of source in Metal's shading language.

        Its arguments are ``[[buffer(0)]]``, ``[[buffer(1)]]``, …: first the views, then, where it is launched with
        ``push=``, a ``constant`` one. Raises InvalidArgument, with what the compiler says.
        """
        self.check_open()
        return Kernel(self, source, name)

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> MetalView:
        view = super().view(message, writable=writable)
        assert isinstance(view, MetalView)
        return view

    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> MetalCopy:
        """A copy in a buffer of Metal's own, which CPU and GPU share: for MLX and torch, which write.

        It is there on return. The message may lie anywhere and have strides. Raises NoSpace, MessageReleased.
        """
        return MetalCopy(self, self._array(message))

    def allocated(self, nbytes: int) -> mtl.Object:
        """A buffer of Metal's own. Raises NoSpace."""
        runtime, made = self.queue.runtime, None
        if nbytes <= self._most:
            with runtime.pool():
                made = runtime.owned(runtime.send(self.handle, "newBufferWithLength:options:", nbytes, mtl.SHARED))
        if made is None:
            raise NoSpace(f"{self.name} has no buffer of {nbytes:,} bytes; it has at most {self._most:,} in one")
        return made

    def _register(self, mapping: _native.Mapping, writable: bool) -> mtl.Object:
        runtime, address, nbytes = self.queue.runtime, mapping.address, mapping.nbytes
        if nbytes > self._most:
            raise CannotShare(f"{self.name} has at most {self._most:,} bytes in a buffer; this slab has {nbytes:,}")
        call = "newBufferWithBytesNoCopy:length:options:deallocator:"
        with runtime.pool():
            made = runtime.owned(runtime.send(self.handle, call, address, nbytes, mtl.SHARED, None))
        if made is None:
            raise CannotShare(f"{self.name} does not take {nbytes:,} bytes of a channel at {address:#x}; upload() them")
        got = runtime.send(made, "contents") or 0, runtime.send(made, "length")
        if got != (address, nbytes):  # as on virtual machines
            raise CannotShare(
                f"{self.name} does not take {nbytes:,} bytes of a channel at {address:#x} as they lie: its buffer has "
                f"{got[1]:,} bytes at {got[0]:#x}"
            )
        return made

    def _unregister(self, handle: mtl.Object) -> None:
        handle.release()  # no work is left there: events keep the views of theirs

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> MetalView:
        return MetalView(self, registration, array, region)

    def _shut(self) -> None:
        self.queue.release()
        self.handle.release()


def devices() -> list[DeviceInfo]:
    """Those that the system has, its default one first. Raises DeviceUnavailable."""
    runtime = mtl.runtime()
    system = os.path.basename(runtime.path) if runtime.path else f"macOS {platform.mac_ver()[0]}"
    found = []
    with runtime.pool():
        for number, it in enumerate(runtime.devices()):
            product, unified = runtime.text(runtime.send(it, "name")), runtime.send(it, "hasUnifiedMemory")
            where = "" if unified else ", over the bus"
            zero_copy = f"reads and writes messages in place{where} (not verified on hardware)"
            driver = f"Metal of {system}"
            found.append(DeviceInfo(f"metal:{number}", "metal", product, driver, unified, zero_copy, ALIGNMENT))
    if not found:
        raise DeviceUnavailable("Metal finds no GPU")
    return found


def open_device(info: DeviceInfo) -> Metal:
    return Metal(info, int(info.name.partition(":")[2]))
