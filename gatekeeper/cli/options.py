"""Options that the commands of the gate share."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gatekeeper.gate.db import Database

output_format = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
database_option = click.option(
    "--database",
    "database_uri",
    metavar="URI",
    envvar="GATEKEEPER_DATABASE_URI",
    help="The registry's database.  [env: GATEKEEPER_DATABASE_URI]",
)


def open_database(uri: str | None) -> "Database":
    """Open the gate's tables at `uri`, or where the environment says.

    Raises:
        GateError: Nothing says where they are.
        ServiceError: They cannot be used.
    """
    from gatekeeper.gate.db import Database

    return Database.open(where(uri))


def where(uri: str | None) -> str:
    """Return the URI of the gate's tables: the one given, else what the environment says."""
    from gatekeeper.gate.db import checked_uri, database_uri

    return checked_uri(uri) if uri else database_uri()


def echo_json(document: object) -> None:
    """Print exactly one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def echo_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print rows under headings; what came from outside is stripped of control characters."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in ([heading.upper() for heading in headings], *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def when(milliseconds: int | None) -> str:
    """Return a time of the gate's tables as people write it, UTC."""
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _plain(cell: object) -> str:
    from gatekeeper.evidence.text import printable

    return "-" if cell is None else printable(str(cell))
