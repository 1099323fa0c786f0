"""From a key of Zenoh into a channel of this machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import ChannelClosed, IncompatibleChannel, LayoutMismatch, NoSpace, PsyneError, SenderLost
from ..log import warn
from ..options import Full
from ..types import VariantHdr
from ..types.schema import difference, types_in
from .envelope import LOST, Envelope, Refused, described
from .horizon import BridgeSender, identity
from .network import QUEUE, schema_key, zenoh
from .payload import fill, size_of
from .running import SLICE, Bridged

__all__ = ["Inward"]

QUIET = 1.0  # seconds after which a source whose token is gone is lost: its end may be on its way
ANSWER = 5.0  # seconds that a source has to say its types
UNHEARD = 1.0  # seconds that one has whose token is not there yet: a message may overtake it
SOURCES = 1024  # that are remembered
MOST_TEXT = 1000  # characters of what a source that is refused makes us say
SMALL_KEPT = 1 << 20  # bytes that are kept besides max_bytes while a source is asked for its types
BESIDES = 1024  # bytes that one kept message counts besides its own


@dataclass
class _Source:
    """One session of a bridge on the other side."""

    types: list[Any] = field(default_factory=list)  # of the local channel, by the source's numbers; none: it is refused
    words: list[int] = field(default_factory=list)  # their VariantHdr
    next: int | None = None  # the sequence that comes next; None: whatever comes first
    own: bool = False  # it is our own channel
    left: float | None = None  # when its token went
    through: int | None = None  # samples that were done when all that it had sent before that was, too
    ended: bool = False  # it said so
    gone: bool = False  # its token is gone, and it did not
    lost: bool = False


class Inward:
    """Sends what comes for a key. The first source gives the channel its types; others must have the same.

        Zenoh ─▶ QUEUE samples ─▶ one in hand ─▶ the ring of our sender in the channel
                                   kept while a source says its types: max_bytes and 1 MiB in all
    When the ring is full and ``full`` is "block", all of these stand still, and the connection with them.
    """

    def __init__(
        self, session: Any, key: str, address: str, full: Full, follow: bool, max_bytes: int
    ) -> None:  # fmt: skip
        self._session, self._key, self._address = session, key, address
        self._full: Full = full
        self._follow, self._max_bytes = follow, max_bytes
        self._changed = threading.Condition()  # guards all below that the thread of tokens also uses
        self._live: dict[int, str] = {}  # tokens that are there: where each source says its types
        self._sources: dict[int, _Source] = {}
        self._met: list[_Source] = []  # those of this life of the channel
        self._subscriber: Any = None
        self._samples: Any = None
        self._kept: deque[tuple[Any, int]] = deque()  # what came while a source was asked for its types, and its bytes
        self._kept_bytes, self._most_kept = 0, max_bytes + SMALL_KEPT
        self._failure: SenderLost | None = None
        self._out: Any = None
        self._schema = ""
        self._idle = self._stopping = False  # idle: all that came was done
        self._done = 0  # samples
        self._carried = self._missed = self._dropped = self._refused = self._skipped = self._taken = 0

    def run(self) -> None:
        z = zenoh()
        where = schema_key(self._key, "*")
        tokens = self._session.liveliness().declare_subscriber(where, z.handlers.FifoChannel(QUEUE), history=True)
        # A thread of our own, to be waited for: one of Zenoh's that is in Python when Python ends aborts the program.
        watcher = threading.Thread(target=self._watch, args=(tokens.handler,), name="psyne bridge tokens", daemon=True)
        watcher.start()
        try:
            with self._changed:
                self._subscriber = self._session.declare_subscriber(self._key, z.handlers.FifoChannel(QUEUE))
                self._samples = self._subscriber.handler  # is read to its end after the subscriber is undeclared
                if self._stopping:
                    self._unsubscribe()
            while (sample := self._next()) is not None:
                self._arrived(sample, z)
        except ChannelClosed:
            if not self._stopping:
                raise
        finally:
            with self._changed:
                self._stopping = True
                self._unsubscribe()
                self._changed.notify_all()
            self._samples = None  # a thread of Zenoh's may wait for room in it
            watcher.join()
            tokens.undeclare()
            self._close(lost=False)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._unsubscribe()
            if self._out is not None:
                self._out.close()

    def statistics(self) -> Bridged:
        out = self._out
        dropped = self._dropped + (out.statistics().missed if out is not None else 0)
        return Bridged(self._carried - dropped, self._missed + dropped, self._refused, self._skipped, self._taken)

    # ---- sources -----------------------------------------------------------------------------------------

    def _meet(self, number: int, where: str, said: bytes) -> _Source:
        """Take a source or refuse it, by what it said of its types or says when it is asked."""
        old, was_live = self._sources.get(number), number in self._live
        source = _Source(next=old.next if old else None)
        try:
            schema, channel = described(said or self._ask(number, where))
            source.own = channel == identity(self._address)
            if not source.own:
                self._take(source, schema)
        except (Refused, LayoutMismatch, IncompatibleChannel, NoSpace) as error:
            source.types = []
            warn(f"a source of zenoh://{self._key} is refused: {str(error)[:MOST_TEXT]}")
        with self._changed:
            self._sources.pop(number, None)
            self._sources[number] = source
            while len(self._sources) > SOURCES:
                self._sources.pop(next(iter(self._sources)))
            if not source.types:
                self._end_if_over()
                return source
            if was_live and number not in self._live:  # it went while we asked
                source.left = time.monotonic()
            self._met.append(source)
            self._taken += 1
        return source

    def _ask(self, number: int, where: str) -> bytes:
        """A source for its description; who is over already has said it with its end."""
        since = time.monotonic()
        while True:
            for reply in self._replies(where):
                if reply.ok is not None:
                    return bytes(reply.ok.payload.to_bytes())
            for _ in range(QUEUE):
                self._keep()
            if said := self._said_at_end(number):
                return said
            patience = ANSWER if number in self._live else UNHEARD
            if self._stopping or time.monotonic() - since >= patience:
                raise Refused("it does not say its types")
            time.sleep(SLICE)

    def _replies(self, where: str) -> Iterator[Any]:
        """Replies, for which messages must go on coming: both come by one connection, and the reply may be behind."""
        z = zenoh()
        replies = self._session.get(where, z.handlers.FifoChannel(QUEUE), timeout=ANSWER, priority=z.Priority.REAL_TIME)
        while not self._stopping:
            try:
                reply = replies.try_recv()
            except z.ZError:  # that was all
                return
            if reply is not None:
                yield reply
            elif not self._keep():
                time.sleep(0.001)

    def _said_at_end(self, number: int) -> bytes:
        """The description in the end of a source, if that is among what was kept."""
        for sample, _ in self._kept:
            if sample.kind == zenoh().SampleKind.DELETE and sample.attachment is not None:
                with suppress(Refused):
                    envelope = Envelope.decode(sample.attachment.to_bytes())
                    if envelope.session == number:
                        return envelope.description
        return b""

    def _keep(self) -> bool:
        """Take one sample away from Zenoh; one for which there is no room is lost, as the next one's number says."""
        try:
            sample = self._samples.try_recv()
        except zenoh().ZError:  # not subscribed any more
            return False
        if sample is None:
            return False
        size = len(sample.payload) + len(sample.attachment or b"") + BESIDES
        ends = sample.kind == zenoh().SampleKind.DELETE  # of a source: these have as much room again
        if self._kept_bytes + size <= self._most_kept * (1 + ends):
            self._kept.append((sample, size))
            self._kept_bytes += size
        return True

    def _take(self, source: _Source, schema: str) -> None:
        """Open the channel for it, or see that it has the types of those before."""
        types = types_in(schema)
        for cls in types:
            if (n := cls.__layout__.bytes) > self._max_bytes:
                raise Refused(f"its messages have up to {n} bytes; this bridge takes {self._max_bytes}")
        if self._out is None:
            out = BridgeSender(self._address, types, full=self._full)
            with self._changed:
                self._out, self._types, self._schema = out, types, schema
                if self._stopping:
                    out.close()
        local = {str(cls.__schema__): cls for cls in self._types}
        if len(local) != len(types) or any(str(cls.__schema__) not in local for cls in types):
            raise Refused(f"its types are others than those of {self._address}: {difference(schema, self._schema)}")
        source.words = [VariantHdr.of_type(i, cls).word for i, cls in enumerate(types)]
        source.types = [local[str(cls.__schema__)] for cls in types]

    def _watch(self, changes: Any) -> None:
        """On the thread of tokens: sources come and go."""
        while not self._stopping:
            try:
                change = changes.try_recv()
            except zenoh().ZError:  # the session is closed
                return
            with self._changed:
                if change is not None:
                    self._token(change)
                elif not self._stopping:
                    self._give_up()
                    self._changed.wait(SLICE)

    def _token(self, change: Any) -> None:
        """A source has come, or is gone."""
        where = str(change.key_expr)
        try:
            number = int(where.rpartition("/")[2], 16)
        except ValueError:
            return
        source = self._sources.get(number)
        if change.kind == zenoh().SampleKind.PUT:
            self._live[number] = where
            if source is not None:  # a router was away for a moment
                source.left = source.through = None
            return
        self._live.pop(number, None)
        if source is not None:
            source.left = time.monotonic()
        self._end_if_over()

    def _give_up(self) -> None:
        """The sources that went without an end, once all that they had sent must be through."""
        now = time.monotonic()
        for source in self._met:
            if source.left is None or source.ended or source.gone or now - source.left < QUIET:
                continue
            if source.through is None:
                source.through = self._done + len(self._kept) + QUEUE + 1
            if self._idle or self._done >= source.through:
                source.gone = source.lost = True
        self._end_if_over()

    def _end_if_over(self) -> None:
        """The channel ends when no source is left, neither one that was met nor one that has yet to send something."""
        expected = any(n not in self._sources for n in self._live)
        if expected or not self._met or not all(source.ended or source.gone for source in self._met):
            return
        lost, sources = sum(source.lost for source in self._met), len(self._met)
        self._met = []
        self._close(lost=lost > 0)
        failure = SenderLost(f"{lost} of {sources} sources of zenoh://{self._key} went without an end")
        if self._follow:
            if lost:
                warn(f"{failure}; the bridge waits for the next source")
            return
        self._failure = failure if lost else None
        self._stopping = True
        self._unsubscribe()

    def _close(self, lost: bool) -> None:
        with self._changed:
            out, self._out = self._out, None
            if out is not None:
                self._dropped += out.statistics().missed
                out._close(lost)

    def _unsubscribe(self) -> None:
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            subscriber.undeclare()

    # ---- messages ----------------------------------------------------------------------------------------

    def _next(self) -> Any:
        """The next sample; None after the last."""
        if self._kept:
            sample, size = self._kept.popleft()
            self._kept_bytes -= size
            return sample
        try:
            sample = self._samples.try_recv()
        except zenoh().ZError:
            return None
        if sample is None:
            self._idle = True
            sample = next(self._samples, None)
            self._idle = False
        return sample

    def _arrived(self, sample: Any, z: Any) -> None:
        if self._stopping:
            return
        try:
            self._message(sample, z)
        except Refused as error:
            self._refused += 1
            warn(f"a message for zenoh://{self._key} is refused: {str(error)[:MOST_TEXT]}")
        finally:
            self._done += 1

    def _message(self, sample: Any, z: Any) -> None:
        if sample.attachment is None:
            raise Refused("it has no envelope of psyne")
        envelope = Envelope.decode(sample.attachment.to_bytes())
        source = self._sources.get(envelope.session)
        if source is None or (source.gone and not source.ended):
            where = schema_key(str(sample.key_expr), f"{envelope.session:016x}")
            source = self._meet(envelope.session, where, envelope.description)
        if source.own:
            self._skipped += sample.kind == z.SampleKind.PUT
            return
        if not source.types:
            raise Refused("its source is refused")
        if source.ended or (source.next is not None and envelope.sequence < source.next):
            raise Refused(f"it is number {envelope.sequence} of a source that was past it, or had ended")
        if sample.kind == z.SampleKind.DELETE:
            self._count_lost(source, envelope)
            with self._changed:
                source.ended, source.lost = True, bool(envelope.flags & LOST)
                self._live.pop(envelope.session, None)
                self._changed.notify_all()
                self._end_if_over()
            return
        self._send(source, envelope, sample.payload)

    def _send(self, source: _Source, envelope: Envelope, payload: Any) -> None:
        number = envelope.variant & 0xFFFF
        if number >= len(source.types) or envelope.variant != source.words[number]:
            raise Refused(f"its VariantHdr is {envelope.variant:#x}, which none of the source's types has")
        cls = source.types[number]
        layout, shape = cls.__layout__, envelope.shape
        if len(shape) != (len(layout.shape) if layout.shaped else 0):
            raise Refused(f"it has {len(shape)} dimensions of its own, and its type {layout}")
        if len(payload) != size_of(cls, shape):
            raise Refused(f"it has {len(payload)} bytes in a shape of {list(shape)}, and its type {layout}")
        try:
            loan = self._out.loan(cls, shape=shape) if layout.shaped else self._out.loan(cls)
        except PsyneError:
            raise
        except (ValueError, OverflowError) as error:
            raise Refused(f"its shape is {list(shape)}: {error}") from error
        with loan as m:
            fill(m, payload.to_bytes())  # Zenoh's Python interface has no other way to the bytes
        del loan, m
        self._count_lost(source, envelope)
        source.next = envelope.sequence + 1
        self._carried += 1

    def _count_lost(self, source: _Source, envelope: Envelope) -> None:
        gap = envelope.sequence - source.next if source.next is not None else 0
        if gap:
            warn(f"{gap} messages of a source of zenoh://{self._key} were lost on the way")
        self._missed += gap + envelope.missed
