"""The client's side of a promotion: ask, scan or wait, ask again, say what came of it.

The registry is asked like any client asks it; nothing here decides. A cleaned version is promoted
in place of a refused one only where that was accepted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gatekeeper.errors import GatekeeperError, IntakeError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.artifacts import parse_models_uri
from gatekeeper.gate.client import asking, connect
from gatekeeper.gate.job_run import Workshop
from gatekeeper.gate.lease import owner_name
from gatekeeper.gate.moves import Names, NotMovedError, move
from gatekeeper.gate.runs import EvidenceRun
from gatekeeper.gate.state import ScanState, StateSource

Say = Callable[[str], None]
POLL_S = 2.0
SLOW_POLL_S = 15.0  # where nothing tells how far the scan is: each question is an attempt
MOVED, REFUSED, WAITING = 0, 1, 3
_NOTHING = ScanState()


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What came of it; `exit_code` is the contract's."""

    exit_code: int
    message: str  # for people
    uri: str  # the version that carries the names, or was to
    state: ScanState = _NOTHING
    run_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants. `shop`: scan in this process where the lease is to be had."""

    uri: str
    names: Names
    wait: bool = False
    accept_rectified: bool = False
    timeout_s: float = 3600.0
    poll_s: float = POLL_S
    shop: Workshop | None = None


def promote(
    asked: Asked,
    source: StateSource | None,
    *,
    client: Any = None,
    say: Say = lambda line: None,
) -> Promotion:
    """Promote a registered version, waiting for its scan where that is asked for.

    Args:
        asked: What to promote.
        source: Tells how far the scan is; None: nothing can, so asking again is all there is.
        client: MLflow client; by default the environment's.
        say: Takes lines of progress.

    Raises:
        IntakeError: No such version.
        ServiceError: Registry, database or evidence store failed; nothing was decided.
    """
    mlflow = client or connect()
    asked = replace(asked, uri=resolved(asked.uri, mlflow))
    try:
        return _moved(asked, source, move(asked.uri, asked.names, client=mlflow), mlflow)
    except NotMovedError as refusal:
        say(refusal.message)
        first = refusal
        # A copy that is made waits for its own name: asking for another one would never end.
        asked = replace(asked, uri=refusal.uri, names=refusal.names)
    state = _state(source, asked.uri)
    if not first.held and not (asked.wait and state.working):
        return _refused(asked, state, first.message, mlflow)
    if state.verdict == "inconclusive" and not state.working:
        return _answer(WAITING, asked.uri, first.message, state, mlflow)
    if not asked.wait:
        return Promotion(
            exit_code=WAITING, message=_queued(state, asked), uri=asked.uri, state=state
        )
    _scan_here(asked, state, say)
    return _waited(asked, source, mlflow, say)


def resolved(uri: str, client: Any) -> str:
    """Return `models:/NAME/VERSION` for a version or an alias.

    Raises:
        IntakeError: It is neither, or there is no such version.
    """
    name, version, alias, _ = parse_models_uri(uri)
    if not name:
        raise IntakeError(f"{uri} is no registered version", hint="write models:/NAME/VERSION")
    with asking(f"find {uri}"):
        if alias is not None:
            version = str(client.get_model_version_by_alias(name, alias).version)
        return f"models:/{name}/{client.get_model_version(name, version).version}"


def _waited(asked: Asked, source: StateSource | None, client: Any, say: Say) -> Promotion:
    """Look until there is an answer or the time is up."""
    until = time.monotonic() + asked.timeout_s
    told = ""
    while True:
        state = _state(source, asked.uri)
        if state.job_status == "failed":
            raise ServiceError(
                f"scan job {state.job_id} failed, nothing was decided: {state.job_error}",
                hint="mend the cause, then promote again: that queues another scan",
            )
        if not state.working:
            outcome = _asked_again(asked, source, state, client)
            if outcome is not None:
                return outcome
            state = _state(source, asked.uri)
        line = _progress(state)
        if line != told:
            say(line)
            told = line
        if time.monotonic() >= until:
            message = f"No decision after {asked.timeout_s:.0f} s. {_queued(state, asked)}"
            return Promotion(exit_code=WAITING, message=message, uri=asked.uri, state=state)
        pause = asked.poll_s if source else max(asked.poll_s, SLOW_POLL_S)
        time.sleep(min(pause, max(0.0, until - time.monotonic())))


def _asked_again(
    asked: Asked, source: StateSource | None, state: ScanState, client: Any
) -> Promotion | None:
    """Ask the registry once more; None while it still waits for a scan."""
    try:
        return _moved(asked, source, move(asked.uri, asked.names, client=client), client)
    except NotMovedError as refusal:
        if not refusal.held:
            return _refused(asked, _state(source, asked.uri), refusal.message, client)
        if state.verdict == "inconclusive":
            return _answer(WAITING, asked.uri, refusal.message, state, client)
        return None


def _scan_here(asked: Asked, state: ScanState, say: Say) -> None:
    """Carry the job out in this process, if its lease is to be had.

    Raises:
        GatekeeperError: The scan could not be carried out; nothing was decided.
    """
    if asked.shop is None or state.job_id is None:
        return
    from gatekeeper.gate.lease import LEASE_S
    from gatekeeper.gate.worker import Tally, attend

    owner = owner_name()
    with asked.shop.database.begin() as connection:
        job = db.job(connection, state.job_id)
        if job is None or not _is_ours(job, asked, asked.shop):
            say("another policy or database holds here than at the server: waiting for a worker")
            return
        job = db.claim_job(connection, owner, LEASE_S, state.job_id)
    if job is None:
        say(f"scan job {state.job_id} is with a worker")
        return
    error = attend(job, asked.shop, owner, tally=Tally())
    if error is not None:
        raise error


def _is_ours(job: db.Job, asked: Asked, shop: Workshop) -> bool:
    wish = job.request
    named = f"models:/{wish.row.name}/{wish.row.version}"
    return named == asked.uri and wish.policy_digest == shop.policy.digest


def _moved(asked: Asked, source: StateSource | None, uri: str, client: Any) -> Promotion:
    state = _state(source, asked.uri)
    return _answer(MOVED, uri, f"{asked.names} now points at {uri}.", state, client)


def _refused(asked: Asked, state: ScanState, message: str, client: Any) -> Promotion:
    if state.cleaned is None or state.cleaned == asked.uri:
        return _answer(REFUSED, asked.uri, message, state, client)
    if asked.accept_rectified or _carries(state.cleaned, asked.names, client):
        try:
            uri = move(state.cleaned, asked.names, client=client)
        except NotMovedError as refusal:
            return _answer(REFUSED, asked.uri, refusal.message, state, client)
        told = f"{asked.uri} was refused; {asked.names} now points at its cleaned version {uri}."
        return _answer(MOVED, uri, told, state, client)
    offer = f"A cleaned version is registered: {state.cleaned}. Add --accept-rectified to use it."
    return _answer(REFUSED, asked.uri, f"{message}\n{offer}", state, client)


def _carries(uri: str, names: Names, client: Any) -> bool:
    """Whether the worker has moved the alias to the cleaned version, as policies may say."""
    if names.alias is None or names.copy_to is not None:
        return False
    name, version, _, _ = parse_models_uri(uri)
    try:
        with asking("look the alias up"):
            return str(client.get_model_version_by_alias(name, names.alias).version) == version
    except GatekeeperError:
        return False


def _answer(exit_code: int, uri: str, message: str, state: ScanState, client: Any) -> Promotion:
    url = None
    if state.run_id:
        try:
            with asking("find the evidence run"):
                experiment = client.get_run(state.run_id).info.experiment_id
            url = EvidenceRun(run_id=state.run_id, experiment_id=experiment).url
        except GatekeeperError:  # a link less
            url = f"run {state.run_id}"
    return Promotion(exit_code=exit_code, message=message, uri=uri, state=state, run_url=url)


def _state(source: StateSource | None, uri: str) -> ScanState:
    if source is None:
        return ScanState()
    name, version, _, _ = parse_models_uri(uri)
    return source.state(name, int(version))


def _progress(state: ScanState) -> str:
    if state.job_id is None:
        return "waiting for a scan"
    if state.job_status == "queued":
        why = f" (last try: {state.job_error.splitlines()[0]})" if state.job_error else ""
        return f"scan job {state.job_id} waits for a worker{why}"
    if state.verdict == "fail" and state.working:
        return f"scan job {state.job_id}: the scan failed it, a repair is being tried"
    return f"scan job {state.job_id} is {state.job_status}"


def _queued(state: ScanState, asked: Asked) -> str:
    job = "The scan" if state.job_id is None else f"Scan job {state.job_id}"
    status = state.job_status or "queued"
    return (
        f"{job} is {status}; a `gatekeeper worker` carries it out. Then ask again, or use --wait."
    )
