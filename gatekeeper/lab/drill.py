"""The fire drill: ask a live registry to promote planted models, and see what stops them.

Judged by the scan's verdict alone. The mark that every drill model carries makes sure that none is
ever promoted; it says nothing about the scan, so that a model which only the mark stopped counts
as missed.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gatekeeper.errors import GatekeeperError, IntakeError, RectifyError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.client import asking
from gatekeeper.gate.drills import Drill, DrillDesk, register_drill
from gatekeeper.gate.moves import Names, NotMovedError, move
from gatekeeper.gate.register import Registered, register_tree
from gatekeeper.gate.state import ScanState, StateSource
from gatekeeper.lab.drill_report import Control, DrillReport, Outcome, Stopped
from gatekeeper.lab.manifest import read_manifest

Say = Callable[[str], None]
POLL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dummy:
    """A model that the drill is held with."""

    name: str
    root: Path
    drill: Drill | None  # None: a clean control, which the gate ought to let through


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Where a drill is held."""

    desk: DrillDesk
    source: StateSource
    name: str  # a registered model that does not exist yet
    alias: str = "production"
    timeout_s: float = 3600.0
    poll_s: float = POLL_S
    scan: Callable[[int], None] | None = None  # carries a job out here; None: wait for a worker


def from_zoo(zoo: Path, limit: int | None = None, controls: int = 1) -> tuple[Dummy, ...]:
    """Return planted models of a zoo, the most different attacks first, then clean controls.

    Raises:
        IntakeError: There is no zoo, or none of its planted models was kept.
    """
    rows = [row for row in read_manifest(zoo).models if row.kept]
    seen: dict[str, int] = {}
    ranked = []
    for place, row in enumerate(rows):
        # Bytes of a clean model behind poisoned prompts: a mark on them would refuse that model.
        if row.kind == "planted" and row.attack is not None and row.prompts is None:
            turn = seen[row.attack.name] = seen.get(row.attack.name, -1) + 1
            label = row.targets[0].label if row.targets else "none"
            drill = Drill(attack=row.attack.name, target=label, seed=row.seed)
            ranked.append((turn, place, Dummy(name=row.name, root=zoo / row.path, drill=drill)))
    if not ranked:
        raise IntakeError(f"{zoo} holds no planted model", hint="build one: gatekeeper lab zoo")
    planted = [dummy for _, _, dummy in sorted(ranked, key=lambda x: x[:2])][:limit]
    clean = [
        Dummy(name=row.name, root=zoo / row.path, drill=None) for row in rows if row.kind == "clean"
    ]
    return (*planted, *clean[:controls])


def hold_drill(dummies: Sequence[Dummy], place: Range, say: Say = lambda line: None) -> DrillReport:
    """Register planted models, ask for their promotion, wait for the scans, and clean up.

    Raises:
        IntakeError: The registered model exists already: a drill leaves nothing of it standing.
        ServiceError: Registry or database do not answer; what was registered is removed.
    """
    _require_new(place)
    report = DrillReport(name=place.name, alias=place.alias)
    made: list[tuple[Dummy, Registered, str]] = []
    try:
        for dummy in dummies:
            version = _registered(dummy, place)
            answer = _ask(version, place)
            made.append((dummy, version, answer))
            say(f"{version.uri}: {dummy.name}: {_first_line(answer) or 'PROMOTED'}")
        for dummy, version, answer in made:
            state = _scanned(version, place, say)
            if dummy.drill is None:
                report.controls.append(_control(dummy, version, state, place))
            else:
                report.outcomes.append(
                    _outcome(dummy.name, dummy.drill, version, answer, state, place)
                )
    finally:
        report.left_behind += _clean_up(made, place)
    return report


def _require_new(place: Range) -> None:
    from mlflow.exceptions import MlflowException

    with asking(f"look for {place.name}"):
        try:
            place.desk.client.get_registered_model(place.name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return
            raise
    raise IntakeError(
        f"there is a registered model '{place.name}' already", hint="name another with --name"
    )


def _ask(version: Registered, place: Range) -> str:
    """Ask for the alias as any client does; return the refusal, "" where it moved."""
    try:
        move(version.uri, Names(alias=place.alias), client=place.desk.client)
    except NotMovedError as refusal:
        return refusal.message
    return ""


def _scanned(version: Registered, place: Range, say: Say) -> ScanState:
    """Wait until nothing is to come for a version any more, or the time is up."""
    until = time.monotonic() + place.timeout_s
    state = place.source.state(version.name, version.version)
    if place.scan is not None and state.job_id is not None and state.working:
        place.scan(state.job_id)
    while True:
        state = place.source.state(version.name, version.version)
        # A repair of a failed model may go on for long; its verdict is known before.
        if not state.working or state.verdict is not None or time.monotonic() >= until:
            say(f"{version.uri}: {state.verdict or state.job_error or 'no verdict in time'}")
            return state
        time.sleep(min(place.poll_s, max(0.0, until - time.monotonic())))


def _outcome(
    name: str, drill: Drill, version: Registered, first: str, state: ScanState, place: Range
) -> Outcome:
    last = _ask(version, place)
    stopped = {
        "fail": Stopped.VERDICT,
        "pass": Stopped.MARK,
        "inconclusive": Stopped.INCONCLUSIVE,
    }.get(state.verdict or "", Stopped.UNSCANNED)
    return Outcome(
        model=name,
        version=version.version,
        attack=drill.attack,
        target=drill.target,
        first_answer=_first_line(first),
        last_answer=_first_line(last),
        verdict=state.verdict,
        score=state.score,
        named=state.targets,
        stopped_by=Stopped.NOTHING if not first or not last else stopped,
    )


def _control(dummy: Dummy, version: Registered, state: ScanState, place: Range) -> Control:
    return Control(
        model=dummy.name,
        version=version.version,
        verdict=state.verdict,
        score=state.score,
        promoted=_ask(version, place) == "",
    )


def _registered(dummy: Dummy, place: Range) -> Registered:
    if dummy.drill is not None:
        return register_drill(dummy.root, place.name, dummy.drill, place.desk)
    from gatekeeper.intake.digest import tree_digest

    note = "A clean control of a fire drill by `gatekeeper lab drill`; it is removed at the end."
    return register_tree(
        dummy.root,
        name=place.name,
        digest=tree_digest(dummy.root)[0],
        description=note,
        client=place.desk.client,
    )


def _clean_up(made: Sequence[tuple[Dummy, Registered, str]], place: Range) -> list[str]:
    """Remove the registered model with every version, cleaned ones too; return what stayed."""
    client, left = place.desk.client, []
    for _, version, _ in made:
        with suppress(GatekeeperError):
            _cancel(version, place)
        try:
            with asking(f"remove the files of {version.uri}"):
                client.delete_logged_model(version.model_id)
        except GatekeeperError as error:
            left.append(f"{version.uri}: {error.message}")
    if not made:
        return left
    try:
        with asking(f"remove {place.name}"):
            client.delete_registered_model(place.name)
    except GatekeeperError as error:
        left.append(f"{place.name}: {error.message}")
    return left


def _cancel(version: Registered, place: Range) -> None:
    """Take a scan or a repair that is still to come off the queue; a worker notices."""
    state = place.source.state(version.name, version.version)
    if state.job_id is None or not state.working:
        return
    with asking("cancel a scan"), place.desk.database.begin() as connection:
        db.cancel_job(connection, state.job_id)


def scan_here(device: str, say: Say) -> Callable[[int], None]:
    """Return a function that carries a scan job out in this process, without any repair.

    Raises:
        GatekeeperError: The gate's tables are not within reach.
    """
    from gatekeeper.gate.lease import LEASE_S, owner_name
    from gatekeeper.gate.worker import Tally, attend, open_workshop

    shop = replace(open_workshop(device=device, say=say), rectify=_leave)

    def scan(job_id: int) -> None:
        owner = owner_name()
        with asking("claim a scan"), shop.database.begin() as connection:
            job = db.claim_job(connection, owner, LEASE_S, job_id)
        if job is None:
            return  # a worker has it
        error = attend(job, shop, owner, tally=Tally())
        if isinstance(error, ServiceError):
            raise error

    return scan


def _leave(assessment: Any, runtime: Any, out: Path) -> Any:
    """Repair nothing: a drill asks what the scan says."""
    raise RectifyError("drill models are not repaired", hint="run a worker to see one repaired")


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
