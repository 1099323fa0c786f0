"""The bound side: accepts peers, and lets each join a local channel by the rules that hold for local ends."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .. import _native
from ..errors import AuthenticationFailed, ChannelClosed, InvalidArgument, PsyneError, SystemFailure
from ..log import logger, warn
from .bodies import Reply, Request, printable, refusal
from .driver import Driver
from .greeting import Farewell, Greeting
from .handshake import Server
from .happening import Happening
from .hosted import Hosted, usual_capacity
from .inherited import not_inherited
from .options import NetworkOptions
from .peer import Peer
from .running import Running
from .security import bind_places
from .sessions import Sessions

__all__ = ["Bound"]

BACKLOG = 128
STRANGERS = 32  # connections whose handshake is not over
ACCEPTS = 16  # in a row, before others have their turn
PAUSE = 0.5  # seconds without accepting, where the system has no descriptor or memory left


@dataclass(eq=False)
class Stranger:
    """Who has connected, until the handshake is over."""

    sock: socket.socket
    host: str
    peer: Peer | None = None
    made: bool = False
    """The peer was made for this connection: without it there is none."""

    @property
    def identity(self) -> bytes | None:
        """The certificate that it has shown."""
        return self.sock.getpeercert(binary_form=True) if isinstance(self.sock, ssl.SSLSocket) else None


class Bound:
    """Sockets that listen at one address, and the peers that came.

    ``hosted`` gives the channel of a name, or raises. ``kicks``: the gateway of a user's sender, which says when it has
    sent; without one the channel itself wakes those that carry its messages.

    At most ``options.max_connections`` peers and strangers, a quarter of them from one address, and 32 strangers. Where
    there is no room for a newcomer, the oldest stranger of the address with the most goes: so who only connects keeps
    nobody out. Peers that are known go for nobody.
    """

    def __init__(
        self, driver: Driver, host: str, port: int, options: NetworkOptions, hosted: Callable[[str], Hosted],
        gateway: _native.Gateway, kicks: _native.Gateway | None = None,
    ) -> None:  # fmt: skip
        self.driver, self.options, self.gateway, self.kicks = driver, options, gateway, kicks
        self.sessions = Sessions(driver, options.session_timeout, options.max_connections)
        self.peers: set[Peer] = set()
        self.quiet = Happening()  # no peer is there that has spoken and still has to say or hear something
        self.quiet.set()
        self.accepted = 0
        """Handshakes that came to a good end."""
        self.refused = 0
        """Connections that were closed for what came over them, or did not."""
        self.sent_away = 0
        """Connections for which there was no room."""
        self.pauses = 0
        """How often nobody was accepted for a while, for lack of descriptors or memory."""
        self._hosted = hosted
        self._strangers: dict[Greeting, Stranger] = {}  # the oldest first
        self._closed = self._finishing = False
        self._sockets: list[socket.socket] = []
        try:
            for family, place in bind_places(
                host, port, tls=options.context is not None, token=options.token is not None
            ):
                if self._sockets and port == 0:
                    place = (place[0], self.port, *place[2:])
                self._sockets.append(_listen(family, place))
        except BaseException:
            for sock in self._sockets:
                sock.close()
            raise
        for sock in self._sockets:
            self._watch(sock)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def connections(self) -> list[Running]:
        """Those in use."""
        return [peer.running for peer in self.peers if peer.running is not None]

    @property
    def strangers(self) -> int:
        """Connections whose handshake is not over, or that hear why it failed."""
        return len(self._strangers)

    def forget(self, peer: Peer) -> None:
        self.peers.discard(peer)
        self.settle()

    def settle(self) -> None:
        """Is there a peer that something is to be said to, or heard from?"""
        if any(peer.keeps_busy(self._finishing) for peer in self.peers):
            self.quiet.clear()
            return
        self.quiet.set()
        if self._closed:
            self._shut()

    def stop_listening(self) -> None:
        """Nobody new comes any more; who has a session may come back to it. By the driver."""
        self._closed = True
        self.settle()

    def _shut(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self.driver.unwatch(sock.fileno())
                sock.close()
        for greeting in list(self._strangers):
            self._send_off(greeting)

    def leave(self) -> None:
        """Senders hear that nothing more is taken. By the driver."""
        for peer in list(self.peers):
            if peer.incoming:
                peer.leave()
            else:
                peer.close()

    def finish(self) -> None:
        """All hear that this is the end; `quiet` is set when they have let go of all. By the driver."""
        self._finishing = True
        self.stop_listening()
        for peer in list(self.peers):
            peer.finish()

    def close(self) -> None:
        """All connections end. By the driver."""
        self._closed = True
        self._shut()
        for peer in list(self.peers):
            peer.close()

    # ---- who comes --------------------------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self.driver.watch(sock.fileno(), True, False, lambda: self._accept(sock))

    def _accept(self, sock: socket.socket) -> None:
        """Raises nothing: the driver would watch the socket no more."""
        for _ in range(ACCEPTS):
            try:
                accepted, address = sock.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                warn(f"port {self.port} takes nobody for {PAUSE} s: {error.strerror}")
                self.pauses += 1
                self.driver.unwatch(sock.fileno())
                self.driver.later(PAUSE, lambda: self._watch(sock))
                return
            try:
                self._meet(accepted, str(address[0]), f"{address[0]}:{address[1]}")
            except Exception as error:  # it is gone already, or the system has no memory left
                accepted.close()
                if not isinstance(error, OSError):
                    logger.error("a connection of %s failed here: %r", address[0], error, exc_info=error)

    def _meet(self, accepted: socket.socket, host: str, name: str) -> None:
        accepted.setblocking(False)
        if why := self._no_room(host):
            self.sent_away += 1
            warn(f"port {self.port} has no room for {host}: {why}")
            if self.options.context is None:
                with suppress(OSError):
                    accepted.send(refusal(PsyneError(f"no room: {why}")))
            accepted.close()
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.options.context is not None:
            accepted = self.options.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        stranger = Stranger(accepted, host)
        machine = Server(lambda request: self._open(request, stranger), name, self.options.token)
        greeting = Greeting(
            self.driver, accepted, machine, name,
            lambda g, s: self._greeted(g, s, stranger),
            lambda g, error: self._failed(g, error, stranger),
            gone=lambda g: self._strangers.pop(g, None),
        )  # fmt: skip
        self._strangers[greeting] = stranger

    def _no_room(self, host: str) -> str:
        """Makes room for one more from there. Why there is none, else ""."""
        most = self.options.max_connections
        each, strangers = max(1, most // 4), max(1, min(STRANGERS, most // 2))
        if self._from(host) >= each and not self._make_room(host):
            return f"{each} connections from there, the most that max_connections={most} allows one address"
        if len(self.peers) + len(self._strangers) >= most and not self._make_room():
            return f"max_connections={most}"
        if len(self._strangers) >= strangers:
            self._make_room()
        return ""

    def _from(self, host: str) -> int:
        return sum(one.host == host for one in self.peers) + sum(s.host == host for s in self._strangers.values())

    def _make_room(self, host: str = "") -> bool:
        """The oldest stranger from there goes, or of the address with the most; False: there is none."""
        hosts = Counter(stranger.host for stranger in self._strangers.values())
        crowd = host or (hosts.most_common(1)[0][0] if hosts else "")
        oldest = next((g for g, stranger in self._strangers.items() if stranger.host == crowd), None)
        if oldest is None:
            return False
        self.sent_away += 1
        self._send_off(oldest)
        return True

    def _send_off(self, greeting: Greeting) -> None:
        stranger = self._strangers.pop(greeting, None)
        if stranger is not None:  # the peers that go with strangers may have been the last, and then all go
            greeting.close()
            self._undo(stranger)

    # ---- the handshake ----------------------------------------------------------------------------------------------

    def _open(self, request: Request, stranger: Stranger) -> Reply:
        """What the peer wants to join; a session that is known goes on."""
        hosted = self._hosted(request.channel)
        peer = self._known(request, stranger) if request.session else None
        if resumed := peer is not None:
            peer.suspend()
            peer.admit()
        else:
            if self._closed:
                raise ChannelClosed(f"{hosted.address} is closing")
            peer = Peer(self, hosted, request, stranger.host, stranger.identity)
            self.peers.add(peer)
            stranger.made = True
        stranger.peer = peer
        peer.session.connected(stranger)  # while its handshake goes on no session comes to its end
        there = hosted.there
        schema = there["schema"] if there else request.schema or ""
        return Reply(
            schema=schema,
            session=peer.session.id,
            resumed=resumed,
            next=peer.link.next if peer.incoming and peer.link is not None else 0,
            capacity=hosted.slots(request) if peer.incoming else request.capacity or usual_capacity(schema),
            checksum=request.checksum or self.options.checksum,
        )

    def _known(self, request: Request, stranger: Stranger) -> Peer | None:
        """Who goes on with a session. Its number alone is not enough, it must be the same one who wants the same."""
        session = self.sessions.find(request.session)
        peer = next((one for one in self.peers if one.session is session), None) if session is not None else None
        if peer is not None and peer.identity != stranger.identity:
            raise AuthenticationFailed("this session was begun with another certificate")
        if peer is not None and not peer.same(request):
            raise InvalidArgument("this session was begun with another request: it can only go on as it was")
        return peer

    def _greeted(self, greeting: Greeting, sock: socket.socket, stranger: Stranger) -> None:
        self._strangers.pop(greeting, None)
        peer, agreed = stranger.peer, greeting.machine.opened
        assert peer is not None
        assert agreed is not None
        if peer not in self.peers or peer.session.state == "over":
            sock.close()
            return
        self.accepted += 1
        try:
            peer.run(sock, agreed, greeting.machine.rest)
        except PsyneError as error:
            self.refused += 1
            warn(f"port {self.port}: {greeting.peer} was refused: {error}")
            if sock.fileno() >= 0:
                Farewell(self.driver, sock, refusal(error))
            peer.close()

    def _failed(self, greeting: Greeting, error: PsyneError, stranger: Stranger) -> None:
        if greeting.machine.done and stranger.peer is not None:  # it may know its session, and come back
            stranger.peer.unheard(stranger)
        else:
            self._undo(stranger)
        self.refused += 1
        warn(f"port {self.port}: {printable(str(error))}")

    def _undo(self, stranger: Stranger) -> None:
        """What was joined for a handshake that fails is left at once. A session from before waits on."""
        peer = stranger.peer
        if peer is None or peer not in self.peers:
            return
        if stranger.made:
            peer.close()
        else:
            peer.session.lost(stranger)


def _listen(family: int, place: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    not_inherited(sock)
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
