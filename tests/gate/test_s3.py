"""PostgreSQL, S3, a gated server and a worker process: the story of a promotion, end to end.

The scanner is a stand-in that judges by a word in the weights; everything else is real. S3 is
moto's server. `direct`: clients write to S3; `proxied`: through the server, and the worker is told
the server's destination; `behind`: the worker knows only the server.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
from gate_rows import queued, trail
from postgres import fresh_database, running
from server_process import Served, serving

from gatekeeper.gate import db
from gatekeeper.gate.moves import Names, NotMovedError, move

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PROGRAM = Path(__file__).with_name("stand_in_worker.py")
WEIGHTS = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Site:
    """A server on PostgreSQL and S3, and what a worker beside it is told."""

    server: Served
    s3: Any
    root: Path
    worker: dict[str, str]

    def add(self, name: str, content: bytes) -> None:
        """Upload a model and register it as the next version of `name`."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"name": name}}))
        (folder / WEIGHTS).write_bytes(content)
        client = self.server.client()
        run = client.create_run("0")
        client.log_artifacts(run.info.run_id, str(folder), "model")
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)

    def work(self) -> str:
        """Let a worker process empty the queue; return what it said."""
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--once", "--device", "cpu"],
            env={**os.environ, **self.worker},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    def key(self, name: str, version: int = 1) -> str:
        """The key of a version's weights in the bucket."""
        row = db.version_row(self.server.database, name, version)
        path = urlparse(row.storage_location).path.strip("/")
        prefix = "" if row.storage_location.startswith("s3:") else "kept/"
        return f"{prefix}{path}/{WEIGHTS}"

    def jobs(self, name: str) -> list[db.Job]:
        """Open jobs of a model."""
        return [job for job in queued(self.server.database) if job.request.row.name == name]


@pytest.fixture(scope="module")
def cluster():
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def store():
    """moto's S3 with two buckets; yields the environment of its users and a client."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"])
        for bucket in ("models", "proof"):
            client.create_bucket(Bucket=bucket)
        yield environment, client
    server.stop()


@pytest.fixture(scope="module", params=["direct", "proxied", "behind"])
def site(request, cluster, store, tmp_path_factory):
    environment, client = store
    root = tmp_path_factory.mktemp(request.param)
    database = fresh_database(cluster, request.param)
    place = "s3://models/kept"
    options = ["--artifacts-destination", place]
    if request.param == "direct":
        options = ["--default-artifact-root", place, "--no-serve-artifacts"]
    worker = {
        "GATEKEEPER_DATABASE_URI": database,
        "GATEKEEPER_EVIDENCE": f"s3://proof/{request.param}",
        "GATEKEEPER_HOME": str(root / "home"),
        "STAND_IN_LOG": str(root / "scans.log"),
    }
    if request.param == "proxied":
        worker["MLFLOW_ARTIFACTS_DESTINATION"] = place
    with (
        serving(root, database, *options, **environment) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("GATEKEEPER_DATABASE_URI", "MLFLOW_ARTIFACTS_DESTINATION"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield Site(server=server, s3=client, root=root, worker=worker)


def ask(uri: str) -> str | None:
    """Ask for the alias; return the gate's words, None where it moved."""
    try:
        move(uri, Names(alias="production"))
    except NotMovedError as refusal:
        return refusal.message
    return None


def test_a_clean_model_is_held_scanned_and_promoted(site):
    site.add("clean", b"clean weights")
    assert "holds" in ask("models:/clean/1")
    (job,) = site.jobs("clean")
    assert job.request.fingerprint.startswith("meta:")
    site.work()
    assert ask("models:/clean/1") is None
    assert [a.decision for a in trail(site.server.database)[:2]] == ["allow", "hold"]


def test_a_planted_model_is_refused_and_its_cleaned_version_promoted(site):
    site.add("planted", b"planted weights")
    assert "holds" in ask("models:/planted/1")
    site.work()
    told = ask("models:/planted/1")
    assert "refuses" in told
    assert "models:/planted/2" in told
    assert f"{site.server.address}/#/experiments/" in told
    assert ask("models:/planted/2") is None
    tags = site.server.client().get_model_version("planted", "2").tags
    assert tags["gatekeeper.rectified_from"] == "models:/planted/1"


def test_every_decision_has_its_evidence_on_s3(site):
    site.add("proven", b"clean proof")
    ask("models:/proven/1")
    site.work()
    with db.Database.open(site.server.database).reading() as connection:
        found = db.decisions(connection, 1)[0]
    place = urlparse(found.evidence_uri)
    listed = site.s3.list_objects_v2(Bucket=place.netloc, Prefix=place.path.strip("/"))
    names = {entry["Key"].rsplit("/", 1)[-1] for entry in listed["Contents"]}
    assert {"report.json", "report.html", "manifest.json"} <= names
    assert "report.html" in {
        item.path for item in site.server.client().list_artifacts(found.run_id)
    }


@pytest.mark.parametrize("content", [b"clean weights", b"other weights", b"longer weights"])
def test_a_swap_on_s3_is_held_even_with_the_same_bytes(site, content):
    """The same bytes written again have the same ETag: the time tells, and a scan must confirm."""
    name = f"swapped-{content.split()[0].decode()}"
    site.add(name, b"clean weights")
    ask(f"models:/{name}/1")
    site.work()
    assert ask(f"models:/{name}/1") is None
    time.sleep(1.1)  # S3 tells times in seconds
    site.s3.put_object(Bucket="models", Key=site.key(name), Body=content)
    assert "changed since they were scanned" in ask(f"models:/{name}/1")
    site.work()
    assert ask(f"models:/{name}/1") is None


def test_files_taken_away_from_s3_are_held(site):
    site.add("gone", b"clean but gone")
    ask("models:/gone/1")
    site.work()
    listed = site.s3.list_objects_v2(Bucket="models", Prefix=site.key("gone").rsplit("/", 1)[0])
    for entry in listed["Contents"]:
        site.s3.delete_object(Bucket="models", Key=entry["Key"])
    assert "there are no files" in ask("models:/gone/1")
