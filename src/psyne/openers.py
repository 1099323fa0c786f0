"""Opening the ends of channels that have an address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from .ends import Receiver, Sender
from .options import (
    ReceiverOptions,
    ResidentReceiverOptions,
    ResidentSenderOptions,
    SenderOptions,
    TapOptions,
    known_options,
    over_network,
    without_capacity,
)
from .taps import Tap
from .types import AnyLayout, Message

if TYPE_CHECKING:
    from .devices.resident import ResidentReceiver, ResidentSender
    from .network.driver import Driver

__all__ = ["open_receiver", "open_sender", "open_tap", "receiver", "sender", "tap"]

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
D = TypeVar("D", bound=Message)
E = TypeVar("E", bound=Message)


# One overload for each number of types: Sender[A | B] is exact, so match and assert_never work. More are Sender[Any].
@overload
def sender(
    address: str, /, *types: AnyLayout, device: str, **options: Unpack[ResidentSenderOptions]
) -> ResidentSender: ...
@overload
def sender(address: str, a: type[A], /, **options: Unpack[SenderOptions]) -> Sender[A]: ...
@overload
def sender(address: str, a: type[A], b: type[B], /, **options: Unpack[SenderOptions]) -> Sender[A | B]: ...
@overload
def sender(
    address: str, a: type[A], b: type[B], c: type[C], /, **options: Unpack[SenderOptions]
) -> Sender[A | B | C]: ...
@overload
def sender(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], /, **options: Unpack[SenderOptions]
) -> Sender[A | B | C | D]: ...
@overload
def sender(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, **options: Unpack[SenderOptions]
) -> Sender[A | B | C | D | E]: ...
@overload
def sender(address: str, /, *types: AnyLayout, **options: Unpack[SenderOptions]) -> Sender[Any]: ...
def sender(address: str, /, *types: AnyLayout, **options: Any) -> Sender[Any]:
    """Open the sending end of a channel; the first sender makes it.

    The types, ``stages`` (a chain; default ``["main"]``) and ``pattern`` (senders of the channel, members of each
    stage; default ``"mpsc"``) are the channel's: a later sender leaves them out or repeats them. ``capacity``
    (messages; default what fits in 32 MiB, 8 to 4096), ``full``, ``align`` (bytes), ``timestamps`` (default: from 4 KiB
    per message) and ``wait`` are this end's own. A type is a message class, or a numpy dtype, ``ctypes.Structure``,
    dataclass or ``msgspec.Struct`` that describes a layout.

    ``full="grow"``: the ring begins small (``capacity``; default what fits in 256 KiB) and becomes larger when it is
    full or a message is longer than its slots, within ``budget`` bytes for all senders of the channel (default 1 GiB);
    after ``shrink_after`` seconds (default 1.0) of low load it becomes smaller, and the memory goes back to the system.

    ``tcp://host:port`` is a channel of another process or host. With ``bind=True`` this end waits there for its peers,
    else it connects, again and again. ``token`` (16 bytes or more) and ``tls`` (`Tls` or `ssl.SSLContext`) say who may;
    ``checksum``: of every payload; ``session_timeout`` (default 30.0 s): how long a lost connection may take to come
    back; ``heartbeat`` (5.0 s): between signs of life; ``linger`` (5.0 s): how long `close` waits until what was sent
    has arrived; ``max_frame`` (64 MiB): bytes of one frame.

    ``device="cuda:0"``: the messages, an ``Array(dtype, shape)``, stay in memory of that GPU, which this end allocates
    (``capacity``: default what fits in 32 MiB, 8 to 64 messages); see `psyne.devices.resident.ResidentSender`.

    Raises LayoutMismatch, ChannelBusy, ChannelNotFound, NoSpace, IncompatibleChannel, InvalidArgument.
    """
    return open_sender(address, types, dict(options))


@overload
def receiver(
    address: str, /, *types: AnyLayout, device: str, **options: Unpack[ResidentReceiverOptions]
) -> ResidentReceiver: ...
@overload
def receiver(address: str, a: type[A], /, **options: Unpack[ReceiverOptions]) -> Receiver[A]: ...
@overload
def receiver(address: str, a: type[A], b: type[B], /, **options: Unpack[ReceiverOptions]) -> Receiver[A | B]: ...
@overload
def receiver(
    address: str, a: type[A], b: type[B], c: type[C], /, **options: Unpack[ReceiverOptions]
) -> Receiver[A | B | C]: ...
@overload
def receiver(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], /, **options: Unpack[ReceiverOptions]
) -> Receiver[A | B | C | D]: ...
@overload
def receiver(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, **options: Unpack[ReceiverOptions]
) -> Receiver[A | B | C | D | E]: ...
@overload
def receiver(address: str, /, *types: AnyLayout, **options: Unpack[ReceiverOptions]) -> Receiver[Any]: ...
def receiver(address: str, /, *types: AnyLayout, **options: Any) -> Receiver[Any]:
    """Open a receiving end: a member of ``stage`` (may be left out when there is only one).

    Opening never waits: without a channel yet, the first receive waits for one and joins it. Until then this end is
    no member, and a sender that comes and goes before leaves nothing, unless it drains.

    ``new_stage=True`` adds the stage to a channel that runs: ``stage=Stage("log", after=["infer"])``, or a name for one
    that runs after all others. It gets what is sent from now on, and holds the senders back as long as it has members.

    The types cover those of the channel; ``psyne.Message`` stands for all others, and without any the channel
    describes itself. ``subset``: a Struct may leave fields of the channel's out.
    ``follow``: after the last sender, wait for the next one instead of ending.

    ``tcp://host:port`` as for `sender`; ``capacity``: messages that the memory of each sender has here (default what
    fits in 8 MiB, 8 to 4096).

    ``device="cuda:0"``: as for `sender`; what is received is in memory of the GPU.

    Raises LayoutMismatch, ChannelBusy, IncompatibleChannel, InvalidArgument.
    """
    return open_receiver(address, types, dict(options))


@overload
def tap(address: str, a: type[A], /, **options: Unpack[TapOptions]) -> Tap[A]: ...
@overload
def tap(address: str, a: type[A], b: type[B], /, **options: Unpack[TapOptions]) -> Tap[A | B]: ...
@overload
def tap(address: str, a: type[A], b: type[B], c: type[C], /, **options: Unpack[TapOptions]) -> Tap[A | B | C]: ...
@overload
def tap(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], /, **options: Unpack[TapOptions]
) -> Tap[A | B | C | D]: ...
@overload
def tap(
    address: str, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, **options: Unpack[TapOptions]
) -> Tap[A | B | C | D | E]: ...
@overload
def tap(address: str, /, *types: AnyLayout, **options: Unpack[TapOptions]) -> Tap[Any]: ...
def tap(address: str, /, *types: AnyLayout, **options: Unpack[TapOptions]) -> Tap[Any]:
    """Look on at a channel: copies of its messages, as many as can be had, without holding anyone up.

    It begins with what is sent after it was opened, or with the last ``history`` messages of each sender that are still
    there. ``latest``: always the newest message of each sender. ``m.info.missed`` counts those of its sender that were
    missed just before ``m``, exactly. Behind stages that write it sees what they have finished. It belongs to no stage,
    and no ``pattern`` counts it. Opening never waits, types and ``follow`` are as for `receiver`.

    Raises LayoutMismatch, ChannelBusy, IncompatibleChannel, InvalidArgument.
    """
    return open_tap(address, types, dict(options))


def open_sender(
    address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None
) -> Sender[Any]:
    """`sender`. ``driver``: calls back for connections over a network; default: the thread of this process."""
    known_options(options, SenderOptions, "psyne.sender")
    if (device := options.pop("device", None)) is not None:
        from .devices import resident

        return resident.open_sender(address, types, device, options)
    if over_network(address, options):
        from .network import ends

        return ends.sender(address, types, options, driver)
    return Sender(address, types, **options)


def open_receiver(
    address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None
) -> Receiver[Any]:
    """`receiver`. ``driver``: as for `open_sender`."""
    known_options(options, ReceiverOptions, "psyne.receiver")
    if (device := options.pop("device", None)) is not None:
        from .devices import resident

        return resident.open_receiver(address, types, device, options)
    if over_network(address, options):
        from .network import ends

        return ends.receiver(address, types, options, driver)
    without_capacity(address, options)
    options.pop("capacity", None)
    return Receiver(address, types, **options)


def open_tap(address: str, types: Sequence[object], options: dict[str, Any], driver: Driver | None = None) -> Tap[Any]:
    """`tap`. ``driver``: as for `open_sender`."""
    known_options(options, TapOptions, "psyne.tap")
    if over_network(address, options):
        from .network import ends

        return ends.tap(address, types, options, driver)
    return Tap(address, types, **options)
