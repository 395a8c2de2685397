"""`gatekeeper db`: the gate's own tables and their migrations."""

import click

from gatekeeper.cli import options


@click.group()
def command() -> None:
    """Create, upgrade and check the gate's tables (MLflow's own: `mlflow db upgrade`)."""


@command.command()
@options.database_option
def upgrade(database_uri: str | None) -> None:
    """Bring the tables to this release; makes them where there are none."""
    from gatekeeper.gate.db import Database, state_of_schema

    uri = options.where(database_uri)
    Database.open(uri, migrate=True)
    click.echo(f"schema {state_of_schema(uri).revision}")


@command.command()
@click.argument("revision", default="base")
@click.confirmation_option(prompt="This drops decisions and the compliance trail. Go on?")
@options.database_option
def downgrade(revision: str, database_uri: str | None) -> None:
    """Go back to REVISION; `base` drops the tables with every decision in them."""
    from gatekeeper.gate.db import downgrade, state_of_schema

    uri = options.where(database_uri)
    downgrade(uri, revision)
    click.echo(f"schema {state_of_schema(uri).revision or 'none'}")


@command.command()
@options.database_option
def current(database_uri: str | None) -> None:
    """Print the revision that the tables are at."""
    from gatekeeper.gate.db import state_of_schema

    state = state_of_schema(options.where(database_uri))
    click.echo(f"schema {state.revision or 'none'}, this release has {state.head}")


@command.command()
@options.database_option
def check(database_uri: str | None) -> None:
    """Make sure that tables and append-only triggers are this release's; exit 4 if not."""
    options.open_database(database_uri)
    click.echo("schema and triggers are in place")
