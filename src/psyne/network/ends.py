"""The ends of channels over TCP: ordinary ends of a channel inside this process, and what carries it."""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing.util import Finalize
from typing import Any, TypeVar

from .. import _native
from ..address import program_name, tcp_place
from ..ends import Receiver, Sender
from ..errors import ChannelNotFound, InvalidArgument, PsyneError
from ..log import warn
from ..options import check_capacity, check_receiver_options, check_tap_options
from ..stage import added_stage, stage_graph
from ..taps import Tap
from ..types import Message, as_type
from ..types.schema import read_kinds, schema_of
from .bodies import Request
from .bound import Bound
from .driver import Callback, Driver, thread_driver
from .happening import Happening
from .hosted import Hosted
from .options import NetworkOptions, split_options
from .remote import Remote

__all__ = ["receiver", "sender", "tap"]

LEAVING = 1.0  # seconds that a receiver which has left gives its senders to hear of it

End = Sender[Any] | Receiver[Any] | Tap[Any]
E = TypeVar("E", bound=End)

_number = itertools.count(1)
_open: weakref.WeakSet[Any] = weakref.WeakSet()  # ends
_parting: set[Carrier] = set()  # whose ends are closed


class Joining:
    """Tells its lanes when it has joined their channel. Until then it waits where no signal of the native end comes."""

    _refused: PsyneError | None = None  # why it never will
    _hosted: Hosted | None = None

    def _join(self) -> bool:
        if self._refused is not None:
            raise type(self._refused)(*self._refused.args)
        joined = bool(super()._join())  # type: ignore[misc]
        if joined and self._hosted is not None:
            self._hosted.let_lanes_go()
        return joined


class Reader(Joining, Receiver[Any]):
    """A receiver of a channel over TCP."""


class Looker(Joining, Tap[Any]):
    """A tap of one."""


class Carrier:
    """What carries the channel of one end. It does not keep the end alive, and outlives it until all is said."""

    def __init__(self, driver: Driver, end: End, local: str, address: str, linger: float) -> None:
        self.local: str = local
        self.name = address
        self.gateway = _native.Gateway(driver.pumps)
        self.gone = Happening()  # no connection is there any more
        self.far: Bound | Remote | None = None  # None: it could not be opened
        self.hosted: Hosted | None = None  # of an end that takes messages
        self._driver, self._linger = driver, linger
        self._sends, self._pid, self._parting = isinstance(end, Sender), os.getpid(), False
        self._cancel: Callback | None = None
        self._end = weakref.ref(end)
        self._collected = weakref.finalize(end, self.part)
        self._collected.atexit = False
        _native.attach(end, self.gateway)
        _open.add(end)
        if not driver.pumps:
            driver.watch(self.gateway.fileno(), True, False, self._stirred)

    def signal(self, error: PsyneError, for_good: bool) -> None:
        """The end raises an error."""
        end = self._end()
        if end is not None and not end.closed:
            _native.signal(end, type(error).__name__, str(error), for_good)
            if for_good and isinstance(end, Joining):
                end._refused = error
            self.gateway.wake()

    def part(self) -> None:
        """The end has closed, or is gone: what it sent goes to its peers first, as far as ``linger`` allows."""
        if self._parting or os.getpid() != self._pid:
            return
        self._parting = True
        self._collected.detach()
        _parting.add(self)
        self._soon(self._part)

    def wait(self) -> None:
        """After `part`: until that is done. Not where the event loop does it, which may be the caller's."""
        if self._parting and self._driver.pumps:
            self.gone.wait(self._linger + 1.0 if self._sends else LEAVING)

    def then(self, call: Callback) -> None:
        """Call once no connection is there any more."""
        self.gone.then(call)

    def _soon(self, call: Callback) -> None:
        try:
            self._driver.soon(call)
        except RuntimeError:  # the loop is closed, or the interpreter ends: nobody else calls anything
            self._close()

    def _part(self) -> None:
        far = self.far
        if far is None:
            self._close()
            return
        if self._sends:
            self._cancel = self._driver.later(self._linger, self._too_late)
        else:
            self._cancel = self._driver.later(LEAVING, self._close)
        if isinstance(far, Bound):
            far.stop_listening()
            if not self._sends:
                far.leave()
            done = far.quiet
        else:
            far.stop()
            done = far.finished
        done.then(lambda: self._soon(self._close))

    def _too_late(self) -> None:
        warn(
            f"{self.name} closed, and not all that it sent has arrived after {self._linger:g} s; linger= gives it "
            "longer"
        )
        self._close()

    def _close(self) -> None:
        if self.gone.is_set():
            return
        if self._cancel is not None:
            self._cancel()
        if not self._driver.pumps:
            self._driver.unwatch(self.gateway.fileno())
        try:
            if self.far is not None:
                self.far.close()
            if self.hosted is not None:
                self.hosted.let_lanes_go()
        finally:
            _native.show_as(self.local, "")
            _parting.discard(self)
            self.gone.set()

    def _stirred(self) -> None:
        """A thread that used the end could not do all for its connections."""
        self.gateway.hush()
        for running in self.far.connections if self.far is not None else ():
            running.move()


def sender(address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None) -> Sender[Any]:
    """The sending end of a channel over TCP."""
    network, own = split_options(options)
    bind, chosen = _network(address, network)
    host, port, channel = tcp_place(address)
    if not types:
        raise InvalidArgument(f"a sender of {address} needs the types of its messages")
    if not bind and (own.get("stages") is not None or own.get("pattern") is not None):
        raise InvalidArgument("stages= and pattern= are the bound side's: leave them out where an end connects")
    for name, _, mutates, _ in stage_graph(own["stages"]) if own.get("stages") is not None else ():
        if mutates:
            raise InvalidArgument(
                f"stage {name!r} of {address} cannot change messages in place: that needs memory in common. Leave "
                "mutate=True out"
            )
    if not bind:
        own["pattern"] = "spsc"
    end: Sender[Any]
    local, end = _local(address, lambda local: Sender(local, types, **own))
    try:
        carrier = _carrier(end, local, address, chosen, driver)
        if bind:
            hosted = Hosted(local, address, takes_senders=False)
            carrier.far = _bound(carrier, address, chosen, hosted, carrier.gateway)
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


def receiver(
    address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None
) -> Receiver[Any]:
    """The receiving end of a channel over TCP."""
    network, own = split_options(options)
    bind, chosen = _network(address, network)
    stage, new_stage, capacity = own.pop("stage", None), own.pop("new_stage", False), own.pop("capacity", None)
    check_receiver_options(
        own.get("wait", "adaptive"), own.get("follow", False), own.get("subset", False), stage, new_stage
    )
    check_capacity(capacity)
    name, added = added_stage(stage or "", new_stage)
    if added is not None and (bind or added[1]):
        raise InvalidArgument(
            f"new_stage=True adds a stage to a channel that runs, and {address} is bound by its receiver; leave it out"
            if bind
            else f"stage {name!r} of {address} cannot change messages in place: that needs memory in common. Leave "
            "mutate=True out"
        )
    local, end = _local(address, lambda local: Reader(local, types, **own))
    hosted = Hosted(
        local, address, stages=[name or "main"] if bind else ["main"], capacity=capacity,
        accept=_accept(types, own.get("subset", False), address),
    )  # fmt: skip
    request = Request("receiver", "", stage=name, added=added, capacity=capacity or 0)
    _carry(end, address, bind, chosen, hosted, request, own.get("follow", False), driver)
    return end


def tap(address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None) -> Tap[Any]:
    """One that looks on at a channel over TCP.

    The far tap misses what the connection is too slow for, this end what its user is too slow for; ``missed`` has both.
    """
    network, own = split_options(options)
    bind, chosen = _network(address, network)
    if bind:
        raise InvalidArgument(f"a tap looks on at a channel of others: it connects to {address}; leave bind=True out")
    latest, history = own.pop("latest", False), own.pop("history", 0)
    check_tap_options(latest, history, own.get("wait", "adaptive"), own.get("follow", False))
    local, end = _local(address, lambda local: Looker(local, types, latest=latest, **own))
    hosted = Hosted(local, address, stages=[], accept=_accept(types, False, address), sums_missed=True)
    request = Request("tap", "", latest=latest, history=history)
    _carry(end, address, False, chosen, hosted, request, own.get("follow", False), driver)
    return end


def _carry(
    end: Reader | Looker, address: str, bind: bool, options: NetworkOptions, hosted: Hosted, request: Request,
    follow: bool, driver: Driver | None,
) -> None:  # fmt: skip
    host, port, channel = tcp_place(address)
    hosted.joining, end._hosted = weakref.ref(end), hosted
    try:
        carrier = _carrier(end, hosted.local, address, options, driver)
        carrier.hosted = hosted
        if bind:
            carrier.far = _bound(carrier, address, options, hosted)
        else:
            request = replace(request, channel=channel, checksum=options.checksum, program=program_name())
            carrier.far = remote = Remote(
                carrier._driver, host, port, address, options, request, carrier.gateway, carrier.signal,
                hosted=hosted, follow=follow, accept=hosted.check,
            )  # fmt: skip
            remote.start()
    except BaseException:
        end._close()
        raise
    end._carrier = carrier


def _network(address: str, options: dict[str, Any]) -> tuple[bool, NetworkOptions]:
    bind = options.pop("bind", False)
    if not isinstance(bind, bool):
        raise InvalidArgument(f"bind={bind!r}; it is one of True, False")
    if not bind and tcp_place(address)[1] == 0:
        raise InvalidArgument(f"nobody listens at port 0 of {address}: connect to the address that the bound end has")
    return bind, NetworkOptions.of("server" if bind else "client", **options)


def _local(address: str, open: Callable[[str], E]) -> tuple[str, E]:
    """A channel inside this process that nobody else has, and an end of it, which people know by this address."""
    local = f"memory://tcp.{next(_number)}"
    _native.show_as(local, address)
    try:
        end = open(local)
    except BaseException:
        _native.show_as(local, "")
        raise
    _native.rename(end, address)
    return local, end


def _carrier(end: End, local: str, address: str, options: NetworkOptions, driver: Driver | None) -> Carrier:
    driver = driver or thread_driver()
    _close_at_exit()
    return Carrier(driver, end, local, address, options.linger)


def _bound(
    carrier: Carrier, address: str, options: NetworkOptions, hosted: Hosted, kicks: _native.Gateway | None = None
) -> Bound:  # fmt: skip
    host, port, channel = tcp_place(address)
    bound = Bound(carrier._driver, host, port, options, _only(channel, hosted), carrier.gateway, kicks)
    if port == 0:  # any that was free
        shown = f"[{host}]" if ":" in host else host
        hosted.address = carrier.name = f"tcp://{shown}:{bound.port}" + (f"/{channel}" if channel else "")
        if (end := carrier._end()) is not None:
            _native.rename(end, carrier.name)
            _native.show_as(carrier.local, carrier.name)
    return bound


def _only(channel: str, hosted: Hosted) -> Callable[[str], Hosted]:
    def find(name: str) -> Hosted:
        if name != channel:
            has = f"it has {channel!r}" if channel else "leave the name out"
            raise ChannelNotFound(f"there is no channel {name!r} at {hosted.address}: {has}")
        return hosted

    return find


def _accept(types: Sequence[object], subset: bool, address: str) -> Callable[[str], object]:
    asked = [kind if kind is Message else as_type(kind) for kind in types]
    return lambda schema: read_kinds(schema, asked, subset, address)


_registered_in = 0  # process


def _close_at_exit() -> None:
    """Before the network thread stops, which was registered earlier. Children of `multiprocessing` know no `atexit`."""
    global _registered_in
    if _registered_in != os.getpid():
        _registered_in = os.getpid()
        atexit.register(_close_all)
        Finalize(None, _close_all, exitpriority=-100)


def _close_all() -> None:
    for end in list(_open):
        end.close()
    _wait_for(list(_parting))


def _wait_for(carriers: Iterable[Carrier]) -> None:
    for carrier in carriers:
        if carrier._pid == os.getpid():
            if carrier._driver.pumps:
                carrier.gone.wait(carrier._linger + 1.0)
            else:  # its loop runs no more
                carrier._close()
