"""Make drills: which bytes were planted on purpose and may never be promoted.

The table stands here as it was first made; `gatekeeper.gate.db.tables` holds the newest form.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table

from gatekeeper.gate.db.append_only import create_triggers, drop_triggers

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

metadata = MetaData()
APPEND_ONLY = ("gatekeeper_drills",)

_key = BigInteger().with_variant(Integer, "sqlite")

drills = Table(
    "gatekeeper_drills",
    metadata,
    Column("id", _key, primary_key=True, autoincrement=True),
    Column("digest", String(80), nullable=False),
    Column("storage_location", String(500)),
    Column("attack", String(256), nullable=False),
    Column("target", String(300), nullable=False),
    Column("marked_by", String(256), nullable=False),
    Column("marked_at", BigInteger, nullable=False),
    Index("gatekeeper_drills_by_digest", "digest"),
    Index("gatekeeper_drills_by_location", "storage_location"),
)


def upgrade() -> None:
    """Create the table and the triggers that keep it append-only."""
    metadata.create_all(op.get_bind())
    create_triggers(op.get_bind(), APPEND_ONLY)


def downgrade() -> None:
    """Drop it: the gate no longer knows a drill from any other model."""
    drop_triggers(op.get_bind(), APPEND_ONLY, function=False)
    metadata.drop_all(op.get_bind())
