"""A real `gatekeeper server` process on a port of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from postgres import free_port

START_S = 400  # MLflow takes half a minute on a busy machine


@dataclass(frozen=True)
class Served:
    """A gated server and where its things are."""

    address: str
    database: str  # plain URI
    root: Path
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: dict[str, Any], prefix: str = "/api/2.0/mlflow", **rest: Any):
        return requests.post(f"{self.address}{prefix}/{path}", json=body, timeout=60, **rest)

    def client(self):
        from mlflow import MlflowClient

        return MlflowClient(self.address)

    def version(self, name: str, content: str = "weights") -> str:
        """Upload files and register them as the next version of `name`."""
        from mlflow.exceptions import MlflowException

        client = self.client()
        run = client.create_run("0")
        client.log_text(run.info.run_id, content, "model/weights.txt")
        client.set_terminated(run.info.run_id)
        with contextlib.suppress(MlflowException):
            client.create_registered_model(name)
        source = f"{run.info.artifact_uri}/model"
        return str(client.create_model_version(name, source, run.info.run_id).version)


@contextlib.contextmanager
def serving(
    root: Path, database: str, *options: str, auth: tuple[str, str] | None = None, **env: str
) -> Iterator[Served]:
    """Run the server until the block ends; `root` receives artifacts and the log."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "GATEKEEPER_"))}
    command = [sys.executable, "-m", "gatekeeper.cli.main", "server", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(root / "artifacts")]
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1", *options],
            cwd=root,
            env={**kept, **env},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its own children can be ended with it
        )
        try:
            _await(process, address, root, auth)
            yield Served(address=address, database=database, root=root, process=process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _await(process: subprocess.Popen[bytes], address: str, root: Path, auth: Any) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{address}/health", auth=auth, timeout=5).ok:
                return
        time.sleep(0.5)
    raise RuntimeError((root / "server.log").read_text()[-3000:])
