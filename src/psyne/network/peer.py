"""A far end of a bound side: what it has joined here, and what of it outlives a connection."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _native
from ..ends import Receiver
from ..errors import ChannelBusy, ProtocolError, PsyneError
from ..log import warn
from ..taps import Tap
from .bodies import Request
from .handshake import Opened
from .hosted import Hosted, Lane
from .running import Running
from .sessions import Session

if TYPE_CHECKING:
    from .bound import Bound

__all__ = ["Peer"]

VIOLATIONS = 8  # of the protocol, in one session: more are no accident


class Peer:
    """One far end: what it has joined, and the connection that carries it now, if there is one.

    It takes and brings no messages before it has said something behind the handshake: then it knows its session.
    ``host`` is where it came from, ``identity`` its certificate, where TLS wants one. All is the driver's.
    """

    def __init__(self, bound: Bound, hosted: Hosted, request: Request, host: str, identity: bytes | None) -> None:
        self.request, self.host, self.identity = request, host, identity
        self.incoming = request.role == "sender"
        self.end: Lane | Receiver[Any] | Tap[Any] | None = None
        self.link: _native.Connection | None = None
        self.running: Running | None = None
        self._bound, self._hosted = bound, hosted
        self._leaving = self.ended = False
        self._violations = 0
        self.admit()
        try:
            self.session: Session = bound.sessions.open(self._session_over)
        except PsyneError:
            if self.end is not None:
                self.end.close()
            raise

    def same(self, request: Request) -> bool:
        """Is it what this far end asked for before?"""
        return replace(request, session="", next=0) == replace(self.request, session="", next=0)

    def suspend(self) -> None:
        """A connection before is stale: what it brought to its end counts, and no more comes."""
        running, self.running = self.running, None
        if running is not None:
            running.close()
            self.session.lost(running)

    def admit(self) -> None:
        """Raises where the far end cannot join. A reader has its place from now on."""
        if self.incoming:
            self._hosted.admit(self.request)
        elif self.end is None:
            self.end = self._join()

    def _join(self) -> Lane | Receiver[Any] | Tap[Any]:
        try:
            return self._hosted.sender(self.request) if self.incoming else self._hosted.reader(self.request)
        except ChannelBusy as error:
            if self._may_come_free():
                raise PsyneError(f"{error}; it may be gone, its connection gives no sign of life") from error
            raise

    def _may_come_free(self) -> bool:
        """Is the place kept for a far end that has no connection, or none that works? Then it is not busy for good."""
        others = [peer for peer in self._bound.peers if peer.end is not None and self._competes_with(peer)]
        there = [peer.running is not None and peer.running.answers() for peer in others]  # all are asked
        return not all(there)

    def _competes_with(self, peer: Peer) -> bool:
        stages = {self.request.stage, peer.request.stage}
        return (
            peer is not self
            and peer.request.role == self.request.role
            and peer._hosted.local == self._hosted.local
            and (len(stages) == 1 or "" in stages)  # "" is the stage that there is
        )

    def unheard(self, stranger: object) -> None:
        """A connection was lost before its far end spoke: others may have the place meanwhile."""
        if self.session.connection is not stranger:  # it has come over another one
            return
        self.session.lost(stranger)
        if self.link is None and self.end is not None:
            self.end.close()
            self.end = None

    def run(self, sock: socket.socket, opened: Opened, rest: bytes) -> None:
        """Goes on over a connection, whose far end has spoken. Raises as joining the channel does."""
        self.suspend()
        bound = self._bound
        if self.link is None:
            self.admit()
            self.end = self.end or self._join()
            kicks = bound.kicks if not self.incoming and self._hosted.is_next(self.request) else None
            checksum = self.request.checksum or bound.options.checksum
            self.link = _native.Connection(self.end, checksum, kicks, bound.options.max_frame)
            bound.gateway.add(self.link)
            bound.settle()
        self.running = Running(
            bound.driver, bound.gateway, self.link, sock, opened, rest, self, bound.options.heartbeat
        )
        self.session.connected(self.running)
        self.running.start()

    def leave(self, *, keeps: bool = False) -> None:
        """A sender hears that nothing more is taken, and closes its connection. ``keeps``: what came stays here."""
        self._leaving = True
        if self.running is not None:
            self.running.leave(keeps=keeps)
        else:
            self.close()

    def finish(self) -> None:
        """The bound side stops: who sends hears that nothing more is taken, who receives that this was all."""
        if self.incoming:
            self.leave(keeps=True)
        elif self.running is not None:
            self.running.finish()
        else:
            self.close()

    def keeps_busy(self, finishing: bool) -> bool:
        """Is something to be said to it, or heard from it? ``finishing``: others get what it has not let go."""
        return self.link is not None and not (self.ended and not (finishing and isinstance(self.end, Receiver)))

    def over(self, running: Running, why: str) -> None:
        self.ended = True
        self._bound.settle()
        if why in ("closed", "failed"):
            self._close_lane(why == "failed")
        elif why == "left":
            running.close()
            self.session.end()
            self._finish(give_back=True)

    def lost(self, running: Running, why: PsyneError | None) -> None:
        if self.running is running:
            self.running = None
        if isinstance(why, ProtocolError):
            self._violations += 1
            self._bound.refused += 1
        if why is None or self._leaving or self.link is None or self.link.parted:
            self.session.end()
            self._finish(give_back=False)
        elif self._violations > VIOLATIONS:
            warn(f"a peer of {self._hosted.address} broke the protocol {self._violations} times, at last: {why}")
            self._close_lane(True)
            self.close()
        else:
            if not self.ended:
                warn(
                    f"a connection of {self._hosted.address} is lost ({why}); it may come back for "
                    f"{self._bound.options.session_timeout} s"
                )
            self.session.lost(running)

    def close(self) -> None:
        """No more of it."""
        if self.running is not None:
            self.running.close()
            self.running = None
        self.session.end()
        self._finish(give_back=True)

    def _session_over(self, on_purpose: bool) -> None:
        if on_purpose:
            return
        if self.link is not None and not self.ended:
            warn(f"a peer of {self._hosted.address} did not come back")
        self._close_lane(True)
        self._finish(give_back=True)

    def _close_lane(self, failed: bool) -> None:
        if isinstance(self.end, Lane) and not self.end.closed:
            self._hosted.close(self.end, failed)
            self._bound.gateway.wake()

    def _finish(self, *, give_back: bool) -> None:
        if self.link is not None and give_back:
            self.link.give_back()
        self._bound.forget(self)
        if isinstance(self.end, Lane):
            self._hosted.close(self.end, False)
        elif self.end is not None:
            self.end.close()
        if self.link is not None:
            self._bound.gateway.remove(self.link)
        self.link = self.end = None  # the memory of a lane goes now, not when garbage is collected
        self._bound.gateway.wake()
