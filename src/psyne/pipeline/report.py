"""How a pipeline does: the numbers of each source and stage, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Report", "SourceReport", "StageReport"]


@dataclass(frozen=True)
class WorkersReport:
    """What sources and stages have in common."""

    name: str
    members: int
    """Workers that it is meant to have."""
    pids: tuple[int, ...]
    """Of those that live; of threads this process, for each."""
    restarts: int
    messages: int
    """Sent, or worked off: the function has returned. A killed worker may have had up to 0.25 s more."""
    per_second: float
    """Messages in the last second; after the end over all of it."""
    overall: float
    """Messages per second since the sources were let go."""
    copied_bytes: int
    """By `send` and the like of the function; loans, messages and views copy none."""


@dataclass(frozen=True)
class StageReport(WorkersReport):
    """A stage."""

    after: tuple[str, ...]
    """The stages directly before; none: it runs right behind the source."""
    mutate: bool
    batch: int | None
    busy: float
    """Share of the members' time spent inside the function, in the last second; after the end over all of it."""
    latency_p50: float
    """Seconds from the send until this stage has the message. Counted in powers of two, interpolated within; of a batch
    the first message counts. 0.0 without any."""
    latency_p99: float
    backlog: int
    """Messages that a member could take now."""
    held: int
    """Messages that members have taken and not ended."""


@dataclass(frozen=True)
class SourceReport(WorkersReport):
    """A source, and the channel that it fills."""

    address: str
    used: int
    """Slots that somebody has still to read or holds, and all of them, over all its senders."""
    capacity: int
    blocked: int
    """Times that a sender had to wait for room."""
    missed: int
    """Messages dropped by ``full="drop"``."""
    late_wakes: int
    redelivered: int
    poisoned: int
    dropped: int
    stages: tuple[StageReport, ...]


@dataclass(frozen=True)
class Report:
    """A pipeline at one moment, or at its end. ``str(report)`` is a table; `rich` prints a nicer one."""

    seconds: float
    """Since the sources were let go: when all workers were ready."""
    running: bool
    stopped_by: str
    """What asked the sources to stop: ``"SIGINT"``, ``"stop()"`` …; empty when nothing did."""
    sources: tuple[SourceReport, ...]
    bottleneck: tuple[str, str] | None
    """Source and stage that hold the others up, if any do."""
    stuck: str
    """The same in a sentence, with the process to look at."""

    def source(self, name: str) -> SourceReport:
        """A source by its name. Raises KeyError."""
        return {source.name: source for source in self.sources}[name]

    def stage(self, name: str, source: str | None = None) -> StageReport:
        """A stage by its name: of this source, or the first of any. Raises KeyError."""
        stages = [stage for s in self.sources if source in (None, s.name) for stage in s.stages]
        return {stage.name: stage for stage in reversed(stages)}[name]

    def table(self) -> str:
        """Plain text, a line for each source and stage, and where the pipeline is stuck."""
        rows = [HEADINGS, *_rows(self.sources)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            row[0].ljust(widths[0])
            + "".join("  " + text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))
            for row in rows
        ]
        return "\n".join([*lines, self.stuck])

    def __str__(self) -> str:
        return self.table()

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(caption=self.stuck, caption_justify="left")
        for i, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if i else "left")
        for row in _rows(self.sources):
            table.add_row(*row)
        return table


HEADINGS = ("", "members", "messages", "now/s", "overall/s", "busy", "p50", "p99", "backlog", "restarts")


def _rows(sources: Sequence[SourceReport]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for source in sources:
        rows.append(
            (source.name, *_common(source), "", "", "", f"{source.used} of {source.capacity}", str(source.restarts))
        )
        for stage in source.stages:
            figures = (f"{stage.busy:.0%}", seconds(stage.latency_p50), seconds(stage.latency_p99), str(stage.backlog))
            rows.append((f"  {stage.name}", *_common(stage), *figures, str(stage.restarts)))
    return rows


def _common(it: WorkersReport) -> tuple[str, str, str, str]:
    return f"{len(it.pids)} of {it.members}", str(it.messages), rate(it.per_second), rate(it.overall)


def rate(n: float) -> str:
    """Three digits at least: 0.52, 31.4, 1 204, 1.25 M."""
    if n >= 1e6:
        return f"{n / 1e6:.2f} M"
    if n >= 100:
        return f"{n:,.0f}".replace(",", " ")
    return f"{n:.3g}"


def seconds(s: float) -> str:
    """A time with its unit; a dash for none."""
    if s == 0:
        return "–"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if s >= factor:
            return f"{s / factor:.3g} {unit}"
    return f"{s * 1e9:.0f} ns"
