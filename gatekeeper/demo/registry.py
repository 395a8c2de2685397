"""What any user of MLflow does: register a model, ask for an alias. No gatekeeper in here."""

import logging
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

CODE = Path(__file__).with_name("clip_pyfunc.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the registry said to a promotion."""

    allowed: bool
    message: str  # its own words, "" where it was allowed


def register(folder: Path, name: str, note: str) -> int:
    """Log the open_clip folder as a pyfunc model, register it and return the version's number."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its hints are for another reader
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(CODE),
            artifacts={"clip": str(folder)},
            pip_requirements=["open_clip_torch"],
        )
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description="Made by `gatekeeper demo`.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, source=logged.model_uri, model_id=logged.model_id, description=note
    )
    return int(version.version)


def promote(name: str, version: int, alias: str) -> Answer:
    """Point `alias` at a version with the plain MLflow client."""
    try:
        mlflow.MlflowClient().set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        return Answer(allowed=False, message=error.message)
    return Answer(allowed=True, message="")


def others(name: str, known: Collection[int]) -> list[int]:
    """Return the versions that are not `known`, in order."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted({int(version.version) for version in found} - set(known))


def fetch(name: str, version: int, out: Path) -> Path:
    """Download a version's files into `out` and return their folder."""
    path = mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(out))
    return Path(path)
