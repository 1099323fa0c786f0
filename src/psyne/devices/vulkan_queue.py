"""The queue of a Vulkan device: what is recorded, submitted and waited for."""

from __future__ import annotations

import ctypes
import threading
import time
from contextlib import ExitStack, suppress
from ctypes import byref
from typing import TYPE_CHECKING, Any

from . import vulkan_api as vk
from .contract import Event, check_process

if TYPE_CHECKING:
    from .vulkan_driver import Driver

__all__ = ["Job", "VulkanEvent"]

SLICE_NS = 100_000_000  # of a wait: Ctrl-C comes between two

BEGIN: vk.Structure = vk.CommandBufferBeginInfo(flags=vk.COMMAND_BUFFER_ONE_TIME_SUBMIT)
BOTH = vk.STAGE_COMPUTE | vk.STAGE_TRANSFER
# What a job wrote is seen by the CPU and by all jobs after it.
WRITTEN: vk.Structure = vk.MemoryBarrier(
    srcAccessMask=vk.ACCESS_SHADER_WRITE | vk.ACCESS_TRANSFER_WRITE,
    dstAccessMask=vk.ACCESS_SHADER_READ
    | vk.ACCESS_SHADER_WRITE
    | vk.ACCESS_TRANSFER_READ
    | vk.ACCESS_TRANSFER_WRITE
    | vk.ACCESS_HOST_READ
    | vk.ACCESS_HOST_WRITE,
)


class Job:
    """A command buffer and its fence, used again and again: recorded, submitted, done, put back where it came from.

    Each has a pool of its own, so threads record at the same time.
    """

    def __init__(self, driver: Driver, home: list[Any]) -> None:
        self.driver: Driver = driver
        self.home: list[Any] = home
        """Where it goes when it is done."""
        with ExitStack() as undo:
            self._make(undo)
            driver.owned(self, undo)

    def _make(self, undo: ExitStack) -> None:
        driver, api = self.driver, self.driver.api
        pool = vk.CommandPoolCreateInfo(flags=vk.COMMAND_POOL_TRANSIENT, queueFamilyIndex=driver.queue_family)
        self._pool = driver.made("vkCreateCommandPool", "vkDestroyCommandPool", pool, undo)
        self._commands = (ctypes.c_void_p * 1)()
        info = vk.CommandBufferAllocateInfo(commandPool=self._pool, commandBufferCount=1)
        api.vkAllocateCommandBuffers(driver.handle, byref(info), self._commands)
        self.commands: int = self._commands[0] or 0
        self._fence = driver.made("vkCreateFence", "vkDestroyFence", vk.FenceCreateInfo(), undo)
        self.fences: ctypes.Array[ctypes.c_uint64] = vk.listed(ctypes.c_uint64, [self._fence])
        self._submit = vk.SubmitInfo(commandBufferCount=1, pCommandBuffers=self._commands)

    def begin(self) -> int:
        """Begins to record anew; the command buffer."""
        api = self.driver.api
        api.vkResetCommandPool(self.driver.handle, self._pool, 0)
        api.vkBeginCommandBuffer(self.commands, byref(BEGIN))
        return self.commands

    def submit(self, *kept: object) -> VulkanEvent:
        """Ends the recording and hands it to the device. The event holds `kept` until it is done."""
        driver, api = self.driver, self.driver.api
        api.vkCmdPipelineBarrier(self.commands, BOTH, BOTH | vk.STAGE_HOST, 0, 1, byref(WRITTEN), 0, None, 0, None)
        api.vkEndCommandBuffer(self.commands)
        api.vkResetFences(driver.handle, 1, self.fences)
        event = VulkanEvent(self, kept)
        with driver.lock:
            try:
                api.vkQueueSubmit(driver.queue, 1, byref(self._submit), self._fence)
                event.under_way = True
            except BaseException:  # Ctrl-C comes before the call, or after it
                api.vkDeviceWaitIdle(driver.handle)
                raise
        return event


class VulkanEvent(Event):
    """Work that a Vulkan device has been given. Who drops it waits for it, so a kernel that nobody asks about is done.

    It keeps the messages that the work uses until it is done.
    """

    def __init__(self, job: Job, kept: tuple[object, ...]) -> None:
        self._job: Job | None = job
        self._kept: tuple[object, ...] = kept
        self._lock = threading.Lock()
        self._failure: vk.VulkanError | None = None
        self.under_way: bool = False

    def done(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> bool:
        until = None if timeout is None else time.monotonic() + timeout
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        try:
            while (job := self._job) is not None:
                if job.driver.state.left:
                    return True  # and left idle
                check_process(job.driver.state.pid)
                left = SLICE_NS if until is None else min(SLICE_NS, max(0, int((until - time.monotonic()) * 1e9)))
                if self._over(job, left):
                    self._job = None
                elif until is not None and time.monotonic() >= until:
                    return False
            if self._failure is not None:
                raise self._failure
            return True
        finally:
            self._lock.release()

    def _over(self, job: Job, nanoseconds: int) -> bool:
        try:
            if job.driver.api.vkWaitForFences(job.driver.handle, 1, job.fences, 1, nanoseconds) == vk.TIMEOUT:
                return False
            job.home.append(job)
        except vk.VulkanError as error:
            self._failure = error  # the device was lost: nothing is under way any more
        self._kept = ()
        return True

    def __del__(self) -> None:
        if self._job is not None and self.under_way and self._job.driver.ours:
            with suppress(vk.VulkanError):  # nobody asks
                self.wait()

    def __repr__(self) -> str:
        return f"<psyne.devices event of Vulkan, {'under way' if self._job is not None else 'done'}>"
