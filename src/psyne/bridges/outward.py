"""From a channel of this machine to a key of Zenoh."""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import suppress
from typing import Any

from .. import _native
from ..errors import Empty, EndOfChannel
from ..info import Info
from ..openers import receiver, tap
from ..types import VariantHdr
from ..types.schema import types_in
from .envelope import LOST, Envelope, description
from .horizon import brought, identity
from .network import QUEUE, schema_key, zenoh
from .payload import payload_of
from .running import SLICE, Bridged

__all__ = ["Outward"]

UNHEARD = 0.01  # seconds between two looks whether somebody subscribes


class Outward:
    """Puts each message of a channel; as a member of a stage it waits for subscribers, as a tap for nobody.

    It holds one message, and Zenoh the batches that it sends: a few of 64 KiB for each connection.
    """

    def __init__(
        self, session: Any, address: str, key: str, stage: str | None, new_stage: bool, follow: bool
    ) -> None:  # fmt: skip
        self._session, self._address, self._key = session, address, key
        self._waits = stage is not None
        self._end: Any = (
            receiver(address, stage=stage, new_stage=new_stage, follow=follow) if stage else tap(address, follow=follow)
        )
        self._source: _Source | None = None
        self._senders: dict[int, tuple[int, bool]] = {}  # of the channel: the last sequence of each, is it a bridge?
        self._carried = self._missed = self._skipped = self._sources = 0
        self._lock = threading.RLock()  # stopping (a signal may come while stopping) against having ended
        self._stopping = self._ended = False

    def run(self) -> None:
        lost = True  # whatever ends this by an exception
        try:
            while not self._stopping:
                try:
                    if not self._end.joined:
                        self._end._await_channel(_native.now_ns() + int(SLICE * 1e9))
                        self._announce()
                    m = self._end.receive()
                except Empty:  # stopped, or no channel yet
                    continue
                if not self._carry(m):
                    break
                del m
            lost = False
        except EndOfChannel:
            lost = False
        finally:
            with self._lock:
                self._ended = True
                _native.interrupt(self._end, False)
            if self._source is not None:
                self._source.end(lost)
            self._end.leave() if self._waits else self._end.close()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            if not self._ended:
                _native.interrupt(self._end, True)

    def statistics(self) -> Bridged:
        return Bridged(self._carried, self._missed, 0, self._skipped, self._sources)

    def _announce(self) -> _Source:
        """Say what the channel carries that was joined last."""
        if self._source is not None:
            self._source.end(False)
        said = description(_native.schema(self._end), identity(self._address))
        self._source = _Source(self._session, self._key, _native.schema(self._end), said, self._waits)
        self._sources += 1
        return self._source

    def _carry(self, m: Any) -> bool:
        """False: stopped while nobody subscribed; the message goes back to its stage."""
        source = self._source
        while source is None or not source.carries(type(m)):  # followed to another channel
            source = self._announce()
        info = m.info
        if self._is_brought(info.sender, info.sequence):
            self._skipped += 1
            m.release()
            return True
        while self._waits and not source.heard():
            if self._stopping:
                return False
            time.sleep(UNHEARD)
        with m:
            self._missed += info.missed
            source.put(m, info)
        self._carried += 1
        return True

    def _is_brought(self, sender: int, sequence: int) -> bool:
        """Was a message sent by a bridge? Looks at the channel once for each sender."""
        last, bridge = self._senders.get(sender, (sequence, False))
        if sequence <= last:  # the first of this sender, or the channel is another one
            bridge = brought(self._address, sender)
        self._senders[sender] = sequence, bridge
        return bridge


class _Source:
    """One session: a channel with its types, from its first message to its last.

    The types are said with the first message and with the end. Who subscribes meanwhile asks the queryable for them;
    the token tells all that it lives.
    """

    def __init__(self, session: Any, key: str, schema: str, said: bytes, waits: bool) -> None:
        z = zenoh()
        self._session, self._key, self._said = session, key, said
        self._number = secrets.randbits(64)
        self._sent = 0
        self._types = types_in(schema)
        self._words: dict[type, int] = {}
        self._congestion = z.CongestionControl.BLOCK if waits else z.CongestionControl.DROP
        self._where = schema_key(key, f"{self._number:016x}")
        self._publisher = session.declare_publisher(key, congestion_control=self._congestion)
        self._heard = False
        self._matches = None
        if waits:
            self._matches = self._publisher.declare_matching_listener(z.handlers.RingChannel(1))
            self._heard = self._publisher.matching_status.matching
        self._queryable = session.declare_queryable(self._where, z.handlers.FifoChannel(QUEUE))
        # No callbacks: a thread of Zenoh's that is in Python when Python ends aborts the program.
        self._answering = threading.Thread(target=self._answer, name="psyne bridge types", daemon=True)
        self._answering.start()
        self._token = session.liveliness().declare_token(self._where)

    def _answer(self) -> None:
        """On a thread of its own, until the queryable is undeclared: say the types to who asks."""
        for query in self._queryable.handler:
            with suppress(zenoh().ZError), query:  # who asked is gone
                query.reply(self._where, self._said)

    def heard(self) -> bool:
        """Does somebody subscribe?"""
        if self._matches is not None and (status := self._matches.try_recv()) is not None:
            self._heard = status.matching
        return self._heard

    def carries(self, cls: Any) -> bool:
        """Is a class one of the types that were said?"""
        if cls not in self._words:
            for number, one in enumerate(self._types):
                if one.__schema__ == cls.__schema__:
                    self._words[cls] = VariantHdr.of_type(number, cls).word
        return cls in self._words

    def put(self, m: Any, info: Info) -> None:
        shape = m.array.shape if m.__layout__.shaped else ()
        said = b"" if self._sent else self._said
        envelope = Envelope(self._number, self._sent, self._words[type(m)], info.stamp, info.missed, 0, shape, said)
        self._publisher.put(payload_of(m), attachment=envelope.encode())
        self._sent += 1

    def end(self, lost: bool) -> None:
        """Say that nothing follows, behind all that was put."""
        z = zenoh()
        envelope = Envelope(self._number, self._sent, flags=LOST if lost else 0, description=self._said)
        with suppress(z.ZError):  # no network any more: the token is gone, too
            self._session.delete(self._key, attachment=envelope.encode(), congestion_control=z.CongestionControl.BLOCK)
            self._token.undeclare()
        with suppress(z.ZError):
            self._queryable.undeclare()
        with suppress(z.ZError):
            self._publisher.undeclare()
        self._answering.join()
