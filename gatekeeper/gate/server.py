"""`mlflow server` with the gate on: how it is started, and the proof that the gate is there."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatekeeper.errors import GateError, MissingExtraError, ServiceError
from gatekeeper.gate.db.database import DIALECTS, PREFIX, redacted

REGISTRY = "MLFLOW_REGISTRY_STORE_URI"
_OURS = "gatekeeper"
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the server process is started."""

    arguments: tuple[str, ...]  # of `mlflow server`
    environment: Mapping[str, str]  # added to this process's own
    registry_uri: str
    basic_auth: bool


def plan(arguments: Sequence[str]) -> Launch:
    """Return how to start `mlflow server` with these arguments and the gate on.

    MLflow's own parser reads them, so that both see the same, environment variables included.
    The registry's URI travels in the environment: command lines are visible to every user.

    Raises:
        GateError: The registry would not be gated.
        click.UsageError: MLflow does not know an argument.
    """
    wanted = _parsed(arguments)
    registry = _registry_uri(wanted)
    if wanted.get("artifacts_only"):
        raise GateError(
            "--artifacts-only serves no registry, so there is nothing to gate",
            hint="run `mlflow server --artifacts-only` itself",
        )
    environment = {**_SETTINGS, REGISTRY: registry}
    if not os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION"):
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    app = wanted.get("app_name")
    passed = list(arguments)
    if app in (None, _OURS, "basic-auth") and not wanted.get("dev"):
        passed += ["--app-name", _OURS]  # the last one counts
    else:
        logger.warning("the page /gatekeeper is not served with --app-name or --dev")
    if app == "basic-auth":
        environment["GATEKEEPER_BASIC_AUTH"] = "true"
    return Launch(
        arguments=tuple(passed),
        environment=environment,
        registry_uri=registry,
        basic_auth=app == "basic-auth",
    )


def probe(registry_uri: str) -> str:
    """Build the registry store as the server will, and make sure that it is the gate.

    Migrates both MLflow's tables (where there are none) and the gate's. Returns one line that
    says what is gated.

    Raises:
        GateError: It is not the gate.
        ServiceError: The database does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import ModelRegistryStoreRegistryWrapper
    from sqlalchemy.exc import SQLAlchemyError

    from gatekeeper.gate.gated import Gated

    try:
        store: Any = ModelRegistryStoreRegistryWrapper().get_store(registry_uri)
    except (SQLAlchemyError, MlflowException, ModuleNotFoundError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ServiceError(
            f"registry {redacted(registry_uri)} cannot be opened: {first}",
            hint="check that the database runs; drivers: pip install 'mlflow-gatekeeper[postgres]'",
        ) from error
    if not isinstance(store, Gated):
        raise GateError(
            f"registry {redacted(registry_uri)} is served by {type(store).__name__}, not the gate",
            hint="reinstall mlflow-gatekeeper in the server's environment",
        )
    settings = store._guard.settings
    return (
        f"registry {redacted(registry_uri)}, policy '{settings.policy.name}' "
        f"({settings.policy.digest[:19]}), mode {settings.mode.value}"
    )


def start(launch: Launch) -> None:
    """Run the server in this process until it ends; MLflow forwards signals to its workers.

    Raises:
        MissingExtraError: basic-auth is wanted and its packages are absent.
        SystemExit: MLflow gave up.
    """
    from mlflow.cli import cli

    os.environ.update(launch.environment)
    if launch.basic_auth:
        os.environ.update(_bootstrapped())
    cli.main(args=["server", *launch.arguments], prog_name="mlflow", standalone_mode=False)


def _bootstrapped() -> dict[str, str]:
    """Create basic-auth's admin once, before the workers start, as MLflow does for its own app."""
    try:
        from mlflow.server.auth import bootstrap_admin_user, get_flask_server_secret_key
    except ImportError as error:
        raise MissingExtraError(
            f"--app-name basic-auth needs '{error.name}'", hint="pip install 'mlflow[auth]'"
        ) from error
    get_flask_server_secret_key()
    bootstrap_admin_user()
    return {"_MLFLOW_AUTH_ADMIN_BOOTSTRAPPED": "true"}


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    from mlflow.cli import cli

    command = cli.commands["server"]
    parsed: dict[str, Any] = command.make_context("mlflow server", list(arguments)).params
    return parsed


def _registry_uri(wanted: Mapping[str, Any]) -> str:
    registry, backend = wanted.get("registry_store_uri"), wanted.get("backend_store_uri")
    if backend and str(backend).startswith(PREFIX):
        raise GateError(
            "--backend-store-uri must stay plain: the gate sits in front of the registry alone",
            hint=f"use --backend-store-uri {redacted(str(backend)).removeprefix(PREFIX)}",
        )
    if registry:
        if not str(registry).startswith(PREFIX):
            raise GateError(
                f"--registry-store-uri {redacted(str(registry))} would be served without the gate",
                hint=f"use {PREFIX}{redacted(str(registry))}, or leave the option out",
            )
        return str(registry)
    if not backend:
        from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        from mlflow.tracking._tracking_service.utils import _get_default_tracking_uri

        backend = _get_default_tracking_uri() or DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    if str(backend).split(":", 1)[0].split("+", 1)[0] not in DIALECTS or ":" not in str(backend):
        raise GateError(
            f"a registry in '{redacted(str(backend))}' cannot be gated: it is no database",
            hint="use --backend-store-uri sqlite:///mlflow.db, or PostgreSQL",
        )
    return PREFIX + str(backend)
