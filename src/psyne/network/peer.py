"""A far end of a bound side: what it has joined here, and what of it outlives a connection."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _native
from ..ends import Receiver
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
    """One far end: an end of the local channel that it has joined, and the connection that carries it now, if any.

    ``host`` is where it came from, ``identity`` its certificate, where TLS wants one. All is the driver's.
    """

    def __init__(self, bound: Bound, hosted: Hosted, request: Request, host: str, identity: bytes | None) -> None:
        self.request, self.host, self.identity = request, host, identity
        self.incoming = request.role == "sender"
        self.running: Running | None = None
        self._bound, self._hosted = bound, hosted
        self._ending = False
        self._violations = 0
        self.session: Session = bound.sessions.open(self._session_over)
        try:
            self.end: Lane | Receiver[Any] | Tap[Any] = (
                hosted.sender(request) if self.incoming else hosted.reader(request)
            )
            try:
                self.link = _native.Connection(
                    self.end,
                    request.checksum or bound.options.checksum,
                    None if self.incoming else bound.kicks,
                    bound.options.max_frame,
                )
            except BaseException:
                self.end.close()
                raise
        except BaseException:
            self.session.end()
            raise
        bound.gateway.add(self.link)
        bound.gateway.wake()

    def same(self, request: Request) -> bool:
        """Is it what this far end asked for before?"""
        return replace(request, session="", next=0) == replace(self.request, session="", next=0)

    def run(self, sock: socket.socket, opened: Opened, rest: bytes) -> None:
        """Go on over another connection. Raises ProtocolError for one that goes on with what cannot be."""
        self.suspend()
        try:
            self.running = Running(self._bound.driver, self.link, sock, opened, rest, self)
        except BaseException:
            sock.close()
            raise
        self.session.connected(self.running)
        self.running.start()
        self._bound.gateway.wake()

    def suspend(self) -> None:
        """A connection before is stale: what it brought counts, and no more comes."""
        if self.running is not None:
            self.running.close()
            self.session.lost(self.running)
            self.running = None

    def over(self, running: Running, why: str) -> None:
        if why in ("closed", "failed"):
            self._close_lane(why == "failed")
            self.session.end()
        elif why == "left":
            running.close()
            self.close()
        # "understood": it has all that there is, and goes on with its session until it has let go of that

    def lost(self, running: Running, why: str) -> None:
        if self.running is running:
            self.running = None
        if running.violated:
            self._violations += 1
            self._bound.refused += 1
        if not why or self._ending or self.session.state == "over":
            self.session.end()
            self._finish(give_back=bool(why))
        elif self._violations > VIOLATIONS:
            warn(f"a peer of {self._hosted.address} broke the protocol {self._violations} times, at last: {why}")
            self._close_lane(True)
            self.close()
        else:
            timeout = self._bound.options.session_timeout
            warn(f"a connection of {self._hosted.address} is lost ({why}); it may come back for {timeout} s")
            self.session.lost(running)

    def finish(self) -> None:
        """The bound side stops: who sends hears that nothing more is taken, who receives that this was all."""
        self._ending = True
        if self.running is None:
            self.close()
            return
        if self.incoming:
            self.link.leave(True)
        else:
            self.link.finish()
        self.running.start()

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
        warn(f"a peer of {self._hosted.address} did not come back")
        self._close_lane(True)
        self._finish(give_back=True)

    def _close_lane(self, failed: bool) -> None:
        if isinstance(self.end, Lane) and not self.end.closed:
            self.end._close(failed)
            self._bound.gateway.wake()

    def _finish(self, *, give_back: bool) -> None:
        if give_back:
            self.link.give_back()
        self._bound.forget(self)
        self.end.close()
        self._bound.gateway.remove(self.link)
        self._bound.gateway.wake()
