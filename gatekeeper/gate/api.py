"""`GET /gatekeeper/api/state`: how far a scan is, for `gatekeeper promote` on another machine.

Part of the `/gatekeeper` blueprint, so behind basic-auth where that is on. Reads alone.
"""

from typing import Any

from gatekeeper.gate import db
from gatekeeper.gate.state import API_PATH, ScanState, state_of, to_json


def register(blueprint: Any, guard_of: Any = None) -> None:
    """Add the endpoint to a Flask blueprint.

    Args:
        blueprint: The `/gatekeeper` blueprint, without a URL prefix.
        guard_of: Returns the `Guard`; by default that of the server's own gated store.
    """
    find = guard_of or _guard

    def state() -> Any:
        from flask import jsonify, request

        name = request.args.get("name", "")
        version = request.args.get("version", "")
        if not (version.isascii() and version.isdigit()):
            return jsonify({"error": "version must be a number"}), 400
        guard, registry_uri, workspace = find()
        row = None
        if name:
            row = db.version_row(registry_uri, name, int(version[:9]), workspace)
        if row is None:
            return jsonify(to_json(ScanState()))
        return jsonify(to_json(state_of(guard.database, row, guard.settings.policy.digest)))

    blueprint.add_url_rule(API_PATH, "gatekeeper_state", state, methods=["GET"])


def _guard() -> tuple[Any, str, str]:
    from mlflow.server.handlers import _get_model_registry_store

    store = _get_model_registry_store()
    return store._guard, store.db_uri, store._get_active_workspace()
