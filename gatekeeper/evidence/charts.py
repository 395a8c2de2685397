"""How are numbers drawn? As inline SVG of numbers: no text from outside becomes markup here."""

from markupsafe import Markup


def gauge(value: float | None, threshold: float | None, label: str) -> Markup:
    """Return a half-circle gauge from 0 to 1 with a mark at `threshold`; `label` is read aloud."""
    arc = 'd="M14 92 A76 76 0 0 1 166 92" pathLength="100" fill="none" stroke-width="16"'
    parts = [f'<path {arc} class="track"/>']
    if value is not None:
        filled = 100 * _unit(value)
        over = threshold is not None and value > threshold
        parts.append(
            f'<path {arc} class="{"over" if over else "under"}" '
            f'stroke-dasharray="{filled:.2f} 200"/>'
        )
    if threshold is not None:
        turn = 180 * _unit(threshold)
        parts.append(
            f'<line x1="4" y1="92" x2="26" y2="92" class="mark" '
            f'transform="rotate({turn:.2f} 90 92)"/>'
        )
    shown = "?" if value is None else f"{value:.2f}"
    parts.append(f'<text x="90" y="88" text-anchor="middle" class="figure">{shown}</text>')
    return Markup(  # noqa: S704 - built of numbers; the label is escaped by format()
        '<svg class="gauge" viewBox="0 0 180 100" role="img" aria-label="{label}">'
        + "".join(parts)
        + "</svg>"
    ).format(label=label)


def bar(value: float, bound: float | None = None, *, bad: bool = False) -> Markup:
    """Return a horizontal bar from 0 to 1 with a mark at `bound`; the number stands beside it."""
    width = 100 * _unit(value)
    mark = ""
    if bound is not None and 0 <= bound <= 1:
        at = min(100 * bound, 99.2)
        mark = f'<rect x="{at:.2f}" y="0" width="0.8" height="10" class="mark"/>'
    return Markup(  # noqa: S704 - built of numbers
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect x="0" y="2" width="100" height="6" class="track"/>'
        f'<rect x="0" y="2" width="{width:.2f}" height="6" class="{"over" if bad else "under"}"/>'
        f"{mark}</svg>"
    )


def icon(state: str) -> Markup:
    """Return a sign that needs no colour: ok, broken, warning, missing, or a verdict."""
    drawn = {
        "ok": '<path d="M5 12.5l4.5 4.5L19 7.5"/>',
        "broken": '<path d="M6.5 6.5l11 11M17.5 6.5l-11 11"/>',
        "warning": '<path d="M12 6v7.5M12 17.2v.6"/>',
        "missing": '<path d="M9 9.2a3 3 0 1 1 4.6 2.5c-1 .7-1.6 1.2-1.6 2.4M12 17.4v.5"/>',
    }
    drawn["info"] = '<path d="M12 11v6M12 7.2v.6"/>'
    same = {"pass": "ok", "fail": "broken", "inconclusive": "missing", "critical": "broken"}
    body = drawn[same.get(state, state if state in drawn else "missing")]
    return Markup(f'<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">{body}</svg>')  # noqa: S704


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
