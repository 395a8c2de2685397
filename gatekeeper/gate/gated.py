"""One transaction, one look at the row, one answer: the machinery behind the gated store."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from sqlalchemy import Connection
from sqlalchemy.orm import Session

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import db
from gatekeeper.gate.fingerprint import Listing, list_now
from gatekeeper.gate.guard import Refused, message, run_link
from gatekeeper.gate.lookups import RegistryStore
from gatekeeper.gate.promotion import Decision, Mode, Outcome, Wish

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Gated(RegistryStore):
    """What the guards of the gated store stand on."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri=read_db_uri)
        settings = self._guard.settings
        logger.info(
            "gate on %s: policy '%s' (%s), mode %s",
            db.redacted(db_uri),
            settings.policy.name,
            settings.policy.digest[:19],
            settings.mode.value,
        )

    def _promote(self, wish: Wish, perform: Callable[[], T]) -> T:
        """Do what is wished for in the transaction that finds it allowed, or refuse."""
        with self._fail_closed(wish.action, wish.name, wish.label):
            row = self._row_of(wish)
            listing = list_now(row.storage_location)
        try:
            with self._transaction() as (session, connection):
                return self._moved(session, connection, row, wish, listing, perform)
        except Refused as refusal:
            raise self._refusal(refusal, row, wish, listing) from None
        except MlflowException as error:
            self._note(
                wish.action, wish.name, f"MLflow: {error}", wish.label, wish.version, "refuse"
            )
            raise

    def _row_of(self, wish: Wish) -> db.VersionRow:
        try:
            with self.ManagedSessionMaker(read_only=False) as session:
                return self._row_in(session, wish.name, wish.version)
        except MlflowException as error:  # no such version: somebody tried, all the same
            self._note(wish.action, wish.name, str(error), wish.label, wish.version, "refuse")
            raise

    def _moved(
        self,
        session: Session,
        connection: Connection,
        row: db.VersionRow,
        wish: Wish,
        listing: Listing,
        perform: Callable[[], T],
    ) -> T:
        answer = self._answer(session, connection, row, wish, listing)
        result = perform()
        with self._fail_closed(wish.action, wish.name, wish.label):
            if wish.action == "copy":
                # MLflow's retry after a collision rolls our transaction back: look again.
                self._answer(session, connection, row, wish, listing)
                created: Any = result
                self._carry(connection, row, self._row_in(session, wish.label, created.version))
            attempt = self._attempt(wish, answer)
            self._guard.write(connection, attempt)
            if answer.queue:
                self._guard.queue(connection, self._guard.job(row, wish, listing))
        if answer.outcome is not Outcome.ALLOW:
            level = logging.WARNING if answer.mode is Mode.WARN else logging.INFO
            logger.log(
                level, "let through (%s): %s: %s", answer.written, wish.phrase, answer.reason
            )
        return result

    def _answer(
        self,
        session: Session,
        connection: Connection,
        row: db.VersionRow,
        wish: Wish,
        listing: Listing,
    ) -> Decision:
        with self._fail_closed(wish.action, wish.name, wish.label):
            if self._row_in(session, wish.name, wish.version) != row:
                raise Refused(f"gatekeeper holds {wish.phrase}: it changed while being checked")
            answer = self._guard.judge(connection, row, wish, listing)
            if not answer.moves:
                link = run_link(session.connection(), answer.run_id)
                raise Refused(link, answer)
        return answer

    def _refusal(
        self, refusal: Refused, row: db.VersionRow, wish: Wish, listing: Listing
    ) -> Refused:
        """Write a refusal down, queue what it waits for, and word it."""
        answer = refusal.decision
        if answer is None:
            reason = str(refusal.message)
            self._note(wish.action, wish.name, reason, wish.label, wish.version, "refuse")
            return refusal
        job = self._guard.job(row, wish, listing) if answer.queue else None
        queued = self._guard.write_apart(self._attempt(wish, answer), job)
        return Refused(message(answer, wish, queued, refusal.message), answer)

    def _attempt(self, wish: Wish, answer: Decision) -> db.Attempt:
        name, label = (wish.label, wish.uri) if wish.action == "copy" else (wish.name, wish.label)
        return self._guard.attempt(
            wish.action,
            name,
            workspace=self._get_active_workspace(),
            reason=answer.reason,
            decision=answer.written,
            label=label,
            version=wish.version,
            answer=answer,
        )

    # Refusals that no verdict can lift ----------------------------------------------------------

    def _refuse_if(
        self, action: str, name: str, label: str | None, reason: str, *, always: bool = True
    ) -> None:
        """Refuse for `reason`, if there is one; the mode may soften it unless `always`."""
        if not reason:
            return
        mode = self._guard.settings.mode
        soft = not always and mode is not Mode.ENFORCE
        self._note(action, name, reason, label, None, f"allow_{mode.value}" if soft else "refuse")
        if not soft:
            raise Refused(f"gatekeeper refuses this: {reason}.")

    def _note(
        self,
        action: str,
        name: str,
        reason: str,
        label: str | None = None,
        version: int | None = None,
        decision: str = "allow",
    ) -> None:
        self._guard.write_apart(
            self._guard.attempt(
                action,
                name,
                workspace=self._get_active_workspace(),
                reason=reason,
                decision=decision,
                label=label,
                version=version,
            )
        )

    @contextlib.contextmanager
    def _fail_closed(self, action: str, name: str, label: str | None) -> Iterator[None]:
        """Turn whatever goes wrong while checking into a refusal."""
        try:
            yield
        except MlflowException:
            raise
        except Exception as error:
            logger.exception("the gate failed while checking %s of %s", action, name)
            if not self._in_transaction():  # else it is written after the rollback
                self._note(action, name, f"could not be checked: {error}", label, None, "refuse")
            why = error.message if isinstance(error, GatekeeperError) else type(error).__name__
            raise Refused(
                f"gatekeeper could not check {action} '{label or name}' of {name}, so it refuses: "
                f"{why}. The server's log has the details."
            ) from error

    # Notes that follow a copy -------------------------------------------------------------------

    def _carry_note(self, origin: tuple[str, int], created: Any) -> None:
        """Note for a copy what is known of its origin; without it, the copy waits for a scan."""
        try:
            with self.ManagedSessionMaker(read_only=False) as session:
                rows = (
                    self._row_in(session, *origin),
                    self._row_in(session, created.name, created.version),
                )
            with self._guard.database.begin() as connection:
                self._carry(connection, *rows)
        except Exception:  # the version is registered; knowing less refuses
            logger.exception("the note of %s version %s was not carried over", *origin)

    @staticmethod
    def _carry(connection: Connection, origin: db.VersionRow, copy: db.VersionRow) -> None:
        note = db.artifact_for(connection, origin)
        if note is not None and copy.storage_location == origin.storage_location:
            db.note_artifact(
                connection, copy, digest=note.digest, fingerprint=note.fingerprint, kind=note.kind
            )
