"""Line plots as SVG, mostly with logarithmic axes: panels side by side, each with a legend.

The SVG is plain text that any browser shows. No plotting library is used, so that a benchmark needs
no further package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

#: Colours that are dark enough on white, and that colour-blind people can tell apart.
COLOURS = ("#0060a8", "#c45a00", "#2a7d3f", "#8a3fa0")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
PANEL_WIDTH, PANEL_HEIGHT = 460, 390
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 40, 56
LEGEND_LINE = 17
MOST_TICKS = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: its name and points (x, y) above zero.

    A curve that shows a limit has no point markers.
    """

    name: str
    points: Sequence[tuple[float, float]]
    limit: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: a title, the labels of the axes, the format of ticks of y, and the lines.

    Both axes are logarithmic; with `from_zero`, y is linear from zero on.
    """

    title: str
    x_title: str
    y_title: str
    y_tick: Callable[[float], str]
    lines: Sequence[Line]
    from_zero: bool = False


def short(number: float) -> str:
    """Return a number in short form: 10000 as 10 k, 3000000 as 3 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def svg(panels: Sequence[Panel], note: str) -> str:
    """Return an SVG of panels, two in a row, above the line `note` in small print."""
    rows = -(-len(panels) // 2)
    width, height = PANEL_WIDTH * min(2, len(panels)), PANEL_HEIGHT * rows + 26
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="system-ui, sans-serif">'
    )
    parts = [head, f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for number, panel in enumerate(panels):
        across, down = number % 2 * PANEL_WIDTH, number // 2 * PANEL_HEIGHT
        parts.append(f'<g transform="translate({across} {down})">')
        parts += _panel(panel)
        parts.append("</g>")
    parts.append(_text(12, height - 9, note, size=10.5, colour="#666"))
    parts.append("</svg>\n")
    return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of values from `low` to `high`, drawn from pixel `start` to pixel `end`.

    The axis is logarithmic, unless `low` is zero.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        if self.low == 0:
            share = value / self.high
        else:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return the ticks 1, 2, 5, 10, … within the axis; fewer ticks if the axis is long.

        A linear axis has equal steps, of 1, 2 or 5 times a power of ten.
        """
        if self.low == 0:
            size = 10.0 ** math.floor(math.log10(self.high))
            step = next(s for s in (size / 5, size / 2, size, 2 * size) if self.high / s <= 6)
            return [step * number for number in range(math.floor(self.high / step) + 1)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3)):
            ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) <= MOST_TICKS:
                return ticks
        return [10.0**exponent for exponent in exponents if self.low <= 10**exponent <= self.high]


def _panel(panel: Panel) -> Iterator[str]:
    xs = [x for line in panel.lines for x, _ in line.points]
    ys = [y for line in panel.lines for _, y in line.points]
    legend_height = LEGEND_LINE * len(panel.lines)
    x_axis = _Axis(min(xs) / 1.15, max(xs) * 1.15, LEFT, PANEL_WIDTH - RIGHT)
    # The upper part of a panel is kept free for the legend.
    top = TOP + legend_height + 10
    lowest, highest = (0, max(ys) * 1.25) if panel.from_zero else (min(ys) / 1.5, max(ys) * 1.5)
    y_axis = _Axis(lowest, highest, PANEL_HEIGHT - BOTTOM, top)
    yield _text(LEFT, 24, panel.title, size=14, weight="600")
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        yield _rule(x, x, top, PANEL_HEIGHT - BOTTOM)
        yield _text(x, PANEL_HEIGHT - BOTTOM + 17, short(tick), anchor="middle")
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        yield _rule(LEFT, PANEL_WIDTH - RIGHT, y, y)
        yield _text(LEFT - 7, y + 4, panel.y_tick(tick), anchor="end")
    yield (
        f'<rect x="{LEFT}" y="{top}" width="{PANEL_WIDTH - RIGHT - LEFT}"'
        f' height="{PANEL_HEIGHT - BOTTOM - top}" fill="none" stroke="#999"/>'
    )
    yield _text((LEFT + PANEL_WIDTH - RIGHT) / 2, PANEL_HEIGHT - 20, panel.x_title, anchor="middle")
    middle = (top + PANEL_HEIGHT - BOTTOM) / 2
    yield f'<g transform="translate(16 {middle:.1f}) rotate(-90)">'
    yield _text(0, 0, panel.y_title, anchor="middle")
    yield "</g>"
    for number, line in enumerate(panel.lines):
        yield from _line(number, line, x_axis, y_axis)


def _line(number: int, line: Line, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    colour = "#777" if line.limit else COLOURS[number % len(COLOURS)]
    dash = "3 4" if line.limit else DASHES[number % len(DASHES)]
    stroke = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
    points = [(x_axis.at(x), y_axis.at(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" {stroke}/>'
    if not line.limit:
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>'
    height = TOP + LEGEND_LINE * number + 2
    yield f'<line x1="{LEFT}" x2="{LEFT + 28}" y1="{height}" y2="{height}" {stroke}/>'
    yield _text(LEFT + 36, height + 4, line.name)


def _rule(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="#e3e3e3"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: float = 12,
    weight: str = "400",
    colour: str = "#222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}"'
        f' font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
