"""From a channel of this machine to a key of Zenoh."""

from __future__ import annotations

import secrets
import threading
from typing import Any

from .. import _native
from ..errors import Empty, EndOfChannel
from ..openers import receiver, tap
from ..types import VariantHdr
from ..types.schema import types_in
from .envelope import LOST, Envelope, description
from .network import schema_key, zenoh
from .payload import payload_of
from .running import SLICE, Bridged

__all__ = ["Outward"]


class Outward:
    """Puts each message of a channel; as a member of a stage it waits for subscribers, as a tap for nobody."""

    def __init__(
        self, session: Any, address: str, key: str, stage: str | None, new_stage: bool, follow: bool
    ) -> None:  # fmt: skip
        self._session, self._key = session, key
        self._waits = stage is not None
        self._end: Any = (
            receiver(address, stage=stage, new_stage=new_stage, follow=follow) if stage else tap(address, follow=follow)
        )
        self._source: _Source | None = None
        self._carried = self._missed = self._sources = 0
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
        return Bridged(self._carried, self._missed, 0, self._sources)

    def _announce(self) -> _Source:
        """Say what the channel carries that was joined last."""
        if self._source is not None:
            self._source.end(False)
        self._source = _Source(self._session, self._key, _native.schema(self._end), self._waits)
        self._sources += 1
        return self._source

    def _carry(self, m: Any) -> bool:
        """False: stopped while nobody subscribed; the message goes back to its stage."""
        source = self._source
        while source is None or not source.carries(type(m)):  # followed to another channel
            source = self._announce()
        while self._waits and not source.heard.wait(SLICE):
            if self._stopping:
                return False
        with m:
            self._missed += m.info.missed
            source.put(m)
        self._carried += 1
        return True


class _Source:
    """One session: a channel with its types, from its first message to its last.

    Who subscribes finds it by its token, at once or later, and asks the queryable for the types.
    """

    def __init__(self, session: Any, key: str, schema: str, waits: bool) -> None:
        z = zenoh()
        self._session, self._key = session, key
        self._number = secrets.randbits(64)
        self._sent = 0
        self._types = types_in(schema)
        self._words: dict[type, int] = {}
        self._congestion = z.CongestionControl.BLOCK if waits else z.CongestionControl.DROP
        self.heard = threading.Event()  # somebody subscribes
        where, said = schema_key(key, f"{self._number:016x}"), description(schema)
        self._publisher = session.declare_publisher(key, congestion_control=self._congestion)
        self._listener = self._publisher.declare_matching_listener(self._match)
        self._match(self._publisher.matching_status)
        self._queryable = session.declare_queryable(where, lambda query: query.reply(where, said))
        self._token = session.liveliness().declare_token(where)

    def _match(self, status: Any) -> None:
        self.heard.set() if status.matching else self.heard.clear()

    def carries(self, cls: Any) -> bool:
        """Is a class one of the types that were said?"""
        if cls not in self._words:
            for number, one in enumerate(self._types):
                if one.__schema__ == cls.__schema__:
                    self._words[cls] = VariantHdr.of_type(number, cls).word
        return cls in self._words

    def put(self, m: Any) -> None:
        info = m.info
        shape = m.array.shape if m.__layout__.shaped else ()
        envelope = Envelope(self._number, self._sent, self._words[type(m)], info.stamp, info.missed, 0, shape)
        self._publisher.put(payload_of(m), attachment=envelope.encode())
        self._sent += 1

    def end(self, lost: bool) -> None:
        """Say that nothing follows, behind all that was put."""
        z = zenoh()
        envelope = Envelope(self._number, self._sent, flags=LOST if lost else 0)
        try:
            self._session.delete(self._key, attachment=envelope.encode(), congestion_control=z.CongestionControl.BLOCK)
            self._token.undeclare()
            self._queryable.undeclare()
            self._publisher.undeclare()
        except z.ZError:  # no network any more: the token is gone, too
            pass
