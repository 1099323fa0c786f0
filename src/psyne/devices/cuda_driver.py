"""The calls of NVIDIA's driver library that psyne uses, by ctypes: no toolkit and no package is needed.

Names, numbers and signatures are those of cuda.h (CUDA 12 and 13).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from typing import Any

from ..errors import DeviceUnavailable, SystemFailure

__all__ = ["Context", "CudaError", "Driver", "Handle", "driver"]

LIBRARY = "libcuda.so.1"

# CU_MEMHOSTREGISTER_*
PORTABLE, DEVICEMAP, READ_ONLY = 1, 2, 8
# CU_DEVICE_ATTRIBUTE_*
INTEGRATED, PAGEABLE_MEMORY_ACCESS, HOST_NATIVE_ATOMICS = 18, 88, 86
HOST_REGISTER_SUPPORTED, READ_ONLY_HOST_REGISTER_SUPPORTED, STREAM_MEM_OPS_64_BIT = 99, 113, 122
# CU_STREAM_NON_BLOCKING, CU_EVENT_*, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
NON_BLOCKING, NO_TIMES, INTERPROCESS, LAZY_PEER_ACCESS = 1, 2, 4, 1
# CUstream
LEGACY, PER_THREAD = 1, 2
# CUresult
OUT_OF_MEMORY, NOT_READY = 2, 600


class CudaError(SystemFailure):
    """A call of the driver failed; ``errno`` is its CUresult."""


class Handle(ctypes.Structure):
    """CUipcMemHandle and CUipcEventHandle: what another process opens."""

    _fields_ = (("bytes", c_ubyte * 64),)


_SIGNATURES: dict[str, list[Any]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetUuid_v2": [c_char_p, c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuDevicePrimaryCtxRelease_v2": [c_int],
    "cuCtxPushCurrent_v2": [c_void_p],
    "cuCtxPopCurrent_v2": [POINTER(c_void_p)],
    "cuCtxSynchronize": [],
    "cuModuleLoadDataEx": [POINTER(c_void_p), c_char_p, c_uint, POINTER(c_int), POINTER(c_void_p)],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuModuleUnload": [c_void_p],
    "cuLaunchKernel": [c_void_p, *[c_uint] * 7, c_void_p, POINTER(c_void_p), c_void_p],
    "cuMemHostRegister_v2": [c_void_p, c_size_t, c_uint],
    "cuMemHostUnregister": [c_void_p],
    "cuMemHostGetDevicePointer_v2": [POINTER(c_uint64), c_void_p, c_uint],
    "cuMemAlloc_v2": [POINTER(c_uint64), c_size_t],
    "cuMemFree_v2": [c_uint64],
    "cuMemGetAddressRange_v2": [POINTER(c_uint64), POINTER(c_size_t), c_uint64],
    "cuMemcpyHtoDAsync_v2": [c_uint64, c_void_p, c_size_t, c_void_p],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_uint64, c_size_t, c_void_p],
    "cuMemcpyDtoDAsync_v2": [c_uint64, c_uint64, c_size_t, c_void_p],
    "cuMemsetD8Async": [c_uint64, c_ubyte, c_size_t, c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamDestroy_v2": [c_void_p],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamWaitEvent": [c_void_p, c_void_p, c_uint],
    "cuStreamWriteValue64_v2": [c_void_p, c_uint64, c_uint64, c_uint],
    "cuStreamWaitValue64_v2": [c_void_p, c_uint64, c_uint64, c_uint],
    "cuEventCreate": [POINTER(c_void_p), c_uint],
    "cuEventRecord": [c_void_p, c_void_p],
    "cuEventQuery": [c_void_p],
    "cuEventSynchronize": [c_void_p],
    "cuEventDestroy_v2": [c_void_p],
    "cuIpcGetMemHandle": [POINTER(Handle), c_uint64],
    "cuIpcOpenMemHandle_v2": [POINTER(c_uint64), Handle, c_uint],
    "cuIpcCloseMemHandle": [c_uint64],
    "cuIpcGetEventHandle": [POINTER(Handle), c_void_p],
    "cuIpcOpenEventHandle": [POINTER(c_void_p), Handle],
}


class Driver:
    """The library, whose calls raise `CudaError`. ctypes lets the GIL go while one runs."""

    def __init__(self, path: str) -> None:
        try:
            self.library: ctypes.CDLL = ctypes.CDLL(path)
            for name, arguments in _SIGNATURES.items():
                getattr(self.library, name).argtypes = arguments
        except (OSError, AttributeError) as error:
            raise DeviceUnavailable(
                f"there is no NVIDIA driver here that psyne can use ({error}); install the driver, and in a container "
                "give it the GPU"
            ) from None
        self.path: str = path
        self.pid: int = os.getpid()
        if code := self.library.cuInit(0):
            raise DeviceUnavailable(f"the NVIDIA driver finds no GPU: {self._name(code)}; nvidia-smi tells more")
        version = c_int()
        self.call("cuDriverGetVersion", byref(version))
        self.version: str = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"

    def _name(self, code: int) -> str:
        name = c_char_p()
        self.library.cuGetErrorName(code, byref(name))
        return f"{(name.value or b'unknown').decode()} ({code})"

    def result(self, name: str, *arguments: Any) -> int:
        """The CUresult of a call."""
        return int(getattr(self.library, name)(*arguments))

    def call(self, name: str, *arguments: Any) -> None:
        """A call that must succeed. Raises CudaError."""
        if code := self.result(name, *arguments):
            raise CudaError(code, f"{name}: {self._name(code)}")

    def count(self) -> int:
        """How many devices there are."""
        n = c_int()
        self.call("cuDeviceGetCount", byref(n))
        return n.value

    def name(self, ordinal: int) -> str:
        """What its maker calls a device."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), self.device(ordinal))
        return text.value.decode(errors="replace")

    def uuid(self, ordinal: int) -> bytes:
        """16 bytes by which other processes know the device, whatever number it has there."""
        found = ctypes.create_string_buffer(16)
        self.call("cuDeviceGetUuid_v2", found, self.device(ordinal))
        return found.raw

    def device(self, ordinal: int) -> int:
        found = c_int()
        self.call("cuDeviceGet", byref(found), ordinal)
        return found.value

    def attribute(self, attribute: int, ordinal: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), attribute, self.device(ordinal))
        return value.value


class Context:
    """The primary context of a device: the one that torch, CuPy, numba, JAX and Warp use, too."""

    def __init__(self, driver: Driver, ordinal: int) -> None:
        self.driver: Driver = driver
        self._context = c_void_p()
        self._pid = os.getpid()
        self._device = driver.device(ordinal)
        driver.call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)

    @contextmanager
    def __call__(self) -> Iterator[Driver]:
        """It is this thread's for a while."""
        self.driver.call("cuCtxPushCurrent_v2", self._context)
        try:
            yield self.driver
        finally:
            self.driver.call("cuCtxPopCurrent_v2", byref(c_void_p()))

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:  # when the process ends, os may be gone
        if self._context and self._pid == getpid():
            self.driver.result("cuDevicePrimaryCtxRelease_v2", self._device)


_driver: Driver | None = None


def driver() -> Driver:
    """The driver of this process: ``$PSYNE_LIBCUDA``, or libcuda.so.1. Raises DeviceUnavailable."""
    global _driver
    path = os.environ.get("PSYNE_LIBCUDA") or LIBRARY
    if _driver is not None and _driver.pid != os.getpid():
        raise DeviceUnavailable(
            "the parent process uses the NVIDIA driver, which does not survive a fork: spawn processes"
        )
    if _driver is None or _driver.path != path:
        _driver = Driver(path)
    return _driver
