"""Where the numbers of a report come from: the workers' own figures, and the words of their channels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..inspect import Channel, inspect
from .board import Row, Sample
from .report import Report, SourceReport, StageReport
from .stuck import Working, stuck_at

if TYPE_CHECKING:
    from .program import Source, StageNode
    from .supervisor import Supervisor

__all__ = ["idle_report", "report_of"]


def report_of(supervisor: Supervisor) -> Report:
    """The report of a pipeline that runs or has run."""
    ended, now = supervisor.ended.is_set(), time.monotonic()
    lasted = supervisor.took if ended else now - (supervisor.began or now)
    sample = supervisor.board.sample(now)
    before = None if ended or not supervisor.samples else supervisor.samples[0]
    seen = {source.name: None if ended else inspect(source.address) for source in supervisor.sources}
    sources = tuple(
        _source(source, seen[source.name], _Figures(supervisor, source.name, sample, before, lasted))
        for source in supervisor.sources
    )
    if ended:
        return Report(lasted, False, supervisor.stopped_by, sources, None, "the pipeline has ended")
    bottleneck, sentence = stuck_at(sources, seen, _working(supervisor, sample))
    return Report(lasted, True, supervisor.stopped_by, sources, bottleneck, sentence)


def idle_report(sources: Sequence[Source]) -> Report:
    """The report of a pipeline that has not run: its graph, and zeros."""
    reports = tuple(_source(source, None, _Figures(None, source.name, None, None, 0.0)) for source in sources)
    return Report(0.0, False, "", reports, None, "the pipeline has not started")


class _Figures:
    """What the workers of one source and its stages have published: now, and about a second ago."""

    def __init__(
        self, supervisor: Supervisor | None, source: str, now: Sample | None, before: Sample | None, lasted: float
    ) -> None:
        self._supervisor, self._source, self._now, self._before, self.lasted = supervisor, source, now, before, lasted

    def rows(self, name: str, members: int, at: Sample | None) -> NDArray[np.void]:
        if self._supervisor is None or at is None:
            return np.zeros(members, Row.__layout__.dtype)
        return at.rows[[self._supervisor.rows[self._source, name, member] for member in range(members)]]

    def now(self, name: str, members: int) -> NDArray[np.void]:
        return self.rows(name, members, self._now)

    def rate(self, field: str, name: str, members: int) -> float:
        """How much a figure grew per second: lately, between two publications of a worker.

        Without a past: since all began.
        """
        now = self.now(name, members)
        if self._before is None:
            return float(now[field].sum()) / self.lasted if self.lasted else 0.0
        past = self.rows(name, members, self._before)
        took = (now["at"] - past["at"]).astype("f8") / 1e9
        grew = (now[field] - past[field]).astype("f8")
        known = (past["at"] > 0) & (took > 0)
        return float((grew[known] / took[known]).sum())

    def common(self, name: str, members: int) -> dict[str, Any]:
        """The fields that sources and stages have in common."""
        now = self.now(name, members)
        messages = int(now["messages"].sum())
        key = (self._source, name)
        return {
            "name": name,
            "members": members,
            "pids": tuple(self._supervisor.pids(key)) if self._supervisor else (),
            "restarts": self._supervisor.restarts[key] if self._supervisor else 0,
            "messages": messages,
            "per_second": self.rate("messages", name, members),
            "overall": messages / self.lasted if self.lasted else 0.0,
            "copied_bytes": int(now["copied_bytes"].sum()),
        }


def _source(source: Source, seen: Channel | None, figures: _Figures) -> SourceReport:
    after, nodes = source.after(), {node.stage.name: node for node in source.stages}
    own = figures.now(source.name, source.members)
    every = np.concatenate([own, *(figures.now(name, nodes[name].members) for name in after)])
    lanes = seen.lanes if seen else ()
    return SourceReport(
        **figures.common(source.name, source.members),
        address=source.address,
        used=sum(lane.used for lane in lanes),
        capacity=sum(lane.capacity for lane in lanes) or source.capacity * source.members,
        blocked=int(own["blocked"].sum()),
        missed=int(own["missed"].sum()),
        late_wakes=int(every["late_wakes"].max()),
        redelivered=int(every["redelivered"].max()),
        poisoned=int(every["poisoned"].max()),
        dropped=int(every["dropped"].max()),
        stages=tuple(_stage(nodes[name], after[name], seen, figures) for name in after),
    )


def _stage(node: StageNode, after: tuple[str, ...], seen: Channel | None, figures: _Figures) -> StageReport:
    name = node.stage.name
    latencies = figures.now(name, node.members)["latency"].sum(axis=0).tolist()
    there = seen.stage(name) if seen else None
    return StageReport(
        **figures.common(name, node.members),
        after=after,
        mutate=node.stage.mutate,
        batch=node.batch,
        busy=min(figures.rate("busy", name, node.members) / 1e9 / node.members, 1.0),
        latency_p50=quantile(latencies, 0.5) / 1e9,
        latency_p99=quantile(latencies, 0.99) / 1e9,
        backlog=there.waiting if there else 0,
        held=there.held if there else 0,
    )


def quantile(histogram: Sequence[int], part: float) -> float:
    """Of a histogram whose entry b counts from 2**(b-1) up to 2**b, interpolated within the entry; 0.0 without any."""
    left = part * sum(histogram)
    for bucket, count in enumerate(histogram):
        if count and left <= count:
            low, high = (2.0 ** (bucket - 1), 2.0**bucket) if bucket else (0.0, 0.0)
            return low + (high - low) * left / count
        left -= count
    return 0.0


def _working(supervisor: Supervisor, sample: Sample) -> Working:
    """How long each stage's workers have been inside the function that they are in now."""
    now = time.monotonic_ns()
    return {
        (worker.source, worker.task.name, worker.pid): (now - since) / 1e9
        for worker in list(supervisor.workers)
        if (since := int(sample.rows[worker.task.row]["since"]))
    }
