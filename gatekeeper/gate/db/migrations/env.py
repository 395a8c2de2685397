"""Alembic's way in: run on the connection that `gatekeeper.gate.db.migrate` hands over."""

from alembic import context

from gatekeeper.gate.db.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller's transaction holds the whole upgrade
)
context.run_migrations()
