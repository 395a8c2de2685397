"""Shows on a model version's page what was decided. The decision stands where that fails."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import db
from gatekeeper.gate.job_run import JobRun
from gatekeeper.gate.version_page import MAX_ATTEMPTS, Page, display_block, display_tags

logger = logging.getLogger(__name__)


def show(
    run: JobRun,
    row: db.VersionRow,
    decision: db.DecisionRecord,
    run_path: str | None,
    *,
    cleaned: str | None = None,
    rectified_from: str | None = None,
    note: str = "",
) -> bool:
    """Write tags and description block of `row`; False, and a line in the log, where it fails.

    Tags and descriptions are never read back as truth.
    """
    try:
        with run.shop.database.reading() as connection:
            trail = db.attempts(connection, 50, row.name)
        own = [attempt for attempt in trail if attempt.version in (None, row.version)]
        page = Page(
            decision=decision,
            run_path=run_path,
            attempts=own[:MAX_ATTEMPTS],
            cleaned=cleaned,
            rectified_from=rectified_from,
            note=note,
        )
        return db.write_display(run.shop.registry_uri, row, display_tags(page), display_block(page))
    except (GatekeeperError, SQLAlchemyError) as error:
        logger.warning("the page of %s %s is not up to date: %s", row.name, row.version, error)
        return False
