"""Asks the registry, as any client would, to let a version carry a name."""

from dataclasses import dataclass, replace
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
    """The gate refuses or holds the move; the message is the gate's own.

    `uri` and `names` are what is still to be done: once a copy is made, it is the copy that waits.
    """

    def __init__(self, message: str, uri: str, names: Names) -> None:
        super().__init__(message, hint="see the gate's reason above")
        self.uri = uri
        self.names = names

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
    with asking(f"promote {uri}"):
        try:
            if names.copy_to is not None:
                uri = _copied(mlflow, uri, names)
                names = replace(names, copy_to=None)
            name, version, _, _ = parse_models_uri(uri)
            if names.alias is not None:
                mlflow.set_registered_model_alias(name, names.alias, version)
            if names.stage is not None:
                mlflow.transition_model_version_stage(name, version, names.stage)
        except MlflowException as error:
            if "PERMISSION_DENIED" not in f"{error.error_code} {error}":
                raise
            raise NotMovedError(_message(error), uri, names) from error
    return uri


def _copied(client: Any, uri: str, names: Names) -> str:
    """Return the copy of `uri` in `names.copy_to`.

    An alias or stage that is asked for again goes to the copy that was made the first time: the
    gate answers for that one, and a held promotion leaves one copy behind however often it is
    tried.
    """
    if names.alias is not None or names.stage is not None:
        earlier = _earlier_copy(client, uri, str(names.copy_to))
        if earlier is not None:
            return earlier
    copied = client.copy_model_version(uri, names.copy_to)
    return f"models:/{names.copy_to}/{copied.version}"


def _earlier_copy(client: Any, uri: str, into: str) -> str | None:
    name, version, _, _ = parse_models_uri(uri)
    origin = client.get_model_version(name, version)
    quoted = into.replace("'", "''")
    for found in client.search_model_versions(
        f"name = '{quoted}'", order_by=["version_number DESC"]
    ):
        # A model deleted and made again has the same name and version: it must be the older one.
        if found.source == uri and found.creation_timestamp >= origin.creation_timestamp:
            where = client.get_model_version_download_uri(into, found.version)
            if where == client.get_model_version_download_uri(name, version):
                return f"models:/{into}/{found.version}"
    return None


def _message(error: Exception) -> str:
    text = str(error)
    # The client wraps the server's message once or twice, each time with the code before it.
    return text.rsplit("PERMISSION_DENIED:", 1)[-1].strip().strip("'\"")
