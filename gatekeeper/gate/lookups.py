"""What the gated store reads of MLflow's tables, and the one transaction that it all shares."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import _STORE_PROMPT_SOURCE_PLACEHOLDER as PROMPT_SOURCE
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from gatekeeper.gate import db
from gatekeeper.gate.guard import Guard
from gatekeeper.gate.mutators import check_mutators
from gatekeeper.gate.names import Names
from gatekeeper.gate.settings import Settings

# The session that a gated call has open, with the store it belongs to.
_current: contextvars.ContextVar[tuple[object, Session] | None] = contextvars.ContextVar(
    "gatekeeper_session", default=None
)


class RegistryStore(SqlAlchemyStore):  # type: ignore[misc]  # MLflow is untyped here
    """MLflow's store with a session that its own methods join."""

    _plain_sessions: Any
    ManagedSessionMaker: Any

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        theirs = next(base for base in type(self).__mro__ if base.__module__.startswith("mlflow."))
        check_mutators(type(self), theirs)
        settings = Settings.from_environment()
        self._plain_sessions = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._joined_session
        self._guard = Guard(settings, db_uri)
        self._names = Names(settings.policy.protects)

    def _row_in(self, session: Session, name: str, version: object) -> db.VersionRow:
        found = self._get_sql_model_version(session, name, version)
        return db.VersionRow(
            workspace=found.workspace,
            name=found.name,
            version=int(found.version),
            creation_time=int(found.creation_time or 0),
            storage_location=found.storage_location or "",
        )

    def _is_prompt(self, name: str) -> bool:
        with self.ManagedSessionMaker(read_only=False) as session:
            tag = (
                self._get_query(session, SqlRegisteredModelTag)
                .filter(
                    SqlRegisteredModelTag.name == name,
                    SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
                )
                .first()
            )
            return tag is not None and str(tag.value).lower() == "true"

    def _is_prompt_version(self, name: str, version: object) -> bool:
        """A real prompt: its model says so, and there are no files behind this version."""
        if not self._is_prompt(name):
            return False
        with self.ManagedSessionMaker(read_only=False) as session:
            return bool(self._get_sql_model_version(session, name, version).source == PROMPT_SOURCE)

    def _held_names(
        self, name: str, version: int | None = None, renamed: str | None = None
    ) -> tuple[str, ...]:
        """Return the protected names that a model (or one version) carries, renamed or not."""
        if self._is_prompt(name):
            return ()
        names = (name,) if renamed is None else (name, renamed)
        with self.ManagedSessionMaker(read_only=False) as session:
            aliases = self._get_query(session, SqlRegisteredModelAlias).filter(
                SqlRegisteredModelAlias.name == name
            )
            versions = self._get_query(session, SqlModelVersion).filter(
                SqlModelVersion.name == name
            )
            carried: list[tuple[str, int, Callable[[str, str], bool]]] = [
                (a.alias, a.version, self._names.protects_alias) for a in aliases
            ]
            carried += [(v.current_stage, v.version, self._names.protects_stage) for v in versions]
        return tuple(
            label
            for label, number, protects in carried
            if (version is None or number == version) and any(protects(n, label) for n in names)
        )

    def _version_tags(self, origin: tuple[str, int] | None) -> dict[str, str]:
        if origin is None:
            return {}
        with self.ManagedSessionMaker(read_only=False) as session:
            tags = self._get_query(session, SqlModelVersionTag).filter(
                SqlModelVersionTag.name == origin[0], SqlModelVersionTag.version == origin[1]
            )
            return {tag.key: tag.value for tag in tags}

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[tuple[Session, Connection]]:
        """Open the session that every store method called inside joins, and the gate's tables."""
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self._plain_sessions(read_only=False))
            if self.db_type == "sqlite":
                session.execute(text("BEGIN IMMEDIATE"))
            token = _current.set((self, session))
            stack.callback(_current.reset, token)
            if self._guard.shared:
                yield session, session.connection()
            else:  # closes, and so commits, before the session does
                yield session, stack.enter_context(self._guard.database.begin())

    @contextlib.contextmanager
    def _joined_session(self, read_only: bool = True) -> Iterator[Session]:
        current = _current.get()
        if current is not None and current[0] is self:
            yield current[1]
            return
        with self._plain_sessions(read_only=read_only) as session:
            yield session

    @staticmethod
    def _in_transaction() -> bool:
        return _current.get() is not None


def copied_version(source: str) -> tuple[str, int] | None:
    """Return (name, version) of a source `models:/NAME/VERSION`, None for any other source."""
    if not source.startswith("models:"):
        return None
    try:
        parsed = _parse_model_uri(source)
        return parsed.name, int(parsed.version)
    except (MlflowException, TypeError, ValueError):
        return None
