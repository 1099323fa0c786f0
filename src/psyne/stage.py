"""Stages: the declared graph of a channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument

__all__ = ["PATTERNS", "Pattern", "Stage"]

Pattern = Literal["spsc", "spmc", "mpsc", "mpmc"]
PATTERNS: tuple[Pattern, ...] = ("spsc", "spmc", "mpsc", "mpmc")
MAX_STAGES = 32
NativeStage = tuple[str, int, bool, bool]


@dataclass(frozen=True)
class Stage:
    """A named group of receivers. Every stage sees every message; its members share them out.

    ``mutate``: its members write in place. ``on_crash``: what happens to a message that a mutating member had begun
    to change when it died: ``"skip"`` takes it out and counts it, ``"redeliver"`` hands it on flagged as redelivered.
    """

    name: str
    mutate: bool = False
    on_crash: Literal["skip", "redeliver"] = "skip"

    def __post_init__(self) -> None:
        if not self.name or len(self.name.encode()) > 47 or "\0" in self.name:
            raise InvalidArgument(f"a stage name has 1 to 47 bytes and no NUL; got {self.name!r}")
        if self.on_crash not in ("skip", "redeliver"):
            raise InvalidArgument(f"on_crash is 'skip' or 'redeliver', not {self.on_crash!r}")


def chain(stages: Sequence[Stage | str]) -> list[NativeStage]:
    """The stages as the core takes them: each runs after the one before it in the list."""
    if isinstance(stages, str):
        raise InvalidArgument(f"stages is a list; write stages=[{stages!r}]")
    given = [s if isinstance(s, Stage) else Stage(s) for s in stages]
    names = [s.name for s in given]
    if len(set(names)) != len(names):
        raise InvalidArgument(f"each stage needs a name of its own; got {names}")
    if len(given) > MAX_STAGES:
        raise InvalidArgument(f"a channel has at most {MAX_STAGES} stages; got {len(given)}")
    return [(s.name, 1 << (i - 1) if i else 0, s.mutate, s.on_crash == "redeliver") for i, s in enumerate(given)]
