"""A real gated registry in a folder of its own: MLflow's stores on SQLite, artifacts on disk.

registry         per test; environment set, nothing registered
registry.add     upload a folder as the next version of a model
"""

import contextlib
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Registry:
    """A gated registry and what a client needs to use it."""

    root: Path
    uri: str  # sqlite:///…, of MLflow's tables and the gate's
    client: Any

    def add(self, folder: Path, name: str = "clip") -> str:
        """Register the files in `folder` as the next version of `name`; return the version."""
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name("zoo")
        model = self.client.create_logged_model(experiment.experiment_id, name="clip")
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        with contextlib.suppress(MlflowException):  # it is there already
            self.client.create_registered_model(name)
        made = self.client.create_model_version(
            name, source=f"models:/{model.model_id}", model_id=model.model_id
        )
        return str(made.version)

    def stored(self, name: str, version: str) -> Path:
        """The folder that the artifact store keeps a version in."""
        return Path(self.client.get_model_version_download_uri(name, version).split("://")[1])

    def shop(self, **changes: Any) -> Any:
        """A worker's workshop on this registry."""
        from gatekeeper.gate.worker import open_workshop

        return replace(open_workshop(device="cpu"), **changes)

    def alias(self, name: str, alias: str) -> str | None:
        """The version that carries an alias, None if none does."""
        found = dict(self.client.get_registered_model(name).aliases).get(alias)
        return None if found is None else str(found)


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory):
    """MLflow's tables and the gate's, made once: MLflow's migrations take a while."""
    from mlflow import MlflowClient

    from gatekeeper.gate import db

    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{file}", registry_uri=f"sqlite:///{file}")
    client.search_registered_models()
    db.Database.open(f"sqlite:///{file}", migrate=True).engine.dispose()
    return file


@pytest.fixture
def registry(registry_template, tmp_path, monkeypatch):
    """A fresh gated registry; the process's environment points at it."""
    from mlflow import MlflowClient

    root = tmp_path / "registry"
    root.mkdir()
    shutil.copy(registry_template, root / "mlflow.db")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    for name in [n for n in os.environ if n.startswith(("GATEKEEPER_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"gatekeeper+{uri}")
    monkeypatch.setenv("GATEKEEPER_DATABASE_URI", uri)
    monkeypatch.setenv("GATEKEEPER_HOME", str(root / "home"))
    monkeypatch.chdir(root)
    client = MlflowClient()
    for name in ("zoo", "gatekeeper"):
        client.create_experiment(name, artifact_location=(root / "artifacts" / name).as_uri())
    return Registry(root=root, uri=uri, client=client)
