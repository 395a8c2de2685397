"""Curves and intervals as inline SVG of numbers; names are escaped, nothing foreign is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

SIDE = 300  # of a plot, in its own units
COLOURS = 8  # classes c0 … c7 in the page's style


def roc_plot(curves: Mapping[str, Mapping[str, Any]], colours: Mapping[str, int]) -> Markup:
    """Return ROC curves in one square, dashed beyond the first so that they need no colour."""
    parts = [_frame("false alarms among clean models", "planted models found")]
    parts.append(f'<line class="even" x1="0" y1="{SIDE}" x2="{SIDE}" y2="0"/>')
    for name, curve in reversed(list(curves.items())):
        xs, ys = curve["false_positives"], curve["true_positives"]
        points = " ".join(
            f"{SIDE * x:.1f},{SIDE * (1 - y):.1f}" for x, y in zip(xs, ys, strict=True)
        )
        number = colours[name] % COLOURS
        parts.append(
            Markup('<polyline class="curve c{}" points="{}"><title>{}</title></polyline>').format(
                number, points, name
            )
        )
    return _svg("ROC curves", "".join(parts))


def lines_plot(
    series: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, int],
    across: str,
    up: str,
) -> Markup:
    """Return lines over a common axis that starts at 0; rates go up to 1."""
    most = max((x for points in series.values() for x, _ in points), default=1.0) or 1.0
    parts = [_frame(across, up, last=f"{most:g}")]
    for name, points in reversed(list(series.items())):
        drawn = " ".join(f"{SIDE * x / most:.1f},{SIDE * (1 - y):.1f}" for x, y in points)
        parts.append(
            Markup('<polyline class="curve c{}" points="{}"><title>{}</title></polyline>').format(
                colours[name] % COLOURS, drawn, name
            )
        )
    return _svg(up, "".join(parts))


def whisker(estimate: Mapping[str, Any] | None, low: float = 0.0, high: float = 1.0) -> Markup:
    """Return a value as a dot with its interval as a line, between `low` and `high`."""
    if estimate is None:
        return Markup("")
    wide = high - low

    def at(value: float) -> float:
        return 100 * min(max((value - low) / wide, 0.0), 1.0)

    parts = ['<line class="axis" x1="0" y1="6" x2="100" y2="6"/>']
    if low < 0 < high:
        parts.append(f'<line class="zero" x1="{at(0):.1f}" y1="0" x2="{at(0):.1f}" y2="12"/>')
    if estimate["low"] is not None:
        parts.append(
            f'<line class="spread" x1="{at(estimate["low"]):.1f}" y1="6" '
            f'x2="{at(estimate["high"]):.1f}" y2="6"/>'
        )
    parts.append(f'<circle cx="{at(estimate["value"]):.1f}" cy="6" r="3.2"/>')
    return Markup(  # noqa: S704 - built of numbers
        f'<svg class="whisker" viewBox="-4 0 108 12" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _frame(across: str, up: str, last: str = "1") -> str:
    lines = "".join(
        f'<line class="grid" x1="0" y1="{SIDE * f:.0f}" x2="{SIDE}" y2="{SIDE * f:.0f}"/>'
        f'<line class="grid" x1="{SIDE * f:.0f}" y1="0" x2="{SIDE * f:.0f}" y2="{SIDE}"/>'
        for f in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    half = SIDE // 2
    words = Markup(
        '<text x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text transform="translate(-30 {}) rotate(-90)" text-anchor="middle">{}</text>'
        '<text x="-8" y="{}" text-anchor="end">0</text>'
        '<text x="-8" y="8" text-anchor="end">1</text>'
        '<text x="0" y="{}" text-anchor="middle">0</text>'
        '<text x="{}" y="{}" text-anchor="middle">{}</text>'
    ).format(half, SIDE + 34, across, half, up, SIDE, SIDE + 16, SIDE, SIDE + 16, last)
    return lines + words


def _svg(label: str, inside: str) -> Markup:
    return Markup(  # noqa: S704 - parts are numbers and escaped names
        f'<svg class="plot" viewBox="-44 -8 {SIDE + 56} {SIDE + 50}" role="img" '
        f'aria-label="{Markup.escape(label)}">{inside}</svg>'
    )
