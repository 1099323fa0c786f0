"""Vulkan devices: messages as storage buffers, compute shaders on them in place. ctypes on the loader is all it needs.

A slab is imported once; a message is an offset in its buffer. GPUs of AMD, Intel and NVIDIA speak Vulkan, and so does
the CPU (Mesa's lavapipe), which is what the tests run on.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _native
from ..errors import DeviceUnavailable
from . import spirv
from . import vulkan_api as vk
from .contract import Device, DeviceInfo, Finished, Uploaded, View, Viewable
from .vulkan_driver import LIBRARY, Driver, PhysicalDevice, enumerated
from .vulkan_kernel import Kernel
from .vulkan_memory import Buffer, address_of, allocated, imported
from .vulkan_queue import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .registry import Registration

__all__ = ["Handles", "Vulkan", "VulkanCopy", "VulkanView", "devices", "open_device"]


class Handles(NamedTuple):
    """For Vulkan code of one's own. It must not submit to the queue while a kernel is being submitted by Psyne."""

    instance: int
    physical_device: int
    device: int
    queue: int
    queue_family: int


class VulkanView(View):
    """A message in a buffer of Vulkan: `buffer`, a VkBuffer, has it from `offset` on, `nbytes` long."""

    @property
    def memory(self) -> Buffer:
        handle: Buffer = self._registration.handle
        return handle

    @property
    def buffer(self) -> int:
        return self.memory.handle


class VulkanCopy(Uploaded):
    """A copy in memory of the device, in C order; kernels take it as they take a view."""

    offset = 0

    def __init__(self, device: Vulkan, array: NDArray[Any], source: VulkanView) -> None:
        super().__init__(device, array, Finished())
        self._driver = device.vulkan
        self.memory: Buffer = allocated(self._driver, array.nbytes)
        _copy(self._driver, source.memory, self.memory, _pieces(array, source.offset))

    @property
    def buffer(self) -> int:
        return self.memory.handle

    def numpy(self) -> NDArray[Any]:
        made = np.empty(self.shape, self.dtype)
        seen = allocated(self._driver, self.nbytes, visible=True)
        _copy(self._driver, self.memory, seen, np.array([[0, 0, self.nbytes]], "u8"))
        ctypes.memmove(made.ctypes.data, address_of(self._driver, seen), self.nbytes)
        return made


class Vulkan(Device):
    """A Vulkan device of this process, with one queue."""

    def __init__(self, info: DeviceInfo, number: int) -> None:
        super().__init__(info)
        try:
            self.vulkan: Driver = Driver(number)
        except vk.VulkanError as error:
            raise DeviceUnavailable(f"{info.product} cannot be opened: {error}") from error

    @property
    def handles(self) -> Handles:
        self.check_open()
        it = self.vulkan
        return Handles(
            it.instance.value or 0, it.physical.handle, it.handle.value or 0, it.queue.value or 0, it.queue_family
        )

    def kernel(self, shader: str | bytes, *, buffers: int | None = None, push: int = 0) -> Kernel:
        """A kernel from GLSL (as text; needs glslangValidator or glslc) or SPIR-V (as bytes).

        Its buffers are ``layout(std430, set = 0, binding = n) buffer``; ``buffers`` is how many, by default those that
        it uses. ``push`` is the bytes of its push constants. Raises InvalidArgument, with what the compiler says;
        DeviceUnavailable without a compiler. SPIR-V is trusted as any code is.
        """
        self.check_open()
        read = spirv.read(spirv.compiled(shader) if isinstance(shader, str) else bytes(shader))
        return Kernel(self, read, buffers, push)

    def view(self, message: Viewable | NDArray[np.generic], *, writable: bool | None = None) -> VulkanView:
        view = super().view(message, writable=writable)
        assert isinstance(view, VulkanView)
        return view

    def upload(self, message: Viewable | NDArray[np.generic], stream: Any = None) -> VulkanCopy:
        """A copy in memory of the device, where that is faster for what it reads often. It is there on return.

        The message may lie at any address and have strides. Raises NoSpace, and what `view` does.
        """
        array = self._array(message)
        region = _native.region(array)
        registration = self._registered(region, region.writable)
        return VulkanCopy(self, array, VulkanView(self, registration, array, region))

    def _register(self, mapping: _native.Mapping, writable: bool) -> Buffer:
        return imported(self.vulkan, mapping, writable)

    def _unregister(self, handle: Buffer) -> None:
        handle.free()

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> VulkanView:
        return VulkanView(self, registration, array, region)

    def _shut(self) -> None:
        del self.vulkan  # which goes when the last kernel, event and copy has gone


def _copy(driver: Driver, source: Buffer, destination: Buffer, pieces: NDArray[np.uint64]) -> None:
    """Copies on the device, and waits for the end."""
    job = Job(driver, [])
    driver.api.vkCmdCopyBuffer(job.begin(), source.handle, destination.handle, len(pieces), pieces.ctypes.data)
    job.submit(source, destination).wait()


def _pieces(array: NDArray[Any], first: int) -> NDArray[np.uint64]:
    """Where each contiguous piece of an array is, counted from `first`, where it goes, and its bytes: VkBufferCopy."""
    piece, outer = array.itemsize, array.ndim
    while outer and (array.shape[outer - 1] == 1 or array.strides[outer - 1] == piece):
        outer -= 1
        piece *= array.shape[outer]
    starts = np.full((), first, "u8")
    for length, stride in zip(array.shape[:outer], array.strides[:outer], strict=True):
        starts = np.add.outer(starts, np.arange(length, dtype="u8") * np.uint64(stride))
    ends = np.arange(starts.size, dtype="u8") * np.uint64(piece)
    return np.ascontiguousarray(np.stack([starts.reshape(-1), ends, np.full_like(ends, piece)], axis=1))


@functools.cache
def _found() -> list[DeviceInfo]:
    return [_info(number, it) for number, it in enumerate(enumerated())]


def devices() -> list[DeviceInfo]:
    """Those that the loader sees: GPUs before software. Raises DeviceUnavailable."""
    found = _found()
    if not found:
        raise DeviceUnavailable("Vulkan sees no device: apt install mesa-vulkan-drivers has one for the CPU")
    return found


def open_device(info: DeviceInfo) -> Vulkan:
    return Vulkan(info, _found().index(info))


def _info(number: int, it: PhysicalDevice) -> DeviceInfo:
    if vk.EXTERNAL_MEMORY_HOST in it.extensions:
        zero_copy = "reads and writes messages in place, where the driver takes pages of files"
    elif vk.EXTERNAL_MEMORY_DMA_BUF in it.extensions:
        zero_copy = (
            "reads and writes messages of anonymous channels in place, by /dev/udmabuf (verified against a stand-in)"
        )
    else:
        zero_copy = f"nothing: its driver has neither {vk.EXTERNAL_MEMORY_HOST} nor {vk.EXTERNAL_MEMORY_DMA_BUF}"
    driver = f"{LIBRARY} {vk.version(it.version)}{', ' if it.driver else ''}{it.driver}"
    unified = it.type in (vk.INTEGRATED_GPU, vk.CPU)
    alignment = int(it.limits.minStorageBufferOffsetAlignment)
    return DeviceInfo(f"vulkan:{number}", "vulkan", it.name, driver, unified, zero_copy, alignment)
