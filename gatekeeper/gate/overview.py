"""What is protected, who tried what, what was decided and what waits: one look for page and CLI."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, bindparam, select, text
from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.gate import db
from gatekeeper.gate.db import tables
from gatekeeper.gate.names import Names
from gatekeeper.gate.settings import Settings

MAX_HELD = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A protected name and the version that carries it now."""

    name: str
    label: str
    kind: str  # alias | stage
    version: int
    decision: db.DecisionRecord | None  # the latest on its bytes, under the policy in force
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision with a version that holds its bytes."""

    record: db.DecisionRecord
    name: str | None
    version: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything newest first."""

    settings: Settings
    held: tuple[Held, ...]
    attempts: tuple[db.Attempt, ...]
    decisions: tuple[Decided, ...]
    jobs: tuple[db.Job, ...]
    experiments: dict[str, str]  # run id -> experiment id, where the runs are in this database
    now: int


def look(
    database: db.Database,
    settings: Settings,
    *,
    registry: Engine | None = None,
    name: str | None = None,
    limit: int = 50,
) -> Overview:
    """Gather the overview.

    Args:
        database: The gate's tables.
        settings: Policy and mode in force.
        registry: MLflow's own tables; default: beside the gate's.
        name: Only this registered model.
        limit: Rows of each kind.
    """
    with database.reading() as connection:
        attempts = db.attempts(connection, limit, name)
        jobs = db.jobs(connection, limit, name=name)
        decided = _decided(connection, name, limit)
        held = _held(connection, registry or database.engine, settings, name)
    runs = [a.run_id for a in attempts] + [d.record.run_id for d in decided]
    runs += [h.decision.run_id for h in held if h.decision]
    return Overview(
        settings=settings,
        held=held,
        attempts=attempts,
        decisions=decided,
        jobs=jobs,
        experiments=_experiments(registry or database.engine, runs),
        now=db.now_ms(),
    )


def _decided(connection: Connection, name: str | None, limit: int) -> tuple[Decided, ...]:
    records = db.decisions(connection, limit if name is None else limit * 10)
    notes = tables.artifacts
    query = (
        select(notes.c.digest, notes.c.name, notes.c.version)
        .where(notes.c.digest.in_({record.model_digest for record in records}))
        .order_by(notes.c.id)
    )
    if name is not None:
        query = query.where(notes.c.name == name)
    where = {row.digest: (row.name, row.version) for row in connection.execute(query)}
    found = [
        Decided(record=record, name=place[0], version=place[1])
        for record in records
        if (place := where.get(record.model_digest, (None, None)))[0] or name is None
    ]
    return tuple(found[:limit])


def _held(
    connection: Connection, registry: Engine, settings: Settings, name: str | None
) -> tuple[Held, ...]:
    names = Names(settings.policy.protects)
    found: list[Held] = []
    for row in _carriers(registry, name):
        kind = str(row[6])
        protects = names.protects_alias if kind == "alias" else names.protects_stage
        if not protects(row[1], row[2]) or len(found) >= MAX_HELD:
            continue
        version = db.VersionRow(
            workspace=row[0],
            name=row[1],
            version=int(row[3]),
            creation_time=int(row[4] or 0),
            storage_location=row[5] or "",
        )
        note = db.artifact_for(connection, version)
        decision = None
        if note is not None:
            decision = db.latest_decision(connection, note.digest, settings.policy.digest)
        found.append(
            Held(
                name=version.name,
                label=str(row[2]),
                kind=kind,
                version=version.version,
                decision=decision,
                digest=note.digest if note else None,
            )
        )
    return tuple(found)


_CARRIERS = """
SELECT v.workspace, v.name, a.alias, v.version, v.creation_time, v.storage_location, 'alias'
FROM registered_model_aliases a JOIN model_versions v
  ON v.workspace = a.workspace AND v.name = a.name AND v.version = a.version
WHERE v.source <> 'prompt-template' AND (:name IS NULL OR v.name = :name)
UNION ALL
SELECT v.workspace, v.name, v.current_stage, v.version, v.creation_time, v.storage_location, 'stage'
FROM model_versions v
WHERE v.current_stage NOT IN ('None', 'Deleted_Internal') AND (:name IS NULL OR v.name = :name)
ORDER BY 2, 3
"""


def _carriers(registry: Engine, name: str | None) -> Sequence[Sequence[Any]]:
    query = text(_CARRIERS).bindparams(bindparam("name", name, type_=tables.attempts.c.name.type))
    return _rows(registry, query)


def _experiments(registry: Engine, runs: Iterable[str | None]) -> dict[str, str]:
    wanted = sorted({run for run in runs if run})
    if not wanted:
        return {}
    query = text("SELECT run_uuid, experiment_id FROM runs WHERE run_uuid IN :runs").bindparams(
        bindparam("runs", wanted, expanding=True)
    )
    return {str(row[0]): str(row[1]) for row in _rows(registry, query)}


def _rows(registry: Engine, query: TextClause) -> Sequence[Sequence[Any]]:
    try:
        with registry.connect() as connection:
            return [tuple(row) for row in connection.execute(query)]
    except SQLAlchemyError:  # MLflow's tables live in another database: nothing to show of them
        return []
