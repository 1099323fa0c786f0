"""The ends, every wait a coroutine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, overload

from .. import _native, ends, taps
from ..after import After
from ..batch import Batch
from ..errors import ChannelClosed, ConcurrentUse, Empty, EndOfChannel
from ..stage import Stage
from ..statistics import Statistics, statistics_of
from ..types import Message
from ..waiting import ready
from .calls import Calls
from .loops import Doorbell, Wake, caller, sleep

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Loan", "Receiver", "Sender", "Tap"]

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message, covariant=True)
K = TypeVar("K", bound=Message)
L = TypeVar("L", bound="Message | Batch[Any]")
T = TypeVar("T")

MOST = 64  # calls in a row that did not go through the loop
LONGEST = 1_000_000  # ns of them
LINGER = 0.001  # seconds between looks for more


class EventLoopEnd:
    """What all ends share: waiting, turns of the loop, closing."""

    def __init__(self, end: ends.Sender[Any] | ends.Receiver[Any] | taps.Tap[Any]) -> None:
        self._bell = Doorbell(end)
        self._end: Any = end  # typed by the classes below
        self._waits = False
        self._calls, self._since = 0, time.monotonic_ns()

    @property
    def address(self) -> str:
        """Of the channel: ``ipc://name``."""
        return str(self._end.address)

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return bool(self._end.closed)

    @property
    def joined(self) -> bool:
        """Whether there is a channel and this end is a member of it."""
        return bool(self._end.joined)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._end,)  # of `psyne.aio.channel`; other ends say that they stay here

    def statistics(self) -> Statistics:
        """What this end has done and sees, as numbers. Tasks count as blocked while they wait."""
        return statistics_of(self._end)

    def fileno(self) -> int:
        """A descriptor for other event loops, as that of the blocking end."""
        return int(self._end.fileno())

    def close(self) -> None:
        """Leave the channel; waits of other tasks raise ChannelClosed. From any thread, and waits for nobody.

        Loans whose events are not done are taken back; received messages go on when theirs are. Over a network the loop
        sends what is left meanwhile. ``async with`` waits for all of it, and so does `Sender.drain`.
        """
        self._part()

    def _part(self, failed: bool = False) -> ends.Carrier | None:
        """Closes without waiting. What carries it, where it is one of a network."""
        end = self._end
        carrier: ends.Carrier | None = end._carrier
        end._carrier = None
        if isinstance(end, ends.Sender):
            end._leave(failed, waits=False)
        elif isinstance(end, ends.Receiver):
            end._leave(waits=False)
        else:
            end.close()
        self._bell.leave()
        if carrier is not None:
            carrier.part()
        return carrier

    async def _leave(self, failed: bool = False) -> None:
        """Closes, and waits until what was sent has arrived, as long as ``linger``; other tasks run meanwhile."""
        if (carrier := self._part(failed)) is not None:
            wake = Wake()
            carrier.then(caller(wake.set))
            await wake.wait()

    async def _await_events(self) -> None:
        """Until nothing is left that is to be sent, or to go on, after an event."""
        if (events := self._end._events) is not None and events.left():
            wake = Wake()
            events.then(caller(wake.set))
            await wake.wait()

    async def _await_events_and_leave(self, kind: type[BaseException] | None) -> None:
        """The end of a block."""
        try:
            if kind is None:
                await self._await_events()
        finally:
            await self._leave(kind is not None and issubclass(kind, Exception))
        ends._check_events(self._end, kind)

    async def _until(self, attempt: Callable[[], T | None]) -> T:
        """What `attempt` gives, as soon as it gives something."""
        if self._waits:
            raise ConcurrentUse(
                f"another task is waiting on this end of {self.address}; an end has one user at a time: open one for "
                "each task"
            )
        self._waits = True
        try:
            self._calls += 1
            if self._calls >= MOST or time.monotonic_ns() - self._since > LONGEST:
                await self._turn()  # nothing is taken yet: cancelling here loses nothing
            got = attempt()
            return got if got is not None else await self._watch(attempt)
        finally:
            self._waits = False

    async def _turn(self) -> None:
        """A turn of the loop for the others."""
        await sleep(0)
        self._calls, self._since = 0, time.monotonic_ns()

    async def _watch(self, attempt: Callable[[], T | None]) -> T:
        """What `attempt` gives, tried at each ring of the bell."""
        try:
            while True:
                _native.arm(self._end)
                got = attempt()
                if got is None:
                    await self._bell.rung()
                    self._calls, self._since = 0, time.monotonic_ns()
                    got = attempt()
                if got is not None:
                    _native.disarm(self._end, True)
                    return got
        except BaseException:
            _native.disarm(self._end, False)  # cancelled, perhaps with a wake in hand: somebody else gets it
            raise
        finally:
            self._bell.answered()

    def __del__(self) -> None:
        if bell := getattr(self, "_bell", None):
            bell.leave()


class Loan(Coroutine[Any, Any, L]):
    """A loan to come: ``m = await out.loan()``, or ``async with out.loan() as m``, whose end sends it."""

    def __init__(self, coming: Coroutine[Any, Any, L]) -> None:
        self._coming = coming
        self._loan: L | None = None

    def __await__(self) -> Generator[Any, Any, L]:
        return self._coming.__await__()

    def send(self, value: Any) -> Any:
        return self._coming.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coming.throw(*error)

    def close(self) -> None:
        self._coming.close()

    async def __aenter__(self) -> L:
        self._loan = loan = await self._coming
        return loan

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        assert self._loan is not None
        self._loan.__exit__(kind, error, trace)
        return False


class Sender(EventLoopEnd, Generic[M]):
    """The sending end; `psyne.aio.sender` opens one, ``aio.Sender(tx)`` takes over a blocking one."""

    def __init__(self, end: ends.Sender[M]) -> None:
        if not isinstance(end, ends.Sender):
            raise TypeError(
                f"aio.Sender(tx) takes over a psyne.Sender, not {end!r}; psyne.aio.sender(address) opens one"
            )
        super().__init__(end)
        self._tx = end
        self._answers = Calls(end)

    @property
    def capacity(self) -> int:
        """Messages in the ring of this sender."""
        return self._tx.capacity

    def clone(self) -> Self:
        """Another end of the same kind, not joined yet; only of `psyne.aio.channel`."""
        return type(self)(self._tx.clone())

    @overload
    def loan(self, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> Loan[M]: ...
    @overload
    def loan(self, type: type[K], /, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> Loan[K]: ...
    def loan(self, *args: Any, **kwargs: Any) -> Any:
        """A slot to write in place; waits for room. Raises ChannelClosed, LeaseLimit, ValueError."""
        lend = self._tx.loan if self._tx._drops else self._tx.try_loan
        return Loan(self._room(1, lambda: lend(*args, **kwargs)))

    @overload
    def try_loan(self, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> M | None: ...
    @overload
    def try_loan(self, type: type[K], /, *, shape: int | tuple[int, ...] = ..., size: int = ...) -> K | None: ...
    def try_loan(self, *args: Any, **kwargs: Any) -> Any:
        """A slot, or None when the ring is full."""
        return self._tx.try_loan(*args, **kwargs)

    @overload
    def loan_many(self, n: int) -> Loan[Batch[M]]: ...
    @overload
    def loan_many(self, n: int, type: type[K], /) -> Loan[Batch[K]]: ...
    def loan_many(self, n: int, *type: Any) -> Any:
        """Exactly n consecutive slots. Raises ValueError for n above the capacity (or the budget), TypeError."""
        tx = self._tx
        at_once = tx._drops or not 1 <= n <= tx._most
        return Loan(
            self._room(n, lambda: tx.loan_many(n, *type, timeout=0) if at_once or _native.room(tx, n) else None)
        )

    async def send(self, message: object, *, after: After | None = None) -> bool:
        """Copy one message in and send it; one's own loan is sent in place. False: dropped (``full="drop"``).

        ``after``: sends a loan when an event of a device is done, as `psyne.Sender.send` says; this waits for nothing.
        """
        tx = self._tx
        if after is not None:
            return tx.send(message, after=after)
        if isinstance(message, (Message, Batch)) and _native.own_loan(tx, message):  # needs no room: behind nobody
            return await self._until(lambda: tx.send(message, 0))
        return await self._room(1, lambda: tx.send(message, 0) if tx._drops else tx._try_send(message))

    @overload
    async def call(self, message: K) -> K: ...
    @overload
    async def call(self, message: Batch[K]) -> Batch[K]: ...  # type: ignore[overload-overlap]
    @overload
    async def call(self, message: object) -> M: ...
    async def call(self, message: object) -> Any:
        """Send a message as `send` does, wait until every stage has passed it, and give it back for reading.

        Any number of tasks may call at once, also while another one sends; they are served in order. Cancelled it has
        perhaps sent the message. Raises Full (``full="drop"`` and no room), TakenOut, ChannelClosed, LeaseLimit,
        LayoutMismatch, InvalidArgument for a channel without stages.
        """
        self._calls += 1
        if self._calls >= MOST or time.monotonic_ns() - self._since > LONGEST:
            await self._turn()
        return await self._answers.call(message, super()._watch)

    async def send_many(self, array: object, type: type[Message] | None = None) -> None:
        """Copy any number of messages, an array of shape (k, \\*shape), and send them.

        Cancelled in the middle it has sent the beginning.
        """
        tx, sent = self._tx, 0

        def some() -> bool | None:
            nonlocal sent
            done = tx._send_some(array, type, sent)
            sent = done or sent
            return True if done is None else None

        await self._room(1, some)

    async def drain(self) -> None:
        """Wait until every stage has passed all that was sent. Raises EventFailed."""
        await self._await_events()
        _native.check_events(self._tx)
        await self._until(lambda: _native.passed(self._tx) or None)

    async def _room(self, n: int, attempt: Callable[[], T | None]) -> T:
        def look() -> T | None:
            if self._answers.first:
                return None
            got = attempt()
            if got is None:
                _native.check_room(self._tx, n)
            return got

        return await self._until(look)

    async def _watch(self, attempt: Callable[[], T | None]) -> T:
        return await self._answers.other(attempt, super()._watch)

    async def __aenter__(self) -> Self:
        self._tx.__enter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._await_events_and_leave(kind)

    def __repr__(self) -> str:
        return f"<psyne.aio.Sender {self.address}{', closed' if self.closed else ''}>"


class Reader(EventLoopEnd, Generic[R]):
    """What receivers and taps share."""

    def __init__(self, end: ends.Receiver[R] | taps.Tap[R]) -> None:
        super().__init__(end)
        self._rx = end

    async def receive(self) -> R:
        """The next message. Raises EndOfChannel, SenderLost, ChannelClosed, LeaseLimit."""
        return await self._until(self._rx.try_receive)

    def try_receive(self) -> R | None:
        """The next message, or None when there is none now."""
        return self._rx.try_receive()

    async def receive_many(self, n: int, linger: float = 0.0) -> Batch[R]:
        """1 to n consecutive messages of one sender; after the first waits ``linger`` seconds for more."""
        rx = self._rx
        if not linger:
            return await self._until(lambda: rx.try_receive_many(n))
        while True:
            await self._until_more(n, linger)
            if (batch := rx.try_receive_many(n)) is not None:
                return batch

    async def _until_more(self, n: int, linger: float) -> None:
        """Until something is there, and then ``linger`` seconds, or until n are there in a row; takes nothing."""
        await self._until(lambda: ready(self._rx) or None)
        deadline = time.monotonic() + linger
        while (left := deadline - time.monotonic()) > 0 and (_native.there(self._rx, n) or n) < n:
            await sleep(min(left, LINGER))

    def try_receive_many(self, n: int) -> Batch[R] | None:
        """1 to n messages, or None when there is none now."""
        return self._rx.try_receive_many(n)


class Receiver(Reader[R]):
    """The receiving end; `psyne.aio.receiver` opens one, ``aio.Receiver(rx)`` takes over a blocking one."""

    def __init__(self, end: ends.Receiver[R]) -> None:
        if not isinstance(end, ends.Receiver):
            raise TypeError(
                f"aio.Receiver(rx) takes over a psyne.Receiver, not {end!r}; psyne.aio.receiver(address) opens one"
            )
        super().__init__(end)
        self._receiver = end

    def clone(self, stage: str | Stage | None = None, new_stage: bool = False) -> Self:
        """Another end of the same kind (or of another stage), not joined yet; only of `psyne.aio.channel`."""
        return type(self)(self._receiver.clone(stage, new_stage))

    def leave(self) -> int:
        """Close this end and hand the messages that it holds back to its stage; how many. See `psyne.Receiver`."""
        left = self._receiver._give_back()
        self.close()
        return left

    async def receive_into(self, out: NDArray[Any], linger: float = 0.0) -> int:
        """Copy up to ``len(out)`` messages of all senders into an array; how many. Waits for the first one."""
        while True:
            await self._until_more(len(out), linger)
            with contextlib.suppress(Empty):  # another member took it
                return int(self._receiver.receive_into(out, 0))

    def batches(self, n: int, linger: float = 0.0) -> AsyncIterator[Batch[R]]:
        """Iterate over `receive_many`; each step ends the batch before it."""
        return _Steps(lambda: self.receive_many(n, linger))

    def __aiter__(self) -> AsyncIterator[R]:
        """Every message; each step ends the one before it. Stops at the end of the channel."""
        return _Steps(self.receive)

    async def __aenter__(self) -> Self:
        self._receiver.__enter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._await_events_and_leave(kind)

    def __repr__(self) -> str:
        return f"<psyne.aio.Receiver {self.address}{', closed' if self.closed else ''}>"


class Tap(Reader[R]):
    """Looks on; `psyne.aio.tap` opens one, ``aio.Tap(tap)`` takes over a blocking one. Its messages are copies."""

    def __init__(self, end: taps.Tap[R]) -> None:
        if not isinstance(end, taps.Tap):
            raise TypeError(f"aio.Tap(tap) takes over a psyne.Tap, not {end!r}; psyne.aio.tap(address) opens one")
        super().__init__(end)

    def batches(self, n: int, linger: float = 0.0) -> AsyncIterator[Batch[R]]:
        """Iterate over `receive_many`."""
        return _Steps(lambda: self.receive_many(n, linger), ends_them=False)

    def __aiter__(self) -> AsyncIterator[R]:
        """Every message that can still be had. Stops at the end of the channel."""
        return _Steps(self.receive, ends_them=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    def __repr__(self) -> str:
        return f"<psyne.aio.Tap {self.address}{', closed' if self.closed else ''}>"


class _Steps(AsyncIterator[L]):
    """Each step ends what the one before gave, unless that is a copy."""

    def __init__(self, step: Callable[[], Coroutine[Any, Any, L]], *, ends_them: bool = True) -> None:
        self._step = step
        self._ends_them = ends_them
        self._last: L | None = None

    async def __anext__(self) -> L:
        last, self._last = self._last, None
        if last is not None:
            last.__exit__(None, None, None)
            del last
        try:
            got = await self._step()
        except (EndOfChannel, ChannelClosed):
            raise StopAsyncIteration from None
        if self._ends_them:
            self._last = got
        return got
