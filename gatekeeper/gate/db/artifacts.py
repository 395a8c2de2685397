"""Which bytes stand behind a model version, and which cleaned version came of which."""

from sqlalchemy import Connection, select

from gatekeeper.gate.db import tables
from gatekeeper.gate.db.records import ArtifactNote, VersionRow, now_ms

_t = tables.artifacts
_r = tables.rectified


def note_artifact(
    connection: Connection,
    row: VersionRow,
    *,
    digest: str,
    fingerprint: str | None,
    kind: str,
    at: int | None = None,
) -> None:
    """Append what was found behind `row`; `kind` is clip, other or unknown.

    `fingerprint` must have been listed *before* the bytes were read for `digest`.
    """
    connection.execute(
        _t.insert().values(
            workspace=row.workspace,
            name=row.name,
            version=row.version,
            creation_time=row.creation_time,
            storage_location=row.storage_location,
            digest=digest,
            fingerprint=fingerprint,
            kind=kind,
            noted_at=now_ms() if at is None else at,
        )
    )


def artifact_for(connection: Connection, row: VersionRow) -> ArtifactNote | None:
    """Return the latest note on exactly this row, None if there is none.

    Name, version, creation time and location must all agree: a model deleted and made again has
    the same name and version.
    """
    query = (
        select(_t)
        .where(
            _t.c.workspace == row.workspace,
            _t.c.name == row.name,
            _t.c.version == row.version,
            _t.c.creation_time == row.creation_time,
            _t.c.storage_location == row.storage_location,
        )
        .order_by(_t.c.id.desc())
        .limit(1)
    )
    found = connection.execute(query).mappings().first()
    if found is None or found["name"] != row.name:  # MySQL compares without regard to case
        return None
    return ArtifactNote(
        row=row,
        digest=found["digest"],
        fingerprint=found["fingerprint"],
        kind=found["kind"],
        noted_at=found["noted_at"],
    )


def note_rectified(
    connection: Connection,
    row: VersionRow,
    *,
    digest: str,
    from_digest: str,
    decision_id: int | None,
) -> None:
    """Append that the version `row` holds a cleaned copy of the bytes `from_digest`."""
    connection.execute(
        _r.insert().values(
            digest=digest,
            from_digest=from_digest,
            workspace=row.workspace,
            name=row.name,
            version=row.version,
            decision_id=decision_id,
            at=now_ms(),
        )
    )


def rectified_from(
    connection: Connection, from_digest: str, workspace: str = "default"
) -> tuple[str, int] | None:
    """Return (name, version) of the newest cleaned version made of these bytes."""
    query = (
        select(_r.c.name, _r.c.version)
        .where(_r.c.from_digest == from_digest, _r.c.workspace == workspace)
        .order_by(_r.c.id.desc())
        .limit(1)
    )
    found = connection.execute(query).first()
    return None if found is None else (str(found[0]), int(found[1]))


def rectified_origin(connection: Connection, digest: str) -> str | None:
    """Return the digest of the bytes that `digest` was cleaned from."""
    query = select(_r.c.from_digest).where(_r.c.digest == digest).order_by(_r.c.id.desc()).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else str(found)
