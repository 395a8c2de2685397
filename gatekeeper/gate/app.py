"""MLflow's app with the gate's page in it, behind basic-auth where that is on."""

import os
from typing import Any

AUTH = "GATEKEEPER_BASIC_AUTH"  # set by `gatekeeper server --app-name basic-auth`


def compose() -> Any:
    """Return the app for whichever server runs it: ASGI under uvicorn, Flask under gunicorn.

    The page is a Flask blueprint: a route of FastAPI's own would answer anonymous users even with
    basic-auth on.
    """
    from mlflow.server import app

    from gatekeeper.gate.page import PATHS, blueprint

    if "gatekeeper" not in app.blueprints:
        app.register_blueprint(blueprint())
    if os.environ.get(AUTH) == "true":
        from mlflow.server import auth

        for path in PATHS:
            # Without an entry here a logged-in user who is no admin is turned away.
            auth.BEFORE_REQUEST_VALIDATORS[(path, "GET")] = lambda: True
        return auth.create_app(app)
    if os.environ.get("_MLFLOW_SGI_NAME") == "uvicorn":
        from mlflow.server.fastapi_app import create_fastapi_app

        return create_fastapi_app(app)
    return app
