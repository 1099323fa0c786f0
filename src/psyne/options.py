"""What the openers take by keyword, and what of it can never work."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from .errors import InvalidArgument
from .stage import PATTERNS, Pattern, Stage

if TYPE_CHECKING:
    from ssl import SSLContext

    from .tls import Tls

__all__ = [
    "ChannelOptions", "Full", "Growth", "ReceiverOptions", "ResidentReceiverOptions", "ResidentSenderOptions",
    "SenderOptions", "TapOptions", "Wait",
    "check_capacity", "check_receiver_options", "check_sender_options", "check_tap_options", "growth_of",
    "known_options", "over_network", "without_capacity",
]  # fmt: skip

Wait = Literal["adaptive", "spin", "block"]
Full = Literal["block", "drop", "grow"]
Growth = tuple[int, int]  # budget in bytes, shrink_after in nanoseconds

BUDGET = 1 << 30
SHRINK_AFTER = 1.0


class NetworkOptions(TypedDict, total=False):
    """What ends of channels over TCP take besides."""

    bind: bool
    token: str | bytes | None
    tls: "Tls | SSLContext | None"
    checksum: bool
    session_timeout: float
    heartbeat: float
    linger: float
    max_frame: int
    max_connections: int


class SenderOptions(NetworkOptions, total=False):
    """What `sender` takes by keyword."""

    pattern: Pattern | None
    stages: Sequence[Stage | str] | None
    capacity: int | None
    full: Full
    budget: int | None
    shrink_after: float | None
    align: int | None
    timestamps: bool | None
    wait: Wait
    device: None  # or a name, for a `ResidentSender`


class ResidentSenderOptions(TypedDict, total=False):
    """What `sender` takes besides ``device``."""

    pattern: Pattern | None
    stages: Sequence[Stage | str] | None
    capacity: int | None
    timestamps: bool | None
    wait: Wait


class ResidentReceiverOptions(TypedDict, total=False):
    """What `receiver` takes besides ``device``."""

    stage: str | Stage | None
    new_stage: bool
    wait: Wait
    follow: bool


class ReceiverOptions(NetworkOptions, total=False):
    """What `receiver` takes by keyword."""

    stage: str | Stage | None
    new_stage: bool
    wait: Wait
    follow: bool
    subset: bool
    capacity: int | None
    device: None  # or a name, for a `ResidentReceiver`


class TapOptions(NetworkOptions, total=False):
    """What `tap` takes by keyword."""

    latest: bool
    history: int
    wait: Wait
    follow: bool


class ChannelOptions(TypedDict, total=False):
    """What `channel` takes by keyword."""

    pattern: Pattern
    stages: Sequence[Stage | str]
    capacity: int | None
    full: Full
    budget: int | None
    shrink_after: float | None
    align: int | None
    timestamps: bool | None
    wait: Wait
    follow: bool


def over_network(address: object, options: Mapping[str, object]) -> bool:
    """Is it an address of a network? Raises InvalidArgument for options of a network where it is none."""
    if isinstance(address, str) and address.startswith("tcp://"):
        return True
    for name in options.keys() & NetworkOptions.__annotations__.keys():
        raise InvalidArgument(
            f"{name}={options[name]!r} is for channels over a network: tcp://host:port, not {address!r}"
        )
    return False


def without_capacity(address: object, options: Mapping[str, object]) -> None:
    """Raise InvalidArgument for a receiver of this host that says a capacity."""
    if options.get("capacity") is not None:
        raise InvalidArgument(
            f"capacity={options['capacity']!r} of a receiver is for tcp://host:port; the memory of {address!r} is its "
            "senders', who say it"
        )


def known_options(options: Mapping[str, object], known: type, call: str) -> None:
    """Raise TypeError for an option that is another end's, or none."""
    for name in options.keys() - known.__annotations__.keys():
        own_first = sorted(known.__annotations__, key=NetworkOptions.__annotations__.__contains__)
        raise TypeError(f"{call}() has no option {name!r}; it has {', '.join(own_first)}")


def check_sender_options(
    pattern: Pattern | None, full: str, wait: str, capacity: int | None, align: int | None, timestamps: bool | None
) -> None:  # fmt: skip
    """Raise InvalidArgument for an option of a sender that can never work."""
    _check(pattern, (None, *PATTERNS), "pattern")
    _check(full, ("block", "drop", "grow"), "full")
    _check(wait, ("adaptive", "spin", "block"), "wait")
    check_capacity(capacity)
    _check(timestamps, (None, True, False), "timestamps")
    if align is not None and (not isinstance(align, int) or align < 1 or align & (align - 1) or align > 1 << 21):
        raise InvalidArgument(f"align is a power of two up to 2 MiB; got {align!r}")


def check_capacity(capacity: int | None) -> None:
    """Raise InvalidArgument for a capacity that can never work."""
    if capacity is not None and (not isinstance(capacity, int) or capacity < 1):
        raise InvalidArgument(f"capacity is a number of messages, 1 or more; got {capacity!r}")
    if capacity is not None and capacity >= 1 << 63:
        raise InvalidArgument(f"no memory holds {capacity} messages; lower capacity=")


def growth_of(full: str, budget: int | None, shrink_after: float | None) -> Growth | None:
    """Within what a ring grows, and when it shrinks; None: not at all. Raises InvalidArgument."""
    if full != "grow":
        for name, value in (("budget", budget), ("shrink_after", shrink_after)):
            if value is not None:
                raise InvalidArgument(
                    f'{name}={value!r} is for rings that grow: full="grow"; this one has full={full!r}'
                )
        return None
    budget = BUDGET if budget is None else budget
    if not isinstance(budget, int) or isinstance(budget, bool) or not 1 <= budget < 1 << 63:
        raise InvalidArgument(f"budget is a number of bytes, 1 or more; got {budget!r}")
    seconds = SHRINK_AFTER if shrink_after is None else shrink_after
    if not isinstance(seconds, (int, float)) or not 1e-9 <= seconds <= 1e9:
        raise InvalidArgument(f"shrink_after is a number of seconds above 0; got {shrink_after!r}")
    return budget, int(seconds * 1e9)


def check_receiver_options(
    wait: str, follow: bool, subset: bool = False, stage: str | Stage | None = None, new_stage: bool = False
) -> None:
    """Raise InvalidArgument for an option of a receiver that can never work."""
    _check(new_stage, (True, False), "new_stage")
    if stage is not None and not isinstance(stage, (str, Stage)):
        raise InvalidArgument(f"stage={stage!r}; it is the name of one of the channel's stages")
    if isinstance(stage, Stage) and not new_stage:
        raise InvalidArgument(
            f"the graph is the channel's: say stage={stage.name!r}, or add a stage with new_stage=True"
        )
    if new_stage and not stage:
        raise InvalidArgument("a new stage needs a name: stage='log', or stage=Stage('log', after=['infer'])")
    _check(wait, ("adaptive", "spin", "block"), "wait")
    _check(follow, (True, False), "follow")
    _check(subset, (True, False), "subset")


def check_tap_options(latest: bool, history: int, wait: str, follow: bool) -> None:
    """Raise InvalidArgument for an option of a tap that can never work."""
    _check(latest, (True, False), "latest")
    if not isinstance(history, int) or not 0 <= history < 1 << 63:
        raise InvalidArgument(f"history is a number of messages of each sender, 0 or more; got {history!r}")
    _check(wait, ("adaptive", "spin", "block"), "wait")
    _check(follow, (True, False), "follow")


def _check(value: object, allowed: tuple[object, ...], what: str) -> None:
    if value not in allowed:
        raise InvalidArgument(f"{what}={value!r}; it is one of {', '.join(repr(a) for a in allowed if a is not None)}")
