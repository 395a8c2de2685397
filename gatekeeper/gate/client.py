"""An MLflow client that answers within seconds, and whose failures are ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gatekeeper.errors import GateError, GatekeeperError, IntakeError, ServiceError

# MLflow's own defaults retry for minutes; whoever sets these keeps what they set.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "AWS_MAX_ATTEMPTS": "3",
}
_SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is the result's alone
}
_UNKNOWN = {
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "ENDPOINT_NOT_FOUND",
}


def settle_environment() -> None:
    """Bound the retries of this process's MLflow and S3 clients; switch every telemetry off."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.update(_SILENCE)


def connect(tracking_uri: str | None = None, registry_uri: str | None = None) -> Any:
    """Return an `MlflowClient`; URIs default to `MLFLOW_TRACKING_URI`, `MLFLOW_REGISTRY_URI`."""
    settle_environment()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri, registry_uri=registry_uri)


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn what MLflow, S3 or the network raise inside into our errors.

    Args:
        what: What was being done, in words that fit after "cannot".

    Raises:
        IntakeError: The registry answered that there is no such thing (exit 2).
        GateError: The registry answered that we may not.
        ServiceError: It did not answer, or failed (exit 4).
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        raise translated(error, what) from error
    except ClientError as error:
        raise _from_s3(error, what) from error
    except (RequestException, BotoCoreError, Boto3Error, SQLAlchemyError, OSError) as error:
        raise _unreachable(what, error) from error


def translated(error: Exception, what: str) -> GatekeeperError:
    """Return our error for an `MlflowException`."""
    code = str(getattr(error, "error_code", ""))
    message = first_line(error)
    if code in _UNKNOWN:
        return IntakeError(
            f"cannot {what}: {message}", hint="check the name, version, alias or run ID"
        )
    if code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
        return GateError(f"cannot {what}: {message}", hint="check MLFLOW_TRACKING_USERNAME/TOKEN")
    return _unreachable(what, error)


def first_line(error: BaseException) -> str:
    """Return the first line of `error`, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _from_s3(error: Any, what: str) -> GatekeeperError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in {"NoSuchKey", "NoSuchBucket", "404"}:
        return IntakeError(f"cannot {what}: {first_line(error)}", hint="check bucket and prefix")
    return _unreachable(what, error)


def _unreachable(what: str, error: BaseException) -> ServiceError:
    return ServiceError(
        f"cannot {what}: {first_line(error)}",
        hint="check MLFLOW_TRACKING_URI, MLFLOW_S3_ENDPOINT_URL, AWS_* and that the service runs",
    )
