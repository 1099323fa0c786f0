"""The ends of channels over TCP: ordinary ends of a channel inside this process, and what carries it."""

from __future__ import annotations

import atexit
import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from .. import _native
from ..address import program_name, tcp_place
from ..ends import Receiver, Sender
from ..errors import ChannelNotFound, InvalidArgument, PsyneError
from ..log import warn
from ..stage import Stage, added_stage
from ..taps import Tap
from ..types import Message, as_type
from ..types.schema import read_kinds, schema_of
from .bodies import Request
from .bound import Bound
from .driver import Driver, thread_driver
from .hosted import Hosted
from .options import NetworkOptions, split_options
from .remote import Remote

__all__ = ["receiver", "sender", "tap"]

LEAVING = 1.0  # seconds that a receiver waits for senders to know that it takes no more

_number = itertools.count(1)
_open: weakref.WeakSet[Any] = weakref.WeakSet()


class Carrier:
    """What carries the channel of one end. The end asks it to stop when it closes."""

    def __init__(self, driver: Driver, end: Sender[Any] | Receiver[Any] | Tap[Any], linger: float) -> None:
        self.gateway = _native.Gateway()
        self._driver, self._linger = driver, linger
        self._end = weakref.ref(end)
        self.far: Bound | Remote
        _native.attach(end, self.gateway)
        _open.add(end)

    def signal(self, error: PsyneError, for_good: bool) -> None:
        """The end raises an error."""
        end = self._end()
        if end is not None and not end.closed:
            _native.signal(end, type(error).__name__, str(error), for_good)
            self.gateway.wake()

    def closed(self, sends: bool) -> None:
        """The end has closed: what it sent goes to its peers first, as far as ``linger`` allows."""
        far, gone = self.far, threading.Event()
        if isinstance(far, Bound):
            self._driver.soon(far.stop_listening if sends else far.leave)
            done = far.quiet
        else:
            self._driver.soon(far.stop)
            done = far.finished
        if not done.wait(self._linger if sends else min(self._linger, LEAVING)) and sends:
            warn(
                f"{self._name} closed, and not all that it sent has arrived after {self._linger} s; linger= gives it longer"
            )

        def close() -> None:
            try:
                far.close()
            finally:
                gone.set()

        self._driver.soon(close)
        gone.wait(5.0)

    @property
    def _name(self) -> str:
        return getattr(self, "name", "an end")


def _local(address: str) -> str:
    """An address inside this process that nobody else has."""
    host, port, channel = tcp_place(address)
    return f"memory://tcp.{host.replace(':', '_').replace('.', '_')}.{port}.{next(_number)}"


def sender(address: str, types: Sequence[object], options: dict[str, Any]) -> Sender[Any]:
    """The sending end of a channel over TCP."""
    network, own = split_options(options)
    bind = _bind(network)
    chosen = NetworkOptions.of("server" if bind else "client", **network)
    if not types:
        raise InvalidArgument(f"a sender of {address} needs the types of its messages")
    if not bind and (own.get("stages") is not None or own.get("pattern") is not None):
        raise InvalidArgument("stages= and pattern= are the bound side's: leave them out where an end connects")
    local = _local(address)
    if not bind:
        own["pattern"] = "spsc"
    end: Sender[Any] = Sender(local, types, **own)
    carrier = _carried(end, address, chosen)
    host, port, channel = tcp_place(address)
    try:
        if bind:
            hosted = Hosted(local, address)
            carrier.far = bound = Bound(
                carrier._driver, host, port, chosen, _only(channel, hosted), carrier.gateway, carrier.gateway
            )
            _rename(end, carrier, address, bound)
        else:
            member: Receiver[Any] = Receiver(local, ())
            schema = schema_of([as_type(kind) for kind in types])
            request = Request("sender", channel, schema=schema, checksum=chosen.checksum, program=program_name())
            carrier.far = remote = Remote(
                carrier._driver, host, port, address, chosen, request, carrier.gateway, carrier.signal,
                hosted=Hosted(local, address), member=member, accept=lambda schema: None,
            )  # fmt: skip
            remote.start()
    except BaseException:
        end._close(False)
        raise
    end._carrier = carrier
    return end


def receiver(address: str, types: Sequence[object], options: dict[str, Any]) -> Receiver[Any]:
    """The receiving end of a channel over TCP."""
    network, own = split_options(options)
    bind = _bind(network)
    chosen = NetworkOptions.of("server" if bind else "client", **network)
    stage, new_stage, capacity = own.pop("stage", None), own.pop("new_stage", False), own.pop("capacity", None)
    name, added = added_stage(stage or "", new_stage)
    local = _local(address)
    end: Receiver[Any] = Receiver(local, types, **own)
    carrier = _carried(end, address, chosen)
    host, port, channel = tcp_place(address)
    accept = _accept(types, own.get("subset", False), address)
    hosted = Hosted(local, address, stages=[name] if bind and name else ["main"], capacity=capacity, accept=accept)
    try:
        if bind:
            carrier.far = bound = Bound(carrier._driver, host, port, chosen, _only(channel, hosted), carrier.gateway)
            _rename(end, carrier, address, bound)
        else:
            request = Request(
                "receiver", channel, stage=name, added=added, capacity=capacity or 0, checksum=chosen.checksum,
                program=program_name(),
            )  # fmt: skip
            carrier.far = remote = Remote(
                carrier._driver, host, port, address, chosen, request, carrier.gateway, carrier.signal,
                hosted=Hosted(local, address), follow=own.get("follow", False), accept=accept,
            )  # fmt: skip
            remote.start()
    except BaseException:
        end._close()
        raise
    end._carrier = carrier
    return end


def tap(address: str, types: Sequence[object], options: dict[str, Any]) -> Receiver[Any]:
    raise NotImplementedError


def _bind(network: dict[str, Any]) -> bool:
    bind = network.pop("bind", False)
    if not isinstance(bind, bool):
        raise InvalidArgument(f"bind={bind!r}; it is one of True, False")
    return bind


def _carried(end: Sender[Any] | Receiver[Any] | Tap[Any], address: str, options: NetworkOptions) -> Carrier:
    _native.rename(end, address)
    driver = thread_driver()
    _close_at_exit()
    carrier = Carrier(driver, end, options.linger)
    carrier.name = address
    return carrier


def _rename(end: Any, carrier: Carrier, address: str, bound: Bound) -> None:
    """Port 0 is any that was free."""
    host, port, channel = tcp_place(address)
    if port == 0:
        shown = f"[{host}]" if ":" in host else host
        carrier.name = f"tcp://{shown}:{bound.port}" + (f"/{channel}" if channel else "")
        _native.rename(end, carrier.name)


def _only(channel: str, hosted: Hosted) -> Callable[[str], Hosted]:
    def find(name: str) -> Hosted:
        if name != channel:
            raise ChannelNotFound(f"there is no channel {name!r} at {hosted.address}; it has {channel!r}")
        return hosted

    return find


def _accept(types: Sequence[object], subset: bool, address: str) -> Callable[[str], object]:
    asked = [kind if kind is Message else as_type(kind) for kind in types]
    return lambda schema: read_kinds(schema, asked, subset, address)


_registered = False


def _close_at_exit() -> None:
    """Before the network thread stops."""
    global _registered
    if not _registered:
        _registered = True
        atexit.register(_close_all)


def _close_all() -> None:
    for end in list(_open):
        end.close()


_ = Stage
