"""`GET /gatekeeper/api/state`: how far a scan is, for `gatekeeper promote` on another machine.

Part of the `/gatekeeper` blueprint, so behind basic-auth where that is on. Reads alone.
"""

from typing import Any

from flask import Blueprint, Response, jsonify, request

from gatekeeper.gate import db
from gatekeeper.gate.fingerprint import list_now
from gatekeeper.gate.state import API_PATH, ScanState, state_of, to_json


def register(blueprint: Blueprint, prefix: str = "") -> None:
    """Add the endpoint to the `/gatekeeper` blueprint; `prefix` is the server's static prefix."""
    blueprint.add_url_rule(prefix + API_PATH, "state", answer)


def answer() -> Any:
    """Answer `?name=NAME&version=NUMBER` with a `ScanState`; all null for what is not known.

    With `list=1` also the fingerprint of its files, as listed now.
    """
    from mlflow.server.handlers import _get_model_registry_store

    from gatekeeper.gate.gated import Gated

    version = request.args.get("version", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        return jsonify({"error": "version must be a number"}), 400
    store: Any = _get_model_registry_store()
    if not isinstance(store, Gated):
        return Response("the registry of this server is not gated", status=503)
    workspace = store._get_active_workspace()
    row = db.version_row(store.db_uri, request.args.get("name", ""), int(version), workspace)
    state = ScanState()
    if row is not None:
        guard = store._guard
        state = state_of(guard.database, row, guard.settings.policy.digest)
    document = to_json(state)
    if row is not None and request.args.get("list") == "1":
        document["fingerprint"] = list_now(row.storage_location).fingerprint
    response = jsonify(document)
    response.headers["Cache-Control"] = "no-store"
    return response
