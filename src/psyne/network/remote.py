"""The connecting side: finds its peer, goes on after lost connections, and tells its end when that is over for good."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .. import _native
from ..ends import Receiver
from ..errors import (
    AuthenticationFailed,
    ChannelBusy,
    ForkedError,
    IncompatibleChannel,
    InvalidArgument,
    LayoutMismatch,
    ProtocolError,
    PsyneError,
    SessionReset,
)
from ..log import warn
from .bodies import Request
from .driver import Callback, Driver
from .greeting import Greeting
from .handshake import Client, Opened
from .hosted import Hosted, Lane, usual_capacity
from .options import NetworkOptions
from .running import Running
from .security import Place, places
from .sessions import Backoff

__all__ = ["Remote"]

FOR_GOOD = (AuthenticationFailed, ChannelBusy, IncompatibleChannel, InvalidArgument, LayoutMismatch)
STEADY = 10.0  # seconds that a connection holds before the next pause is short again, if it brought nothing


class Remote:
    """The far end of an end that connects. All but `start` is the driver's.

    ``signal`` makes the user's end raise an error. An outgoing one has a member of the user's channel as its
    ``member``; an incoming one makes a lane in ``hosted`` for each session.

        resolve ──▶ connect ──▶ greet ──▶ run ──▶ over: understood, closed, failed, left
           ▲           ▲ next place │       │ lost
           │           └────────────┤       │
           └──────── pause ◀────────┴───────┘      an incoming one that stays so for session_timeout is lost for good
    """

    def __init__(
        self, driver: Driver, host: str, port: int, address: str, options: NetworkOptions, request: Request,
        gateway: _native.Gateway, signal: Callable[[PsyneError, bool], object], *,
        hosted: Hosted, member: Receiver[Any] | None = None, follow: bool = False, accept: Callable[[str], object],
    ) -> None:  # fmt: skip
        self.finished = threading.Event()  # nothing is on the way any more
        self._driver, self._host, self._port, self._address = driver, host, port, address
        self._options, self._request, self._gateway, self._signal = options, request, gateway, signal
        self._hosted, self._member, self._follow, self._accept = hosted, member, follow, accept
        self._places: list[Place] = []  # that were not tried yet
        self._session = ""
        self._backoff = Backoff()
        self._greeting: Greeting | None = None
        self._running: Running | None = None
        self._closing = self._closed = False
        self._ended = False  # the far senders have, and this end does not follow others
        self._told = ""
        self._began, self._since = 0, 0.0  # the connection: with this message, at this time
        self._cancel_connect: Callback | None = None
        self._cancel_session: Callback | None = None
        self._lane: Lane | None = None
        self._link: _native.Connection | None = None
        if member is not None:
            self._link = _native.Connection(member, options.checksum, gateway, options.max_frame)
            gateway.add(self._link)

    @property
    def connected(self) -> bool:
        return self._running is not None

    def start(self) -> None:
        self._driver.soon(self._connect)

    def stop(self) -> None:
        """The end closes. An outgoing one sends what there is; an incoming one says that it leaves."""
        self._closing = True
        if self._running is not None:
            if self._member is None:
                self._running.leave()
        elif self._member is None or not (self._session or self._unsent()):
            self.finished.set()

    def close(self) -> None:
        """No connection any more. Again is harmless."""
        self._closing = self._closed = True
        self._rest()
        if self._running is not None:
            self._running.close()
            self._running = None
        self._end_lane(failed=False)
        if self._link is not None:
            self._gateway.remove(self._link)
            if self._member is not None:
                self._link.give_back()
                self._member.close()
            self._link = None
        self.finished.set()

    def _rest(self) -> None:
        """Try nothing any more."""
        for cancel in (self._cancel_connect, self._cancel_session):
            if cancel is not None:
                cancel()
        self._cancel_connect = self._cancel_session = None
        if self._greeting is not None:
            self._greeting.close()
            self._greeting = None

    def _unsent(self) -> bool:
        """Is something in the channel that was not sent? Only while there is no connection, which would take it."""
        member = self._member
        return member is not None and not member.closed and _native.there(member, 1) > 0

    # ---- connecting -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Look up the host: on a thread of its own where that may take long."""
        self._cancel_connect = None
        if self._closed:
            return
        try:
            ipaddress.ip_address(self._host)
        except ValueError:
            threading.Thread(target=self._resolve, name="psyne resolver", daemon=True).start()
        else:
            self._resolved(self._look_up())

    def _look_up(self) -> list[Place] | PsyneError:
        try:
            return places(self._host, self._port)
        except PsyneError as error:
            return error

    def _resolve(self) -> None:
        found = self._look_up()
        with suppress(ForkedError, RuntimeError):  # the process ends
            self._driver.soon(functools.partial(self._resolved, found))

    def _resolved(self, found: list[Place] | PsyneError) -> None:
        if self._closed:
            return
        if isinstance(found, PsyneError):
            self._pause(str(found))
        else:
            self._places = found
            self._try()

    def _try(self) -> None:
        family, place = self._places.pop(0)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor, or a kind of address that this host has not
            self._next(f"{self._address} cannot be reached: {error.strerror}")
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error_code = sock.connect_ex(place)
        if error_code not in (0, errno.EINPROGRESS):
            sock.close()
            self._next(f"{self._address} cannot be reached: {os.strerror(error_code)}")
            return
        goes_on = self._session and self._link is not None and self._member is None
        request = replace(self._request, session=self._session, next=self._link.next if goes_on and self._link else 0)
        self._greeting = Greeting(
            self._driver, sock, Client(request, self._address, self._options.token), self._address,
            self._greeted, self._failed, self._secure if self._options.context else None,
        )  # fmt: skip

    def _secure(self, sock: socket.socket) -> socket.socket:
        assert self._options.context is not None
        name = self._options.server_name or self._host
        return self._options.context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=name)

    def _failed(self, greeting: Greeting, error: PsyneError) -> None:
        self._greeting = None
        if isinstance(error, (*FOR_GOOD, ProtocolError)):
            self._fail(error)
        else:
            self._next(str(error))

    def _next(self, why: str) -> None:
        """The next place, or a pause."""
        if self._places:
            self._try()
        else:
            self._pause(why)

    def _pause(self, why: str) -> None:
        if why and why != self._told:
            self._told = why
            warn(f"{why}; trying again")
        self._cancel_connect = self._driver.later(self._backoff.pause(), self._connect)

    def _fail(self, error: PsyneError) -> None:
        """It never will be what this end wants."""
        self._rest()
        self._signal(error, True)
        self._end_lane(failed=True)
        self.finished.set()

    # ---- a connection -----------------------------------------------------------------------------------------------

    def _greeted(self, greeting: Greeting, sock: socket.socket) -> None:
        self._greeting = None
        self._places = []
        opened = greeting.machine.opened
        assert opened is not None
        before, self._session = self._session, opened.reply.session
        if self._ended and not opened.reply.resumed:  # it has forgotten what is over for this side, too
            sock.close()
            self.close()
            return
        try:
            if not opened.reply.resumed:
                self._begin(opened, before)
            assert self._link is not None
            self._running = Running(
                self._driver, self._gateway, self._link, sock, opened, greeting.machine.rest, self,
                self._options.heartbeat,
            )  # fmt: skip
        except PsyneError as error:
            sock.close()
            self._fail(error)
            return
        if self._cancel_session is not None:
            self._cancel_session()
            self._cancel_session = None
        self._began, self._since = self._link.next, time.monotonic()
        self._running.start()

    def _begin(self, opened: Opened, before: str) -> None:
        """A session with a peer that knows nothing of the one before."""
        if self._member is not None:
            assert self._link is not None
            if before and (again := self._link.outstanding):
                self._reset(
                    f"{self._address} was restarted, or waited for longer than its session_timeout: {again} messages "
                    "that it had not let go are sent again"
                )
            self._link.restart()
            return
        schema, capacity = opened.reply.schema, opened.capacity
        self._accept(schema)
        if capacity > (most := max(self._request.capacity, usual_capacity(schema))):
            raise ProtocolError(f"{self._address} wants to send {capacity} messages ahead; there is room for {most}")
        lane = self._hosted.sender(replace(self._request, role="sender", schema=schema), capacity)
        if self._lane is not None and before:
            self._reset(f"{self._address} was restarted: what it had sent and this end had not got is lost")
        self._end_lane(failed=False)  # now that there is another one: the channel goes on
        if self._link is not None:
            self._gateway.remove(self._link)
        self._lane = lane
        self._link = _native.Connection(lane, self._options.checksum, None, self._options.max_frame)
        self._gateway.add(self._link)

    def _reset(self, text: str) -> None:
        warn(text)
        self._signal(SessionReset(text), False)

    def over(self, running: Running, why: str) -> None:
        if why == "understood":
            self.finished.set()
        elif why == "left":
            running.close()
            self._running = None
            self._session = ""
            assert self._link is not None
            self._link.give_back()
            self._link.restart()
            if self._closing:
                self.finished.set()
            else:
                self._pause("")
        else:
            self._ended = not self._follow
            self._end_lane(failed=why == "failed")

    def lost(self, running: Running, why: PsyneError | None) -> None:
        self._running = None
        assert self._link is not None
        if self._closed or self.finished.is_set():
            return
        if self._closing and self._member is None:
            self.finished.set()
        elif why is None or self._link.parted:
            self._part()
        elif isinstance(why, FOR_GOOD):
            self._fail(why)
        else:
            if self._link.next != self._began or time.monotonic() - self._since > STEADY:
                self._backoff.reset()
                self._told = ""
            if self._member is None and self._cancel_session is None:
                self._cancel_session = self._driver.later(self._options.session_timeout, self._lost_for_good)
            self._pause(f"the connection to {self._address} is lost: {why}")

    def _part(self) -> None:
        """The far senders have ended. Others may come."""
        self._session = ""
        if self._follow:
            self._pause("")
        else:
            self.close()

    def _lost_for_good(self) -> None:
        self._rest()
        self._end_lane(failed=True)
        self._part()

    def _end_lane(self, *, failed: bool) -> None:
        lane, self._lane = self._lane, None
        if lane is not None and not lane.closed:
            lane._close(failed)
            self._gateway.wake()
