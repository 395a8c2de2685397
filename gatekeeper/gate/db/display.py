"""Write the gate's tags and description block on a model version, past the gate's own guard.

What stands there is for people to read; nothing reads it back. REST clients can never write
`gatekeeper.*` tags: this goes to the registry's tables in process, as only somebody with the
database's credentials can.
"""

import re
from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.errors import ServiceError
from gatekeeper.gate.db.database import engine_for, redacted
from gatekeeper.gate.db.records import VersionRow

DESCRIPTION_CHARS = 5000  # MLflow's column on PostgreSQL
_LEAST_CHARS = 200  # a shorter block says nothing
_BEGIN, _END = "<!-- gatekeeper -->", "<!-- /gatekeeper -->"
_BLOCK = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)

_mlflow = MetaData()  # only the columns we touch
_versions = Table(
    "model_versions",
    _mlflow,
    Column("workspace", String(63)),
    Column("name", String(256)),
    Column("version", Integer),
    Column("creation_time", BigInteger),
    Column("description", String(DESCRIPTION_CHARS)),
    Column("storage_location", String(500)),
    Column("current_stage", String(20)),
)
_tags = Table(
    "model_version_tags",
    _mlflow,
    Column("workspace", String(63)),
    Column("name", String(256)),
    Column("version", Integer),
    Column("key", String(250)),
    Column("value", Text),
)


def version_row(
    registry_uri: str, name: str, version: int, workspace: str = "default"
) -> VersionRow | None:
    """Return the row of a model version straight from the registry's database."""
    columns = (_versions.c.creation_time, _versions.c.storage_location)
    query = select(*columns).where(
        _versions.c.workspace == workspace,
        _versions.c.name == name,
        _versions.c.version == version,
        _versions.c.current_stage != "Deleted_Internal",
    )
    with engine_for(registry_uri).connect() as connection:
        found = connection.execute(query).first()
    if found is None:
        return None
    return VersionRow(
        workspace=workspace,
        name=name,
        version=version,
        creation_time=int(found[0]),
        storage_location=str(found[1]),
    )


def write_display(
    registry_uri: str, row: VersionRow, tags: Mapping[str, str], block: str | None = None
) -> bool:
    """Set tags on a version and replace the gate's block in its description.

    Args:
        registry_uri: The registry's database, with or without `gatekeeper+`.
        row: The version; nothing is written if it is no longer that row.
        tags: Full names (`gatekeeper.verdict`, …) and values.
        block: Markdown; what people wrote around an earlier block is kept. None: unchanged.

    Returns:
        False if the version is gone.

    Raises:
        ServiceError: The database does not answer.
    """
    try:
        with engine_for(registry_uri).begin() as connection:
            return _write(connection, row, tags, block)
    except SQLAlchemyError as error:
        raise ServiceError(
            f"tags of {row.name} version {row.version} could not be written to "
            f"{redacted(registry_uri)}",
            hint="check that the registry's database runs",
        ) from error


def _write(
    connection: Connection, row: VersionRow, tags: Mapping[str, str], block: str | None
) -> bool:
    here = (
        _versions.c.workspace == row.workspace,
        _versions.c.name == row.name,
        _versions.c.version == row.version,
        _versions.c.creation_time == row.creation_time,
        _versions.c.current_stage != "Deleted_Internal",
    )
    found = connection.execute(select(_versions.c.description).where(*here)).first()
    if found is None:
        return False
    if block is not None:
        text = with_block(found[0] or "", block)
        connection.execute(update(_versions).where(*here).values(description=text))
    for key, value in tags.items():
        same = (
            _tags.c.workspace == row.workspace,
            _tags.c.name == row.name,
            _tags.c.version == row.version,
            _tags.c.key == key,
        )
        connection.execute(delete(_tags).where(*same))
        connection.execute(
            insert(_tags).values(
                workspace=row.workspace, name=row.name, version=row.version, key=key, value=value
            )
        )
    return True


def with_block(description: str, block: str) -> str:
    """Return `description` with the gate's block replaced or appended, within MLflow's length.

    What people wrote is never cut: the block is, and where it would not fit at all, it is left out.
    """
    found = _BLOCK.search(description)
    if found:
        before, after = description[: found.start()], description[found.end() :]
    else:
        before, after = (f"{description.rstrip()}\n\n" if description.strip() else ""), ""
    marks = len(_BEGIN) + len(_END) + 2
    room = DESCRIPTION_CHARS - len(before) - len(after) - marks
    if room < _LEAST_CHARS:
        return before + after if found else description
    return f"{before}{_BEGIN}\n{block[:room]}\n{_END}{after}"
