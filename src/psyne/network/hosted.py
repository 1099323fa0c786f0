"""The channel behind a bound address: what remote senders, stages and taps join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import _native
from ..address import channel_place, program_name
from ..batch import Batch
from ..ends import Receiver, Sender
from ..errors import ChannelNotFound, InvalidArgument
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
    """The sender of a local channel that a connection writes into. Its ring keeps the clock of the far sender, too."""

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
            self, place, name, schema, PATTERNS.index(pattern), stages, slots, 0, False, growth, None, "adaptive",
            program, kinds_of(kinds), Batch, True,
        )  # fmt: skip


def usual_capacity(schema: str) -> int:
    """Messages that the ring of a remote sender holds, where nobody says it: both sides reckon the same."""
    return max(8, min(CAPACITY, RING_BYTES // max(1, max(kind.__layout__.bytes for kind in types_in(schema)))))


class Hosted:
    """One local channel, as remote ends see it.

    ``accept`` is called with the schema of a remote sender before it joins, and raises if it is not wanted.
    ``creates``: the first remote sender makes the channel.
    """

    def __init__(
        self, local: str, address: str, *, pattern: Pattern = "mpsc", stages: Sequence[Stage | str] = ("main",),
        capacity: int | None = None, accept: Callable[[str], object] | None = None,
        creates: bool = True,
    ) -> None:  # fmt: skip
        self.local, self.address = local, address
        self._pattern, self._stages, self._capacity = pattern, stage_graph(stages), capacity
        self._accept, self._creates = accept, creates

    @property
    def there(self) -> dict[str, Any] | None:
        """What is known of the channel; None: nobody has made it yet."""
        return _native.describe(*channel_place(self.local))

    def admit(self, request: Request) -> dict[str, Any] | None:
        """Raises what `sender` would for these types; what is known of the channel."""
        schema = request.schema or ""
        if self._accept is not None:
            self._accept(schema)
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
        return Lane(
            self.local,
            schema,
            pattern=pattern,
            stages=stages,
            capacity=capacity or self._capacity,
            program=_of(request),
        )

    def reader(self, request: Request) -> Receiver[Any] | Tap[Any]:
        """Join as a member of a stage, or to look on."""
        there = self.there
        if there is None:
            raise ChannelNotFound(f"there is no channel {self.address} yet: no sender has made it")
        if request.role == "tap":
            tap: Tap[Any] = Tap(self.local, (), latest=request.latest, history=request.history)
            return tap
        for name, _, mutates, _ in there["stages"]:
            if name == request.stage and mutates:
                raise InvalidArgument(
                    f"stage {name!r} of {self.address} changes messages in place, which needs memory in common: its "
                    "members run on the host of the channel"
                )
        if request.added is not None and request.added[1]:
            raise InvalidArgument("a stage of another host cannot change messages in place; leave mutate=True out")
        stage: str | Stage | None = request.stage or None
        if request.added is not None:
            stage = Stage(request.stage, after=request.added[0])
        rx: Receiver[Any] = Receiver(self.local, (), stage=stage, new_stage=request.added is not None)
        if not rx.joined:
            rx.close()
            raise ChannelNotFound(f"there is no channel {self.address} yet: no sender has made it")
        return rx


def _of(request: Request) -> str:
    return request.program or program_name()
