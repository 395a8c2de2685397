"""Artifacts come whole or not at all, from where consumers download, and nothing is executed."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gatekeeper.errors import IntakeError, ServiceError
from gatekeeper.gate import artifacts, listing
from gatekeeper.gate.artifacts import download, fetch, parse_models_uri, storage_location, take


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "data" / "weights.bin").write_bytes(bytes(range(256)))
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("form", ["version", "alias", "logged model", "run"])
def test_every_registry_form_brings_the_same_bytes(registry, tree, tmp_path, form):
    version = registry.add(tree)
    registry.client.set_registered_model_alias("clip", "candidate", version)
    experiment = registry.client.get_experiment_by_name("zoo").experiment_id
    run = registry.client.create_run(experiment)
    registry.client.log_artifacts(run.info.run_id, str(tree), "model")
    model_id = registry.client.get_model_version("clip", version).source
    uri = {
        "version": "models:/clip/1",
        "alias": "models:/clip@candidate",
        "logged model": model_id,
        "run": f"runs:/{run.info.run_id}/model",
    }[form]
    # No file of MLflow's own (registered_model_meta) may join: the digest would not be the tree's.
    assert contents(fetch(uri, tmp_path / "got")) == contents(tree)


def test_a_borrowed_model_id_does_not_change_what_is_fetched(registry, tree, tmp_path):
    """mlflow.md B-20: source and storage location are evil, the model_id is somebody else's."""
    registry.add(tree)
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "weights.bin").write_bytes(b"evil")
    good_id = registry.client.get_model_version("clip", "1").source.removeprefix("models:/")
    registry.client.create_model_version("clip", source=evil.as_uri(), model_id=good_id)
    assert contents(fetch("models:/clip/2", tmp_path / "got")) == {"weights.bin": b"evil"}


def test_a_local_path_is_used_where_it_is(tree, tmp_path):
    assert fetch(str(tree), tmp_path / "got") == tree
    assert fetch(tree.as_uri(), tmp_path / "got") == tree
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    "uri",
    ["models:/clip/9", "models:/clip@none", "models:/nothing/1", "models:/m-0", "runs:/0000/model"],
)
def test_what_the_registry_does_not_know_is_bad_input(registry, tree, tmp_path, uri):
    registry.add(tree)
    with pytest.raises(IntakeError) as caught:
        fetch(uri, tmp_path / "got")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    "uri", ["models:/", "models:/clip", "models://host/clip/1", "models:/clip/1/sub", "models:/a/b"]
)
def test_malformed_model_uris_are_bad_input(uri):
    with pytest.raises(IntakeError, match="not a model URI"):
        parse_models_uri(uri)


def test_a_missing_path_is_bad_input(tmp_path):
    with pytest.raises(IntakeError, match="no such file"):
        fetch(str(tmp_path / "nothing"), tmp_path / "got")


@pytest.mark.parametrize("location", ["http://127.0.0.1/x", "dbfs:/x", "hf://x/y", "ftp://x/y"])
def test_schemes_that_reach_elsewhere_are_refused(location):
    with pytest.raises(IntakeError, match="not read from"):
        listing.checked_location(location)


def test_credentials_are_not_sent_to_a_server_that_the_registrant_names():
    with pytest.raises(IntakeError, match="server of its own"):
        storage_location("mlflow-artifacts://evil.example/1/models/m-1/artifacts")


def test_a_dead_registry_is_a_missing_service_within_seconds(monkeypatch, tmp_path):
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with pytest.raises(ServiceError) as caught:
        fetch("models:/clip/1", tmp_path / "got")
    assert caught.value.exit_code == 4
    assert "MLFLOW_TRACKING_URI" in caught.value.hint


def test_a_server_that_only_fails_is_a_missing_service(monkeypatch, tmp_path):
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(500)
            self.end_headers()

        def log_message(self, *arguments):
            return

    server = HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    try:
        with pytest.raises(ServiceError):
            fetch("models:/clip/1", tmp_path / "got")
    finally:
        server.shutdown()
        server.server_close()


def test_an_empty_artifact_folder_is_bad_input(registry, tree, tmp_path):
    version = registry.add(tree)
    for path in registry.stored("clip", version).rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(IntakeError, match="no files"):
        fetch("models:/clip/1", tmp_path / "got")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\b", "a//b", "a\nb"])
def test_object_names_that_would_leave_the_folder_are_refused(monkeypatch, tmp_path, name):
    item = listing.StoredObject(path=name, size_bytes=1, stamp="x", root=str(tmp_path))
    monkeypatch.setattr(listing, "_listed_local", lambda root: iter([item]))
    with pytest.raises(IntakeError, match="would leave"):
        download(str(tmp_path), tmp_path / "into" / "got")


def test_a_transfer_that_breaks_off_leaves_nothing(monkeypatch, tree, tmp_path):
    real = artifacts.copy_object

    def breaking(item, folder):
        if item.path.endswith("weights.bin"):
            raise OSError(28, "No space left on device")
        real(item, folder)

    monkeypatch.setattr(artifacts, "copy_object", breaking)
    with pytest.raises(ServiceError, match="No space left"):
        download(str(tree), tmp_path / "into" / "got")
    assert list((tmp_path / "into").iterdir()) == []


def test_bytes_swapped_while_they_are_read_are_not_taken(monkeypatch, tree, tmp_path):
    real = artifacts.copy_object

    def swapping(item, folder):
        real(item, folder)
        (tree / "MLmodel").write_text("flavors: {}\n")  # the same bytes, written again

    monkeypatch.setattr(artifacts, "copy_object", swapping)
    with pytest.raises(ServiceError, match="changed while they were read"):
        take(str(tree), tmp_path / "into" / "got")
    assert not (tmp_path / "into" / "got").exists()


def test_the_fingerprint_sees_bytes_put_back_with_their_old_time(tree, tmp_path):
    import os

    before = listing.fingerprint(str(tree))
    file = tree / "data" / "weights.bin"
    was, stat = file.read_bytes(), file.stat()
    file.write_bytes(b"evil")
    file.write_bytes(was)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert listing.fingerprint(str(tree)) != before
    assert listing.fingerprint(str(tree)) == listing.fingerprint(str(tree))
