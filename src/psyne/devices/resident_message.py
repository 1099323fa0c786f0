"""Messages in memory of a GPU: what libraries take as it is, and the fence that their streams wait for.

::

    sender's stream   ── kernel ── record fence ┐ commit
                                                ▼
    receiver's stream            wait for fence ── kernel ── event ┐ the keeper waits for it
                                                                   ▼ and gives the slot back

A message is told of each stream that uses it: by ``__dlpack__(stream=)``, by ``wait(stream)``, or at its end. That
stream waits for the fence, and the end of the message waits for that stream; nothing waits on the CPU.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import _native
from ..errors import CannotShare, MessageReleased, NotALoan, ReadOnly, ViewsAlive
from ..info import Info
from ..types import MessageMeta
from ..types.resident import Resident
from . import cuda_driver as cu
from .contract import Event
from .cuda import Cuda, CudaEvent, _Tensor, number_of
from .keeper import Keeper
from .resident_memory import Fence, Memory

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Literal, Self

    from numpy.typing import NDArray

__all__ = ["Lease", "ResidentMessage", "array_like", "join", "untouchable"]


def array_like(slot: MessageMeta) -> NDArray[Any]:
    """An array with the dtype, shape and strides of the messages of such slots, whose elements nobody may touch."""
    of = cast("type[Resident]", slot).__of__
    return untouchable(of.__layout__.dtype, of.__layout__.shape, None, fortran=of.__schema__.get("order") == "F")


def untouchable(
    dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...] | None, *, fortran: bool = False
) -> NDArray[Any]:
    """An array that describes elements which lie elsewhere. ``strides``: None, they lie together."""
    if strides is None:
        steps = [dtype.itemsize]
        for n in shape if fortran else reversed(shape):
            steps.append(steps[-1] * n)
        strides = tuple(steps[:-1] if fortran else steps[-2::-1])
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides, writeable=False)


def join(device: Cuda, stream: int, other: int) -> None:
    """What the stream is given from now on comes after what the other one has to do now."""
    event = CudaEvent(device, other)
    with device.context() as driver:
        driver.call("cuStreamWaitEvent", stream, event._event, 0)


class Lease:
    """A slot in use: by its message, and by what libraries made of it. With the last of them gone it is given back."""

    def __init__(
        self, device: Cuda, slot: Any, memory: Memory, fence: Fence, pointer: int, keeper: Keeper, *, loan: bool
    ) -> None:  # fmt: skip
        self.device: Cuda = device
        self.pointer: int = pointer
        self.loan: bool = loan
        self._lent = loan
        self._memory, self._fence, self._keeper = memory, fence, keeper
        self._streams: dict[int, None] = {}  # that were told; the last one last
        self.slot: Any = slot
        self._view: NDArray[Any] | None = self.slot.array  # for others the slot is one that is looked at

    def wait(self, stream: int) -> None:
        """The stream waits for the fence, and the end of this for the stream."""
        with self.device.context() as driver:
            driver.call("cuStreamWaitEvent", stream, self._fence.event, 0)  # FENCE
        self.tell(stream)

    def tell(self, stream: int) -> None:
        """The end of this waits for the stream."""
        # Whoever ends it may be another thread; the legacy stream waits for the default streams of all.
        stream = cu.LEGACY if stream == cu.PER_THREAD else stream
        self._streams.pop(stream, None)
        self._streams[stream] = None

    def record(self) -> None:
        """The fence comes after all that the streams have to do now; of several the last one waits for the others."""
        *others, last = self._streams or (cu.LEGACY,)
        for stream in others:
            join(self.device, last, stream)
        with self.device.context() as driver:
            driver.call("cuEventRecord", self._fence.event, last)  # FENCE

    def send(self, *, used: bool) -> None:
        """Publish the loan. ``used``: libraries still have it, and its slot is not lent again before they let go."""
        self._over(used)
        self.slot.__exit__(None, None, None)

    def discard(self, *, used: bool) -> None:
        """Take the loan back. Who has the slot next waits for what streams still write there."""
        with suppress(cu.CudaError):  # a broken context writes nothing any more
            self.record()
        self._over(used)
        self.slot.discard()

    def _over(self, used: bool) -> None:
        self.loan = False
        if not used:
            self._view = None
            self._streams.clear()

    @property
    def event(self) -> Event:
        """Done when the bytes of the message are there."""
        return _FenceEvent(self.device, self._fence)

    def __del__(self) -> None:
        if getattr(self, "slot", None) is None or os.getpid() != self.device._pid:
            return
        if self.loan:
            return self.discard(used=False) if self.slot._open else None
        streams = self._streams or (() if self._lent else (cu.LEGACY,))
        with suppress(cu.CudaError):
            work = _Work([CudaEvent(self.device, stream) for stream in streams])
            if not work.done():
                self._keeper.keep_until(work, (self.slot, self._view, self._memory, self._fence))
        return None


class _FenceEvent(CudaEvent):
    """A fence as who waits on the CPU has it."""

    def __init__(self, device: Cuda, fence: Fence) -> None:
        self._device, self._event, self._views = device, fence.event, ()
        self._fence = fence

    def __del__(self) -> None:
        pass  # the event is the fence's


class _Work(Event):
    """What several streams have to do."""

    def __init__(self, events: list[CudaEvent]) -> None:
        self._events = events

    def done(self) -> bool:
        return all(event.done() for event in self._events)

    def wait(self, timeout: float | None = None) -> bool:
        for event in self._events:
            event.wait()
        return True


class _Export:
    """What a tensor keeps."""

    def __init__(self, lease: Lease) -> None:
        self.lease: Lease = lease


class ResidentMessage(_Tensor):
    """A message in memory of a GPU: torch, CuPy, numba, JAX and Warp have it as it is, by ``from_dlpack(m)``.

    A loan is written there and sent by its ``with`` block or by ``out.send(m, stream=s)``. What was received is
    read-only by agreement alone: memory of a GPU has no pages that only read.
    """

    def __init__(self, lease: Lease, like: NDArray[Any], sender: object = None) -> None:
        self.device: Cuda = lease.device
        self._gpu = lease.device
        self._lease: Lease | None = lease
        self._sender = sender
        self._like = like
        self._exports: weakref.WeakSet[_Export] = weakref.WeakSet()
        self._pinned: Lease | None = None

    @property
    def pointer(self) -> int:  # type: ignore[override]
        """The address of the first element on the device. Streams that use it are to be told: `wait`."""
        return self._used().pointer

    @property
    def shape(self) -> tuple[int, ...]:
        return self._like.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._like.dtype

    @property
    def strides(self) -> tuple[int, ...]:
        """In bytes."""
        return self._like.strides

    @property
    def nbytes(self) -> int:
        return self._like.nbytes

    @property
    def info(self) -> Info:
        """Sequence, sender, redelivered, timestamp."""
        return cast("Info", self._used().slot.info)

    @property
    def event(self) -> Event:
        """Done when the bytes are there: for who waits on the CPU, or will not wait for a sender that was killed."""
        return self._used().event

    @property
    def array(self) -> NDArray[Any]:
        """Raises CannotShare: the CPU does not have these bytes."""
        raise CannotShare(
            f"this message is in memory of {self.device.name}, which the CPU does not have: torch.from_dlpack(m) and "
            "cupy.from_dlpack(m) take it as it is, m.numpy() copies it"
        )

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[Any]:
        return self.array

    def wait(self, stream: Any = None) -> None:
        """Before a kernel of one's own: the stream waits for the bytes, and the end of the message for the stream.

        ``stream``: one of torch, CuPy, numba or cuda.core, or its number; None: the legacy default stream.
        """
        self._used().wait(number_of(stream))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For libraries without DLPack. Asking pins the message: its slot is kept until the object is gone.

        The legacy default stream waits for the fence, and is the one that they are told to keep to.
        """
        lease = self._used()
        told = super().__cuda_array_interface__
        lease.wait(cu.LEGACY)
        self._pinned = lease
        return told | {"stream": cu.LEGACY}

    def __dlpack__(
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> object:  # fmt: skip
        """A DLPack capsule, which keeps the slot. The consumer's stream waits for the fence, unless it is -1.

        Below version 1.0 a consumer cannot be told that what was received is read-only.
        """
        lease = self._used()
        export = _Export(lease)
        writable = lease.loan or max_version is None or max_version[0] < 1
        kept = _native.array_at(self._like, self._like.__array_interface__["data"][0], export, writable)
        capsule = self._capsule(kept, stream, {"max_version": max_version, "dl_device": dl_device, "copy": copy})
        self._exports.add(export)
        return capsule

    def _before(self, stream: int) -> None:
        self._used().wait(stream)

    def check_writable(self, what: str) -> None:
        """Raises ReadOnly for what was received: memory of a GPU would not stop a kernel."""
        if not self._used().loan:
            raise ReadOnly(f"{what} would write, and this message was received: only loans are written there")

    def numpy(self) -> NDArray[Any]:
        """A copy of it in memory of the CPU. Waits for the bytes."""
        lease = self._used()
        lease.wait(cu.LEGACY)
        there = np.empty(self.nbytes, "u1")
        with self.device.context() as driver:
            driver.call("cuMemcpyDtoHAsync_v2", there.ctypes.data, lease.pointer, there.nbytes, cu.LEGACY)
            driver.call("cuStreamSynchronize", cu.LEGACY)
        return np.ndarray(self.shape, self.dtype, there.data, strides=self.strides)

    def release(self, stream: Any = None) -> None:
        """End the message now. Its slot is given back when this stream, and those told before, have done their work.

        Raises ViewsAlive while tensors have it. A loan is discarded.
        """
        if (lease := self._lease) is None:
            return
        if lease.loan:
            return self.discard()
        if self._in_use():
            raise ViewsAlive(
                "tensors still use this message; drop them, then release() it (the end of a with block or loop step "
                "does not need that). What takes __cuda_array_interface__ keeps the message itself"
            )
        if stream is not None:
            lease.tell(number_of(stream))
        self._lease = None
        return None

    def discard(self) -> None:
        """Take the loan back: nothing is sent when its block ends."""
        if (lease := self._lease) is None:
            return
        if not lease.loan:
            raise NotALoan("a received message cannot be discarded; release() it")
        self._lease = None
        lease.discard(used=self._in_use())

    def _send(self, stream: Any) -> None:
        """Publish the loan, its fence after what the stream and those that were told before have to do now."""
        lease = self._used()
        if stream is not None:
            lease.tell(number_of(stream))
        lease.record()
        self._lease = None
        lease.send(used=self._in_use())

    def __enter__(self) -> Self:
        self._used()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        lease = self._lease
        if lease is not None and lease.loan:
            self._send(None) if kind is None else self.discard()
        self._lease = None
        return False

    def __repr__(self) -> str:
        state = "" if self._lease else ", released"
        return f"<psyne message of {self.dtype}{list(self.shape)} on {self.device.name}{state}>"

    def _elements(self) -> tuple[NDArray[Any], bool]:
        return self._like, self._used().loan

    def _in_use(self) -> bool:
        """Do tensors have it?"""
        return bool(self._exports) or self._pinned is not None

    def _used(self) -> Lease:
        self.device.check_open()
        if self._lease is None:
            raise MessageReleased(
                "this message was sent, discarded or released (by the end of its with block or loop step, or by "
                "release()); keep a tensor of it, or numpy() it before"
            )
        return self._lease
