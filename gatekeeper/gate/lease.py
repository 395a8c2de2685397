"""Is this job still ours? A lease that is renewed while we work, and a way to stop at once.

Losing the lease, or a signal to stop, surfaces as `Stopped` in the thread that works: in its next
progress step or `check()`. It is a BaseException, so that no detector can take it for a finding.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from gatekeeper.gate import db
from gatekeeper.runtime import Progress, What

T = TypeVar("T")
LEASE_S = 60.0  # a killed worker's job is free again after at most this
logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """The work must end now: the lease is lost, the job cancelled, or the worker told to stop."""


def owner_name() -> str:
    """Return a name that no other worker has: host, process, and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"[:250]


class Lease:
    """Keeps one claimed job ours while the `with` block runs."""

    def __init__(
        self,
        database: db.Database,
        job_id: int,
        owner: str,
        *,
        lease_s: float = LEASE_S,
        stop: threading.Event | None = None,
    ) -> None:
        self.job_id = job_id
        self.owner = owner
        self.lease_s = lease_s
        self._database = database
        self._stop = stop or threading.Event()
        self._lost = threading.Event()
        self._done = threading.Event()
        self._good_until = time.monotonic() + lease_s
        self._thread = threading.Thread(target=self._beat, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(timeout=self.lease_s)

    @property
    def lost(self) -> bool:
        """Whether somebody else may have the job by now."""
        return self._lost.is_set() or time.monotonic() > self._good_until

    def check(self) -> None:
        """Raise where the work must end.

        Raises:
            Stopped: The lease is lost or the worker was told to stop.
        """
        if self.lost:
            raise Stopped(f"job {self.job_id} is no longer ours")
        if self._stop.is_set():
            raise Stopped("told to stop")

    def watched(self, progress: Progress[T]) -> Progress[T]:
        """Return `progress` with a check at every step."""

        def steps(items: Iterable[T], what: What) -> Iterator[T]:
            for item in progress(items, what):
                self.check()
                yield item

        return steps

    def _beat(self) -> None:
        while not self._done.wait(self.lease_s / 4):
            asked = time.monotonic()
            try:
                with self._database.begin() as connection:
                    ours = db.heartbeat(connection, self.job_id, self.owner, self.lease_s)
            except SQLAlchemyError as error:
                # Not lost yet: the row still names us until the lease runs out.
                logger.warning("job %s: no heartbeat: %s", self.job_id, type(error).__name__)
                continue
            if not ours:
                self._lost.set()
                return
            self._good_until = asked + self.lease_s
