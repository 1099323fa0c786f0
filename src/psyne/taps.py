"""The end that looks on: it copies messages, holds nobody up, and knows what it missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from . import _native
from .address import channel_place, program_name
from .batch import Batch
from .ends import Carrier, _closed, _remember
from .errors import ChannelClosed, Empty, EndOfChannel, IncompatibleChannel, LayoutMismatch
from .listener import Handlers, Listener
from .options import Wait, check_tap_options
from .statistics import Statistics, statistics_of
from .types import Message, MessageMeta, as_type
from .types.schema import read_kinds

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Tap"]

R = TypeVar("R", bound=Message, covariant=True)  # a Tap of Imu is one of Messages
T = TypeVar("T")


class Tap(_native.TapEnd, Generic[R]):
    """Looks on at a channel; `psyne.tap` opens one. One thread uses it at a time; any may close it.

    Its messages are private copies: they may be kept for ever and written, and need no release.
    """

    _carrier: Carrier | None = None

    def __init__(
        self, address: str, types: Sequence[object], *, latest: bool = False, history: int = 0,
        wait: Wait = "adaptive", follow: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._place, self._name = channel_place(address)
        self._asked: Sequence[MessageMeta] = [cls if cls is Message else as_type(cls) for cls in types]
        self._latest, self._history, self._wait, self._follow = latest, history, wait, follow
        check_tap_options(latest, history, wait, follow)
        self._join()
        _remember(self)

    def _join(self) -> bool:
        """Join the channel if it exists, and learn its type."""
        if not _native.open_tap(
            self, self._place, self._name, self._latest, self._history, self._wait, program_name(), self._follow
        ):
            return False
        try:
            _native.give_types(self, read_kinds(_native.schema(self), self._asked, False, self.address), Batch)
        except (LayoutMismatch, IncompatibleChannel):
            _native.leave(self)
            raise
        return True

    def _await_channel(self, deadline: int) -> None:
        """Wait for a sender to make the channel; raises Empty at the deadline (nanoseconds, monotonic)."""
        while not self._join():
            if self.closed or not _native.watch(self._place, deadline):
                break
        if not self.joined and not self.closed:
            raise Empty(f"no sender has made {self.address} in time")

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"a tap of {self.address} is no use to another process or thread: open one there with psyne.tap()"
        )

    def close(self) -> None:
        """Leave the channel. Waits in progress raise ChannelClosed; messages stay."""
        self._close()
        _closed(self)

    def batches(self, n: int, linger: float = 0.0) -> Iterator[Batch[R]]:
        """Iterate over `receive_many`."""
        return _until_the_end(lambda: self.receive_many(n, linger=linger))

    def __iter__(self) -> Iterator[R]:
        """Every message that can still be had. Stops at the end of the channel."""
        return _until_the_end(self.receive)

    def listen(self, handlers: Handlers[R], *, on_error: Literal["stop", "log"] = "stop") -> Listener:
        """Call a function with every message, on a thread of its own; as `Receiver.listen`."""
        return Listener(self, handlers, on_error)

    def statistics(self) -> Statistics:
        """What this end has counted since it was opened, and what it sees now."""
        return statistics_of(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<psyne.Tap {self.address}{', closed' if self.closed else ''}>"

    if TYPE_CHECKING:

        def receive(self, timeout: float | None = None) -> R:
            """A copy of the next message; ``m.info.missed`` says how many of its sender's were missed just before.

            Raises Empty after ``timeout`` seconds, EndOfChannel, SenderLost, ChannelClosed.
            """
            ...

        def try_receive(self) -> R | None:
            """A copy of the next message, or None when there is none now."""

        def receive_many(self, n: int, timeout: float | None = None, linger: float = 0.0) -> Batch[R]:
            """1 to n consecutive messages of one sender; after the first waits ``linger`` seconds for more."""
            ...

        def try_receive_many(self, n: int) -> Batch[R] | None:
            """1 to n messages, or None when there is none now."""


def _until_the_end(step: Callable[[], T]) -> Iterator[T]:
    while True:
        try:
            got = step()
        except (EndOfChannel, ChannelClosed):
            return
        yield got
        del got  # not kept while the next one is waited for
