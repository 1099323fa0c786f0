"""Where a pipeline is stuck, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..inspect import Channel, Oldest
from .report import SourceReport, StageReport, seconds

__all__ = ["Working", "stuck_at"]

LONG = 1.0  # seconds of one call after which it is worth a word

Working = Mapping[tuple[str, str, int], float]  # source, stage, pid: seconds in the call that is under way
Place = tuple[str, str]


def stuck_at(
    sources: Sequence[SourceReport], seen: Mapping[str, Channel | None], working: Working
) -> tuple[Place | None, str]:
    """The stage that the others wait for, and why: messages that it could take fill at least half of the ring.

    A stage that is behind holds its source up, and keeps those after it waiting with nothing to do; so its backlog is
    the only long one. Where no ring fills up, a function that does not return is told, if there is one.
    """
    fullest: tuple[float, SourceReport, StageReport] | None = None
    for source in sources:
        for stage in source.stages:
            share = (stage.backlog + stage.held) / max(source.capacity, 1)
            if stage.backlog and share >= 0.5 and (fullest is None or share > fullest[0]):
                fullest = share, source, stage
    if fullest is not None:
        _, source, stage = fullest
        channel = seen[source.name]
        oldest = channel.stage(stage.name).oldest if channel else None
        return (source.name, stage.name), (
            f"stuck at {stage.name}: {stage.backlog} messages wait for it in a ring of {source.capacity}; "
            + _who(stage, oldest)
        )
    if working and max(working.values()) >= LONG:
        name, stage_name, pid = max(working, key=lambda key: working[key])
        lasted = working[name, stage_name, pid]
        return (name, stage_name), f"{stage_name} (pid {pid}) has been working on one call for {lasted:.1f} s"
    return None, "nothing is stuck: the sources set the pace"


def _who(stage: StageReport, oldest: Oldest | None) -> str:
    if not stage.pids:
        return "nobody is there to take them"
    if oldest is None or oldest.holder is None:
        return "its workers are pid " + ", ".join(map(str, stage.pids))
    age = f", sent {seconds(oldest.age)} ago" if oldest.age else ""
    return f"pid {oldest.holder.pid} holds the oldest, number {oldest.position}{age}"
