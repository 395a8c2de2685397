"""Takes scans off the queue until there are none, or until told to stop.

Several workers may run beside each other, on one machine or on many: the queue gives each job to
one of them. A worker that is told to stop hands its job back; one that is killed loses its lease
and the job is taken up by another.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.errors import EvidenceError, GatekeeperError, ServiceError
from gatekeeper.gate import db
from gatekeeper.gate.client import first_line, settle_environment
from gatekeeper.gate.job_run import Say, Workshop
from gatekeeper.gate.lease import LEASE_S, Lease, Stopped, owner_name
from gatekeeper.gate.settings import Settings

HEARTBEAT_LINE_S = 60.0  # how often an idle worker says that it is there
logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a worker did."""

    done: int = 0
    failed: int = 0  # handed back or given up: no decision was made
    services: int = 0  # of them, because a service failed
    interrupted: bool = False


def open_workshop(
    *,
    registry_uri: str | None = None,
    device: str = "auto",
    say: Say | None = None,
) -> Workshop:
    """Return a workshop set up from the environment (contract, section 8).

    Args:
        registry_uri: The registry's database; by default `MLFLOW_REGISTRY_STORE_URI`,
            `MLFLOW_BACKEND_STORE_URI` or `GATEKEEPER_DATABASE_URI`.
        device: `auto`, `cpu` or `cuda`.
        say: Takes a line for people.

    Raises:
        GatekeeperError: The policy does not load, or the database is not usable.
    """
    settle_environment()
    registry = (
        registry_uri
        or os.environ.get("MLFLOW_REGISTRY_STORE_URI")
        or os.environ.get("MLFLOW_BACKEND_STORE_URI")
        or db.database_uri()
    )
    shop = Workshop(
        database=db.Database.open(db.database_uri(registry)),
        registry_uri=db.plain_uri(registry),
        policy=Settings.from_environment().policy,
        home=home(),
        device=device,
    )
    return shop if say is None else replace(shop, say=say)


def home() -> Path:
    """Return GATEKEEPER_HOME: where caches, keys and work folders are kept."""
    default = Path.home() / ".cache" / "gatekeeper"
    return Path(os.environ.get("GATEKEEPER_HOME") or default)


def run_worker(
    shop: Workshop,
    *,
    once: bool = False,
    poll_s: float = 5.0,
    lease_s: float = LEASE_S,
    stop: threading.Event | None = None,
) -> Tally:
    """Work off the queue; with `once`, return when no job is free.

    In the main thread, SIGTERM and SIGINT hand the job back and end the loop.

    Raises:
        ServiceError: The database does not answer (only with `once`; else it is tried again).
    """
    stop = stop or threading.Event()
    owner = owner_name()
    tally = Tally()
    told = time.monotonic()
    shop.say(f"worker {owner}: policy '{shop.policy.name}' {shop.policy.digest[:19]}")
    with _signals(stop, tally):
        while not stop.is_set():
            try:
                _quiet.set()  # a job claimed and forgotten would have to wait for its lease
                job = _claim(shop, owner, lease_s)
                if job is None:
                    _quiet.clear()
                else:
                    attend(job, shop, owner, tally=tally, lease_s=lease_s, stop=stop)
                    told = time.monotonic()
                    continue
            except ServiceError as error:
                _quiet.clear()
                if once:
                    raise
                shop.say(f"worker {owner}: {error.message}")
            if once:
                break
            if time.monotonic() - told >= HEARTBEAT_LINE_S:
                told = time.monotonic()
                shop.say(f"worker {owner}: waiting for jobs, {tally.done} done")
            stop.wait(poll_s)
    return tally


def attend(
    job: db.Job,
    shop: Workshop,
    owner: str,
    *,
    tally: Tally,
    lease_s: float = LEASE_S,
    stop: threading.Event | None = None,
) -> GatekeeperError | None:
    """Carry out a claimed job and close it whatever happens; return what went wrong."""
    from gatekeeper.gate.scan_job import carry_out

    try:
        _quiet.clear()  # from here on a signal hands the job back
        with Lease(shop.database, job.id, owner, lease_s=lease_s, stop=stop) as lease:
            carry_out(job, lease, shop)
    except (Stopped, KeyboardInterrupt) as reason:
        _hand_back(job, shop, owner)
        shop.say(f"job {job.id}: handed back ({reason})")
        if isinstance(reason, KeyboardInterrupt):
            raise
        return None
    except GatekeeperError as error:
        # Input that cannot be read today cannot be read tomorrow; a service may be back.
        again = isinstance(error, ServiceError | EvidenceError)
        tally.failed += 1
        tally.services += again
        _give_up(job, shop, owner, str(error), retry=again)
        return error
    except Exception as error:
        logger.exception("job %s failed", job.id)
        tally.failed += 1
        _give_up(job, shop, owner, f"{type(error).__name__}: {first_line(error)}", retry=True)
        return ServiceError(
            f"job {job.id} failed: {type(error).__name__}: {first_line(error)}",
            hint="the worker's log has the details; nothing was decided",
        )
    tally.done += 1
    return None


def _claim(shop: Workshop, owner: str, lease_s: float) -> db.Job | None:
    try:
        with shop.database.begin() as connection:
            return db.claim_job(connection, owner, lease_s)
    except SQLAlchemyError as error:
        raise ServiceError(
            f"the queue does not answer: {first_line(error)}",
            hint="check GATEKEEPER_DATABASE_URI and that the database runs",
        ) from error


def _hand_back(job: db.Job, shop: Workshop, owner: str) -> None:
    try:
        with shop.database.begin() as connection:
            db.release_job(connection, job.id, owner)
    except SQLAlchemyError as error:  # the lease runs out by itself
        logger.warning("job %s could not be handed back: %s", job.id, first_line(error))


def _give_up(job: db.Job, shop: Workshop, owner: str, error: str, *, retry: bool) -> None:
    shop.say(f"job {job.id}: nothing was decided: {error}")
    try:
        with shop.database.begin() as connection:
            db.fail_job(connection, job.id, owner, error[:4000], retry=retry)
    except SQLAlchemyError as problem:
        logger.warning("job %s could not be closed: %s", job.id, first_line(problem))


# Signals go to one worker a process, so one flag a process says whether they may break in.
_quiet = threading.Event()


@contextmanager
def _signals(stop: threading.Event, tally: Tally) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def told(number: int, frame: FrameType | None) -> None:
        first = not stop.is_set()
        stop.set()
        tally.interrupted = tally.interrupted or number == signal.SIGINT
        if first and not _quiet.is_set():
            raise Stopped(f"told to stop by {signal.Signals(number).name}")

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Stopped:
        return  # while waiting, or on the way out of a job that was handed back
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
