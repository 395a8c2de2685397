"""Evidence lies in MLflow and in the evidence store, byte for byte, or nothing may be announced."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from gate_samples import ROWS, STEPS, bundle, quality, report, scan

from gatekeeper.errors import EvidenceError
from gatekeeper.gate import runs, tracking
from gatekeeper.gate.evidence_store import (
    bundle_files,
    file_digest,
    probe_evidence_store,
    store_evidence,
)
from gatekeeper.gate.pictures import spread
from gatekeeper.types import Verdict


@pytest.fixture
def failing():
    return report(Verdict.FAIL)


@pytest.fixture
def written(failing, tmp_path):
    return bundle(failing, tmp_path / "report")


def artifacts(client, run_id, folder=None):
    found = []
    for item in client.list_artifacts(run_id, folder):
        found += artifacts(client, run_id, item.path) if item.is_dir else [item.path]
    return found


def load(registry, run, name, folder):
    """A logged table, by column."""
    file = registry.client.download_artifacts(run.run_id, name, str(folder))
    document = json.loads(Path(file).read_text())
    return {
        column: [row[place] for row in document["data"]]
        for place, column in enumerate(document["columns"])
    }


def test_a_scan_leaves_one_run_with_everything_in_it(registry, failing, written, tmp_path):
    made = tracking.log_scan(scan(failing), bundle_files(written), model="models:/clip/1")
    run = registry.client.get_run(made.run_id)
    experiment = registry.client.get_experiment(run.info.experiment_id)
    assert (experiment.name, run.info.status) == ("gatekeeper", "FINISHED")
    assert run.data.metrics["backdoor.score"] == pytest.approx(0.97)
    assert run.data.metrics["score"] == pytest.approx(0.97)
    assert run.data.metrics["cost.image_passes"] == 800
    assert run.data.params["digest"] == failing.model.digest
    assert run.data.params["policy"] == f"default {failing.policy.digest}"
    assert run.data.params["arch"] == "RN50"
    assert run.data.tags["gatekeeper.verdict"] == "fail"
    assert "tench" in run.data.tags["mlflow.note.content"]
    names = artifacts(registry.client, made.run_id)
    assert {"report.json", "report.html", "validation.json", "manifest.json"} <= set(names)
    got = registry.client.download_artifacts(made.run_id, "report.html", str(tmp_path))
    assert file_digest(tmp_path / "report.html") == file_digest(written.root / "report.html"), got


def test_the_label_table_shows_pictures_and_the_rest_goes_without(
    registry, failing, written, tmp_path
):
    made = tracking.log_scan(scan(failing), bundle_files(written), model="m")
    table = load(registry, made, "labels.json", tmp_path)
    assert table["label"][:2] == ["tench", "goldfish"]  # target, then victims
    assert table["CLIP says"][1] == "tench"
    assert table["the oracle sees"][1] == "goldfish"
    assert table["clean"][1]["type"] == "image"
    assert len(load(registry, made, "all_labels.json", tmp_path)["label"]) == len(ROWS)


def test_the_search_is_an_image_series_and_a_curve(registry, failing, written):
    made = tracking.log_scan(scan(failing), bundle_files(written), model="m")
    names = [n for n in artifacts(registry.client, made.run_id) if n.startswith("images/")]
    assert sum(name.endswith(".png") for name in names) == 24
    curve = registry.client.get_metric_history(made.run_id, "search.patch-24.concentration")
    assert len(curve) == len(STEPS)


def test_spread_keeps_the_first_and_the_last_step():
    kept = spread(STEPS, 24)
    assert (len(kept), kept[0], kept[-1]) == (24, STEPS[0], STEPS[-1])


def test_a_repair_run_tells_before_and_after(registry, tmp_path):
    made = report(Verdict.PASS)
    out = tmp_path / "rectified"
    written = bundle(made, out)
    (out / "model").mkdir()
    (out / "model" / "weights.safetensors").write_bytes(b"cleaned")
    (out / "rescan").mkdir()
    (out / "rescan" / "report.json").write_text("{}")
    result = SimpleNamespace(
        report=made,
        rescan=scan(made),
        bundle=written,
        out=out,
        before=quality(0.98),
        after=quality(0.01),
        proof=SimpleNamespace(checks=[SimpleNamespace(id="path", after=0.6)]),
        images_used=60,
        method="compact",
    )
    with_model = tracking.rectification_files(result, with_model=True)
    assert "model/weights.safetensors" in with_model
    files = tracking.rectification_files(result)
    assert "model/weights.safetensors" not in files
    assert "rescan/report.json" in files
    run = tracking.log_rectification(result, files, model="models:/clip/1")
    found = registry.client.get_run(run.run_id).data
    assert found.metrics["before.attack_success"] == pytest.approx(0.98)
    assert found.metrics["after.attack_success"] == pytest.approx(0.01)
    assert found.metrics["proof.path"] == 0.6
    assert "after.rebound" not in found.metrics  # not measured, so absent
    assert found.tags["gatekeeper.rectified_from"] == "models:/clip/1"


def test_a_run_whose_bytes_do_not_come_back_is_failed(registry, failing, written, monkeypatch):
    real = registry.client.log_artifact

    def corrupting(run_id, path, folder=None):
        if path.endswith("report.json"):
            path = str(written.root / "validation.json")
        real(run_id, path, folder)

    monkeypatch.setattr(registry.client, "log_artifact", corrupting)
    with pytest.raises(EvidenceError, match=r"report\.json"):
        tracking.log_scan(scan(failing), bundle_files(written), model="m", client=registry.client)
    experiment = registry.client.get_experiment_by_name("gatekeeper")
    (run,) = registry.client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_a_dead_tracking_server_is_an_evidence_error(monkeypatch, failing, written):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EvidenceError) as caught:
        tracking.log_scan(scan(failing), bundle_files(written), model="m")
    assert caught.value.exit_code == 4


def test_a_local_scan_without_a_server_says_that_nothing_is_logged(monkeypatch, failing, written):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("GATEKEEPER_EVIDENCE", raising=False)
    said = []
    tracking.log_local_scan(scan(failing), written, model="./model", say=said.append)
    assert "MLFLOW_TRACKING_URI is not set" in said[0]


def test_only_the_bundle_is_logged_not_what_else_lies_in_the_output(registry, failing, written):
    (written.root / "private.txt").write_text("mine")
    said = []
    tracking.log_local_scan(scan(failing), written, model="./model", say=said.append)
    run_id = said[-1].rsplit(" ", 1)[-1]
    assert "private.txt" not in artifacts(registry.client, run_id)


def test_a_parent_run_is_named_where_mlflow_run_started_us(registry, failing, written, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    made = tracking.log_scan(scan(failing), bundle_files(written), model="m")
    assert registry.client.get_run(made.run_id).data.tags["mlflow.parentRunId"] == "0123"


def test_run_addresses_hide_credentials(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://alice:secret@mlflow.example/base/")
    run = runs.EvidenceRun(run_id="r", experiment_id="7")
    assert run.url == "https://mlflow.example/base/#/experiments/7/runs/r"


def test_evidence_in_a_folder_is_complete_and_stored_twice_without_harm(written, tmp_path):
    root = tmp_path / "evidence"
    where = store_evidence(bundle_files(written), "one", str(root))
    again = store_evidence(bundle_files(written), "one", str(root))
    assert where == again == str(root / "one")
    document = json.loads((root / "one" / "manifest.json").read_text())
    for file in document["files"]:
        assert file_digest(root / "one" / file["path"]) == file["sha256"]
    assert [path.name for path in root.iterdir()] == ["one"]  # nothing half-written beside it


def test_other_evidence_under_the_same_name_is_not_overwritten(written, tmp_path):
    root = tmp_path / "evidence"
    store_evidence(bundle_files(written), "one", str(root))
    (root / "one" / "report.json").write_text("{}")
    with pytest.raises(EvidenceError, match=r"report\.json is of other content"):
        store_evidence(bundle_files(written), "one", str(root))


def test_no_store_is_asked_for_none_is_used(written, monkeypatch):
    monkeypatch.delenv("GATEKEEPER_EVIDENCE", raising=False)
    assert store_evidence(bundle_files(written), "one") is None


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from gatekeeper.errors import EvidenceError
from gatekeeper.gate.evidence_store import files_in, store_evidence
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store_evidence(files_in(Path(sys.argv[1])), "one", sys.argv[2])
except EvidenceError as error:
    sys.exit(f"{error.exit_code} {error}")
"""


def test_a_full_disk_is_an_evidence_error_and_leaves_nothing(written, tmp_path):
    """The limit on file size makes every write beyond 1,000 bytes fail, as a full disk does."""
    assert hasattr(signal, "SIGXFSZ")
    assert hasattr(resource, "RLIMIT_FSIZE")
    root = tmp_path / "evidence"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(written.root), str(root)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.stderr.startswith("4 evidence could not be stored"), done.stderr
    assert "Hint: free space" in done.stderr
    assert list(root.iterdir()) == []


@pytest.fixture
def bucket(monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    client.create_bucket(Bucket="evidence")
    yield client
    server.stop()


def test_evidence_goes_to_s3_and_is_read_back(bucket, written, monkeypatch):
    monkeypatch.setenv("GATEKEEPER_EVIDENCE", "s3://evidence/scans")
    assert store_evidence(bundle_files(written), "one") == "s3://evidence/scans/one"
    kept = bucket.get_object(Bucket="evidence", Key="scans/one/report.json")["Body"].read()
    assert kept == (written.root / "report.json").read_bytes()


def test_a_bucket_that_is_not_there_is_an_evidence_error(bucket, written):
    with pytest.raises(EvidenceError):
        store_evidence(bundle_files(written), "one", "s3://nowhere/scans")


def test_a_dead_s3_endpoint_is_an_evidence_error(bucket, written, monkeypatch):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(EvidenceError) as caught:
        store_evidence(bundle_files(written), "one", "s3://evidence/scans")
    assert caught.value.exit_code == 4


def test_artifacts_on_s3_come_from_s3_and_show_a_swap(bucket, written, tmp_path):
    from gatekeeper.gate.artifacts import take
    from gatekeeper.gate.listing import fingerprint

    store_evidence(bundle_files(written), "model", "s3://evidence/models")
    taken = take("s3://evidence/models/model", tmp_path / "got")
    assert file_digest(tmp_path / "got" / "report.json") == file_digest(
        written.root / "report.json"
    )
    assert taken.fingerprint == fingerprint("s3://evidence/models/model")
    bucket.put_object(Bucket="evidence", Key="models/model/report.json", Body=b"evil")
    assert taken.fingerprint != fingerprint("s3://evidence/models/model")


def test_a_store_is_probed_and_left_as_it_was(bucket, tmp_path):
    probe_evidence_store("s3://evidence/probed")
    assert "Contents" not in bucket.list_objects_v2(Bucket="evidence", Prefix="probed")
    probe_evidence_store(str(tmp_path / "evidence"))
    assert list((tmp_path / "evidence").iterdir()) == []


@pytest.mark.parametrize("place", ["s3://nowhere/scans", "/dev/null/evidence"])
def test_a_store_that_takes_nothing_fails_its_probe(bucket, place):
    with pytest.raises(EvidenceError):
        probe_evidence_store(place)
