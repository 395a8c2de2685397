"""How does a cleaned model become a new version of a registered model?

Its files go into a LoggedModel of experiment `gatekeeper`, unchanged, so that the version has the
flavor of the original and its own storage location. What the store then holds is read back: the
version is only as good as the bytes that arrived.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatekeeper.errors import EvidenceError
from gatekeeper.gate.artifacts import download, storage_location
from gatekeeper.gate.client import asking, connect
from gatekeeper.gate.runs import experiment_id
from gatekeeper.types import ModelRef

if TYPE_CHECKING:
    from gatekeeper.pipeline import Rectification


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A version that did not exist before."""

    name: str
    version: int
    model_id: str

    @property
    def uri(self) -> str:
        """The version as a MODEL."""
        return f"models:/{self.name}/{self.version}"


def register_cleaned(result: "Rectification", *, name: str, rectified_from: ModelRef) -> int:
    """Register what `gatekeeper rectify --register` made; return the version's number.

    Raises:
        GateError: The registry refuses the version.
        ServiceError: It does not answer.
        EvidenceError: Other bytes arrived than were sent.
    """
    note = (
        f"Cleaned by gatekeeper ({result.method}) from {rectified_from.uri} "
        f"(`{rectified_from.digest}`)."
    )
    return register_tree(
        result.model, name=name, digest=result.report.model.digest, description=note
    ).version


def register_tree(
    root: Path,
    *,
    name: str,
    digest: str,
    description: str,
    run_id: str | None = None,
    client: Any = None,
) -> Registered:
    """Upload the folder or file `root` and register it as the next version of `name`.

    Args:
        root: The model tree.
        name: Registered model; made if missing.
        digest: Content digest of `root`, which the stored tree must have too.
        description: Of the new version.
        run_id: The evidence run that it came of.
        client: MLflow client; by default the environment's.

    Raises:
        GateError: The registry refuses the version.
        ServiceError: It does not answer.
        EvidenceError: Other bytes arrived than were sent.
    """
    mlflow = client or connect()
    with asking(f"register a version of {name}"):
        model = mlflow.create_logged_model(
            experiment_id(mlflow), name=_logged_name(name), source_run_id=run_id
        )
        _upload(mlflow, model.model_id, root)
        _require_stored(mlflow, model.model_id, digest)
        mlflow.finalize_logged_model(model.model_id, "READY")
        _ensure_model(mlflow, name)
        created = mlflow.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=run_id,
            description=description,
            model_id=model.model_id,
            await_creation_for=0,  # it stands already; MLflow would say on stderr that it waits
        )
    return Registered(name=name, version=int(created.version), model_id=model.model_id)


def _upload(client: Any, model_id: str, root: Path) -> None:
    if root.is_dir():
        client.log_model_artifacts(model_id, str(root))
        return
    with tempfile.TemporaryDirectory(prefix="gatekeeper-") as folder:
        Path(folder, root.name).symlink_to(root.resolve())
        client.log_model_artifacts(model_id, folder)


def _require_stored(client: Any, model_id: str, digest: str) -> None:
    from gatekeeper.intake.digest import tree_digest

    location = storage_location(f"models:/{model_id}", client=client)
    with tempfile.TemporaryDirectory(prefix="gatekeeper-") as folder:
        stored, _ = tree_digest(download(location, Path(folder) / "model", client=client))
    if stored != digest:
        raise EvidenceError(
            f"{location} holds {stored}, {digest} was sent",
            hint="check the artifact store; no version was registered",
        )


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _logged_name(name: str) -> str:
    # LoggedModel names may not hold / : . % " '
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)[:200] or "model"
