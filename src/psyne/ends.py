"""The two ends of a channel."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from . import _native
from .address import channel_directory, channel_name, program_name
from .errors import ChannelNotFound, Empty, IncompatibleChannel, InvalidArgument, LayoutMismatch
from .info import Info
from .stage import PATTERNS, Pattern, Stage, chain
from .types import Message, MessageMeta, difference, type_from_schema

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["Batch", "Receiver", "Sender", "receiver", "sender"]

M = TypeVar("M", bound=Message)
T = TypeVar("T")
Wait = Literal["adaptive", "spin", "block"]

_open_ends: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Ends that a program forgot to close are closed, not lost, when it exits by itself."""
    for end in list(_open_ends):
        end.close()


class Batch(_native.Batch, Generic[T], metaclass=MessageMeta):
    """Consecutive messages of one sender as one array: ``batch.array`` has the shape (k, \\*shape)."""

    if TYPE_CHECKING:

        @property
        def array(self) -> NDArray[Any]:
            """All messages as one array over the same memory."""
            ...

        @property
        def info(self) -> Info:
            """Of the first message."""
            ...

        def __len__(self) -> int: ...
        def __getitem__(self, field: str) -> NDArray[Any]: ...
        def __setitem__(self, field: str, value: Any) -> None: ...
        def truncate(self, n: int) -> None:
            """Send only the first n of a loan."""

        def discard(self) -> None:
            """Take the loan back."""

        def release(self) -> None:
            """End the batch now. Raises BufferError while views on it live."""

        def copy(self) -> NDArray[Any]:
            """All messages as one array in private memory."""
            ...

        def __enter__(self) -> Self: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
        ) -> Literal[False]: ...


class Sender(_native.SenderEnd, Generic[M]):
    """The sending end of a channel; `psyne.sender` opens one. One thread uses it at a time; any may close it."""

    def __init__(
        self, address: str, types: tuple[type[M], ...], *, pattern: Pattern | None,
        stages: Sequence[Stage | str] | None,
        capacity: int | None, full: Literal["block", "drop"], align: int | None, wait: Wait,
    ) -> None:  # fmt: skip
        super().__init__()
        name, directory = channel_name(address), channel_directory()
        cls = _only_type(types)
        _check(pattern, (None, *PATTERNS), "pattern")
        _check(full, ("block", "drop"), "full")
        _check(wait, ("adaptive", "spin", "block"), "wait")
        if capacity is not None and (not isinstance(capacity, int) or capacity < 1):
            raise InvalidArgument(f"capacity is a number of messages, 1 or more; got {capacity!r}")
        if capacity is not None and capacity >= 1 << 63:
            raise InvalidArgument(f"no memory holds {capacity} messages; lower capacity=")
        if align is not None and (align < 1 or align & (align - 1) or align > 1 << 21):
            raise InvalidArgument(f"align is a power of two up to 2 MiB; got {align!r}")
        there = _native.describe(directory, name)
        if cls is None:
            if there is None:
                raise ChannelNotFound(f"there is no channel {address}; give its type to make it")
            cls = type_from_schema(there["schema"])
        wanted: Pattern = pattern or (PATTERNS[there["pattern"]] if there else "mpsc")
        graph = chain(stages) if stages is not None else there["stages"] if there else chain(["main"])
        try:
            _native.open_sender(
                self, directory, name, cls.__schema__, PATTERNS.index(wanted), graph, capacity or 0, align or 0,
                full == "drop", wait, program_name(), cls, cls.__layout__, Batch,
            )  # fmt: skip
        except LayoutMismatch as error:
            raise _mismatch(directory, name, cls.__schema__, wanted, graph) from error
        _open_ends.add(self)

    def close(self) -> None:
        """Leave the channel. Loans that are open are taken back; waits in progress raise ChannelClosed."""
        self._close(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(kind is not None and issubclass(kind, Exception))

    def __repr__(self) -> str:
        return f"<psyne.Sender {self.address}{', closed' if self.closed else ''}>"

    if TYPE_CHECKING:

        def loan(self, timeout: float | None = None) -> M:
            """A slot to write in place. The end of its ``with`` block sends it, an exception takes it back.

            Raises Full after ``timeout`` seconds (0 does not wait), ChannelClosed, LeaseLimit.
            """
            ...

        def try_loan(self) -> M | None:
            """A slot, or None when the ring is full."""

        def loan_many(self, n: int, timeout: float | None = None) -> Batch[M]:
            """Exactly n consecutive slots. Raises ValueError for n above the capacity, Full.

            Where n slots do not fit into the rest of the ring, that rest is skipped (and passed by the receivers):
            let n divide the capacity, and be at most half of it.
            """
            ...

        def send(self, message: Any, timeout: float | None = None) -> bool:
            """Copy one message in and send it; one's own loan is sent in place. False: dropped (``full="drop"``).

            Raises LayoutMismatch for another dtype or shape, Full.
            """
            ...

        def send_many(self, array: Any, timeout: float | None = None) -> None:
            """Copy any number of messages, an array of shape (k, \\*shape), and send them."""

        def drain(self, timeout: float | None = None) -> None:
            """Wait until every stage has passed all that was sent. Raises Full at the time-out."""


class Receiver(_native.ReceiverEnd, Generic[M]):
    """The receiving end of a channel; `psyne.receiver` opens one. One thread uses it at a time; any may close it."""

    def __init__(
        self, address: str, types: tuple[type[M], ...], *, stage: str | None, wait: Wait, follow: bool
    ) -> None:
        super().__init__()
        self._name, self._directory = channel_name(address), channel_directory()
        self._asked = _only_type(types)
        self._stage, self._wait, self._follow = stage or "", wait, follow
        _check(wait, ("adaptive", "spin", "block"), "wait")
        self._join()
        _open_ends.add(self)

    def _join(self) -> bool:
        """Join the channel if it exists, and learn its type."""
        if not _native.open_receiver(
            self, self._directory, self._name, self._stage, self._wait, program_name(), self._follow
        ):
            return False
        schema = _native.schema(self)
        cls = self._asked
        try:
            if cls is None:
                cls = type_from_schema(schema)
            elif cls.__schema__ != schema:
                raise LayoutMismatch(f"{self.address} has another layout: {difference(schema, cls.__schema__)}")
            _native.give_type(self, cls, cls.__layout__, Batch)
        except (LayoutMismatch, IncompatibleChannel):
            _native.leave(self)
            raise
        return True

    def _await_channel(self, deadline: int) -> None:
        """Wait for a sender to make the channel; raises Empty at the deadline (nanoseconds, monotonic)."""
        while not self._join():
            if self.closed or not _native.watch(self._directory, deadline):
                break
        if not self.joined and not self.closed:
            raise Empty(f"no sender has made {self.address} in time")

    def close(self) -> None:
        """Leave the channel. Views that are alive stay valid; waits in progress raise ChannelClosed."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __repr__(self) -> str:
        return f"<psyne.Receiver {self.address}{', closed' if self.closed else ''}>"

    if TYPE_CHECKING:

        def receive(self, timeout: float | None = None) -> M:
            """The next message; its ``with`` block, ``release()`` or the last reference gone ends it.

            Raises Empty after ``timeout`` seconds, EndOfChannel, SenderLost, ChannelClosed, LeaseLimit.
            """
            ...

        def try_receive(self) -> M | None:
            """The next message, or None when there is none now."""

        def receive_many(self, n: int, timeout: float | None = None, linger: float = 0.0) -> Batch[M]:
            """1 to n consecutive messages of one sender; after the first waits ``linger`` seconds for more."""
            ...

        def try_receive_many(self, n: int) -> Batch[M] | None:
            """1 to n messages, or None when there is none now."""

        def batches(self, n: int, linger: float = 0.0) -> Iterator[Batch[M]]:
            """Iterate over `receive_many`; each step ends the batch before it."""
            ...

        def __iter__(self) -> Iterator[M]: ...


@overload
def sender(
    address: str, type: type[M], /, *, pattern: Pattern | None = None, stages: Sequence[Stage | str] | None = None,
    capacity: int | None = None, full: Literal["block", "drop"] = "block", align: int | None = None,
    wait: Wait = "adaptive",
) -> Sender[M]: ...  # fmt: skip
@overload
def sender(
    address: str, /, *, pattern: Pattern | None = None, stages: Sequence[Stage | str] | None = None,
    capacity: int | None = None, full: Literal["block", "drop"] = "block", align: int | None = None,
    wait: Wait = "adaptive",
) -> Sender[Any]: ...  # fmt: skip
def sender(
    address: str, /, *types: type[Any], pattern: Pattern | None = None, stages: Sequence[Stage | str] | None = None,
    capacity: int | None = None, full: Literal["block", "drop"] = "block", align: int | None = None,
    wait: Wait = "adaptive",
) -> Sender[Any]:  # fmt: skip
    """Open the sending end of a channel; the first sender makes it.

    The types, ``stages`` (a chain; default ``["main"]``) and ``pattern`` (senders of the channel, members of each
    stage; default ``"mpsc"``) are the channel's: a later sender leaves them out or repeats them. ``capacity``
    (messages; default what fits in 32 MiB, 8 to 4096), ``full``, ``align`` (bytes) and ``wait`` are this end's own.

    Raises LayoutMismatch, ChannelBusy, ChannelNotFound, NoSpace, IncompatibleChannel, InvalidArgument.
    """
    return Sender(address, types, pattern=pattern, stages=stages, capacity=capacity, full=full, align=align, wait=wait)


@overload
def receiver(
    address: str, type: type[M], /, *, stage: str | None = None, wait: Wait = "adaptive", follow: bool = False
) -> Receiver[M]: ...
@overload
def receiver(
    address: str, /, *, stage: str | None = None, wait: Wait = "adaptive", follow: bool = False
) -> Receiver[Any]: ...
def receiver(
    address: str, /, *types: type[Any], stage: str | None = None, wait: Wait = "adaptive", follow: bool = False
) -> Receiver[Any]:
    """Open a receiving end: a member of ``stage`` (may be left out when there is only one).

    Opening never waits: without a channel yet, the first receive waits for one and joins it. Until then this end is
    no member, and a sender that comes and goes before leaves nothing, unless it drains. Without a type the channel
    describes itself.
    ``follow``: after the last sender, wait for the next one instead of ending.

    Raises LayoutMismatch, ChannelBusy, IncompatibleChannel, InvalidArgument.
    """
    return Receiver(address, types, stage=stage, wait=wait, follow=follow)


def _only_type(types: tuple[type[Any], ...]) -> Any:
    if len(types) > 1:
        raise InvalidArgument(f"this version carries one type per channel; got {len(types)}")
    for cls in types:
        if not isinstance(cls, MessageMeta) or not hasattr(cls, "__layout__"):
            raise LayoutMismatch(f"a message type is a subclass of Struct or an Array(dtype, shape); got {cls!r}")
        return cls
    return None


def _check(value: object, allowed: tuple[object, ...], what: str) -> None:
    if value not in allowed:
        raise InvalidArgument(f"{what}={value!r}; it is one of {', '.join(repr(a) for a in allowed if a)}")


def _mismatch(directory: str, name: str, schema: str, pattern: str, graph: list[Any]) -> LayoutMismatch:
    there = _native.describe(directory, name)
    text = f"ipc://{name} exists and its senders live, but its "
    if there is None:
        return LayoutMismatch(text + "layout was another one; it is gone now, try again")
    if there["schema"] != schema:
        return LayoutMismatch(text + f"types are others: {difference(there['schema'], schema)}")
    if PATTERNS[there["pattern"]] != pattern:
        return LayoutMismatch(text + f"pattern is {PATTERNS[there['pattern']]!r}, not {pattern!r}; leave it out")
    theirs, yours = ([stage[0] for stage in g] for g in (there["stages"], graph))
    return LayoutMismatch(text + f"stages are {theirs}, not {yours} (or differ in mutate or on_crash); leave them out")
