"""One Vulkan device of this process, as its driver has it: opened, asked for its limits, torn down in the right order.

Whoever makes something of the driver's notes on a stack how to undo it, and hands that to `owned`: it is undone when
its owner is gone, in reverse order. Each owner keeps the `Driver`, so the device and the instance go last. Nothing is
undone in a forked child, whose driver is its parent's, nor once the interpreter ends: then the device is left idle, and
the operating system takes all.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from ctypes import byref
from typing import Any

from ..errors import DeviceUnavailable
from . import vulkan_api as vk

__all__ = ["Driver", "PhysicalDevice", "api", "enumerated", "preferred"]

LIBRARY = "libvulkan.so.1"
WANTED = (vk.EXTERNAL_MEMORY_HOST, vk.EXTERNAL_MEMORY_FD, vk.EXTERNAL_MEMORY_DMA_BUF)


@functools.cache
def api() -> vk.Api:
    """The loader of Vulkan; $PSYNE_LIBVULKAN names another one. Raises DeviceUnavailable."""
    library = os.environ.get("PSYNE_LIBVULKAN", LIBRARY)
    try:
        return vk.Api(library)
    except (OSError, AttributeError) as error:
        raise DeviceUnavailable(
            f"no Vulkan 1.1: {error}. Debian has it as libvulkan1, with mesa-vulkan-drivers for GPUs of AMD and Intel "
            "and for the CPU; NVIDIA's comes with its driver"
        ) from error


class Instance:
    """An instance of Vulkan, and the devices that it sees."""

    def __init__(self) -> None:
        self.api: vk.Api = api()
        self.handle: ctypes.c_void_p = ctypes.c_void_p()
        newest = ctypes.c_uint32()
        self.api.vkEnumerateInstanceVersion(byref(newest))
        self.version: int = min(newest.value, vk.API_VERSION_1_2)
        application = vk.ApplicationInfo(pApplicationName=b"psyne", pEngineName=b"psyne", apiVersion=self.version)
        info = vk.InstanceCreateInfo(pApplicationInfo=ctypes.pointer(application))
        self.api.vkCreateInstance(byref(info), None, byref(self.handle))

    def physical_devices(self) -> list[PhysicalDevice]:
        """Those that speak Vulkan 1.1, the one to take first: GPUs of their own, those in the CPU, software."""
        n = ctypes.c_uint32()
        self.api.vkEnumeratePhysicalDevices(self.handle, byref(n), None)
        handles = (ctypes.c_void_p * n.value)()
        self.api.vkEnumeratePhysicalDevices(self.handle, byref(n), handles)
        return preferred([PhysicalDevice(self, handle) for handle in handles[: n.value] if handle])

    def close(self) -> None:
        self.api.vkDestroyInstance(self.handle, None)


class PhysicalDevice:
    """What a device says of itself."""

    def __init__(self, instance: Instance, handle: int) -> None:
        self.api: vk.Api = instance.api
        self.handle: int = handle
        self.extensions: set[str] = self._extensions()
        properties, host = vk.PhysicalDeviceProperties2(), vk.PhysicalDeviceExternalMemoryHostPropertiesEXT()
        more, driver = vk.PhysicalDeviceMaintenance3Properties(), vk.PhysicalDeviceDriverProperties()
        self.api.vkGetPhysicalDeviceProperties2(handle, byref(properties))
        self.version: int = min(properties.apiVersion, instance.version)
        asked = [properties, more]
        if vk.EXTERNAL_MEMORY_HOST in self.extensions:
            asked.append(host)
        if self.version >= vk.API_VERSION_1_2:
            asked.append(driver)
        if self.version >= vk.API_VERSION_1_1:
            self.api.vkGetPhysicalDeviceProperties2(handle, byref(vk.chained(*asked)))
        self.name: str = properties.deviceName.decode(errors="replace")
        self.type: int = properties.deviceType if properties.deviceType <= vk.CPU else vk.OTHER
        self.driver: str = " ".join(
            text.decode(errors="replace") for text in (driver.driverName, driver.driverInfo) if text
        )
        self.limits: Any = properties.limits
        self.max_allocation: int = more.maxMemoryAllocationSize
        self.pointer_alignment: int = host.minImportedHostPointerAlignment
        self.queue_family: int = self._queue_family()

    @property
    def usable(self) -> bool:
        return self.version >= vk.API_VERSION_1_1 and self.queue_family >= 0

    def external_features(self, usage: int, handle_type: int) -> int:
        """VkExternalMemoryFeatureFlags of buffers over memory of such a handle."""
        info = vk.PhysicalDeviceExternalBufferInfo(usage=usage, handleType=handle_type)
        properties = vk.ExternalBufferProperties()
        self.api.vkGetPhysicalDeviceExternalBufferProperties(self.handle, byref(info), byref(properties))
        return int(properties.externalMemoryFeatures)

    def features(self) -> vk.Structure:
        """All features that it has: kernels may use what they find, and no access leaves its buffer."""
        asked = [vk.PhysicalDeviceFeatures2()]
        if self.version >= vk.API_VERSION_1_2:
            asked += [vk.PhysicalDeviceVulkan11Features(), vk.PhysicalDeviceVulkan12Features()]
        features = vk.chained(*asked)
        self.api.vkGetPhysicalDeviceFeatures2(self.handle, byref(features))
        return features

    def _extensions(self) -> set[str]:
        n = ctypes.c_uint32()
        self.api.vkEnumerateDeviceExtensionProperties(self.handle, None, byref(n), None)
        found = (vk.ExtensionProperties * n.value)()
        self.api.vkEnumerateDeviceExtensionProperties(self.handle, None, byref(n), found)
        return {it.extensionName.decode() for it in found[: n.value]}

    def _queue_family(self) -> int:
        n = ctypes.c_uint32()
        self.api.vkGetPhysicalDeviceQueueFamilyProperties(self.handle, byref(n), None)
        families = (vk.QueueFamilyProperties * n.value)()
        self.api.vkGetPhysicalDeviceQueueFamilyProperties(self.handle, byref(n), families)
        return next((i for i, family in enumerate(families) if family.queueFlags & vk.QUEUE_COMPUTE), -1)


def preferred(found: list[PhysicalDevice]) -> list[PhysicalDevice]:
    """Those that can be used, in their order."""
    order = (vk.DISCRETE_GPU, vk.INTEGRATED_GPU, vk.VIRTUAL_GPU, vk.OTHER, vk.CPU)
    return sorted((it for it in found if it.usable), key=lambda it: order.index(it.type))


class Driver:
    """An open device with one queue."""

    def __init__(self, number: int) -> None:
        self.api: vk.Api = api()
        self.lock: threading.Lock = threading.Lock()  # of the queue
        self.state: _State = _State()
        with ExitStack() as undo:
            instance = Instance()
            undo.callback(instance.close)
            self.instance: ctypes.c_void_p = instance.handle
            self.physical: PhysicalDevice = instance.physical_devices()[number]
            self.queue_family: int = self.physical.queue_family
            self.extensions: list[str] = [name for name in WANTED if name in self.physical.extensions]
            self.handle: ctypes.c_void_p = self._device()
            undo.callback(self.api.vkDestroyDevice, self.handle, None)
            self.queue: ctypes.c_void_p = ctypes.c_void_p()
            self.api.vkGetDeviceQueue(self.handle, self.queue_family, 0, byref(self.queue))
            self._load()
            self._memory = vk.PhysicalDeviceMemoryProperties()
            self.api.vkGetPhysicalDeviceMemoryProperties(self.physical.handle, byref(self._memory))
            weakref.finalize(self, _undone, self.state, undo.pop_all()).atexit = False
        _open.add(self)

    def owned(self, owner: object, undo: ExitStack) -> Callable[[], object]:
        """Undoes what `undo` has noted when the owner is gone, or when what this returns is called."""
        it = weakref.finalize(owner, _undone, self.state, undo.pop_all(), self)
        it.atexit = False
        return it

    def made(self, create: str, destroy: str, info: Any, undo: ExitStack) -> int:
        """A handle from a call that makes one, with its destruction noted."""
        handle = ctypes.c_uint64()
        getattr(self.api, create)(self.handle, byref(info), None, byref(handle))
        undo.callback(getattr(self.api, destroy), self.handle, handle.value, None)
        return handle.value

    def memory_type(self, bits: int, flags: int) -> int | None:
        """The first type of memory of those in `bits` that has all the flags."""
        types = self._memory.memoryTypes[: self._memory.memoryTypeCount]
        return next((i for i, it in enumerate(types) if bits >> i & 1 and it.propertyFlags & flags == flags), None)

    @property
    def ours(self) -> bool:
        """May it be called? Not in a forked child, nor when the interpreter has ended."""
        return self.state.ours

    def wait_idle(self) -> None:
        with self.lock:
            self.api.vkDeviceWaitIdle(self.handle)

    def leave(self) -> None:
        """The interpreter ends: whatever finalisers still run must not call the driver."""
        if self.ours:
            with suppress(vk.VulkanError):  # the device was lost
                self.wait_idle()
            self.state.left = True

    def _device(self) -> ctypes.c_void_p:
        priorities = (ctypes.c_float * 1)(1.0)
        queue = vk.DeviceQueueCreateInfo(queueFamilyIndex=self.queue_family, queueCount=1, pQueuePriorities=priorities)
        features = self.physical.features()
        info = vk.DeviceCreateInfo(
            pNext=ctypes.addressof(features),
            queueCreateInfoCount=1,
            pQueueCreateInfos=ctypes.pointer(queue),
            enabledExtensionCount=len(self.extensions),
            ppEnabledExtensionNames=vk.addresses(*self.extensions),
        )
        handle = ctypes.c_void_p()
        self.api.vkCreateDevice(self.physical.handle, byref(info), None, byref(handle))
        return handle

    def _load(self) -> None:
        """Calls of extensions; each device has addresses of its own."""
        self.calls: dict[str, Callable[..., Any]] = {
            name: vk.device_call(self.api, self.handle, name)
            for name, extension in vk.EXTENSION_OF.items()
            if extension in self.extensions
        }


class _State:
    """Outlives its driver."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.left: bool = False

    @property
    def ours(self) -> bool:
        return not self.left and os.getpid() == self.pid


def _undone(state: _State, undo: ExitStack, *_: object) -> None:
    if state.ours:
        undo.close()


_open: weakref.WeakSet[Driver] = weakref.WeakSet()


@atexit.register
def _leave_all() -> None:
    for driver in list(_open):
        driver.leave()


def enumerated() -> list[PhysicalDevice]:
    """What devices there are. Their handles are of an instance that is gone: a fork after this hurts nobody."""
    try:
        instance = Instance()
    except vk.VulkanError as error:
        raise DeviceUnavailable(
            f"Vulkan has no driver ({error}): apt install mesa-vulkan-drivers; VK_DRIVER_FILES names one by its .json"
        ) from error
    try:
        return instance.physical_devices()
    finally:
        instance.close()
