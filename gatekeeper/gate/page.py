"""The page `/gatekeeper` inside the MLflow server: the compliance trail for people and auditors.

Read-only and self-contained: no script, nothing loaded from elsewhere. Everything that clients
can name (models, aliases, users) is escaped by the template engine.
"""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, jsonify, render_template, request

from gatekeeper.gate.api import register
from gatekeeper.gate.overview import Overview, look
from gatekeeper.gate.state import API_PATH
from gatekeeper.types import Verdict

PREFIX = os.environ.get("_MLFLOW_STATIC_PREFIX", "").rstrip("/")
PATHS = (f"{PREFIX}/gatekeeper", f"{PREFIX}/gatekeeper.json", f"{PREFIX}{API_PATH}")
MAX_ROWS = 500
_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000
_WORDS = {
    "allow": "allowed",
    "refuse": "refused",
    "hold": "held",
    "allow_warn": "allowed, warned",
    "allow_audit": "allowed, audit only",
}
_TONES = {
    "allow": "good",
    "refuse": "bad",
    "hold": "wait",
    "allow_warn": "wait",
    "allow_audit": "wait",
}
_VERDICT_TONES = {Verdict.PASS: "good", Verdict.FAIL: "bad", Verdict.INCONCLUSIVE: "wait"}
_JOB_TONES = {"queued": "wait", "running": "busy", "failed": "bad", "done": "good"}


def blueprint() -> Blueprint:
    """Return the page as a Flask blueprint named `gatekeeper`."""
    page = Blueprint("gatekeeper", __name__, template_folder="templates")
    page.add_url_rule(PATHS[0], "page", _page)
    page.add_url_rule(PATHS[1], "json", _json)
    register(page, PREFIX)
    return page


def render(overview: Overview, *, name: str | None = None) -> str:
    """Return the page as HTML, within a Flask app that has the blueprint."""
    return render_template(
        "gatekeeper.html",
        view=overview,
        policy=overview.settings.policy,
        mode=overview.settings.mode.value,
        name=name,
        counts=_counts(overview),
        jobs=[job for job in overview.jobs if job.status not in ("done", "cancelled")],
        words=_WORDS,
        tones=_TONES,
        verdict_tones=_VERDICT_TONES,
        job_tones=_JOB_TONES,
        when=when,
        ascii=spelled,
        age=lambda at: age(overview.now, at),
        version_link=version_link,
        run_link=lambda run: run_link(run, overview.experiments),
        home=PREFIX + "/",
        path=PATHS[0],
    )


def when(at: int | None) -> str:
    """Return a time in UTC, to the minute."""
    return "" if at is None else datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def age(now: int, at: int | None) -> str:
    """Return how long ago (or, in the future, how far ahead) something is, in one unit."""
    if at is None:
        return "never"
    span = abs(now - at)
    unit = next(
        f"{span // size} {word}"
        for size, word in (
            (_DAY_MS, "d"),
            (_HOUR_MS, "h"),
            (_MINUTE_MS, "min"),
            (1000, "s"),
            (1, "ms"),
        )
        if span >= size or size == 1
    )
    return f"{unit} ago" if now >= at else f"in {unit}"


def spelled(label: str) -> str:
    """Return a label with every letter outside ASCII spelled out: look-alikes show."""
    return label.encode("ascii", "backslashreplace").decode()


def version_link(name: str, version: int | None) -> str:
    """Return the address of a model (version) in MLflow's UI."""
    model = f"{PREFIX}/#/models/{quote(name, safe='')}"
    return model if version is None else f"{model}/versions/{version}"


def run_link(run_id: str | None, experiments: dict[str, str]) -> str | None:
    """Return the address of an evidence run's report in MLflow's UI, None if it is not there."""
    if not run_id or run_id not in experiments:
        return None
    return (
        f"{PREFIX}/#/experiments/{experiments[run_id]}/runs/{quote(run_id)}/artifacts/report.html"
    )


def _page() -> Response:
    overview, name = _look()
    if overview is None:
        return Response(render_template("ungated.html"), status=503)
    response = Response(render(overview, name=name))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'self'"
    )
    return response


def _json() -> Response:
    overview, _ = _look()
    if overview is None:
        return Response("the registry of this server is not gated", status=503)
    policy = overview.settings.policy
    document: dict[str, Any] = {
        "policy": {"name": policy.name, "digest": policy.digest},
        "mode": overview.settings.mode.value,
        "protected": [asdict(one) for one in overview.held],
        "attempts": [asdict(one) for one in overview.attempts],
        "decisions": [
            {"name": one.name, "version": one.version, **asdict(one.record)}
            for one in overview.decisions
        ],
        "jobs": [asdict(one) for one in overview.jobs],
    }
    return jsonify(document)


def _look() -> tuple[Overview | None, str | None]:
    from mlflow.server.handlers import _get_model_registry_store

    from gatekeeper.gate.gated import Gated

    store = _get_model_registry_store()
    if not isinstance(store, Gated):
        return None, None
    name = request.args.get("model") or None
    limit = min(max(request.args.get("limit", 50, type=int), 1), MAX_ROWS)
    guard = store._guard
    found = look(guard.database, guard.settings, registry=store.engine, name=name, limit=limit)
    return found, name


def _counts(overview: Overview) -> dict[str, int]:
    written = [attempt.decision for attempt in overview.attempts]
    return {
        "refused": written.count("refuse"),
        "held": written.count("hold"),
        "allowed": sum(word.startswith("allow") for word in written),
        "waiting": sum(job.status in ("queued", "running") for job in overview.jobs),
    }
