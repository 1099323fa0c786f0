"""Vulkan devices: messages as storage buffers, compute shaders on them in place. ctypes on the loader is all it needs.

A slab is imported once; a message is an offset in its buffer. GPUs of AMD, Intel and NVIDIA speak Vulkan, and so does the
CPU (Mesa's lavapipe), which is what the tests run on.
"""

from __future__ import annotations

import ctypes
import functools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DeviceUnavailable
from . import spirv
from . import vulkan_api as vk
from .contract import Device, DeviceInfo, Finished, Uploaded, View, Viewable
from .vulkan_driver import LIBRARY, Driver, PhysicalDevice, enumerated
from .vulkan_kernel import Kernel
from .vulkan_memory import Buffer, allocated, imported, mapped
from .vulkan_queue import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .. import _native
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
    """A copy in memory of the device; kernels take it as they take a view."""

    device: Vulkan
    offset = 0

    def __init__(self, device: Vulkan, view: VulkanView) -> None:
        super().__init__(device, view.array, Finished())
        self.memory = allocated(device.vulkan, view.nbytes)
        device.copy(view.memory, view.offset, self.memory, view.nbytes)

    @property
    def buffer(self) -> int:
        return self.memory.handle

    def check_writable(self, what: str) -> None:
        """It is nobody else's."""

    def numpy(self) -> NDArray[Any]:
        made = np.empty(self.shape, self.dtype)
        seen = allocated(self.device.vulkan, self.nbytes, visible=True)
        self.device.copy(self.memory, 0, seen, self.nbytes)
        with mapped(self.device.vulkan, seen) as address:
            ctypes.memmove(made.ctypes.data, address, self.nbytes)
        return made


class Vulkan(Device):
    """A Vulkan device of this process, with one queue."""

    def __init__(self, info: DeviceInfo, number: int) -> None:
        super().__init__(info)
        try:
            self.vulkan = Driver(number)
        except vk.VulkanError as error:
            raise DeviceUnavailable(f"{info.product} cannot be opened: {error}") from error
        self._idle: list[Job] = []

    @property
    def handles(self) -> Handles:
        it = self.vulkan
        return Handles(it.instance.value or 0, it.physical.handle, it.handle.value or 0, it.queue.value or 0, it.queue_family)

    def kernel(self, shader: str | bytes, *, buffers: int | None = None, push: int = 0) -> Kernel:
        """A kernel from GLSL (as text; needs glslangValidator or glslc) or SPIR-V (as bytes).

        Its buffers are ``layout(std430, set = 0, binding = n) buffer``; ``buffers`` is how many, by default those that it
        uses. ``push`` is the bytes of its push constants. Raises InvalidArgument, with what the compiler says;
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
        """A copy in memory of the device, where that is faster for what it reads often. It is there on return."""
        return VulkanCopy(self, self.view(message, writable=False))

    def copy(self, source: Buffer, offset: int, destination: Buffer, nbytes: int) -> None:
        """Copies on the device, and waits for the end."""
        job = self._idle.pop() if self._idle else Job(self.vulkan, self._idle)
        commands = job.begin()
        region = vk.BufferCopy(offset, 0, nbytes)
        self.vulkan.api.vkCmdCopyBuffer(commands, source.handle, destination.handle, 1, ctypes.byref(region))
        job.submit(source, destination).wait()

    def check_open(self) -> None:
        """Raises ForkedError, ChannelClosed."""
        self._check_open()

    def _register(self, mapping: _native.Mapping, writable: bool) -> Buffer:
        return imported(self.vulkan, mapping, writable)

    def _unregister(self, handle: Buffer) -> None:
        handle.free()

    def _view(self, registration: Registration, array: NDArray[Any], region: _native.Region) -> VulkanView:
        return VulkanView(self, registration, array, region)


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
        zero_copy = "reads and writes messages of anonymous channels in place, by /dev/udmabuf (not verified on hardware)"
    else:
        zero_copy = f"nothing: its driver has neither {vk.EXTERNAL_MEMORY_HOST} nor {vk.EXTERNAL_MEMORY_DMA_BUF}"
    driver = f"{LIBRARY} {vk.version(it.version)}{', ' if it.driver else ''}{it.driver}"
    unified = it.type in (vk.INTEGRATED_GPU, vk.CPU)
    alignment = int(it.limits.minStorageBufferOffsetAlignment)
    return DeviceInfo(f"vulkan:{number}", "vulkan", it.name, driver, unified, zero_copy, alignment)
