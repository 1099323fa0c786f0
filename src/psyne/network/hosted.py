"""The channel behind a bound address: what remote senders, stages and taps join."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from .. import _native
from ..address import channel_place, program_name
from ..batch import Batch
from ..ends import Receiver, Sender
from ..errors import ChannelBusy, ChannelNotFound, InvalidArgument
from ..options import Growth
from ..stage import PATTERNS, Pattern, Stage, stage_graph
from ..taps import Tap
from ..types.schema import kinds_of, schema_of, types_in
from .bodies import Request
from .handshake import check_schema

__all__ = ["Hosted", "Lane", "usual_capacity"]

RING_BYTES = 8 << 20  # of the ring of a remote sender, where nobody says its capacity
CAPACITY = 4096  # messages of it at most


class Lane(Sender[Any]):
    """The sender of a local channel that a connection writes into.

    Its ring keeps the clock of the far sender, and how many messages were lost before each.
    """

    def __init__(
        self, local: str, schema: str, *, pattern: Pattern, stages: list[Any], capacity: int | None, program: str
    ) -> None:  # fmt: skip
        _native.SenderEnd.__init__(self)
        self._handover = None
        place, name = channel_place(local)
        kinds = types_in(schema)
        slots = capacity or usual_capacity(schema)
        growth: Growth | None = None
        _native.open_sender(
            self, place, name, schema, PATTERNS.index(pattern), stages, slots, 0, True, growth, None, "adaptive",
            program, kinds_of(kinds), Batch, True,
        )  # fmt: skip


def usual_capacity(schema: str) -> int:
    """Messages that the ring of a remote sender holds, where nobody says it: both sides reckon the same."""
    return max(8, min(CAPACITY, RING_BYTES // max(1, max(kind.__layout__.bytes for kind in types_in(schema)))))


class Hosted:
    """One local channel, as remote ends see it.

    ``accept`` is called with the schema of a remote sender before it joins, and raises if it is not wanted.
    ``sums_missed``: its lanes are looked at by taps alone.
    ``creates``: the first remote sender makes the channel.
    """

    def __init__(
        self, local: str, address: str, *, pattern: Pattern = "mpsc", stages: Sequence[Stage | str] = ("main",),
        capacity: int | None = None, accept: Callable[[str], object] | None = None, takes_senders: bool = True,
        sums_missed: bool = False, creates: bool = True,
    ) -> None:  # fmt: skip
        self.local, self.address = local, address
        self.joining: Callable[[], Receiver[Any] | Tap[Any] | None] = lambda: None  # the end of this process
        self._kept: list[tuple[Lane, bool]] = []  # lanes that are over, and whether they failed
        self._lock = threading.Lock()  # of these two
        self._pattern: Pattern = pattern
        self._stages, self._capacity = stage_graph(stages), capacity
        self._accept, self._creates = accept, creates
        self._takes_senders, self._sums_missed = takes_senders, sums_missed

    @property
    def there(self) -> dict[str, Any] | None:
        """What is known of the channel; None: nobody has made it yet."""
        return _native.describe(*channel_place(self.local))

    def admit(self, request: Request) -> dict[str, Any] | None:
        """Raises what `sender` would for these types; what is known of the channel."""
        schema = request.schema or ""
        if not self._takes_senders:
            raise InvalidArgument(f"{self.address} is bound by its sender: receivers and taps connect to it")
        self.check(schema)
        there = self.there
        if there is not None:
            check_schema(there["schema"], schema, self.address)
        elif not self._creates:
            raise ChannelNotFound(f"there is no channel {self.address} yet, and only senders of its own host make it")
        return there

    def slots(self, request: Request) -> int:
        """Messages that the ring of a remote sender will have room for, at least."""
        return self._capacity or usual_capacity(request.schema or "")

    def sender(self, request: Request, capacity: int | None = None) -> Lane:
        """Join as a sender of the types that the request says; the first one makes the channel."""
        there = self.admit(request)
        pattern = PATTERNS[there["pattern"]] if there else self._pattern
        stages = there["stages"] if there else self._stages
        schema = schema_of(types_in(request.schema or ""))  # as this side writes it
        lane = Lane(
            self.local, schema, pattern=pattern, stages=stages, capacity=capacity or self._capacity,
            program=request.program or program_name(),
        )  # fmt: skip
        _native.rename(lane, self.address)
        if self._sums_missed:
            _native.sum_drops(lane)
        return lane

    def close(self, lane: Lane, failed: bool) -> None:
        """Its far sender is gone. Without senders the channel would be, too, before the end of this process joins."""
        with self._lock:
            end = self.joining()
            if end is not None and not end.joined and not end.closed and not lane.closed:
                self._kept.append((lane, failed))
                return
        lane._close(failed)

    def let_lanes_go(self) -> None:
        """The end of this process has joined, or is closed."""
        with self._lock:
            kept, self._kept = self._kept, []
        for lane, failed in kept:
            lane._close(failed)

    def check(self, schema: str) -> None:
        """Raises for messages that this side does not take."""
        if self._accept is not None:
            self._accept(schema)

    def is_next(self, request: Request) -> bool:
        """Does a message come to it when it is sent, and not only when other stages have passed it?"""
        there = self.there
        stages = there["stages"] if there else []  # those that were declared
        return request.role == "tap" or any(after == 0 and request.stage in ("", name) for name, after, *_ in stages)

    def reader(self, request: Request) -> Receiver[Any] | Tap[Any]:
        """Join as a member of a stage, or to look on."""
        there = self.there
        if there is None:
            bound = " (a receiver is bound there)" if self.joining() is not None else ""
            raise ChannelNotFound(f"there is no channel {self.address} yet: no sender has made it{bound}")
        if request.role == "tap":
            tap: Tap[Any] = Tap(self.local, (), latest=request.latest, history=request.history)
            return tap
        stages = there["stages"]
        wanted = stages[0][0] if request.stage == "" and len(stages) == 1 else request.stage  # the stage that there is
        for name, _, mutates, _ in stages:
            if name == wanted and mutates:
                raise InvalidArgument(
                    f"stage {name!r} of {self.address} changes messages in place, which needs memory in common: its "
                    "members run on the host of the channel"
                )
        if request.added is not None and request.added[1]:
            raise InvalidArgument("a stage of another host cannot change messages in place; leave mutate=True out")
        stage: str | Stage | None = request.stage or None
        if request.added is not None:
            stage = Stage(request.stage, after=request.added[0])
        try:
            rx: Receiver[Any] = Receiver(self.local, (), stage=stage, new_stage=request.added is not None)
        except (ChannelBusy, InvalidArgument) as error:
            raise type(error)(str(error).replace(self.local, self.address)) from error
        if not rx.joined:
            rx.close()
            raise ChannelNotFound(f"there is no channel {self.address} yet: no sender has made it")
        return rx
