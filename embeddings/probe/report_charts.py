"""The charts of a report as inline SVG: learning curve, calibration, accuracies side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from embeddings.probe.html import Html, joined, tag

WIDTH, HEIGHT = 380, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 12, 42
BLUE, GREY, LIGHT = "#4477aa", "#8a8a8a", "#c9d8e8"

Point = tuple[float, float]


class _Axes:
    """Turns values into pixels; ``logarithmic`` is of x."""

    def __init__(self, x: Point, y: Point, *, logarithmic: bool = False) -> None:
        self.x_range, self.y_range, self._log = x, y, logarithmic

    def at(self, x: float, y: float) -> Point:
        low, high = map(self._scaled, self.x_range)
        across = (self._scaled(x) - low) / ((high - low) or 1)
        up = (y - self.y_range[0]) / ((self.y_range[1] - self.y_range[0]) or 1)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )

    def _scaled(self, x: float) -> float:
        return math.log(x) if self._log else x

    def drawn(
        self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], x: str, y: str
    ) -> Html:
        """Return axes with ticks and their names."""
        (left, base), (right, top) = self.at(*_first(self)), self.at(*_last(self))
        parts = [_line((left, base), (right, base), GREY), _line((left, base), (left, top), GREY)]
        for value, text in x_ticks.items():
            at = self.at(value, self.y_range[0])
            parts += [_line(at, (at[0], at[1] + 4), GREY)]
            parts += [_text(at[0], at[1] + 16, text, "middle")]
        for value, text in y_ticks.items():
            at = self.at(self.x_range[0], value)
            parts += [
                _line(at, (right, at[1]), "#ececec"),
                _text(at[0] - 6, at[1] + 4, text, "end"),
            ]
        middle = (left + right) / 2
        parts.append(_text(middle, HEIGHT - 8, x, "middle"))
        turned = f"rotate(-90 12 {(base + top) / 2:g})"
        parts.append(
            tag("text", y, x=12, y=f"{(base + top) / 2:g}", text_anchor="middle", transform=turned)
        )
        return joined(parts)


def learning_curve(curve: Mapping[str, Any], y_name: str) -> Html:
    """Return errors over numbers of labels, with a standard deviation to either side."""
    labels, errors, spread = curve["labels"], curve["error"], curve["deviation"]
    highest = max(e + s for e, s in zip(errors, spread, strict=True))
    ticks = _ticks(highest)
    axes = _Axes((labels[0], labels[-1]), (0.0, max(ticks)), logarithmic=True)
    upper = [axes.at(n, e + s) for n, e, s in zip(labels, errors, spread, strict=True)]
    lower = [axes.at(n, max(0, e - s)) for n, e, s in zip(labels, errors, spread, strict=True)]
    points = [axes.at(n, e) for n, e in zip(labels, errors, strict=True)]
    shown = labels if len(labels) <= 6 else labels[::2]
    return _svg(
        f"{y_name} against the number of labels",
        axes.drawn({n: f"{n:,}" for n in shown}, ticks, "labels trained on", y_name),
        tag("polygon", points=_path([*upper, *lower[::-1]]), fill=LIGHT, stroke="none"),
        tag("polyline", points=_path(points), fill="none", stroke=BLUE, stroke_width=2),
        *(_dot(point) for point in points),
    )


def calibration_chart(bins: Sequence[Mapping[str, float]]) -> Html:
    """Return the share that is right over the probability that was stated."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0))
    ticks = {value / 5: f"{value / 5:.1f}" for value in range(6)}
    points = [axes.at(each["probability"], each["right"]) for each in bins]
    most = max((each["count"] for each in bins), default=1)
    radii = [2 + 5 * math.sqrt(each["count"] / most) for each in bins]
    return _svg(
        "Share right against stated probability",
        axes.drawn(ticks, ticks, "stated probability", "share right"),
        _line(axes.at(0, 0), axes.at(1, 1), GREY, dashed=True),
        tag("polyline", points=_path(points), fill="none", stroke=BLUE, stroke_width=1.5),
        *(_dot(point, radius) for point, radius in zip(points, radii, strict=True)),
    )


def bars(figures: Mapping[str, Mapping[str, Any]]) -> Html:
    """Return figures of 0 to 1 as bars with their 95 % intervals, one beneath another."""
    step, left, wide = 26, 150, 420
    height = step * len(figures) + 24
    parts: list[Html] = []
    for row, (name, figure) in enumerate(figures.items()):
        value, top = figure["value"], row * step + 4
        parts.append(_text(left - 8, top + 14, name, "end"))
        if value is None:
            continue
        colour = BLUE if row == 0 else GREY
        span = max(0.0, min(1.0, value)) * wide
        parts.append(
            tag("rect", x=left, y=top, width=round(span, 1), height=18, fill=colour, opacity=0.75)
        )
        if figure["low"] is not None:
            ends = [left + max(0.0, min(1.0, figure[end])) * wide for end in ("low", "high")]
            parts.append(_line((ends[0], top + 9), (ends[1], top + 9), "#222", width=2))
        parts.append(_text(left + wide + 8, top + 14, f"{value:.3f}", "start"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(left + tick * wide, height - 4, f"{tick:g}", "middle"))
    return _svg("Figures side by side", *parts, width=left + wide + 60, height=height)


def _svg(title: str, *parts: Html, width: int = WIDTH, height: int = HEIGHT) -> Html:
    return tag(
        "svg",
        tag("title", title),
        *parts,
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
    )


def _ticks(highest: float) -> dict[float, str]:
    """Return about four round values from 0 to beyond the highest."""
    rough = max(highest, 1e-6) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    count = math.ceil(highest / step - 1e-9) or 1
    return {i * step: f"{i * step:.3g}" for i in range(count + 1)}


def _first(axes: _Axes) -> Point:
    return axes.x_range[0], axes.y_range[0]


def _last(axes: _Axes) -> Point:
    return axes.x_range[1], axes.y_range[1]


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _line(start: Point, end: Point, colour: str, *, width: float = 1, dashed: bool = False) -> Html:
    more: dict[str, object] = {"stroke_dasharray": "4 3"} if dashed else {}
    (x1, y1), (x2, y2) = start, end
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width, **more)


def _dot(at: Point, radius: float = 3) -> Html:
    return tag("circle", cx=at[0], cy=at[1], r=round(radius, 1), fill=BLUE)


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)
