"""Channels without a name: two ends to hand on."""

from collections.abc import Sequence
from typing import Any, TypeVar, Unpack, overload

from . import _native
from .ends import Receiver, Sender
from .errors import InvalidArgument
from .handover import Handover, Memory
from .options import ChannelOptions, Full, Wait, check_sender_options, growth_of, known_options
from .stage import PATTERNS, Pattern, Stage, stage_graph
from .types import AnyLayout, Message, as_type
from .types.schema import schema_of

__all__ = ["channel"]

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
D = TypeVar("D", bound=Message)
E = TypeVar("E", bound=Message)


# As for `psyne.sender`: exact for up to five types.
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
    """Make a channel without a name: a sending and a receiving end, for this process or to hand on.

    Both can be given to threads, pickled to processes (`multiprocessing` by any start method, `concurrent.futures`,
    joblib) and multiplied with ``clone()``. **An end joins at its first use**, which is a call that sends, waits or
    receives, or its ``with``; one that was only handed on, or closed unused, never counts. So after
    ``Process(target=work, args=(rx,)).start()`` nothing has to be closed here. A receiver waits for the first sender,
    and sees the end when all senders that joined have closed; what they sent stays until it is received, even when
    nobody was there yet, for as long as any process has an end. Where senders come one after the other (the tasks of
    a pool), keep one open meanwhile (``with tx:``), or say ``follow=True``.

    ``pattern`` is ``"mpmc"`` unless said otherwise: whom an end is handed to, it was meant for, so any number may
    send, and receivers share the messages out. With several ``stages`` a receiver says which is its own:
    ``rx.clone(stage="infer")``. The options are those of `psyne.sender` and `psyne.receiver`, and hold for all clones.

    Raises InvalidArgument, LayoutMismatch; NoSpace at a sender's first use.
    """
    known_options(options, ChannelOptions, "psyne.channel")
    handover = _handover(types, **options)
    return Sender._of(handover), Receiver._of(handover)


def _handover(
    types: Sequence[AnyLayout], *, pattern: Pattern = "mpmc", stages: Sequence[Stage | str] = ("main",),
    capacity: int | None = None, full: Full = "block", budget: int | None = None, shrink_after: float | None = None,
    align: int | None = None, timestamps: bool | None = None, wait: Wait = "adaptive", follow: bool = False,
) -> Handover:  # fmt: skip
    classes = [as_type(kind) for kind in types]
    if not classes:
        raise InvalidArgument("channel() needs the types of its messages: psyne.channel(Imu)")
    check_sender_options(pattern, full, wait, capacity, align, timestamps)
    growth = growth_of(full, budget, shrink_after)
    if not isinstance(follow, bool):
        raise InvalidArgument(f"follow={follow!r}; it is one of True, False")
    if pattern is None:
        raise InvalidArgument(f"pattern=None; it is one of {', '.join(map(repr, PATTERNS))}")
    graph = stage_graph(stages)
    payload = max(kind.__layout__.bytes for kind in classes)
    fd = _native.make_channel(schema_of(classes), payload, PATTERNS.index(pattern), graph)
    return Handover(
        Memory(fd), classes, pattern, graph, capacity or 0, align or 0, full == "drop", growth, timestamps, wait, "",
        follow,
    )  # fmt: skip
