"""Asks the registry, as any client would, to let a version carry a name."""

from dataclasses import dataclass
from typing import Any

from gatekeeper.errors import GateError
from gatekeeper.gate.artifacts import parse_models_uri
from gatekeeper.gate.client import asking, connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a version is to carry. With `copy_to`, alias and stage go to the copy."""

    alias: str | None = None
    stage: str | None = None
    copy_to: str | None = None

    def __bool__(self) -> bool:
        return bool(self.alias or self.stage or self.copy_to)

    def __str__(self) -> str:
        told = [f"alias '{self.alias}'"] if self.alias else []
        told += [f"stage '{self.stage}'"] if self.stage else []
        told += [f"a copy in '{self.copy_to}'"] if self.copy_to else []
        return " and ".join(told)


class NotMovedError(GateError):
    """The gate refuses or holds the move; the message is the gate's own."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="see the gate's reason above")

    @property
    def held(self) -> bool:
        """Whether the gate waits for a verdict; False: it has one, or will never move this."""
        return "gatekeeper holds" in self.message


def move(uri: str, names: Names, *, client: Any = None) -> str:
    """Let `models:/NAME/VERSION` carry `names`; return the version that carries them now.

    Raises:
        NotMovedError: The gate refuses or holds it.
        IntakeError: There is no such version.
        ServiceError: The registry does not answer.
    """
    from mlflow.exceptions import MlflowException

    mlflow = client or connect()
    name, version, _, _ = parse_models_uri(uri)
    with asking(f"promote {uri}"):
        try:
            if names.copy_to is not None:
                copied = mlflow.copy_model_version(uri, names.copy_to)
                name, version = names.copy_to, str(copied.version)
            if names.alias is not None:
                mlflow.set_registered_model_alias(name, names.alias, version)
            if names.stage is not None:
                mlflow.transition_model_version_stage(name, version, names.stage)
        except MlflowException as error:
            if "PERMISSION_DENIED" not in f"{error.error_code} {error}":
                raise
            raise NotMovedError(_message(error)) from error
    return f"models:/{name}/{version}"


def _message(error: Exception) -> str:
    text = str(error)
    # The client wraps the server's message once or twice, each time with the code before it.
    return text.rsplit("PERMISSION_DENIED:", 1)[-1].strip().strip("'\"")
