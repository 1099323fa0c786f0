"""A channel as it looks from outside: who is in it, how far each stage has come, who holds what."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from . import _native
from .address import channel_place
from .stage import PATTERNS, Pattern
from .types.schema import type_name

__all__ = ["Channel", "Lane", "Member", "Oldest", "StageState", "channels_in", "inspect"]

CHANNEL_FILE = re.compile(r"(.+)\.[0-9a-f]{16}\.channel", re.DOTALL)


@dataclass(frozen=True)
class Member:
    """A sender or receiver."""

    number: int
    """Of its joining; never used again in this channel."""
    pid: int
    program: str
    alive: bool
    held: int
    """Messages that a receiver has taken and not ended."""


@dataclass(frozen=True)
class Lane:
    """The ring of one sender: one slab, or several while it changes."""

    number: int
    sender: Member | None
    """None when it is gone and its messages are still to be read."""
    state: Literal["open", "ended", "lost"]
    position: int
    """Messages sent so far; loans that were taken back count, too."""
    capacity: int
    """Slots of the newest slab."""
    used: int
    """Slots that some stage has not let go, of all slabs."""
    slabs: int
    """That are there: those that the sender has left are read to their end first."""
    reserved: int
    """Bytes of shared memory that it has."""


@dataclass(frozen=True)
class Oldest:
    """The first message that a stage has not passed."""

    position: int
    sent: int
    """When, by ``time.monotonic_ns()``; 0 where its sender keeps no time."""
    holder: Member | None
    """Who has taken it."""

    @property
    def age(self) -> float:
        """Seconds since it was sent; 0.0 where its sender keeps no time."""
        return (time.monotonic_ns() - self.sent) / 1e9 if self.sent else 0.0


@dataclass(frozen=True)
class StageState:
    """A stage, over all lanes."""

    name: str
    mutate: bool
    after: tuple[str, ...]
    members: tuple[Member, ...]
    passed: int
    """Messages that it is done with, of those whose lanes are still there."""
    held: int
    """Messages that members have taken and not ended."""
    waiting: int
    """Messages that a member could take now."""
    oldest: Oldest | None
    """Of those that it has not passed; with several lanes the one that was sent first."""


@dataclass(frozen=True)
class Channel:
    """What `psyne.inspect` saw, at about one moment."""

    address: str
    types: str
    pattern: Pattern
    lanes: tuple[Lane, ...]
    stages: tuple[StageState, ...]
    late_wakes: int
    redelivered: int
    poisoned: int
    dropped: int

    def stage(self, name: str) -> StageState:
        """The stage of this name; raises KeyError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


def channels_in(directory: str) -> list[str]:
    """The names of the channels that have files there, of dead ones too."""
    files = os.listdir(directory) if os.path.isdir(directory) else []
    return sorted({found[1] for file in files if (found := CHANNEL_FILE.fullmatch(file))})


def inspect(address: str) -> Channel | None:
    """Look at a channel without joining it; None when there is none. Looking removes what dead processes left.

    It holds nobody up. The numbers of a running channel are those of about one moment. Raises InvalidArgument,
    IncompatibleChannel.
    """
    place, name = channel_place(address)
    seen = _native.inspect(place, name)
    if seen is None:
        return None
    return Channel(
        address, type_name(seen["schema"]), PATTERNS[seen["pattern"]],
        tuple(_lane(lane) for lane in seen["lanes"]),
        tuple(_stage(i, stage, seen["lanes"]) for i, stage in enumerate(seen["stages"])),
        seen["late_wakes"], seen["redelivered"], seen["poisoned"], seen["dropped"],
    )  # fmt: skip


def _lane(lane: Mapping[str, Any]) -> Lane:
    sender = Member(**lane["sender"]) if lane["sender"] else None
    return Lane(
        lane["number"], sender, lane["state"], lane["position"],
        lane["capacity"], lane["used"], lane["slabs"], lane["reserved"],
    )  # fmt: skip


def _stage(index: int, stage: Mapping[str, Any], lanes: list[dict[str, Any]]) -> StageState:
    members = tuple(Member(**member) for member in stage["members"])
    here = [lane["stages"][index] for lane in lanes]
    passed, held, waiting = (sum(row[i] for row in here) for i in range(3))
    oldest = min((row[3] for row in here if row[3]), key=lambda seen: seen[1], default=None)
    return StageState(
        stage["name"], stage["mutate"], tuple(stage["after"]), members, passed, held, waiting,
        oldest and Oldest(oldest[0], oldest[1], next((m for m in members if m.number == oldest[2]), None)),
    )  # fmt: skip
