"""A pipeline as an SVG picture: a row of boxes per source, its stages in columns by what they run after.

depth 0     1            2
┌────────┐  ┌─────────┐  ┌───────┐     A box has a head (name, workers) and a body (rate, latency, a bar of how busy
│ camera │─▶│ rectify │─▶│ infer │     it is). That of the bottleneck is red.
└────────┘  └─────────┘  └───────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from .report import Report, SourceReport, StageReport, rate, seconds

__all__ = ["draw"]

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, FOOT = 216, 112, 64, 26, 28, 34
SOURCE, READS, WRITES, STUCK = "#0f766e", "#334155", "#6d28d9", "#dc2626"
STYLE = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1e293b}"
    ".name{font-size:14px;font-weight:600;fill:#fff}.side{font-size:11px;fill:#fff;fill-opacity:.85}"
    ".rate{font-size:22px;font-weight:600}.unit,.small{font-size:11px;fill:#64748b}.foot{font-size:12px;fill:#475569}"
)


@dataclass(frozen=True)
class Box:
    """A source or stage, with its upper left corner."""

    it: SourceReport | StageReport
    x: float
    y: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + HEIGHT / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + WIDTH, self.y + HEIGHT / 2


def draw(report: Report) -> str:
    """The picture; without numbers before the pipeline has begun."""
    parts: list[str] = []
    right, y = 0.0, float(MARGIN)
    for source in report.sources:
        boxes, height = _placed(source, y)
        for box in boxes.values():
            if isinstance(box.it, StageReport):
                parts += [_arrow(boxes[name], box) for name in box.it.after or ("",)]
        for box in boxes.values():
            stuck = report.bottleneck == (source.name, box.it.name) and isinstance(box.it, StageReport)
            parts.append(_box(box, bool(report.seconds), stuck))
        right = max(right, *(box.x + WIDTH for box in boxes.values()))
        y += height + GAP_Y
    width, height = right + MARGIN, y - GAP_Y + FOOT + MARGIN / 2
    foot = f"{report.stuck}" + (f" · {seconds(report.seconds)}" if report.seconds else "")
    width = max(width, MARGIN * 2 + 6.2 * len(foot))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img"><title>pipeline</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" rx="12" fill="#f8fafc"/>{"".join(parts)}'
        f'<text class="foot" x="{MARGIN}" y="{height - MARGIN / 2:.0f}">{escape(foot)}</text></svg>'
    )


def _placed(source: SourceReport, top: float) -> tuple[dict[str, Box], float]:
    """The boxes of a source, "" being its own, and how high they are together. Each column is centred."""
    depth: dict[str, int] = {}
    columns: dict[int, list[StageReport]] = {}
    for stage in source.stages:  # behind those that they run after
        depth[stage.name] = 1 + max((depth[name] for name in stage.after), default=0)
        columns.setdefault(depth[stage.name], []).append(stage)
    height = max((len(column) for column in columns.values()), default=1) * (HEIGHT + GAP_Y) - GAP_Y
    boxes = {"": Box(source, MARGIN, top + (height - HEIGHT) / 2)}
    for d, column in columns.items():
        y = top + (height - len(column) * (HEIGHT + GAP_Y) + GAP_Y) / 2
        for i, stage in enumerate(column):
            boxes[stage.name] = Box(stage, MARGIN + d * (WIDTH + GAP_X), y + i * (HEIGHT + GAP_Y))
    return boxes, height


def _arrow(a: Box, b: Box) -> str:
    (x1, y1), (x2, y2) = a.right, b.left
    middle = (x1 + x2) / 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f}C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2 - 7:.0f} {y2:.0f}" '
        f'fill="none" stroke="#94a3b8" stroke-width="2"/><path d="M{x2 - 1:.0f} {y2:.0f}l-9 -5v10z" fill="#94a3b8"/>'
    )


def _box(box: Box, runs: bool, stuck: bool) -> str:
    it, x, y = box.it, box.x, box.y
    stage = it if isinstance(it, StageReport) else None
    colour = STUCK if stuck else SOURCE if stage is None else WRITES if stage.mutate else READS
    side = [
        f"{len(it.pids)} of {it.members}" if runs and it.members > 1 else f"× {it.members}" if it.members > 1 else ""
    ]
    if stage is not None:
        side += ["mutates" if stage.mutate else "", f"batch {stage.batch}" if stage.batch else ""]
    parts = [
        _bar(x, y + 2, WIDTH, HEIGHT, 'fill="#0f172a" fill-opacity=".08"'),
        _bar(x, y, WIDTH, HEIGHT, f'fill="#fff" stroke="{colour}" stroke-width="{2.5 if stuck else 1.2}"'),
        f'<path d="M{x:.0f} {y + 30:.0f}v-20a10 10 0 0 1 10 -10h{WIDTH - 20}a10 10 0 0 1 10 10v20z" fill="{colour}"/>',
        _text("name", x + 12, y + 20, _short(it.name, 22 - sum(map(len, side)) // 2)),
        _text("side", x + WIDTH - 12, y + 20, " · ".join(filter(None, side)), "end"),
    ]
    if not runs:
        what = "source" if stage is None else "stage"
        return "".join([*parts, _text("small", x + 12, y + 58, what)])
    parts.append(_text("rate", x + 12, y + 58, rate(it.per_second)))
    parts.append(_text("unit", x + WIDTH - 12, y + 58, f"{rate(it.messages)} messages", "end"))
    if stage is None:
        assert isinstance(it, SourceReport)
        parts.append(_text("small", x + 12, y + 77, "messages/s"))
        share, label = min(it.used / it.capacity, 1.0), f"{it.used} of {it.capacity} slots used"
    else:
        times = f"p50 {seconds(stage.latency_p50)}  p99 {seconds(stage.latency_p99)}"
        parts.append(_text("small", x + 12, y + 77, times))
        share, label = stage.busy, f"busy {stage.busy:.0%} · backlog {stage.backlog}"
    if it.restarts:
        label += f" · restarts {it.restarts}"
    most = WIDTH - 24
    parts.append(
        _bar(x + 12, y + 84, most, 5, 'fill="#e2e8f0"') + _bar(x + 12, y + 84, most * share, 5, f'fill="{colour}"')
    )
    parts.append(_text("small", x + 12, y + 103, label))
    return "".join(parts)


def _bar(x: float, y: float, width: float, height: float, paint: str) -> str:
    """A rectangle with round corners."""
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.1f}" height="{height}" rx="{min(10, height / 2):g}" {paint}/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>' if text else ""


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
