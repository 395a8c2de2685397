"""What is installed, reachable and safe here, and what to do about the rest?"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from gatekeeper.errors import GatekeeperError

TIMEOUT_S = 5.0
LEAST_FREE_GB = 2.0  # a scan keeps one copy of the model and its evidence on disk


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at; `service` failures exit 4, others 2 (contract, section 2)."""

    name: str
    state: State
    message: str
    hint: str = ""
    service: bool = False


def examine(home: Path) -> Iterator[Check]:
    """Yield one check after the other; what a check writes, it takes away again."""
    looks: tuple[Callable[[], Check], ...] = (
        _python,
        _mlflow,
        _scanner,
        _telemetry,
        lambda: _home(home),
        _policy,
        _database,
        _server,
        _evidence,
    )
    for look in looks:
        yield look()


def _python() -> Check:
    return Check(name="python", state=State.OK, message=sys.version.split()[0])


def _mlflow() -> Check:
    found = version("mlflow")
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if not (3, 17) <= numbers <= (3, 18):
        return Check(
            name="mlflow",
            state=State.FAIL,
            message=f"{found} is not supported: the gate has not classed its mutators",
            hint="pip install 'mlflow>=3.17.2,<3.19'",
        )
    return Check(name="mlflow", state=State.OK, message=found)


def _scanner() -> Check:
    """Import the scanner in a child: a torch/torchvision mismatch shows only on import."""
    try:
        pair = f"torch {version('torch')}, torchvision {version('torchvision')}"
    except PackageNotFoundError:
        return Check(
            name="scanner",
            state=State.WARN,
            message="not installed: this machine can serve, not scan",
            hint="pip install 'mlflow-gatekeeper[scan]'",
        )
    code = "import torch, open_clip, segment_anything; print(torch.cuda.is_available())"
    done = subprocess.run(  # noqa: S603 - our own interpreter, a fixed program
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Check(
            name="scanner",
            state=State.FAIL,
            message=f"{pair}: {last}",
            hint="reinstall the pair together: pip install --force-reinstall torch torchvision",
        )
    device = "CUDA" if done.stdout.strip() == "True" else "CPU"
    return Check(name="scanner", state=State.OK, message=f"{pair}, on {device}")


def _telemetry() -> Check:
    """MLflow's own switch; every process that we start has it set."""
    off = os.environ.get("MLFLOW_DISABLE_TELEMETRY", "").lower() == "true"
    if off or os.environ.get("DO_NOT_TRACK", "").lower() in ("1", "true"):
        return Check(name="telemetry", state=State.OK, message="off")
    return Check(
        name="telemetry",
        state=State.WARN,
        message="off in every process of gatekeeper; your own MLflow clients still send it",
        hint="export MLFLOW_DISABLE_TELEMETRY=true",
    )


def _home(home: Path) -> Check:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"gatekeeper")
        free = shutil.disk_usage(home).free / 1e9
    except OSError as error:
        return Check(
            name="home",
            state=State.FAIL,
            message=f"{home} cannot be written: {error}",
            hint="set GATEKEEPER_HOME to a folder you own",
        )
    if free < LEAST_FREE_GB:
        return Check(
            name="home",
            state=State.WARN,
            message=f"{home} has {free:.1f} GB free",
            hint="free some space, or set GATEKEEPER_HOME",
        )
    return Check(name="home", state=State.OK, message=f"{home}, {free:.0f} GB free")


def _policy() -> Check:
    from gatekeeper.gate.promotion import Mode
    from gatekeeper.gate.settings import Settings

    try:
        settings = Settings.from_environment()
    except GatekeeperError as error:
        return Check(name="policy", state=State.FAIL, message=error.message, hint=error.hint)
    policy, mode = settings.policy, settings.mode
    state = State.OK if mode is Mode.ENFORCE else State.WARN
    return Check(
        name="policy",
        state=state,
        message=f"{policy.name} ({policy.digest[:19]}…), {mode}",
        hint="" if state is State.OK else "nothing is refused in this mode",
    )


def _database() -> Check:
    from gatekeeper.gate.settings import database_uri

    uri = database_uri()
    if uri is None:
        return Check(
            name="database",
            state=State.WARN,
            message="none named: status, queue and worker need one",
            hint="export GATEKEEPER_DATABASE_URI=sqlite:///… or postgresql://…",
        )
    from gatekeeper.gate.db import state_of_schema

    try:
        current = state_of_schema(uri)
    except GatekeeperError as error:
        return Check(
            name="database",
            state=State.FAIL,
            message=error.message,
            hint=error.hint,
            service=True,
        )
    if not current.up_to_date:
        return Check(
            name="database",
            state=State.FAIL,
            message=f"schema {current.revision or 'absent'}, needed {current.head}",
            hint="gatekeeper db upgrade",
        )
    return Check(name="database", state=State.OK, message=f"schema {current.revision}")


def _server() -> Check:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return Check(
            name="mlflow server",
            state=State.WARN,
            message="MLFLOW_TRACKING_URI names no server",
            hint="export MLFLOW_TRACKING_URI=http://…",
        )
    import requests

    shown = urlsplit(uri).hostname or uri
    try:
        health = requests.get(f"{uri}/health", timeout=TIMEOUT_S)
        page = requests.get(f"{uri}/gatekeeper", timeout=TIMEOUT_S, auth=_login())
    except requests.RequestException as error:
        return Check(
            name="mlflow server",
            state=State.FAIL,
            message=f"{shown} does not answer ({type(error).__name__})",
            hint="start it: gatekeeper server --backend-store-uri …",
            service=True,
        )
    if health.status_code != requests.codes.ok:
        return Check(
            name="mlflow server",
            state=State.FAIL,
            message=f"{shown}/health answers {health.status_code}",
            hint="look at the server's log",
            service=True,
        )
    if page.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
        return Check(
            name="mlflow server",
            state=State.WARN,
            message=f"{shown} is up and wants a login: whether it is gated cannot be seen",
            hint="export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if page.status_code == requests.codes.not_found:
        return Check(
            name="mlflow server",
            state=State.WARN,
            message=f"{shown} shows no /gatekeeper page: it may not be gated",
            hint="start it with `gatekeeper server` in place of `mlflow server`",
        )
    return Check(name="mlflow server", state=State.OK, message=f"{shown} is up, the gate is on")


def _login() -> tuple[str, str] | None:
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None


def _evidence() -> Check:
    place = os.environ.get("GATEKEEPER_EVIDENCE")
    if not place:
        return Check(name="evidence", state=State.OK, message="in the MLflow run of each scan")
    from gatekeeper.gate.evidence_store import probe_evidence_store

    try:
        probe_evidence_store(place)
    except GatekeeperError as error:
        return Check(
            name="evidence", state=State.FAIL, message=error.message, hint=error.hint, service=True
        )
    return Check(name="evidence", state=State.OK, message=f"{place} can be written")
