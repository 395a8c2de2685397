"""Runs in experiment `gatekeeper`: opened, filled, read back, and closed or marked as failed."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

from gatekeeper.errors import EvidenceError, GatekeeperError
from gatekeeper.gate.client import asking, connect, first_line
from gatekeeper.gate.evidence_store import file_digests, files_in, require_equal

EXPERIMENT = "gatekeeper"
_HINT = "check MLFLOW_TRACKING_URI and the artifact store's space; the report is kept locally"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRun:
    """The MLflow run that holds a scan's evidence."""

    run_id: str
    experiment_id: str
    stored_at: str | None = None  # under GATEKEEPER_EVIDENCE

    @property
    def path(self) -> str:
        """The run's address inside any MLflow server: `#/experiments/…/runs/…`."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    @property
    def url(self) -> str:
        """The run's address for people who read a terminal."""
        base = os.environ.get("MLFLOW_TRACKING_URI", "")
        if urlparse(base).scheme not in {"http", "https"}:
            return f"run {self.run_id}"
        host = urlparse(base)._replace(netloc=urlparse(base).netloc.rpartition("@")[2])
        return f"{host.geturl().rstrip('/')}/{self.path}"


@contextmanager
def evidence_run(
    name: str, tags: Mapping[str, str], client: Any = None
) -> Iterator[tuple[Any, EvidenceRun]]:
    """Open a run in experiment `gatekeeper`; it ends FAILED where anything inside fails.

    Raises:
        EvidenceError: The run could not be made, filled or ended.
    """
    run: EvidenceRun | None = None
    mlflow = client or connect()
    try:
        with asking("log the evidence in MLflow"):
            run = _create_run(mlflow, name, tags)
            yield mlflow, run
            mlflow.set_terminated(run.run_id, "FINISHED")
    except BaseException as error:
        if run is not None:
            _mark_failed(mlflow, run.run_id)
        if isinstance(error, EvidenceError) or not isinstance(error, GatekeeperError):
            raise
        raise EvidenceError(
            f"evidence could not be stored: {first_line(error)}", hint=_HINT
        ) from error


def log_files(client: Any, run: EvidenceRun, files: Mapping[str, Path]) -> None:
    """Upload `files`, then read back what the run holds and compare.

    Raises:
        EvidenceError: Other bytes came back.
    """
    for name, path in files.items():
        folder = str(PurePosixPath(name).parent)
        client.log_artifact(run.run_id, str(path), None if folder == "." else folder)
    with tempfile.TemporaryDirectory(prefix="gatekeeper-") as scratch:
        client.download_artifacts(run.run_id, "", scratch)
        kept = file_digests(files_in(Path(scratch)))
    require_equal(file_digests(files), kept, f"run {run.run_id}")


def experiment_id(client: Any) -> str:
    """Return the ID of experiment `gatekeeper`, made where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException:  # another worker was faster
            found = client.get_experiment_by_name(EXPERIMENT)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _create_run(client: Any, name: str, tags: Mapping[str, str]) -> EvidenceRun:
    experiment = experiment_id(client)
    parent = os.environ.get("MLFLOW_RUN_ID")  # set by `mlflow run` for its child
    own = {"mlflow.parentRunId": parent} if parent else {}
    created = client.create_run(experiment, tags={**own, **tags}, run_name=name)
    return EvidenceRun(run_id=created.info.run_id, experiment_id=experiment)


def _mark_failed(client: Any, run_id: str) -> None:
    try:
        with asking("close the run"):
            client.set_terminated(run_id, "FAILED")
    except GatekeeperError:
        return  # the store that just failed: the first error is the one to report
