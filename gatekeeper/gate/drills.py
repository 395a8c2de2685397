"""How does a planted model get into a registry so that nobody can mistake it for a real one?

Its bytes are marked in the gate's tables before they are uploaded: a crash in between leaves a
mark without a model, never a model without a mark. Tag and description tell people.
"""

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatekeeper.errors import GatekeeperError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.client import asking, connect
from gatekeeper.gate.register import Registered, register_tree

TAG = "gatekeeper.drill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """What was planted."""

    attack: str
    target: str  # label
    seed: int = 0

    @property
    def description(self) -> str:
        """The sentence on the version's page."""
        return (
            f"**DRILL MODEL, backdoored on purpose: never deploy it.** Attack `{self.attack}`, "
            f"target `{self.target}`, seed {self.seed}. Planted by `gatekeeper lab` to see the "
            "gate refuse something; the gate knows these bytes and lets no policy promote them."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillDesk:
    """What registering a drill needs: the gate's tables and the registry's."""

    database: db.Database
    registry_uri: str  # of the database that holds MLflow's registry tables
    client: Any

    @classmethod
    def open(cls) -> "DrillDesk":
        """Open what the environment names.

        Raises:
            GateError: It does not say where the gate's tables are.
            ServiceError: They cannot be used.
        """
        registry = (
            os.environ.get("MLFLOW_REGISTRY_STORE_URI")
            or os.environ.get("MLFLOW_BACKEND_STORE_URI")
            or db.database_uri()
        )
        uri = db.database_uri(registry)
        return cls(
            database=db.Database.open(uri),
            registry_uri=db.plain_uri(registry),
            client=connect(),
        )


def register_drill(root: Path, name: str, drill: Drill, desk: DrillDesk) -> Registered:
    """Mark the bytes at `root` as a drill and register them as the next version of `name`.

    Raises:
        GateError: The registry refuses the version.
        ServiceError: Registry or database do not answer, or another database than the registry's
            was named: the version would not be known as a drill.
        EvidenceError: Other bytes arrived than were sent.
    """
    from gatekeeper.intake.digest import tree_digest

    digest, _ = tree_digest(root)
    _mark(desk, drill, digest, None)
    made = register_tree(
        root, name=name, digest=digest, description=drill.description, client=desk.client
    )
    row = db.version_row(desk.registry_uri, made.name, made.version)
    if row is None:
        _take_back(made, desk.client)
        raise ServiceError(
            f"{made.uri} is not in {db.redacted(desk.registry_uri)}, so it was taken back",
            hint="point GATEKEEPER_DATABASE_URI (or MLFLOW_REGISTRY_STORE_URI) at the database "
            "of the server that MLFLOW_TRACKING_URI names",
        )
    _mark(desk, drill, digest, row.storage_location)
    told = f"{drill.attack}: {drill.target}"
    db.write_display(desk.registry_uri, row, {TAG: told, "gatekeeper.digest": digest})
    return made


def remove(made: Registered, client: Any) -> None:
    """Delete a drill version, its files' record, and its model where it was the last version.

    The mark on its bytes stays.

    Raises:
        ServiceError: The registry does not answer.
    """
    quoted = made.name.replace("'", "''")
    with asking(f"remove {made.uri}"):
        client.delete_model_version(made.name, str(made.version))
        client.delete_logged_model(made.model_id)
        if not client.search_model_versions(f"name = '{quoted}'", max_results=1):
            client.delete_registered_model(made.name)


def _mark(desk: DrillDesk, drill: Drill, digest: str, location: str | None) -> None:
    mark = db.DrillMark(
        digest=digest,
        attack=drill.attack,
        target=drill.target,
        marked_by=_who(),
        marked_at=db.now_ms(),
        storage_location=location,
    )
    with asking("mark a drill"), desk.database.begin() as connection:
        db.mark_drill(connection, mark)


def _take_back(made: Registered, client: Any) -> None:
    try:
        remove(made, client)
    except GatekeeperError:  # the first error matters more; its bytes are marked in any case
        return


def _who() -> str:
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        return "unknown"
