"""Waiting for several ends and descriptors in an event loop."""

from __future__ import annotations

from typing import TypeVar, overload

from ..types import Message
from ..waiting import End, HasFileno, Waiting, end_of
from .ends import EventLoopEnd, Receiver, Sender, Tap
from .loops import readable, sleep

__all__ = ["select"]

M = TypeVar("M", bound=Message)
W = TypeVar("W", bound=HasFileno | int)


@overload
async def select(*receivers: Receiver[M]) -> list[Receiver[M]]: ...
@overload
async def select(*senders: Sender[M]) -> list[Sender[M]]: ...
@overload
async def select(*taps: Tap[M]) -> list[Tap[M]]: ...
@overload
async def select(*ends_or_fds: W) -> list[W]: ...
async def select(*ends_or_fds: W) -> list[W]:
    """Wait until one of several ends (also blocking ones) or descriptors has something; those that have.

    As `psyne.select`, without its time-out.
    """
    waiting = Waiting(ends_or_fds, _blocking)
    try:
        if found := waiting.look():
            await sleep(0)
            return found
        with waiting:
            while not (found := waiting.look()):
                await readable(waiting.fileno(), waiting.look_after_others())
            return found
    finally:
        waiting.close()


def _blocking(thing: object) -> End | None:
    """The end behind an end of an event loop, or a blocking one."""
    return end_of(thing._end if isinstance(thing, EventLoopEnd) else thing)
