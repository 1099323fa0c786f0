"""Opening the ends for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from .. import anonymous, openers
from ..options import (
    ChannelOptions,
    ReceiverOptions,
    ResidentReceiverOptions,
    ResidentSenderOptions,
    SenderOptions,
    TapOptions,
)
from ..types import AnyLayout, Message
from .ends import Receiver, Sender, Tap
from .loops import driver_here

if TYPE_CHECKING:
    from .resident import ResidentSender

__all__ = ["channel", "receiver", "sender", "tap"]

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
D = TypeVar("D", bound=Message)
E = TypeVar("E", bound=Message)


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
    """Open the sending end of a channel, as `psyne.sender` does; opening waits for nobody."""
    end = openers.open_sender(address, types, dict(options), driver_here(address))
    if options.get("device") is None:
        return Sender(end)
    from .resident import ResidentSender

    return ResidentSender(end)


@overload
def receiver(
    address: str, /, *types: AnyLayout, device: str, **options: Unpack[ResidentReceiverOptions]
) -> Receiver[Any]: ...
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
    """Open a receiving end, as `psyne.receiver` does; opening waits for nobody."""
    return Receiver(openers.open_receiver(address, types, dict(options), driver_here(address)))


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
    """Look on at a channel, as `psyne.tap` does; opening waits for nobody."""
    return Tap(openers.open_tap(address, types, dict(options), driver_here(address)))


@overload
def channel(a: type[A], /, **options: Unpack[ChannelOptions]) -> tuple[Sender[A], Receiver[A]]: ...
@overload
def channel(a: type[A], b: type[B], /, **options: Unpack[ChannelOptions]) -> tuple[Sender[A | B], Receiver[A | B]]: ...
@overload
def channel(
    a: type[A], b: type[B], c: type[C], /, **options: Unpack[ChannelOptions]
) -> tuple[Sender[A | B | C], Receiver[A | B | C]]: ...
@overload
def channel(
    a: type[A], b: type[B], c: type[C], d: type[D], /, **options: Unpack[ChannelOptions]
) -> tuple[Sender[A | B | C | D], Receiver[A | B | C | D]]: ...
@overload
def channel(
    a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, **options: Unpack[ChannelOptions]
) -> tuple[Sender[A | B | C | D | E], Receiver[A | B | C | D | E]]: ...
@overload
def channel(*types: AnyLayout, **options: Unpack[ChannelOptions]) -> tuple[Sender[Any], Receiver[Any]]: ...
def channel(*types: AnyLayout, **options: Unpack[ChannelOptions]) -> tuple[Sender[Any], Receiver[Any]]:
    """Make a channel without a name, as `psyne.channel` does: its ends pickle, have clones, join at their first use."""
    tx, rx = anonymous.channel(*types, **options)
    return Sender(tx), Receiver(rx)
