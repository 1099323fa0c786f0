"""The connecting side: finds its peer, goes on after lost connections, and tells its end when that is over for good."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .. import _native
from ..ends import Receiver
from ..errors import (
    AuthenticationFailed,
    ChannelBusy,
    IncompatibleChannel,
    InvalidArgument,
    LayoutMismatch,
    ProtocolError,
    PsyneError,
    SessionReset,
)
from ..log import warn
from .bodies import Request
from .driver import Driver
from .greeting import Greeting
from .handshake import Client
from .happening import Happening
from .hosted import Hosted, usual_capacity
from .options import NetworkOptions
from .running import Running
from .security import places
from .sessions import Backoff

__all__ = ["Remote"]

FOR_GOOD = (AuthenticationFailed, ChannelBusy, IncompatibleChannel, InvalidArgument, LayoutMismatch, ProtocolError)


class Remote:
    """The far end of an end that connects. All but `start` and `close` is the driver's.

    ``signal`` makes the user's end raise an error. An outgoing one has a member of the user's channel as its ``member``;
    an incoming one makes a lane in ``hosted`` for each session.
    """

    def __init__(
        self, driver: Driver, host: str, port: int, address: str, options: NetworkOptions, request: Request,
        gateway: _native.Gateway, signal: Callable[[PsyneError, bool], object], *,
        hosted: Hosted, member: Receiver[Any] | None = None, follow: bool = False, accept: Callable[[str], object],
    ) -> None:  # fmt: skip
        self.finished = Happening()  # nothing is on the way any more
        self._driver, self._host, self._port, self._address = driver, host, port, address
        self._options, self._request, self._gateway, self._signal = options, request, gateway, signal
        self._hosted, self._member, self._follow, self._accept = hosted, member, follow, accept
        self._session = ""
        self._backoff = Backoff()
        self._greeting: Greeting | None = None
        self._running: Running | None = None
        self._closing = self._closed = False
        self._told = ""
        self._cancel: Callable[[], None] | None = None
        self._cancel_over: Callable[[], None] | None = None
        self._lane: Any = None
        self._link: _native.Connection | None = None
        if member is not None:
            self._link = _native.Connection(member, options.checksum, gateway, options.max_frame)
            gateway.add(self._link)

    @property
    def outgoing(self) -> bool:
        return self._member is not None

    @property
    def connected(self) -> bool:
        return self._running is not None

    @property
    def connections(self) -> list[Running]:
        """Those in use."""
        return [self._running] if self._running is not None else []

    def start(self) -> None:
        self._driver.soon(self._connect)

    def stop(self) -> None:
        """The end closes. An outgoing one sends what there is; an incoming one says that it leaves. By the driver."""
        self._closing = True
        if not self.outgoing:
            if self._link is not None and self._running is not None:
                self._link.leave()
                self._running.move()
            else:
                self.finished.set()
        elif self._link is None or (self._session == "" and self._link.outstanding == 0 and not self._there()):
            self.finished.set()

    def close(self) -> None:
        """No connection any more. By the driver."""
        self._closing = self._closed = True
        for cancel in (self._cancel, self._cancel_over):
            if cancel is not None:
                cancel()
        if self._greeting is not None:
            self._greeting.close()
        if self._running is not None:
            self._running.close()
            self._running = None
        self._end_lane(False)
        if self._member is not None:
            if self._link is not None:
                self._link.give_back()
                self._gateway.remove(self._link)
            self._member.close()
        self.finished.set()

    def _there(self) -> bool:
        """Is something in the channel that was not sent?"""
        assert self._member is not None
        return not self._member.closed and _native.there(self._member, 1) > 0

    # ---- connecting -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._cancel = None
        if self._closed or self._running is not None or self._greeting is not None:
            return
        try:
            family, place = places(self._host, self._port)[0]
            sock = socket.socket(family, socket.SOCK_STREAM)
        except (PsyneError, OSError) as error:
            self._again(str(error))
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(place)
        if error not in (0, 115, 36):  # EINPROGRESS on Linux and macOS
            sock.close()
            self._again(f"{self._address} cannot be reached: error {error}")
            return
        if self._options.context is not None:
            sock = self._options.context.wrap_socket(
                sock, do_handshake_on_connect=False, server_hostname=self._options.server_name or self._host
            )
        link = self._link
        request = replace(
            self._request,
            session=self._session,
            next=link.next if link is not None and not self.outgoing and self._session else 0,
        )
        machine = Client(request, self._address, self._options.token)
        self._greeting = Greeting(self._driver, sock, machine, self._address, self._greeted, self._failed)

    def _failed(self, greeting: Greeting, error: PsyneError) -> None:
        self._greeting = None
        if isinstance(error, FOR_GOOD):
            self._signal(error, True)
            self._end_lane(True)
            self.finished.set()
        else:
            self._again(str(error))

    def _again(self, why: str) -> None:
        if self._closed:
            return
        if why and why != self._told:
            self._told = why
            warn(f"{why}; trying again")
        self._cancel = self._driver.later(self._backoff.pause(), self._connect)

    def _greeted(self, greeting: Greeting, sock: socket.socket) -> None:
        self._greeting = None
        opened = greeting.machine.opened
        assert opened is not None
        if self._closed:
            sock.close()
            return
        self._backoff.reset()
        self._told = ""
        before, self._session = self._session, opened.reply.session
        try:
            if not opened.reply.resumed:
                self._begin(opened.reply.schema, opened.capacity, before)
            assert self._link is not None
        except PsyneError as error:
            sock.close()
            self._signal(error, True)
            self.finished.set()
            return
        if self._cancel_over is not None:
            self._cancel_over()
            self._cancel_over = None
        self._running = Running(self._driver, self._link, sock, opened, greeting.machine.rest, self)
        self._running.start()
        self._gateway.wake()

    def _begin(self, schema: str, capacity: int, before: str) -> None:
        """A session with a peer that knows nothing of one before."""
        if self.outgoing:
            assert self._link is not None
            if before:
                if again := self._link.outstanding:
                    self._reset(
                        f"{self._address} was restarted: {again} messages that it had not let go are sent again"
                    )
                self._link.restart()
            return
        if self._lane is not None:
            self._end_lane(True)
            if before:
                self._reset(f"{self._address} was restarted: what it had sent and this end had not got is lost")
        self._accept(schema)
        if capacity > max(self._request.capacity, usual_capacity(schema)):
            raise ProtocolError(
                f"{self._address} wants to send {capacity} messages ahead, which this end has no room for"
            )
        self._lane = self._hosted.sender(replace(self._request, role="sender", schema=schema), capacity)
        if self._link is not None:
            self._gateway.remove(self._link)
        self._link = _native.Connection(self._lane, self._options.checksum, None, self._options.max_frame)
        self._gateway.add(self._link)
        self._gateway.wake()

    def _reset(self, text: str) -> None:
        warn(text)
        self._signal(SessionReset(text), False)

    # ---- what becomes of a connection -------------------------------------------------------------------------------

    def over(self, running: Running, why: str) -> None:
        self._session = ""
        if why == "understood":
            self.finished.set()
        elif why == "left":
            running.close()
            self._running = None
            if self._link is not None:
                self._link.give_back()
                self._link.restart()
            if self._closing:
                self.finished.set()
            self._again("")
        else:
            self._end_lane(why == "failed")

    def lost(self, running: Running, why: str) -> None:
        self._running = None
        if self._closed or (not why and self.outgoing):
            return
        if self._closing and not self.outgoing:  # the peer has heard that we leave
            self.finished.set()
            return
        if not why:  # it ended
            if self._follow:
                self._again("")
            return
        if self._session == "":
            return
        if not self.outgoing and self._cancel_over is None:
            self._cancel_over = self._driver.later(self._options.session_timeout, self._lost_for_good)
        self._again(f"the connection to {self._address} is lost: {why}")

    def _lost_for_good(self) -> None:
        self._cancel_over = None
        self._session = ""
        self._end_lane(True)
        if not self._follow:
            self.close()

    def _end_lane(self, failed: bool) -> None:
        if self._lane is not None and not self._lane.closed:
            self._lane._close(failed)
            self._gateway.wake()
        self._lane = None
