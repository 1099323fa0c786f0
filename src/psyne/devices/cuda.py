"""NVIDIA GPUs: kernels read and write messages where they lie, by pages of the CPU that the driver has registered.

Verified against a stand-in driver only (`tests/helpers/fakecuda.c`), until the tests marked ``gpu`` have run on a GPU.

On a discrete GPU each access goes over the bus: right for words, for small messages and for what is read once. What is
read often is `Device.upload`\\ ed. Where CPU and GPU have one memory (Grace, Jetson) there is no difference.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import suppress
from ctypes import byref, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _native
from ..errors import CannotShare, DeviceUnavailable, InvalidArgument
from . import cuda_driver as cu
from .contract import Device, DeviceInfo, Event, Uploaded, View, Viewable, check_process
from .cuda_kernel import Kernel
from .keeper import keep_until
from .registry import Registration

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cuda", "CudaCopy", "CudaEvent", "CudaView", "devices", "open_device"]

KDL_CUDA = 2
NO_STREAM = -1  # in DLPack: the consumer waits in a way of its own
WORD = 8  # bytes of what a stream waits for and writes


class _Tensor(ABC):
    """What libraries take as memory of a CUDA device: CuPy, numba, Warp by one protocol, torch and JAX by either."""

    _gpu: Cuda
    pointer: int
    """The address of the first element on the device."""

    def _before(self, stream: int) -> None:  # noqa: B027 - most have nothing to wait for
        """The stream waits for what psyne still writes there: nothing, for most."""

    @abstractmethod
    def _elements(self) -> tuple[NDArray[Any], bool]:
        """An array of the same shape, and whether the device may write."""

    def __len__(self) -> int:
        """Of the first axis; Warp asks."""
        return len(self._elements()[0])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        array, writable = self._elements()
        if array.dtype.kind not in "biufc" or not array.dtype.isnative:
            raise CannotShare(
                f"__cuda_array_interface__ has no type for {array.dtype}: hand over a field, or use from_dlpack"
            )
        strides = None if array.flags.c_contiguous else array.strides
        return {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.pointer, not writable),
            "strides": strides,
            "stream": None,
            "version": 3,
        }

    def __dlpack__(
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> object:  # fmt: skip
        """A DLPack capsule over the same memory, which it keeps.

        The consumer's stream waits for what psyne still writes there, unless it is -1. Raises CannotShare,
        InvalidArgument for what is no stream.
        """
        array, writable = self._elements()
        kept = _native.array_at(array, int(array.__array_interface__["data"][0]), self, writable)
        return self._capsule(kept, stream, {"max_version": max_version, "dl_device": dl_device, "copy": copy})

    def _capsule(self, kept: NDArray[Any], stream: object, asked: dict[str, Any]) -> object:
        if stream is not None and (not isinstance(stream, int) or stream == 0 or stream < NO_STREAM):
            raise InvalidArgument(
                f"stream={stream!r}; of CUDA it is None or 1 (the legacy default stream), 2 (that of the thread), -1 "
                "(none waits) or the number of one"
            )
        capsule = _native.dlpack_on(kept, self.__dlpack_device__(), self.pointer, **asked)
        if stream != NO_STREAM:
            self._before(number_of(stream))
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (KDL_CUDA, self._gpu.ordinal)


class CudaView(_Tensor, View):
    """A message on the GPU: ``torch.as_tensor(view, device="cuda")``, ``cupy.asarray(view)``, numba, Warp and JAX."""

    def __init__(self, device: Cuda, registration: Registration, array: NDArray[Any], region: _native.Region) -> None:
        super().__init__(device, registration, array, region)
        self._gpu = device
        self.pointer: int = registration.handle[0] + region.offset

    def _elements(self) -> tuple[NDArray[Any], bool]:
        return self.array, self.writable


class CudaEvent(Event):
    """All that was put on a stream before it. It keeps the views that the work uses until it is known to be done."""

    def __init__(self, device: Cuda, stream: int, views: tuple[object, ...] = ()) -> None:
        self._device = device
        self._views = views
        self._event = c_void_p()
        with device.context() as driver:
            driver.call("cuEventCreate", byref(self._event), cu.NO_TIMES)
            driver.call("cuEventRecord", self._event, stream)

    def done(self) -> bool:
        check_process(self._device._pid)
        with self._device.context() as driver:
            if (code := driver.result("cuEventQuery", self._event)) == cu.NOT_READY:
                return False
            self._views = ()
            if code:
                driver.call("cuEventQuery", self._event)
            return True

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            return self._polled(timeout)
        check_process(self._device._pid)
        with self._device.context() as driver:
            driver.call("cuEventSynchronize", self._event)
        return self.done()

    def __del__(self) -> None:
        if self._views:
            keep_until(_Unasked(self._device, self._event), self._views)
        elif self._event:
            self._device.forget("cuEventDestroy_v2", self._event)


class _Unasked(CudaEvent):
    """An event that was dropped before anybody knew that it is done."""

    def __init__(self, device: Cuda, event: c_void_p) -> None:
        self._device, self._event, self._views = device, event, ()


class CudaCopy(_Tensor, Uploaded):
    """A copy of a message in memory of the GPU."""

    def __init__(self, device: Cuda, view: CudaView, stream: int) -> None:
        self._gpu, self._stream = device, stream or cu.LEGACY
        self._like = np.lib.stride_tricks.as_strided(np.empty(1, view.dtype), view.shape, view.strides, writeable=False)
        address = c_uint64()
        self._address = 0
        with device.context() as driver:
            driver.call("cuMemAlloc_v2", byref(address), view.nbytes)
            self.pointer: int = address.value
            self._address = address.value
            source = view._registration.mapping.address + view.offset  # gaps included: one copy of one piece
            driver.call("cuMemcpyHtoDAsync_v2", address, source, view.nbytes, stream)
        self._copied = CudaEvent(device, stream, (view,))
        super().__init__(device, view.array, self._copied)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return super().__cuda_array_interface__ | {"stream": self._stream}  # which has the copy to make

    def _before(self, stream: int) -> None:
        with self._gpu.context() as driver:
            driver.call("cuStreamWaitEvent", stream, self._copied._event, 0)

    def _elements(self) -> tuple[NDArray[Any], bool]:
        return self._like, True

    def numpy(self) -> NDArray[Any]:
        self.event.wait()
        there = np.empty(self._bytes(), "u1")
        with self._gpu.context() as driver:
            driver.call("cuMemcpyDtoHAsync_v2", there.ctypes.data, self.pointer, there.nbytes, None)
            driver.call("cuStreamSynchronize", None)
        return np.ndarray(self.shape, self.dtype, there.data, strides=self._like.strides).copy()

    def _bytes(self) -> int:
        reach = sum((n - 1) * step for n, step in zip(self.shape, self._like.strides, strict=True))
        return int(reach + self.dtype.itemsize)

    def __del__(self) -> None:
        if self._address:
            self._gpu.forget("cuMemFree_v2", self._address, after="cuCtxSynchronize")  # its stream may write there


class Cuda(Device):
    """One GPU."""

    def __init__(self, info: DeviceInfo, ordinal: int) -> None:
        super().__init__(info)
        self.ordinal: int = ordinal
        self.context: cu.Context = cu.Context(cu.driver(), ordinal)
        self.uuid: bytes = cu.driver().uuid(ordinal)

    def kernel(self, ptx: str | bytes, name: str | None = None, *, reads: Collection[int] = ()) -> Kernel:
        """A kernel from PTX, which the driver compiles; ``name``: which, if there are several.

        ``reads``: the numbers of the parameters that are buffers which it only reads. Raises InvalidArgument, with what
        the driver says. PTX is trusted as any code is.
        """
        self.check_open()
        return Kernel(self, ptx, name, reads)

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> CudaView:
        view = super().view(message, writable=writable)
        assert isinstance(view, CudaView)
        return view

    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> CudaCopy:
        return CudaCopy(self, self.view(message, writable=False), stream_of(stream))

    def event(self, stream: Any = None, *views: object) -> CudaEvent:
        """What a loan is sent after: all that is on the stream now. The views' messages are kept until then.

        ``stream``: one of torch, CuPy, numba or cuda.core, or its number; None: the default one.
        """
        self.check_open()
        return CudaEvent(self, stream_of(stream), views)

    def write_value(self, stream: Any, word: CudaView, value: int) -> None:
        """The stream writes a 64-bit number into a field, when all before it is done and visible to others.

        Nobody is woken by that: who waits for it polls, or waits by `wait_value`.
        """
        word.check_writable("write_value()")
        self._on_word("cuStreamWriteValue64_v2", stream, word, value)

    def wait_value(self, stream: Any, word: CudaView, value: int) -> None:
        """The stream goes on when the number in a field is ``value`` or more, whoever writes it."""
        self._on_word("cuStreamWaitValue64_v2", stream, word, value)

    def _on_word(self, call: str, stream: Any, word: CudaView, value: int) -> None:
        self.check_open()
        if word.array.dtype not in (np.dtype("u8"), np.dtype("i8")) or word.array.size != 1 or word.offset % WORD != 0:
            raise InvalidArgument(
                f"a stream writes and waits for one 64-bit integer whose offset {WORD} divides; this is "
                f"{word.array.size} of {word.dtype} at {word.offset}"
            )
        if not cu.driver().attribute(cu.STREAM_MEM_OPS_64_BIT, self.ordinal):
            raise DeviceUnavailable(f"the streams of {self.name} neither write nor wait for 64-bit numbers")
        with self.context() as driver:
            driver.call(call, stream_of(stream), word.pointer, value & (1 << 64) - 1, 0)

    def forget(self, call: str, handle: Any, *, after: str | None = None) -> None:
        """Where garbage is collected: also when the driver is not there any more, which ends before us."""
        if self._pid == os.getpid():
            with suppress(cu.CudaError), self.context() as driver:
                if after:
                    driver.result(after)
                driver.result(call, handle)

    def _register(self, mapping: _native.Mapping, writable: bool) -> tuple[int, int]:
        """The address on the device, and that of the CPU."""
        flags = cu.PORTABLE | cu.DEVICEMAP
        if not writable:
            if not cu.driver().attribute(cu.READ_ONLY_HOST_REGISTER_SUPPORTED, self.ordinal):
                raise CannotShare(f"{self.name} cannot have read-only pages; upload() the message")
            flags |= cu.READ_ONLY
        address = c_uint64()
        with self.context() as driver:
            try:
                driver.call("cuMemHostRegister_v2", mapping.address, mapping.nbytes, flags)
            except cu.CudaError as error:
                more = "; it pins them: look at ulimit -l" if error.errno == cu.OUT_OF_MEMORY else ""
                raise CannotShare(
                    f"{self.name} does not take {mapping.nbytes} bytes of a channel: {error}{more}"
                ) from error
            driver.call("cuMemHostGetDevicePointer_v2", byref(address), mapping.address, 0)
        return address.value, mapping.address

    def _unregister(self, handle: tuple[int, int]) -> None:
        self.forget("cuMemHostUnregister", handle[1], after="cuCtxSynchronize")

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> CudaView:
        return CudaView(self, registration, array, region)


def stream_of(stream: Any) -> int:
    """The CUstream of a stream of torch, CuPy, numba or cuda.core; None: the default one."""
    if stream is None or isinstance(stream, int):
        return stream or 0
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, numba
        if (found := getattr(stream, name, None)) is not None:
            return int(getattr(found, "value", found) or 0)
    raise InvalidArgument(f"a stream of torch, CuPy, numba or cuda.core, a number or None is wanted, not {stream!r}")


def number_of(stream: Any) -> int:
    """The same, None and 0 by the number that says so. Raises InvalidArgument for what is none."""
    number = stream_of(stream) or cu.LEGACY
    if number < 0:
        raise InvalidArgument(
            f"stream={stream!r}; a stream has a positive number, and None is the legacy default stream"
        )
    return number


def devices() -> list[DeviceInfo]:
    """Those that the driver sees."""
    driver = cu.driver()
    found = []
    for ordinal in range(driver.count()):
        if not driver.attribute(cu.HOST_REGISTER_SUPPORTED, ordinal):
            continue
        unified = bool(driver.attribute(cu.INTEGRATED, ordinal) or driver.attribute(cu.HOST_NATIVE_ATOMICS, ordinal))
        where = "in place, in the memory that it shares with the CPU" if unified else "in place, over the bus"
        found.append(
            DeviceInfo(
                f"cuda:{ordinal}",
                "cuda",
                driver.name(ordinal),
                driver.version,
                unified,
                f"reads and writes messages {where}",
            )
        )
    if not found:
        raise DeviceUnavailable("the NVIDIA driver finds no GPU that can register memory of the CPU")
    return found


def open_device(info: DeviceInfo) -> Cuda:
    return Cuda(info, int(info.name.partition(":")[2]))
