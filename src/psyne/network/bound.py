"""The bound side: accepts peers, and lets each join a local channel by the rules that hold for local ends."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import _native
from ..ends import Receiver
from ..errors import ChannelBusy, PsyneError, SystemFailure
from ..log import warn
from ..taps import Tap
from .bodies import Reply, Request, refusal
from .driver import Driver
from .greeting import Greeting
from .happening import Happening
from .handshake import Opened, Server
from .hosted import Hosted, Lane, usual_capacity
from .options import NetworkOptions
from .running import Running
from .security import bind_places
from .sessions import Session, Sessions

__all__ = ["Bound"]

BACKLOG = 128
CONNECTIONS = 256
STRANGERS = 32  # connections whose handshake is not over
PER_ADDRESS = 64


class Peer:
    """One far end: what it has joined, and the connection that carries it now, if there is one.

    It takes and brings no messages before it has said something behind the handshake: then it knows its session.
    """

    def __init__(self, bound: Bound, hosted: Hosted, request: Request) -> None:
        self._bound, self._hosted, self.request = bound, hosted, request
        self.incoming = request.role == "sender"
        self.end: Lane | Receiver[Any] | Tap[Any] | None = None
        self.link: _native.Connection | None = None
        if self.incoming:
            hosted.admit(request)
        else:
            self.end = hosted.reader(request)
        self._leaving = self._ended = False
        self.running: Running | None = None
        self.session: Session = bound.sessions.open(self._session_over)

    def same(self, request: Request) -> bool:
        """Is it what this far end had before?"""
        mine = self.request
        return (mine.role, mine.channel, mine.stage, mine.schema) == (
            request.role,
            request.channel,
            request.stage,
            request.schema,
        )

    def suspend(self) -> None:
        """A connection before is stale: what it brought to its end counts, and no more comes."""
        running, self.running = self.running, None
        if running is not None:
            running.close()
            self.session.lost(running)

    def run(self, sock: socket.socket, opened: Opened, rest: bytes) -> None:
        """Goes on over a connection, whose far end has spoken. Raises as joining the channel does."""
        self.suspend()
        bound = self._bound
        if self.end is None:
            self.end = self._hosted.sender(self.request)
        if self.link is None:
            kicks = bound.kicks if not self.incoming and self._hosted.is_next(self.request) else None
            checksum = self.request.checksum or bound.options.checksum
            self.link = _native.Connection(self.end, checksum, kicks, bound.options.max_frame)
            bound.gateway.add(self.link)
        self.running = Running(
            bound.driver, bound.gateway, self.link, sock, opened, rest, self, bound.options.heartbeat
        )
        self.session.connected(self.running)
        self.running.start()

    def leave(self) -> None:
        """A sender hears that nothing more is taken, and closes its connection."""
        self._leaving = True
        if self.running is not None:
            self.running.leave()
        else:
            self.close()

    def over(self, running: Running, why: str) -> None:
        self._ended = True
        if why in ("closed", "failed"):
            self._close_lane(why == "failed")
        elif why == "left":
            running.close()
            self.session.end()
            self._finish(give_back=True)

    def lost(self, running: Running, why: PsyneError | None) -> None:
        if self.running is running:
            self.running = None
        if why is None or self._leaving or self.link is None or self.link.parted:
            self.session.end()
            self._finish(give_back=False)
        else:
            if not self._ended:
                warn(
                    f"a connection of {self._hosted.address} is lost ({why}); it may come back for "
                    f"{self._bound.options.session_timeout} s"
                )
            self.session.lost(running)

    def close(self) -> None:
        """The bound end closes."""
        if self.running is not None:
            self.running.close()
            self.running = None
        self.session.end()
        self._finish(give_back=True)

    def _session_over(self, on_purpose: bool) -> None:
        if on_purpose:
            return
        if self.link is not None and not self._ended:
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
        self._bound.gateway.wake()


class Bound:
    """Sockets that listen at one address, and the peers that came.

    ``hosted`` gives the channel of a name, or raises ChannelNotFound. ``kicks``: the gateway of a user's sender, which
    says when it has sent; without one the channel itself wakes those that carry its messages.
    """

    def __init__(
        self, driver: Driver, host: str, port: int, options: NetworkOptions, hosted: Callable[[str], Hosted],
        gateway: _native.Gateway, kicks: _native.Gateway | None = None,
    ) -> None:  # fmt: skip
        self.options, self.gateway, self.kicks = options, gateway, kicks
        self.sessions = Sessions(driver, options.session_timeout)
        self.peers: set[Peer] = set()
        self.quiet = Happening()  # no peer is there
        self.quiet.set()
        self.driver, self._hosted = driver, hosted
        self._greetings: dict[Greeting, str] = {}
        self._addresses: Counter[str] = Counter()
        self._closed = False
        self._sockets: list[socket.socket] = []
        for family, place in bind_places(host, port, tls=options.context is not None, token=options.token is not None):
            if self._sockets and port == 0:
                place = (place[0], self.port, *place[2:])
            self._sockets.append(_listen(family, place))
        for sock in self._sockets:
            driver.watch(sock.fileno(), True, False, lambda sock=sock: self._accept(sock))  # type: ignore[misc]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def connections(self) -> list[Running]:
        """Those in use."""
        return [peer.running for peer in self.peers if peer.running is not None]

    def forget(self, peer: Peer) -> None:
        self.peers.discard(peer)
        if not self.peers:
            self.quiet.set()

    def stop_listening(self) -> None:
        """Nobody comes any more. By the driver."""
        self._closed = True
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self.driver.unwatch(sock.fileno())
                sock.close()
        for greeting in list(self._greetings):
            greeting.close()
        self._greetings.clear()

    def leave(self) -> None:
        """Senders hear that nothing more is taken. By the driver."""
        for peer in list(self.peers):
            if peer.incoming:
                peer.leave()
            else:
                peer.close()

    def close(self) -> None:
        """All connections end. By the driver."""
        self.stop_listening()
        for peer in list(self.peers):
            peer.close()

    def _accept(self, sock: socket.socket) -> None:
        try:
            accepted, address = sock.accept()
        except (BlockingIOError, ConnectionError):
            return
        accepted.setblocking(False)
        host = str(address[0])
        here = sum(1 for other in self._greetings.values() if other == host)
        if (
            len(self._greetings) >= STRANGERS
            or len(self.peers) + len(self._greetings) >= CONNECTIONS
            or here >= PER_ADDRESS
        ):
            warn(
                f"port {self.port}: too many connections ({len(self.peers)} and {len(self._greetings)} that have not greeted); {host} was sent away"
            )
            accepted.close()
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = f"{host}:{address[1]}"
        if self.options.context is not None:
            accepted = self.options.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        opened: list[Peer] = []
        machine = Server(lambda request: self._open(request, opened), peer, self.options.token)
        greeting = Greeting(
            self.driver, accepted, machine, peer,
            lambda g, s: self._greeted(g, s, opened), lambda g, error: self._failed(g, error, opened),
        )  # fmt: skip
        self._greetings[greeting] = host

    def _open(self, request: Request, opened: list[Peer]) -> Reply:
        """What the peer wants to join; a session that is known goes on."""
        hosted = self._hosted(request.channel)
        session = self.sessions.find(request.session) if request.session else None
        peer = next((p for p in self.peers if p.session is session), None) if session is not None else None
        resumed = peer is not None and peer.same(request)
        if peer is None or not resumed:
            if self._closed:
                raise ChannelBusy(f"{hosted.address} is closing")
            peer = Peer(self, hosted, request)
            self.peers.add(peer)
            self.quiet.clear()
        else:
            peer.suspend()
        opened.append(peer)
        there = hosted.there
        return Reply(
            schema=(schema := there["schema"] if there else request.schema or ""),
            session=peer.session.id,
            resumed=resumed,
            next=peer.link.next if peer.incoming and peer.link is not None else 0,
            capacity=hosted.slots(request) if peer.incoming else request.capacity or usual_capacity(schema),
            checksum=request.checksum or self.options.checksum,
        )

    def _greeted(self, greeting: Greeting, sock: socket.socket, opened: list[Peer]) -> None:
        self._greetings.pop(greeting, None)
        peer, agreed = opened[0], greeting.machine.opened
        assert agreed is not None
        if peer.session.state == "over" or peer not in self.peers:
            sock.close()
            return
        try:
            peer.run(sock, agreed, greeting.machine.rest)
        except PsyneError as error:
            warn(f"port {self.port}: {error}")
            with suppress(OSError):
                sock.send(refusal(error))
            sock.close()
            peer.close()

    def _failed(self, greeting: Greeting, error: PsyneError, opened: list[Peer]) -> None:
        self._greetings.pop(greeting, None)
        for peer in opened:
            if peer.running is None and not isinstance(error, SystemFailure) and peer in self.peers:
                peer.close()
        warn(f"port {self.port}: {error}")


def _listen(family: int, place: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise SystemFailure(error.errno, f"cannot bind {place[0]} port {place[1]}: {error.strerror}") from error
    return sock
