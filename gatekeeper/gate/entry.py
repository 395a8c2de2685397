"""Entry points: what MLflow loads by name. Nothing of MLflow's is imported before it is called.

MLflow reads its plug-ins while half imported; a module that imports its stores at that moment
fails, and MLflow would go on with a warning.
"""

from typing import Any


def build_registry_store(store_uri: str, tracking_uri: str | None = None) -> Any:
    """Return the gated registry store (entry point group `mlflow.model_registry_store`)."""
    from gatekeeper.gate.store import make_store

    return make_store(store_uri)


def create_app() -> Any:
    """Return MLflow's app with the page `/gatekeeper` (entry point group `mlflow.app`)."""
    from gatekeeper.gate.app import compose

    return compose()
