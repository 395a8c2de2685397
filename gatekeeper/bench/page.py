"""A run of a bench as a page to read: `bench.html`, self-contained."""

import functools
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gatekeeper.bench.charts import lines_plot, roc_plot, whisker

OURS = "gatekeeper"
NOTHING = "\N{EN DASH}"
TITLES = {
    "detect": "Which detector finds the planted models?",
    "rectify": "Which repair takes the backdoor away, and does it stay away?",
    "oracle": "How far can the oracle be believed?",
}


def bench_page(document: Mapping[str, Any]) -> str:
    """Return the page of one run; it asks the network for nothing, every name is escaped."""
    bench = document["bench"]
    names = list(dict.fromkeys(row["method"] for row in document["rows"]))
    colours = {name: number for number, name in enumerate(names)}
    every = [row for row in document["tallies"] if row.get("group", "all") == "all"]
    return _environment().get_template(f"{bench}.html.j2").render(
        document=document,
        title=TITLES[bench],
        lead=lead_of(document),
        style=Markup(_style()),  # noqa: S704 - our own style sheets
        every=every,
        groups=_groups(document["tallies"]),
        colours=colours,
        roc=roc_plot(document["curves"], colours) if document.get("curves") else None,
        returns=_returns(document, colours) if bench == "rectify" else None,
        failed=[row for row in document["rows"] if row["error"]],
        kinds=_kinds(document),
    )  # fmt: skip


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gatekeeper.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        rate=_rate, within=_within, span=_span, points=_points, count=_count, mean=_value
    )
    environment.globals.update(whisker=whisker)
    return environment


@functools.cache
def _style() -> str:
    parts = ("evidence", "style.css"), ("bench", "bench.css")
    return "\n".join(
        files(f"gatekeeper.{package}").joinpath("templates", name).read_text(encoding="utf-8")
        for package, name in parts
    )


def lead_of(document: Mapping[str, Any]) -> str:
    """Return the result of a run in a sentence."""
    every = [row for row in document["tallies"] if row.get("group", "all") == "all"]
    first = next((row for row in every if row.get("method") == OURS), every[0] if every else None)
    if first is None:
        return "Nothing was measured."
    if document["bench"] == "detect":
        told = f"gatekeeper ranks {first['planted']} planted against {first['clean']} clean models"
        told += f" with AUC {_span(first['auc'])}" if first["auc"] else ""
        if first["tpr"] and first["fpr"]:
            told += f"; its policy stops {_rate(first['tpr'])} of the planted and "
            told += f"{_rate(first['fpr'])} of the clean ones"
        return told + "."
    if document["bench"] == "rectify":
        before, after = first["before"]["attack_success"], first["after"]["attack_success"]
        return (
            f"gatekeeper takes attack success from {_rate(before)} to {_rate(after)} over "
            f"{first['models']} planted models and changes clean accuracy by "
            f"{_points(first['accuracy_change'])} points."
        )
    return (
        f"The oracle {first['oracle']} wrongly calls {_rate(first['false_absent'])} of the true "
        f"labels absent, and {_rate(first['target_absent'])} of the targets that triggers claim."
    )


def _groups(tallies: list[Any]) -> dict[str, dict[str, list[Any]]]:
    """Return tallies by group and name, e.g. attack -> badnets -> one a method."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in tallies:
        group = row.get("group", "all")
        if group != "all":
            found.setdefault(group, {}).setdefault(row["name"], []).append(row)
    return found


def _returns(document: Mapping[str, Any], colours: Mapping[str, int]) -> Markup | None:
    """Return attack success over clean steps after the repair, the mean over models."""
    series: dict[str, list[tuple[float, float]]] = {}
    for name in colours:
        rows = [r for r in document["rows"] if r["method"] == name and not r["error"]]
        rows = [r for r in rows if r["result"]["rebound"]]
        if not rows:
            continue
        start = [float(r["result"]["after"]["attack_success"]) for r in rows]
        points = [(0.0, sum(start) / len(start))]
        for step in rows[0]["result"]["rebound"]:
            at = [r["result"]["rebound"][step] for r in rows if step in r["result"]["rebound"]]
            points.append((float(step), sum(at) / len(at)))
        series[name] = points
    if not series:
        return None
    return lines_plot(series, colours, "clean fine-tuning steps after the repair", "attack success")


def _kinds(document: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for model in document["models"]:
        found[model["kind"]] = found.get(model["kind"], 0) + 1
    return found


def _rate(value: Any) -> str:
    number = _value(value)
    return NOTHING if number is None else f"{100 * number:.1f} %"


def _within(value: Any) -> str:
    """Return a rate with its interval, percent."""
    if value is None or value["low"] is None:
        return _rate(value)
    return f"{_rate(value)} [{100 * value['low']:.0f}, {100 * value['high']:.0f}]"


def _span(value: Any, digits: int = 3) -> str:
    """Return a number with its interval."""
    if value is None:
        return NOTHING
    if not isinstance(value, dict):
        return f"{value:.{digits}f}"
    shown = f"{value['value']:.{digits}f}"
    if value["low"] is None:
        return shown
    return f"{shown} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _points(value: Any) -> str:
    if value is None:
        return NOTHING
    shown = f"{100 * value['value']:+z.1f}"
    if value["low"] is None:
        return shown
    return f"{shown} [{100 * value['low']:+z.1f}, {100 * value['high']:+z.1f}]"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _value(value: Any) -> float | None:
    if isinstance(value, dict):
        return float(value["value"])
    return None if value is None else float(value)
