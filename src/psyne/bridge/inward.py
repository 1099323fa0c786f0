"""From a key of Zenoh into a channel of this machine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..ends import Sender
from ..errors import ChannelClosed, IncompatibleChannel, LayoutMismatch, NoSpace, PsyneError, SenderLost
from ..log import warn
from ..options import Full
from ..types import VariantHdr
from ..types.schema import difference, types_in
from .envelope import LOST, Envelope, Refused, described
from .network import schema_key, zenoh
from .payload import fill, size_of
from .running import SLICE, Bridged

__all__ = ["Inward"]

QUEUE = 16  # messages between Zenoh's thread and ours; when they wait, Zenoh's does, and with it the network
QUIET = 1.0  # seconds without a message after which a source whose token is gone is lost: its end may be on its way
ANSWER = 5.0  # seconds that a source has to say its types
UNHEARD = 1.0  # seconds that one has whose token is not there yet: a message may overtake it
SOURCES = 1024  # that are remembered
MOST_TEXT = 1000  # characters of what a source that is refused makes us say


@dataclass
class _Source:
    """One session of a bridge on the other side."""

    types: list[Any] = field(default_factory=list)  # of the local channel, by the source's numbers; none: it is refused
    words: list[int] = field(default_factory=list)  # their VariantHdr
    next: int | None = None  # the sequence that comes next; None: whatever comes first
    ended: bool = False  # it said so
    gone: bool = False  # its token is gone, and it did not
    lost: bool = False


class Inward:
    """Sends what comes for a key. The first source gives the channel its types; others must have the same."""

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
        self._kept: deque[Any] = deque()  # messages that came while a source was asked for its types
        self._failure: SenderLost | None = None
        self._out: Any = None
        self._schema = ""
        self._busy = self._stopping = False
        self._heard = 0.0  # when the last message was done
        self._carried = self._missed = self._dropped = self._refused = self._taken = 0

    def run(self) -> None:
        z = zenoh()
        where = schema_key(self._key, "*")
        tokens = self._session.liveliness().declare_subscriber(where, z.handlers.FifoChannel(QUEUE), history=True)
        # A thread of our own, to be waited for: one of Zenoh's that is in Python when Python ends aborts the program.
        changes = tokens.handler
        watcher = threading.Thread(target=lambda: deque(map(self._token, changes), maxlen=0), daemon=True)
        watcher.start()
        try:
            subscriber = self._session.declare_subscriber(self._key, z.handlers.FifoChannel(QUEUE))
            self._samples = subscriber.handler  # which goes on after the subscriber is undeclared, until it is empty
            with self._changed:
                self._subscriber = subscriber
                if self._stopping:
                    self._unsubscribe()
            for sample in self._samples:
                self._kept.append(sample)
                while self._kept:
                    self._arrived(self._kept.popleft(), z)
        except ChannelClosed:
            if not self._stopping:
                raise
        finally:
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
            tokens.undeclare()
            watcher.join()
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
        return Bridged(self._carried - dropped, self._missed + dropped, self._refused, self._taken)

    # ---- sources -----------------------------------------------------------------------------------------

    def _meet(self, number: int, where: str) -> _Source | None:
        """Ask a source for its types, and take it or refuse it. None: refused."""
        old = self._sources.get(number)
        source = _Source(next=old.next if old else None)
        try:
            types, schema = self._types_of(number, where)
            self._take(source, types, schema)
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
                return None
            self._live.setdefault(number, where)
            self._met.append(source)
            self._taken += 1
        return source

    def _types_of(self, number: int, where: str) -> tuple[list[Any], str]:
        since = time.monotonic()
        while True:
            for reply in self._replies(where):
                if reply.ok is not None:
                    schema = described(reply.ok.payload.to_bytes())
                    types = types_in(schema)
                    for cls in types:
                        if (n := cls.__layout__.bytes) > self._max_bytes:
                            raise Refused(f"its messages have up to {n} bytes; this bridge takes {self._max_bytes}")
                    return types, schema
            patience = ANSWER if number in self._live else UNHEARD
            if self._stopping or time.monotonic() - since >= patience:
                raise Refused("it does not say its types")
            time.sleep(SLICE)

    def _replies(self, where: str) -> Iterator[Any]:
        """Replies, for which messages must go on coming: both come by one connection."""
        replies = self._session.get(where, timeout=ANSWER)
        while True:
            try:
                reply = replies.try_recv()
            except zenoh().ZError:  # that was all
                return
            if reply is not None:
                yield reply
            elif (sample := self._samples.try_recv()) is not None:
                self._kept.append(sample)
            else:
                time.sleep(0.001)

    def _take(self, source: _Source, types: list[Any], schema: str) -> None:
        """Open the channel for it, or see that it has the types of those before."""
        if self._out is None:
            out: Sender[Any] = Sender(self._address, types, full=self._full)
            with self._changed:
                self._out, self._types, self._schema = out, types, schema
                if self._stopping:
                    out.close()
        local = {str(cls.__schema__): cls for cls in self._types}
        if len(local) != len(types) or any(str(cls.__schema__) not in local for cls in types):
            raise Refused(f"its types are others than those of {self._address}: {difference(schema, self._schema)}")
        source.words = [VariantHdr.of_type(i, cls).word for i, cls in enumerate(types)]
        source.types = [local[str(cls.__schema__)] for cls in types]

    def _token(self, sample: Any) -> None:
        """On the thread of tokens: a source has come, or is gone."""
        where = str(sample.key_expr)
        try:
            number = int(where.rpartition("/")[2], 16)
        except ValueError:
            return
        with self._changed:
            if sample.kind == zenoh().SampleKind.PUT:
                self._live[number] = where
                self._changed.notify_all()
                return
            self._live.pop(number, None)
            source = self._sources.get(number)
            while source is not None and source.types and not (source.ended or source.gone or self._stopping):
                if not self._busy and time.monotonic() - self._heard >= QUIET:
                    source.gone = source.lost = True
                else:
                    self._changed.wait(SLICE)
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

    def _arrived(self, sample: Any, z: Any) -> None:
        with self._changed:
            if self._stopping:
                return
            self._busy = True
        try:
            self._message(sample, z)
        except Refused as error:
            self._refused += 1
            warn(f"a message for zenoh://{self._key} is refused: {error}")
        finally:
            self._heard, self._busy = time.monotonic(), False

    def _message(self, sample: Any, z: Any) -> None:
        if sample.attachment is None:
            raise Refused("it has no envelope of psyne")
        envelope = Envelope.decode(sample.attachment.to_bytes())
        source = self._sources.get(envelope.session)
        if source is None or (source.gone and not source.ended):
            where = schema_key(str(sample.key_expr), f"{envelope.session:016x}")
            source = self._meet(envelope.session, where)
        if source is None or not source.types:
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
            warn(f"Zenoh lost {gap} messages of a source of zenoh://{self._key}")
        self._missed += gap + envelope.missed
