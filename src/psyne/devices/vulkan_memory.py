"""Buffers of Vulkan: over the pages of messages, never with a copy, and in memory of the device itself.

Two ways to bring pages to a driver, tried in this order where it has them:

- as a pointer (VK_EXT_external_memory_host): the mapping itself. lavapipe takes any pages; AMD's driver on Linux
  refuses those of a file, which all shared memory is.
- as a dma-buf that /dev/udmabuf makes of sealed memory (VK_EXT_external_memory_dma_buf): for anonymous channels, since
  files cannot be sealed. Verified against a stand-in only.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
from collections.abc import Callable
from contextlib import ExitStack
from ctypes import byref, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CannotShare, NoSpace
from . import vulkan_api as vk

if TYPE_CHECKING:
    from .. import _native
    from .vulkan_driver import Driver

__all__ = ["Buffer", "address_of", "allocated", "imported", "ways"]

UDMABUF = "/dev/udmabuf"
UDMABUF_CREATE = 0x40187542  # _IOW('u', 0x42, struct udmabuf_create)
UDMABUF_FLAGS_CLOEXEC = 1

_serials = itertools.count(1)


class Buffer:
    """A buffer and the memory that it is bound to. They go with it."""

    def __init__(self, driver: Driver, handle: int, memory: int, nbytes: int, undo: ExitStack) -> None:
        self.handle: int = handle
        self.memory: int = memory
        self.nbytes: int = nbytes
        self.serial: int = next(_serials)  # handles are used again, and this is not
        self.free: Callable[[], object] = driver.owned(self, undo)
        """Now, when nothing uses it any more."""


def ways(driver: Driver) -> list[str]:
    """How this device can have pages of ours; empty: it cannot."""
    return [name for name, (extensions, _) in WAYS.items() if all(it in driver.extensions for it in extensions)]


def imported(driver: Driver, mapping: _native.Mapping, writable: bool) -> Buffer:
    """A buffer over the pages of a mapping, which must stay as long as it. Raises CannotShare."""
    refusals = []
    for name in ways(driver):
        try:
            return WAYS[name][1](driver, mapping, writable)
        except (CannotShare, vk.VulkanError) as error:
            refusals.append(f"{name}: {error}")
    reasons = (
        "; ".join(refusals) or f"its driver has neither {vk.EXTERNAL_MEMORY_HOST} nor {vk.EXTERNAL_MEMORY_DMA_BUF}"
    )
    raise CannotShare(
        f"{driver.physical.name} cannot have these {mapping.nbytes:,} bytes at {mapping.address:#x} in place. {reasons}"
    )


def allocated(driver: Driver, nbytes: int, *, visible: bool = False) -> Buffer:
    """A buffer in memory of the device, or in memory that the CPU sees, at `address_of`. Raises NoSpace."""
    with ExitStack() as undo:
        usage = vk.BUFFER_STORAGE | vk.BUFFER_TRANSFER_SRC | vk.BUFFER_TRANSFER_DST
        handle = driver.made("vkCreateBuffer", "vkDestroyBuffer", vk.BufferCreateInfo(size=nbytes, usage=usage), undo)
        needs = vk.MemoryRequirements()
        driver.api.vkGetBufferMemoryRequirements(driver.handle, handle, byref(needs))
        wanted = vk.MEMORY_HOST_VISIBLE | vk.MEMORY_HOST_COHERENT if visible else vk.MEMORY_DEVICE_LOCAL
        kind = driver.memory_type(needs.memoryTypeBits, wanted)
        try:
            info = vk.MemoryAllocateInfo(allocationSize=needs.size, memoryTypeIndex=kind or 0)
            return _bound(driver, handle, nbytes, info, undo)
        except vk.VulkanError as error:
            raise NoSpace(f"{driver.physical.name} has no {nbytes:,} bytes for this: {error}") from error


def address_of(driver: Driver, buffer: Buffer) -> int:
    """Where the CPU sees a visible buffer, as long as it is there; once only."""
    address = c_void_p()
    driver.api.vkMapMemory(driver.handle, buffer.memory, 0, vk.WHOLE_SIZE, 0, byref(address))
    return address.value or 0


def _from_pointer(driver: Driver, mapping: _native.Mapping, writable: bool) -> Buffer:
    unit = driver.physical.pointer_alignment
    if mapping.address % unit or mapping.nbytes % unit:
        raise CannotShare(
            f"address and size must be multiples of {unit:,} bytes, and their rests are {mapping.address % unit:,} and "
            f"{mapping.nbytes % unit:,}"
        )
    properties = vk.MemoryHostPointerPropertiesEXT()
    driver.calls["vkGetMemoryHostPointerPropertiesEXT"](
        driver.handle, vk.HANDLE_HOST_ALLOCATION, mapping.address, byref(properties)
    )
    source = vk.ImportMemoryHostPointerInfoEXT(handleType=vk.HANDLE_HOST_ALLOCATION, pHostPointer=mapping.address)
    return _imported(driver, mapping.nbytes, writable, vk.HANDLE_HOST_ALLOCATION, properties.memoryTypeBits, source)


def _from_dma_buf(driver: Driver, mapping: _native.Mapping, writable: bool) -> Buffer:
    fd = dma_buf(mapping.fd, mapping.offset, mapping.nbytes)
    try:
        properties = vk.MemoryFdPropertiesKHR()
        driver.calls["vkGetMemoryFdPropertiesKHR"](driver.handle, vk.HANDLE_DMA_BUF, fd, byref(properties))
        source = vk.ImportMemoryFdInfoKHR(handleType=vk.HANDLE_DMA_BUF, fd=fd)
        made = _imported(driver, mapping.nbytes, writable, vk.HANDLE_DMA_BUF, properties.memoryTypeBits, source)
    except BaseException:
        os.close(fd)
        raise
    return made  # and the descriptor is the driver's


WAYS: dict[str, tuple[tuple[str, ...], Callable[[Driver, _native.Mapping, bool], Buffer]]] = {
    "as a pointer": ((vk.EXTERNAL_MEMORY_HOST,), _from_pointer),
    "as a dma-buf": ((vk.EXTERNAL_MEMORY_FD, vk.EXTERNAL_MEMORY_DMA_BUF), _from_dma_buf),
}


def dma_buf(memory: int, offset: int, nbytes: int) -> int:
    """A dma-buf, as a file descriptor, of sealed memory: the same pages. Raises CannotShare."""
    try:
        seals = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0  # no shared memory at all
    if not seals & fcntl.F_SEAL_SHRINK:
        raise CannotShare(
            f"{UDMABUF} takes memory that cannot shrink, and a file of a named channel can: psyne.channel() is sealed"
        )
    try:
        device = os.open(UDMABUF, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CannotShare(
            f"{error.strerror}: {UDMABUF}; modprobe udmabuf, and read and write for this user (often group kvm)"
        ) from error
    try:
        # For a bytearray ioctl() returns what the system call does; for bytes, the bytes.
        asked = bytearray(struct.pack("=IIQQ", memory, UDMABUF_FLAGS_CLOEXEC, offset, nbytes))
        return int(fcntl.ioctl(device, UDMABUF_CREATE, asked))
    except OSError as error:
        raise CannotShare(f"{UDMABUF} refuses {nbytes:,} bytes ({error.strerror}); its limit is {_limit()}") from error
    finally:
        os.close(device)


def _limit() -> str:
    try:
        return Path("/sys/module/udmabuf/parameters/size_limit_mb").read_text().strip() + " MiB (size_limit_mb)"
    except OSError:
        return "64 MiB, unless the module was told another (size_limit_mb)"


def _imported(
    driver: Driver, nbytes: int, writable: bool, handle_type: int, type_bits: int, source: vk.Structure
) -> Buffer:
    if nbytes > driver.physical.max_allocation:
        raise CannotShare(
            f"one piece of memory has at most {driver.physical.max_allocation:,} bytes there: a smaller capacity= "
            "makes smaller slabs"
        )
    usage = vk.BUFFER_STORAGE | vk.BUFFER_TRANSFER_SRC | (vk.BUFFER_TRANSFER_DST if writable else 0)
    features = driver.physical.external_features(usage, handle_type)
    if not features & vk.EXTERNAL_MEMORY_IMPORTABLE:
        raise CannotShare("the driver imports no such memory for storage buffers")
    with ExitStack() as undo:
        external = vk.ExternalMemoryBufferCreateInfo(handleTypes=handle_type)
        info = vk.chained(vk.BufferCreateInfo(size=nbytes, usage=usage), external)
        handle = driver.made("vkCreateBuffer", "vkDestroyBuffer", info, undo)
        needs = vk.MemoryRequirements()
        driver.api.vkGetBufferMemoryRequirements(driver.handle, handle, byref(needs))
        kind = driver.memory_type(needs.memoryTypeBits & type_bits, vk.MEMORY_HOST_COHERENT)
        if kind is None or needs.size > nbytes:
            raise CannotShare(
                f"the driver would not see what the CPU writes (types {needs.memoryTypeBits & type_bits:#x}), or needs "
                f"{needs.size:,} bytes for these {nbytes:,}"
            )
        chain = [vk.MemoryAllocateInfo(allocationSize=nbytes, memoryTypeIndex=kind), source]
        if features & vk.EXTERNAL_MEMORY_DEDICATED_ONLY:
            chain.append(vk.MemoryDedicatedAllocateInfo(buffer=handle))
        return _bound(driver, handle, nbytes, vk.chained(*chain), undo)


def _bound(driver: Driver, buffer: int, nbytes: int, info: vk.Structure, undo: ExitStack) -> Buffer:
    # The memory is freed before the buffer is destroyed, which Vulkan allows: nothing uses the buffer any more.
    memory = driver.made("vkAllocateMemory", "vkFreeMemory", info, undo)
    driver.api.vkBindBufferMemory(driver.handle, buffer, memory, 0)
    return Buffer(driver, buffer, memory, nbytes, undo)
