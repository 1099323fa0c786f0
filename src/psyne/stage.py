"""Stages: the graph of a channel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidArgument

__all__ = ["PATTERNS", "Pattern", "Stage"]

Pattern = Literal["spsc", "spmc", "mpsc", "mpmc"]
PATTERNS: tuple[Pattern, ...] = ("spsc", "spmc", "mpsc", "mpmc")
MAX_STAGES = 32
NativeAdded = tuple[list[str] | None, bool, bool]  # directly before (None: all), mutates, redelivers
NativeStage = tuple[str, int, bool, bool]  # name, a bit per stage directly before, mutates, redelivers


@dataclass(frozen=True)
class Stage:
    """A named group of receivers. Every stage sees every message; its members share them out.

    ``mutate``: its members write in place. ``after``: the name of the stage that it runs after, or several names; left
    out, the one before it in the list; ``[]``: right behind the sender. ``on_crash``: what happens to a message that a
    mutating member had begun to change when it died: ``"skip"`` takes it out and counts it, ``"redeliver"`` hands it
    on flagged as redelivered.
    """

    name: str
    mutate: bool = False
    after: str | Sequence[str] | None = None
    on_crash: Literal["skip", "redeliver"] = "skip"

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.after is not None:
            after = (self.after,) if isinstance(self.after, str) else tuple(self.after)
            for name in after:
                _check_name(name)
            object.__setattr__(self, "after", after)
        if not isinstance(self.mutate, bool):
            raise InvalidArgument(f"mutate is True or False, not {self.mutate!r}")
        if self.on_crash not in ("skip", "redeliver"):
            raise InvalidArgument(f"on_crash is 'skip' or 'redeliver', not {self.on_crash!r}")


def stage_graph(stages: Sequence[Stage | str]) -> list[NativeStage]:
    """The stages as the core takes them: each behind those that it runs after, else in the order of their names.

    Raises InvalidArgument for a name that is there twice, an unknown one in ``after``, a cycle, and a stage that
    mutates beside one that runs neither before nor after it.
    """
    if isinstance(stages, (str, Stage)):
        raise InvalidArgument(f"stages is a list; write stages=[{stages!r}]")
    given = [s if isinstance(s, Stage) else Stage(s) for s in stages]
    names = [s.name for s in given]
    if len(set(names)) != len(names):
        raise InvalidArgument(f"each stage needs a name of its own; got {names}")
    if len(given) > MAX_STAGES:
        raise InvalidArgument(f"a channel has at most {MAX_STAGES} stages; got {len(given)}")
    before = {s.name: set(names[max(i - 1, 0) : i] if s.after is None else s.after) for i, s in enumerate(given)}
    for name, others in before.items():
        if unknown := sorted(others - set(names)):
            raise InvalidArgument(f"stage {name!r} runs after {unknown[0]!r}, which is none of the stages {names}")
    ordered: list[Stage] = []
    while left := [s for s in given if s not in ordered]:
        placed = {s.name for s in ordered}
        free = min((s for s in left if before[s.name] <= placed), key=lambda s: s.name, default=None)
        if free is None:
            raise InvalidArgument(f"these stages would wait for each other: {[s.name for s in left]}; change after=")
        ordered.append(free)
    place = {s.name: i for i, s in enumerate(ordered)}
    native = [
        (s.name, sum(1 << place[name] for name in before[s.name]), s.mutate, s.on_crash == "redeliver") for s in ordered
    ]
    check_mutating(native)
    return native


def added_stage(stage: str | Stage, new: bool) -> tuple[str, NativeAdded | None]:
    """The name of a receiver's stage and, if it is to be added, what else the core must know of it."""
    if not new:
        return stage if isinstance(stage, str) else stage.name, None
    s = stage if isinstance(stage, Stage) else Stage(stage)
    return s.name, (None if s.after is None else list(s.after), s.mutate, s.on_crash == "redeliver")


def check_mutating(stages: Sequence[NativeStage]) -> None:
    """Raise InvalidArgument for a stage that would write while another one may read."""
    ancestors = [0] * len(stages)
    for i, (_, after, _, _) in enumerate(stages):
        ancestors[i] = after
        for k in range(i):
            if after >> k & 1:
                ancestors[i] |= ancestors[k]
    for i, (name, _, mutates, _) in enumerate(stages):
        for k, (other, _, _, _) in enumerate(stages):
            if mutates and i != k and not ancestors[i] >> k & 1 and not ancestors[k] >> i & 1:
                raise InvalidArgument(
                    f"stage {name!r} mutates while {other!r} may read the same message: one must run after the other; "
                    f"say Stage({other!r}, after=[{name!r}]) or the other way round"
                )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or len(name.encode()) > 47 or "\0" in name:
        raise InvalidArgument(f"a stage name has 1 to 47 bytes and no NUL; got {name!r}")
