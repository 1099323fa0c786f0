"""Memory of a GPU that several processes have: what a sender shares, and what receivers open by its handles.

::

    sender    │ slot 0 │ slot 1 │ slot 2 │ …      one allocation, an event for each slot
                  ▲
    receiver  ────┘ by the handles of both, opened once

NVIDIA's handles of 64 bytes (``cuIpc…``), since they fit into a slot: those of its virtual memory are file descriptors,
which only a socket carries, and events have no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ctypes import byref, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, TypeVar

from ..errors import CannotShare, DeviceUnavailable, NoSpace, PeerCorrupted
from ..types.resident import Record
from . import cuda_driver as cu

if TYPE_CHECKING:
    from .cuda import Cuda

__all__ = ["UNIT", "Fence", "Imports", "Memory", "Shared", "share"]

T = TypeVar("T")
UNIT = 256  # bytes; a multiple of it is where a message begins
BLOCK = 2 << 20  # bytes; the driver shares whole blocks of them, with whatever else lies there
MEMORIES, FENCES = 16, 4096  # of other processes that a receiver keeps open; and events of a sender at most


class Fence:
    """The event of a slot. What its message's bytes are made by comes before it."""

    def __init__(self, device: Cuda, event: c_void_p, *, closes: bool) -> None:
        self._device = device
        self._closes = closes
        self.event: c_void_p = event

    def __del__(self) -> None:
        if self._closes:
            self._device.forget("cuEventDestroy_v2", self.event)


class Memory:
    """An allocation, here or of another process."""

    _closes = False

    def __init__(self, device: Cuda, pointer: int, nbytes: int, *, closes: bool) -> None:
        self._device = device
        self._closes = closes
        self.pointer: int = pointer
        self.nbytes: int = nbytes

    def __del__(self) -> None:
        if self._closes:
            self._device.forget("cuIpcCloseMemHandle", self.pointer)


class Shared(Memory):
    """The memory of a sender. It is the process's until that ends.

    The driver must not free what another process may still have open, and nobody knows whether one has: a sender that
    closes leaves it to the next one here.
    """

    def __init__(self, device: Cuda, slots: int, stride: int) -> None:
        nbytes = -(-slots * stride // BLOCK) * BLOCK
        with device.context() as driver:
            pointer = c_uint64()
            try:
                driver.call("cuMemAlloc_v2", byref(pointer), nbytes)
            except cu.CudaError as error:
                raise NoSpace(
                    f"{device.name} has no {nbytes} bytes for {slots} messages of {stride}: {error.strerror}; lower "
                    "capacity="
                ) from error
        super().__init__(device, pointer.value, nbytes, closes=False)
        self.slots: int = slots
        self.stride: int = stride
        self.fences: list[Fence] = []
        self.handle: bytes = b""
        handles: list[bytes] = []
        try:
            self._export(handles)
        except cu.CudaError as error:
            for fence in self.fences:
                device.forget("cuEventDestroy_v2", fence.event)
            device.forget("cuMemFree_v2", self.pointer)
            raise DeviceUnavailable(
                f"{device.name} does not share {nbytes} bytes and {slots} events with other processes: {error.strerror}"
            ) from error
        self.records: list[bytes] = [
            Record(device.uuid, self.handle, nbytes, number * stride, handle).packed()
            for number, handle in enumerate(handles)
        ]
        self.by_handle: dict[bytes, Fence] = dict(zip(handles, self.fences, strict=True))

    def _export(self, handles: list[bytes]) -> None:
        handle = cu.Handle()
        with self._device.context() as driver:
            driver.call("cuIpcGetMemHandle", byref(handle), self.pointer)
            self.handle = bytes(handle)
            for _ in range(self.slots):  # all at once: drivers before 460 may hang where they come one by one
                event = c_void_p()
                driver.call("cuEventCreate", byref(event), cu.INTERPROCESS | cu.NO_TIMES)
                self.fences.append(Fence(self._device, event, closes=False))
                driver.call("cuIpcGetEventHandle", byref(handle), event)
                handles.append(bytes(handle))

    def idle(self) -> bool:
        """Is all work done that was to write there?"""
        with self._device.context() as driver:
            return all(driver.result("cuEventQuery", fence.event) == 0 for fence in self.fences)

    def leave(self) -> None:
        """Nobody reads or writes there any more: the next sender may have it."""
        with _lock:
            _spare.append(self)


_lock = threading.Lock()
_shared: dict[bytes, Shared] = {}  # by its handle, all of this process
_spare: list[Shared] = []


def share(device: Cuda, slots: int, stride: int) -> Shared:
    """Memory for so many messages. Raises NoSpace, DeviceUnavailable."""
    with _lock:
        for found in _spare:
            if (found._device.uuid, found.slots, found.stride) == (device.uuid, slots, stride):
                _spare.remove(found)
                return found
    made = Shared(device, slots, stride)
    with _lock:
        _shared[made.handle] = made
    return made


class Imports:
    """What one receiver has open of the memories of senders; those that were used last."""

    def __init__(self, device: Cuda) -> None:
        self._device = device
        self._memories: dict[bytes, Memory] = {}
        self._fences: dict[bytes, Fence] = {}

    def close(self) -> None:
        """Those that messages use stay open as long as these."""
        self._memories.clear()
        self._fences.clear()

    def find(self, record: Record, nbytes: int) -> tuple[Memory, Fence]:
        """Where a message of so many bytes is, and its fence. Raises CannotShare, PeerCorrupted."""
        if record.uuid != self._device.uuid:
            raise CannotShare(
                f"this message is in memory of another GPU: {record.uuid.hex()}; {self._device.name} is "
                f"{self._device.uuid.hex()}"
            )
        own = _shared.get(record.memory)  # the driver does not open what is the process's own
        memory = own or _cached(self._memories, MEMORIES, record.memory, lambda: self._open_memory(record))
        if record.begin % UNIT or record.begin + nbytes > min(memory.nbytes, record.size):
            raise PeerCorrupted(
                f"a message of {nbytes} bytes at byte {record.begin} leads out of memory of {memory.nbytes} bytes on "
                f"{self._device.name}, or does not begin at a multiple of {UNIT}"
            )
        if own is None:
            return memory, _cached(self._fences, FENCES, record.fence, lambda: self._open_fence(record))
        if (fence := own.by_handle.get(record.fence)) is None:
            raise PeerCorrupted("a message's fence is none of its sender's")
        return memory, fence

    def _open_memory(self, record: Record) -> Memory:
        pointer, begin, size = c_uint64(), c_uint64(), c_size_t()
        with self._device.context() as driver:
            try:
                handle = cu.Handle.from_buffer_copy(record.memory)
                driver.call("cuIpcOpenMemHandle_v2", byref(pointer), handle, cu.LAZY_PEER_ACCESS)
            except cu.CudaError as error:
                raise self._refused("memory", error) from error
            # A driver that does not know how long it is leaves the sender's word for it.
            known = driver.result("cuMemGetAddressRange_v2", byref(begin), byref(size), pointer) == 0
        return Memory(self._device, pointer.value, size.value if known else record.size, closes=True)

    def _open_fence(self, record: Record) -> Fence:
        event = c_void_p()
        with self._device.context() as driver:
            try:
                driver.call("cuIpcOpenEventHandle", byref(event), cu.Handle.from_buffer_copy(record.fence))
            except cu.CudaError as error:
                raise self._refused("fence", error) from error
        return Fence(self._device, event, closes=True)

    def _refused(self, what: str, error: cu.CudaError) -> CannotShare:
        return CannotShare(
            f"{self._device.name} does not open the {what} of a message: {error.strerror}. Its sender's process is "
            "gone, or in a container with an IPC namespace of its own (docker run --ipc=host)"
        )


def _cached(known: dict[bytes, T], most: int, key: bytes, make: Callable[[], T]) -> T:
    found = known.pop(key, None)
    if found is None:
        found = make()
    known[key] = found  # the one used last comes last
    while len(known) > most:
        del known[next(iter(known))]
    return found
