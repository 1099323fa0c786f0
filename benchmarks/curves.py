"""Curves over one time axis, one panel above the other, as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP, FOOT = 860, 110, 84, 44, 34, 40
STYLE = (
    "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:11px;fill:#475569}"
    ".title{font-size:15px;font-weight:600;fill:#1e293b}.panel{font-size:12px;font-weight:600;fill:#1e293b}"
    "path{fill:none;stroke-width:1.4;stroke-linejoin:round}.grid{stroke:#e2e8f0;stroke-width:1}"
)


@dataclass(frozen=True)
class Curve:
    name: str
    colour: str
    values: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves that share a scale, which begins at 0. `unit` stands behind the numbers at its left."""

    name: str
    unit: str
    curves: Sequence[Curve]


def draw(title: str, seconds: Sequence[float], panels: Sequence[Panel], foot: str) -> str:
    """Each value holds until the next one."""
    end = seconds[-1]
    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>']
    for number, panel in enumerate(panels):
        parts += _panel(panel, seconds, TOP + GAP / 2 + number * (HEIGHT + GAP))
    height = TOP + len(panels) * (HEIGHT + GAP) + FOOT
    for tick in range(5):
        x = LEFT + WIDTH * tick / 4
        parts.append(f'<text x="{x:.0f}" y="{height - 38}" text-anchor="middle">{end * tick / 4:.2g} s</text>')
    parts.append(f'<text x="{LEFT}" y="{height - 14}">{escape(foot)}</text>')
    width = LEFT + WIDTH + 28
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" rx="12" fill="#f8fafc"/>{"".join(parts)}</svg>\n'
    )


def _panel(panel: Panel, seconds: Sequence[float], top: float) -> list[str]:
    most = max(max(curve.values) for curve in panel.curves) * 1.05 or 1.0
    parts = [f'<text class="panel" x="{LEFT}" y="{top - 6:.0f}">{escape(panel.name)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.0f}h{WIDTH}"/>')
        text = f"{most * share:,.0f} {panel.unit}"
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{escape(text)}</text>')
    right = LEFT + WIDTH
    for curve in reversed(panel.curves):
        parts.append(f'<path stroke="{curve.colour}" d="{_steps(curve, seconds, top, most)}"/>')
        place = f'x="{right}" y="{top - 6:.0f}" text-anchor="end" style="fill:{curve.colour}"'
        parts.append(f"<text {place}>{escape(curve.name)}</text>")
        right -= 20 + 6 * len(curve.name)
    return parts


def _steps(curve: Curve, seconds: Sequence[float], top: float, most: float) -> str:
    path, before = "", None
    for second, value in zip(seconds, curve.values, strict=True):
        x, y = LEFT + WIDTH * second / seconds[-1], top + HEIGHT * (1 - value / most)
        if before is None:
            path = f"M{x:.1f} {y:.1f}"
        elif value != before:
            path += f"H{x:.1f}V{y:.1f}"
        before = value
    return path + f"H{LEFT + WIDTH}"
