"""Which bytes were planted on purpose? They are marked for ever and are never promoted."""

from sqlalchemy import Connection, or_, select

from gatekeeper.gate.db import tables
from gatekeeper.gate.db.records import DrillMark, VersionRow

_t = tables.drills
_r = tables.rectified
_CHAIN = 16  # repairs of repairs that are followed back


def mark_drill(connection: Connection, mark: DrillMark) -> None:
    """Append a mark. It cannot be taken back: marked bytes stay a drill."""
    connection.execute(
        _t.insert().values(
            digest=mark.digest,
            storage_location=mark.storage_location,
            attack=mark.attack[:256],
            target=mark.target[:300],
            marked_by=mark.marked_by[:256],
            marked_at=mark.marked_at,
        )
    )


def drill_mark(connection: Connection, row: VersionRow, digest: str | None) -> DrillMark | None:
    """Return the mark on the bytes behind `row`, None if they carry none.

    Args:
        connection: Open connection.
        row: The version; bytes stored where a drill was stored count as that drill, whatever row
            they were registered under, so that a version that nobody has scanned is known too.
        digest: Content digest, where known; a cleaned copy of a drill counts as the drill.
    """
    same = [_t.c.storage_location == row.storage_location] if row.storage_location else []
    digests = _ancestors(connection, digest) if digest else []
    if digests:
        same.append(_t.c.digest.in_(digests))
    if not same:
        return None
    query = select(_t).where(or_(*same)).order_by(_t.c.id).limit(1)
    found = connection.execute(query).mappings().first()
    if found is None:
        return None
    return DrillMark(**{name: found[name] for name in DrillMark.__dataclass_fields__})


def _ancestors(connection: Connection, digest: str) -> list[str]:
    """Return `digest` and the digests that it was cleaned from, newest first."""
    found = [digest]
    new = found
    for _ in range(_CHAIN):
        query = select(_r.c.from_digest).where(_r.c.digest.in_(new))
        new = [str(x) for x in connection.execute(query).scalars() if x not in found]
        if not new:
            break
        found += new
    return found
