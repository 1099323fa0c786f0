"""Channels whose messages stay in memory of a GPU: ``psyne.sender(address, Array(…), device="cuda:0")``.

The slots in shared memory have a record (`psyne.types.resident`) that says where the message is. Lanes, words, waiting
and recovery are those of every channel: for them a message is a record. Verified against a stand-in driver only.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never, cast

from .. import _native, log
from ..address import channel_place
from ..ends import Receiver, Sender
from ..errors import (
    ChannelClosed,
    ChannelNotFound,
    Empty,
    EndOfChannel,
    Full,
    InvalidArgument,
    LeaseLimit,
    PsyneError,
)
from ..options import ResidentReceiverOptions, ResidentSenderOptions
from ..stage import Stage
from ..types import MessageMeta, as_type
from ..types.resident import Record, Resident, resident_type
from ..types.schema import check_memory, types_in
from . import device as device_of
from .cuda import Cuda, CudaEvent, number_of
from .keeper import Keeper
from .resident_memory import FENCES, UNIT, Imports, Shared, share
from .resident_message import Lease, ResidentMessage, array_like
from .resident_source import Source, source_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ResidentReceiver", "ResidentSender", "open_receiver", "open_sender"]

KIND = "cuda"
ROOM = 32 << 20  # bytes of the usual ring
LEAST, MOST = 8, 64  # messages in it
SLICE = 0.1  # seconds between looks whether the end was closed
PAGE = 4096  # bytes from one record to the next: rings of smaller ones round their capacity up
STAMPED = 4096  # bytes of a message from which on it usually has a timestamp


class ResidentSender(Sender[Any]):
    """The sending end of a channel whose messages are in memory of a GPU, which this end allocates.

    That memory is the process's until it ends, and so are the messages: `drain` before.
    """

    def __init__(self, address: str, slot: MessageMeta, device: Cuda, memory: Shared, **options: Any) -> None:
        self._device = device
        self._memory = memory
        self._like = array_like(slot)
        self._keeper = Keeper()
        self._loans: weakref.WeakSet[Lease] = weakref.WeakSet()
        super().__init__(address, [slot], capacity=memory.slots, align=PAGE, **options)

    @property
    def device(self) -> Cuda:
        return self._device

    def loan(self, *, timeout: float | None = None) -> ResidentMessage:  # type: ignore[override]
        """Memory on the device to write in place. The end of its ``with`` block sends it, an exception takes it back.

        Raises Full after ``timeout`` seconds (0 does not wait), ChannelClosed, LeaseLimit, ForkedError.
        """
        self._device.check_open()
        lend = super().loan
        return self._lent(_patiently(self._keeper, timeout, Full, lambda left: lend(timeout=left), super().try_loan))

    def try_loan(self) -> ResidentMessage | None:  # type: ignore[override]
        """Memory on the device, or None when the ring is full."""
        self._device.check_open()
        slot = _or_none(self._keeper, super().try_loan)
        return None if slot is None else self._lent(slot)

    def send(self, message: object, timeout: float | None = None, after: object = None, *, stream: Any = None) -> bool:
        """Send one's own loan, whose bytes are there when ``stream`` has done what it has to do now; or copy one in.

        ``stream``: one of torch, CuPy, numba or cuda.core, or its number; None: those that the loan was told of, or the
        legacy default stream. What is copied lies on the same device or in memory of the CPU, and ``stream`` copies it.

        Raises LayoutMismatch for another dtype, shape or order of what is copied, Full, NotALoan, MessageReleased.
        """
        self._check_after(after)
        if isinstance(message, ResidentMessage) and message._sender is self:
            message._send(stream)
            return True
        source = self._source(message)
        self._send_copy(self.loan(timeout=timeout), source, stream)
        return True

    def _try_send(self, message: object, *, stream: Any = None) -> bool | None:
        """`send` of what is copied, if there is room."""
        source = self._source(message)
        loan = self.try_loan()
        if loan is None:
            return None
        self._send_copy(loan, source, stream)
        return True

    def loan_many(self, *_: object, **__: object) -> Never:
        _refuse("loan_many()")

    def send_many(self, *_: object, **__: object) -> Never:
        _refuse("send_many()")

    def _send_some(self, *_: object) -> Never:
        _refuse("send_many()")

    def call(self, *_: object, **__: object) -> Never:
        _refuse("call()")

    def _close(self, failed: bool = False) -> None:
        if self.closed or os.getpid() != self._device._pid:
            return super()._close(failed)
        try:
            unread = self.joined and not _native.passed(self)
        finally:
            super()._close(failed)
        if not unread and not self._loans and self._memory.idle():
            self._memory.leave()
        elif unread:
            log.warn(
                f"{self.address} was closed before its messages were read: they are in memory of this process, and "
                "lost when it ends; drain() waits until they are read"
            )
        return None

    def _lent(self, slot: Any) -> ResidentMessage:
        number = slot.info.sequence % self._memory.slots  # positions of messages that live differ by less
        slot._write(self._memory.records[number])
        pointer = self._memory.pointer + number * self._memory.stride
        fence = self._memory.fences[number]
        lease = Lease(self._device, slot, self._memory, fence, pointer, self._keeper, loan=True)
        self._loans.add(lease)
        return ResidentMessage(lease, self._like, self)

    def _source(self, message: object) -> Source:
        return source_of(message, self._like, self.address)

    def _send_copy(self, loan: ResidentMessage, source: Source, stream: Any) -> None:
        with loan:
            number = number_of(stream)
            loan.wait(number)
            source.copy(loan, number)
            self._keeper.keep_until(CudaEvent(self._device, number), source)

    def _check_after(self, after: object) -> None:
        if after is not None:
            raise InvalidArgument(
                f"after={after!r}: a message in memory of a GPU has a fence of its own, which does not hold anyone up: "
                "send(m, stream=s)"
            )


class ResidentReceiver(Receiver[Any]):
    """The receiving end of a channel whose messages are in memory of a GPU; what it gives are `ResidentMessage`s."""

    def __init__(self, address: str, types: Sequence[object], device: Cuda, **options: Any) -> None:
        self._device = device
        self._imports = Imports(device)
        self._likes: dict[MessageMeta, NDArray[Any]] = {}
        self._keeper = Keeper()
        asked = [resident_type(as_type(cls), KIND) for cls in types]
        super().__init__(address, asked, **options)

    def _join(self) -> bool:
        self._asked = self._asked or [Resident]  # whatever type it is, but on the device
        return super()._join()

    @property
    def device(self) -> Cuda:
        return self._device

    def receive(self, timeout: float | None = None) -> ResidentMessage:
        """The next message; its ``with`` block, ``release()`` or the last reference gone ends it.

        Raises Empty after ``timeout`` seconds, EndOfChannel, SenderLost, ChannelClosed, LeaseLimit; CannotShare for a
        message that this process cannot open, PeerCorrupted: both end it, and the next call goes on.
        """
        self._device.check_open()
        return self._taken(_patiently(self._keeper, timeout, Empty, super().receive, super().try_receive))

    def try_receive(self) -> ResidentMessage | None:
        """The next message, or None when there is none now."""
        self._device.check_open()
        slot = _or_none(self._keeper, super().try_receive)
        return None if slot is None else self._taken(slot)

    def __iter__(self) -> Iterator[ResidentMessage]:
        while True:
            try:
                message = self.receive()
            except (EndOfChannel, ChannelClosed):
                return
            yield message
            message.__exit__(None, None, None)
            del message

    def receive_many(self, *_: object, **__: object) -> Never:
        _refuse("receive_many()")

    def try_receive_many(self, *_: object, **__: object) -> Never:
        _refuse("try_receive_many()")

    def receive_into(self, *_: object, **__: object) -> Never:
        _refuse("receive_into()")

    def batches(self, *_: object, **__: object) -> Never:
        _refuse("batches()")

    def close(self) -> None:
        super().close()
        self._imports.close()

    def _taken(self, slot: Any) -> ResidentMessage:
        cls = cast("MessageMeta", type(slot))
        if (like := self._likes.get(cls)) is None:
            like = self._likes[cls] = array_like(cls)
        try:
            record = Record.of(slot)
            memory, fence = self._imports.find(record, like.nbytes)
        except BaseException:
            slot.release()  # whoever keeps the error keeps no slot
            raise
        pointer = memory.pointer + record.begin
        return ResidentMessage(Lease(self._device, slot, memory, fence, pointer, self._keeper, loan=False), like)


def _patiently(
    keeper: Keeper, timeout: float | None, late: type[PsyneError], wait: Callable[[float | None], Any],
    attempt: Callable[[], Any],
) -> Any:  # fmt: skip
    """What waiting gives. That all slots are held by this end is no error while streams still use some."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        kept = keeper.kept()
        try:
            return wait(left)
        except LeaseLimit:
            if not kept:
                raise
        if (got := _or_none(keeper, attempt)) is not None:  # which also looks whether somebody died
            return got
        if left == 0:
            raise late(f"streams still use {kept} messages, and all slots are held by this end")
        keeper.less(kept, SLICE if left is None else min(left, SLICE))


def _or_none(keeper: Keeper, attempt: Callable[[], Any]) -> Any:
    kept = keeper.kept()
    try:
        return attempt()
    except LeaseLimit:
        if not kept:
            raise
        return None


def open_sender(address: str, types: Sequence[object], device: object, options: Mapping[str, Any]) -> ResidentSender:
    """`psyne.sender` with ``device=``."""
    _check(address, options, ResidentSenderOptions)
    for stage in options.get("stages") or ():
        _check_stage(stage)
    slot, gpu = _slot_type(address, types), _device(device)
    rest = dict(options)
    nbytes = array_like(slot).nbytes
    stride = -(-nbytes // UNIT) * UNIT
    if rest.get("timestamps") is None:
        rest["timestamps"] = nbytes >= STAMPED
    memory = share(gpu, _capacity(rest.pop("capacity", None), stride), stride)
    try:
        return ResidentSender(address, slot, gpu, memory, **rest)
    except BaseException:
        memory.leave()
        raise


def _capacity(asked: object, stride: int) -> int:
    if asked is None:
        return max(LEAST, min(MOST, ROOM // stride))
    if not isinstance(asked, int) or not 1 <= asked <= FENCES:
        raise InvalidArgument(
            f"capacity={asked!r}; with device= it is a number of messages from 1 to {FENCES}, each with an event that "
            "processes share"
        )
    return asked


def open_receiver(
    address: str, types: Sequence[object], device: object, options: Mapping[str, Any]
) -> ResidentReceiver:
    """`psyne.receiver` with ``device=``."""
    _check(address, options, ResidentReceiverOptions)
    _check_stage(options.get("stage"))
    return ResidentReceiver(address, types, _device(device), **options)


def _device(name: object) -> Cuda:
    if not isinstance(name, str) or name.partition(":")[0] != KIND:
        raise InvalidArgument(
            f'device={name!r}; messages stay in memory of CUDA devices alone: "cuda:0". Other devices view messages in '
            "memory of the CPU: psyne.device(name).view(m)"
        )
    return cast("Cuda", device_of(name))


def _check(address: object, options: Mapping[str, object], known: type) -> None:
    if isinstance(address, str) and address.startswith("tcp://"):
        raise InvalidArgument(f"device= is for channels of this host: ipc://name, not {address!r}")
    for name in options:
        if name not in known.__annotations__:
            raise InvalidArgument(
                f"{name}={options[name]!r} is for messages in memory of the CPU; with device= there are "
                f"{', '.join(known.__annotations__)}"
            )


def _check_stage(stage: object) -> None:
    if isinstance(stage, Stage) and stage.mutate:
        raise InvalidArgument(
            f"stage {stage.name!r} writes to messages, which have the fence of their sender alone: in memory of a GPU "
            "stages read; send what it makes on a channel of its own"
        )


def _refuse(what: str) -> Never:
    raise InvalidArgument(
        f"{what} is for messages in memory of the CPU; a channel with device= has one message at a time: loan(), "
        "try_loan(), send(), receive(), try_receive(), and iteration"
    )


def _slot_type(address: str, types: Sequence[object]) -> MessageMeta:
    """What lies in the slots for this type, or for the channel's own."""
    if len(types) > 1:
        raise InvalidArgument(f"a channel with device= carries one type; got {len(types)}")
    if types:
        return resident_type(as_type(types[0]), KIND)
    there = _native.describe(*channel_place(address))
    if there is None:
        raise ChannelNotFound(f"there is no channel {address}; give its type to make it")
    check_memory(there["schema"], [Resident], address)
    return types_in(there["schema"])[0]
