"""The demo's server and worker: real processes, started here and stopped by their id."""

import ctypes
import gc
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gatekeeper.errors import ServiceError
from gatekeeper.policy.schema import DEFAULT_NAME, shipped_policies

START_S = 300.0  # MLflow imports much; a busy machine needs minutes
STOP_S = 20.0
WORK = ("-m", "gatekeeper.cli.main", "worker", "--once")
_SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the demo lives: a folder and a port."""

    folder: Path
    port: int
    home: Path  # caches

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        """URI of the server's database."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def base(self) -> Path:
        """The model that both copies are made of, and that the policy names as the anchor."""
        return self.folder / "base"

    @property
    def policy(self) -> Path:
        """The policy of server and worker."""
        return self.folder / "policy.yaml"

    def environment(self) -> dict[str, str]:
        """Return the environment of the demo's processes: this one's, less its MLflow and gate."""
        foreign = ("MLFLOW_", "GATEKEEPER_", "_MLFLOW_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        ours = {"GATEKEEPER_HOME": str(self.home), "GATEKEEPER_POLICY": str(self.policy)}
        return {**kept, **_SILENCE, **ours}


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_policy(place: Place) -> None:
    """Write the default policy with one line changed: the public base is the anchor.

    It is what a team does that knows what its models were fine-tuned from. Server and worker read
    the policy when they start, long before the base is built.
    """
    policy = yaml.safe_load(shipped_policies()[DEFAULT_NAME].read_text())
    policy["name"] = "demo"
    policy["scan"]["anchor"] = str(place.base)
    head = (
        "# gatekeeper's default policy, with the public base model as the anchor (scan.anchor).\n"
    )
    place.policy.write_text(head + yaml.safe_dump(policy, sort_keys=False))


def start_server(place: Place) -> "subprocess.Popen[bytes]":
    """Start `gatekeeper server`; it takes a while until it answers (see `await_server`)."""
    artifacts = place.folder / "artifacts"
    arguments = ["--host", "127.0.0.1", "--port", str(place.port), "--workers", "1"]
    arguments += ["--backend-store-uri", place.database]
    arguments += ["--artifacts-destination", artifacts.as_uri()]
    with (place.folder / "server.log").open("wb") as sink:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-m", "gatekeeper.cli.main", "server", *arguments],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=place.environment(),
            cwd=place.folder,
            start_new_session=True,  # MLflow starts workers of its own: they are stopped with it
        )


def await_server(server: "subprocess.Popen[bytes]", place: Place) -> None:
    """Return once the server answers.

    Raises:
        ServiceError: It ended, or does not answer in time.
    """
    log = place.folder / "server.log"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServiceError(
                f"the demo's server ended with exit code {server.returncode}",
                hint=f"its log is {log}; is port {place.port} taken?",
            )
        try:
            with urllib.request.urlopen(f"{place.url}/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise ServiceError(
        f"the demo's server does not answer at {place.url} after {START_S:.0f} s",
        hint=f"its log is {log}",
    )


def work_off(place: Place, say: Callable[[str], None]) -> None:
    """Run `gatekeeper worker --once` until the queue is empty; its lines go to `say`.

    Raises:
        ServiceError: The worker failed.
    """
    worker = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        [sys.executable, *WORK],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **place.environment(),
            "MLFLOW_TRACKING_URI": place.url,
            "GATEKEEPER_DATABASE_URI": place.database,
        },
        cwd=place.folder,
        start_new_session=True,
    )
    try:
        with (place.folder / "worker.log").open("wb") as log:
            for line in worker.stdout or ():
                log.write(line)
                log.flush()
                say(line.decode(errors="replace").rstrip())
        code = worker.wait()
    finally:
        stop(worker)
    if code != 0:
        killed = "was killed: a scan needs up to 4 GB of memory" if code == -signal.SIGKILL else ""
        raise ServiceError(
            f"the demo's worker {killed or f'ended with exit code {code}'}",
            hint=f"its log is {place.folder / 'worker.log'}",
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process that was started here, and the workers it started."""
    if process.poll() is not None:
        return
    _signal(process, signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()


def give_memory_back() -> None:
    """Return freed memory to the system: the worker needs it, and `tune_allocator` keeps it all."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return


def settle(place: Place) -> Mapping[str, str]:
    """Point this process's MLflow client at the demo's server; return what was set."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]  # another server's address or password
    wanted = {**_SILENCE, "MLFLOW_TRACKING_URI": place.url}
    os.environ.update(wanted)
    return wanted


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)  # its own session: the group is what it started
    except ProcessLookupError:
        return
