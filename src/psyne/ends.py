"""The two ends of a channel."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload

from . import _native, log
from .address import channel_place, program_name
from .after import After, Events, send_after
from .batch import Batch
from .errors import (
    ChannelClosed,
    ChannelNotFound,
    Empty,
    EventFailed,
    IncompatibleChannel,
    LayoutMismatch,
)
from .errors import Full as FullError
from .handover import Handover
from .listener import Handlers, Listener
from .options import Full, Wait, check_receiver_options, check_sender_options, growth_of
from .stage import PATTERNS, Pattern, Stage, added_stage, stage_graph
from .statistics import Statistics, statistics_of
from .types import Message, MessageMeta, as_type
from .types.schema import check_memory, difference, in_order_of, kinds_of, read_kinds, schema_of, types_in

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["Carrier", "Receiver", "Sender"]

M = TypeVar("M", bound=Message)
L = TypeVar("L", bound=Message)
R = TypeVar("R", bound=Message, covariant=True)  # a Receiver of Imu is one of Messages


class Carrier(Protocol):
    """What carries the channel of an end over a network."""

    def part(self) -> None:
        """The end has closed, and waits for nobody."""

    def then(self, call: Callable[[], object]) -> None:
        """Call once it carries nothing any more."""

    def wait(self) -> None:
        """Until what it sent has arrived, or ``linger`` is over."""


_open_ends: weakref.WeakSet[Any] = weakref.WeakSet()
_registered_in = 0


@atexit.register
def _close_all() -> None:
    """Ends that a program forgot to close are closed, not lost, when it exits by itself."""
    for end in list(_open_ends):
        try:
            end.close()
        except EventFailed as error:
            log.warn(str(error))


def _remember(end: object) -> None:
    """Processes of `multiprocessing` end without the handlers of `atexit`, but run finalizers of their own."""
    global _registered_in
    _open_ends.add(end)
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        Finalize(None, _close_all, exitpriority=-100)


class Sender(_native.SenderEnd, Generic[M]):
    """The sending end of a channel; `psyne.sender` opens one. One thread uses it at a time; any may close it."""

    _carrier: Carrier | None = None
    _events: Events | None = None  # that loans are sent after
    _program: str | None = None  # how it appears to others; None: by the name of the program

    def __init__(
        self, address: str, types: Sequence[object], *, pattern: Pattern | None = None,
        stages: Sequence[Stage | str] | None = None, capacity: int | None = None,
        full: Full = "block", budget: int | None = None, shrink_after: float | None = None, align: int | None = None,
        timestamps: bool | None = None, wait: Wait = "adaptive",
    ) -> None:  # fmt: skip
        super().__init__()
        self._handover: Handover | None = None
        place, name = channel_place(address)
        classes = [as_type(cls) for cls in types]
        check_sender_options(pattern, full, wait, capacity, align, timestamps)
        growth = growth_of(full, budget, shrink_after)
        there = _native.describe(place, name)
        if not classes:
            if there is None:
                raise ChannelNotFound(f"there is no channel {address}; give its type to make it")
            check_memory(there["schema"], classes, address)
            classes = types_in(there["schema"])
        elif there:
            classes = in_order_of(there["schema"], classes)
        schema = schema_of(classes)
        wanted: Pattern = pattern or (PATTERNS[there["pattern"]] if there else "mpsc")
        graph = stage_graph(stages) if stages is not None else there["stages"] if there else stage_graph(["main"])
        try:
            _native.open_sender(
                self, place, name, schema, PATTERNS.index(wanted), graph, capacity or 0, align or 0,
                full == "drop", growth, timestamps, wait, self._program or program_name(), kinds_of(classes), Batch,
            )  # fmt: skip
        except LayoutMismatch as error:
            raise _mismatch(place, name, address, schema, wanted, graph) from error
        _remember(self)

    @classmethod
    def _of(cls, handover: Handover) -> Self:
        """An end of an anonymous channel that has not joined yet; `psyne.channel` makes them."""
        end = cls.__new__(cls)
        _native.SenderEnd.__init__(end)
        end._handover = h = handover
        _native.prepare(end, h.memory.name, kinds_of(h.types), Batch, h.capacity, h.align, h.growth)
        return end

    def _join(self) -> None:
        """The first use of an end of an anonymous channel."""
        h = _open_handover(self._handover, self)
        _native.open_sender(
            self, h.memory.fd, h.memory.name, schema_of(h.types), PATTERNS.index(h.pattern), h.stages, h.capacity,
            h.align, h.drops, h.growth, h.timestamps, h.wait, program_name(), kinds_of(h.types), Batch,
        )  # fmt: skip
        _remember(self)

    def clone(self) -> Self:
        """Another end of the same kind, not joined yet. Only ends of `psyne.channel` have clones."""
        return type(self)._of(_open_handover(self._handover, self))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._of, (_open_handover(self._handover, self),)

    def close(self) -> None:
        """Leave the channel. Loans that are open are taken back; waits in progress raise ChannelClosed.

        First waits for the events that loans are to be sent after; Ctrl-C ends that and takes them back, too. Raises
        EventFailed for one that failed since the last call.
        """
        self._leave()
        _native.check_events(self)

    def _leave(self, failed: bool = False, waits: bool = True) -> None:
        try:
            if self._events is not None and waits:
                self._events.join()
        finally:
            self._close(failed)
            self._handover = None
            _closed(self)

    def _send_after(self, loan: object, event: After) -> bool:
        """What `send` does with an event."""
        if self._events is None or self._events.forked:
            self._events = Events()
        return send_after(self, loan, event, self._events)

    def _await_events(self, timeout: float | None) -> None:
        """What `drain` does first."""
        if self._events is not None and not self._events.join(timeout):
            left = self._events.left()
            raise FullError(f"{self.address} was not drained in time: {left} of its loans wait for their events")

    def statistics(self) -> Statistics:
        """What this end has counted since it was opened, and what it sees now."""
        return statistics_of(self)

    def __enter__(self) -> Self:
        if not self.joined and not self.closed:
            self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave(failed=kind is not None and issubclass(kind, Exception), waits=kind is None)
        _check_events(self, kind)

    def __repr__(self) -> str:
        return f"<psyne.Sender {self.address}{', closed' if self.closed else ''}>"

    if TYPE_CHECKING:

        @overload
        def loan(self, *, shape: int | tuple[int, ...] = ..., size: int = ..., timeout: float | None = None) -> M: ...
        @overload
        def loan(
            self, type: type[L], /, *, shape: int | tuple[int, ...] = ..., size: int = ..., timeout: float | None = None
        ) -> L: ...
        def loan(self, *args: Any, **kwargs: Any) -> Any:
            """A slot to write in place. The end of its ``with`` block sends it, an exception takes it back.

            ``type`` says which, in a channel of several; a base that one of them has will do. ``shape`` is that of a
            message that brings its own, ``size`` its length if it has one dimension. Without it the message is as
            long as its slot has room for (of a ring that grows: has room for now), to be truncated. Raises Full after
            ``timeout`` seconds (0 does not wait), ChannelClosed, LeaseLimit, ValueError for a shape beyond the type's
            ``max_bytes``, NoSpace for a message that alone exceeds ``budget``.
            """

        @overload
        def try_loan(self, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> M | None: ...
        @overload
        def try_loan(self, type: type[L], /, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> L | None: ...
        def try_loan(self, *args: Any, **kwargs: Any) -> Any:
            """A slot, or None when the ring is full."""

        @overload
        def loan_many(self, n: int, *, timeout: float | None = None) -> Batch[M]: ...
        @overload
        def loan_many(self, n: int, type: type[L], /, *, timeout: float | None = None) -> Batch[L]: ...
        def loan_many(self, n: int, *args: Any, **kwargs: Any) -> Any:
            """Exactly n consecutive slots. Raises ValueError for n above the capacity, Full.

            A ring that grows becomes as long as it needs to be; there n is above what its budget could ever hold.

            Where n slots do not fit into the rest of the ring, that rest is skipped (and passed by the receivers):
            let n divide the capacity, and be at most half of it. Raises TypeError for messages of their own shape.
            """

        def send(self, message: object, timeout: float | None = None, after: After | None = None) -> bool:
            """Copy one message in and send it; one's own loan is sent in place. False: dropped (``full="drop"``).

            ``after``: an event of a device that still writes into the loan, or a `concurrent.futures.Future`. The loan
            is over at once and sent when the event is done, by another thread. If its work fails nothing is sent, and
            the next call of this end raises EventFailed; if that has failed already, this one does.

            Raises LayoutMismatch for another dtype or shape, Full, TypeError for ``after`` of what is no own loan.
            """
            ...

        @overload
        def call(self, message: L, timeout: float | None = None) -> L: ...
        @overload
        def call(self, message: Batch[L], timeout: float | None = None) -> Batch[L]: ...  # type: ignore[overload-overlap]
        @overload
        def call(self, message: object, timeout: float | None = None) -> M: ...
        def call(self, message: object, timeout: float | None = None) -> Any:
            """Send a message as `send` does, wait until every stage has passed it, and give it back for reading.

            It is the same slot, with what mutating stages wrote, read-only; ended like a received one, by its ``with``
            block, ``release()`` or the last reference gone. The slot is not lent again before, nor while views live.

            Raises Full for no room and Empty for no answer, within ``timeout`` seconds for both; Full at once where
            ``full="drop"`` finds no room; TakenOut, ChannelClosed, LeaseLimit, LayoutMismatch, InvalidArgument for a
            channel without stages. The message stays sent in all cases that come after its commit.
            """
            ...

        def send_many(self, array: object, type: type[Message] | None = None, timeout: float | None = None) -> None:
            """Copy any number of messages, an array of shape (k, \\*shape), and send them.

            For messages in columns: a structured array, or a dict or batch with an array for each field.
            """

        def drain(self, timeout: float | None = None) -> None:
            """Wait until every stage has passed all that was sent. Raises Full at the time-out."""


class Receiver(_native.ReceiverEnd, Generic[R]):
    """The receiving end of a channel; `psyne.receiver` opens one. One thread uses it at a time; any may close it."""

    _carrier: Carrier | None = None
    _events: Events | None = None  # that messages are released after

    def __init__(
        self, address: str, types: Sequence[object], *, stage: str | Stage | None = None, new_stage: bool = False,
        wait: Wait = "adaptive", follow: bool = False, subset: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._handover: Handover | None = None
        self._place: str | int
        self._place, self._name = channel_place(address)
        self._asked: Sequence[MessageMeta] = [cls if cls is Message else as_type(cls) for cls in types]
        self._subset = subset
        check_receiver_options(wait, follow, subset, stage, new_stage)
        self._stage, self._added = added_stage(stage or "", new_stage)
        self._wait, self._follow, self._oldest_first = wait, follow, False
        self._join()
        _remember(self)

    @classmethod
    def _of(cls, handover: Handover) -> Self:
        """An end of an anonymous channel that has not joined yet; `psyne.channel` makes them."""
        end = cls.__new__(cls)
        _native.ReceiverEnd.__init__(end)
        end._handover = h = handover
        end._place, end._name, end._asked, end._subset = h.memory.fd, h.memory.name, h.types, False
        end._stage, end._added, end._wait, end._follow, end._oldest_first = (
            h.stage,
            h.added,
            h.wait,
            h.follow,
            h.oldest_first,
        )
        _native.prepare(end, end._name, kinds_of(h.types), Batch, 0, 0, None)
        return end

    def clone(self, stage: str | Stage | None = None, new_stage: bool = False) -> Self:
        """Another end of the same kind (or of another stage, which may be added), not joined yet.

        Only ends of `psyne.channel` have clones.
        """
        check_receiver_options("block", False, stage=stage, new_stage=new_stage)
        handover = _open_handover(self._handover, self)
        return type(self)._of(handover if stage is None else handover.of_stage(*added_stage(stage, new_stage)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._of, (_open_handover(self._handover, self),)

    def _join(self) -> bool:
        """Join the channel if it exists, and learn its type."""
        if not _native.open_receiver(
            self,
            self._place,
            self._name,
            self._stage,
            self._added,
            self._wait,
            program_name(),
            self._follow,
            self._oldest_first,
        ):
            return False
        try:
            kinds = read_kinds(_native.schema(self), self._asked, self._subset, self.address)
            _native.give_types(self, kinds, Batch)
        except (LayoutMismatch, IncompatibleChannel):
            _native.leave(self)
            raise
        if self._handover is not None:
            _remember(self)
        return True

    def _await_channel(self, deadline: int) -> None:
        """Wait for a sender to make the channel; raises Empty at the deadline (nanoseconds, monotonic)."""
        while not self._join():
            if self.closed or not _native.watch(self._place, deadline):
                break
        if not self.joined and not self.closed:
            raise Empty(f"no sender has made {self.address} in time")

    def close(self) -> None:
        """Leave the channel. Views that are alive stay valid; waits in progress raise ChannelClosed.

        First waits for the events that messages were released after; Ctrl-C ends that, and they go on all the same.
        Raises EventFailed for one that failed since the last call.
        """
        self._leave()
        _native.check_events(self)

    def _leave(self, waits: bool = True) -> None:
        try:
            if self._events is not None and waits:
                self._events.join()
        finally:
            self._close()
            self._handover = None
            _closed(self)

    def leave(self) -> int:
        """Close this end and hand the messages that it holds back to its stage; how many.

        Another member gets these, not flagged, for nobody died on them. Messages that arrays are kept of, or that a
        mutating stage has begun to change, stay this end's until they are ended, as `close` leaves all of them.
        Messages that were released after an event go on, and are waited for.
        """
        handed_back = self._give_back()
        self.close()
        return handed_back

    def listen(self, handlers: Handlers[R], *, on_error: Literal["stop", "log"] = "stop") -> Listener:
        """Call a function with every message, on a thread of its own; a message ends when the function returns.

        ``handlers``: the function, or a dictionary {message class: function}, where ``psyne.Message`` takes all
        classes that are not named. An exception stops the listener, is logged and raised by its ``join()``;
        ``on_error="log"`` goes on. Raises InvalidArgument for anything else.
        """
        return Listener(self, handlers, on_error)

    def statistics(self) -> Statistics:
        """What this end has counted since it was opened, and what it sees now."""
        return statistics_of(self)

    def __enter__(self) -> Self:
        if self._handover is not None and not self.joined:
            self._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave(waits=kind is None)
        _check_events(self, kind)

    def __repr__(self) -> str:
        return f"<psyne.Receiver {self.address}{', closed' if self.closed else ''}>"

    if TYPE_CHECKING:

        def receive(self, timeout: float | None = None) -> R:
            """The next message; its ``with`` block, ``release()`` or the last reference gone ends it.

            Raises Empty after ``timeout`` seconds, EndOfChannel, SenderLost, ChannelClosed, LeaseLimit.
            """
            ...

        def try_receive(self) -> R | None:
            """The next message, or None when there is none now."""

        def receive_many(self, n: int, timeout: float | None = None, linger: float = 0.0) -> Batch[R]:
            """1 to n consecutive messages of one sender; after the first waits ``linger`` seconds for more."""
            ...

        def try_receive_many(self, n: int) -> Batch[R] | None:
            """1 to n messages, or None when there is none now."""

        def receive_into(self, out: NDArray[Any], timeout: float | None = None, linger: float = 0.0) -> int:
            """Copy 1 to ``len(out)`` messages of all senders into an array, and end them; how many.

            For many small senders, whose batches would be short. ``out`` is C-contiguous, of shape (n, \\*shape) and of
            the channel's dtype. After the first message waits ``linger`` seconds for more. Raises as `receive`, and
            LayoutMismatch, ValueError.
            """
            ...

        def batches(self, n: int, linger: float = 0.0) -> Iterator[Batch[R]]:
            """Iterate over `receive_many`; each step ends the batch before it."""
            ...

        def __iter__(self) -> Iterator[R]: ...


class Carried(Protocol):
    """An end that may have a carrier."""

    _carrier: Carrier | None


def _check_events(end: Sender[Any] | Receiver[Any], kind: type[BaseException] | None) -> None:
    """Raises EventFailed for one that failed; at the end of a block whose own exception is not replaced."""
    try:
        _native.check_events(end)
    except EventFailed as error:
        if kind is None:
            raise
        log.warn(str(error))


def _closed(end: Carried) -> None:
    carrier, end._carrier = end._carrier, None
    if carrier is not None:
        carrier.part()
        carrier.wait()


def _open_handover(handover: Handover | None, end: Sender[Any] | Receiver[Any]) -> Handover:
    if handover is not None:
        return handover
    if end.closed:
        raise ChannelClosed(f"this end of {end.address} was closed")
    raise TypeError(
        f"an end of {end.address} is no use to another process or thread: open {end.address} there, "
        "or make ends that can be handed on with psyne.channel()"
    )


def _mismatch(place: str, name: str, address: str, schema: str, pattern: str, graph: list[Any]) -> LayoutMismatch:
    there = _native.describe(place, name)
    text = f"{address} exists and its senders live, but its "
    if there is None:
        return LayoutMismatch(text + "layout was another one; it is gone now, try again")
    if there["schema"] != schema:
        check_memory(there["schema"], types_in(schema), address)
        return LayoutMismatch(text + f"types are others: {difference(there['schema'], schema)}")
    if PATTERNS[there["pattern"]] != pattern:
        return LayoutMismatch(text + f"pattern is {PATTERNS[there['pattern']]!r}, not {pattern!r}; leave it out")
    theirs, yours = ([stage[0] for stage in g] for g in (there["stages"], graph))
    return LayoutMismatch(text + f"stages are {theirs}, not {yours} (or differ in mutate or on_crash); leave them out")
