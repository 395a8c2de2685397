"""`gatekeeper server`: a plain MLflow client meets the gate, and an ungated server never starts."""

import contextlib
import signal
import threading
from pathlib import Path

import pytest
import requests
from gate_rows import approve, queued, trail
from mlflow.exceptions import MlflowException
from postgres import fresh_database, running
from server_process import serving

from gatekeeper.errors import GateError, ServiceError
from gatekeeper.gate.server import plan, probe


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.integration, pytest.mark.slow]),
    ],
)
def served(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    if request.param == "sqlite":
        with serving(root, f"sqlite:///{root / 'mlflow.db'}") as server, _beside(server):
            yield server
        return
    with (
        running() as cluster,
        serving(root, fresh_database(cluster, "mlflow")) as server,
        _beside(server),
    ):
        yield server


@contextlib.contextmanager
def _beside(server):
    """Look at the artifacts where the server keeps them, as a worker beside it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ARTIFACTS_DESTINATION", str(server.root / "artifacts"))
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        patch.delenv("GATEKEEPER_DATABASE_URI", raising=False)
        yield


def test_the_whole_dance_with_a_plain_client(served):
    client = served.client()
    version = served.version("dance")
    with pytest.raises(MlflowException) as caught:
        client.set_registered_model_alias("dance", "production", version)
    assert "PERMISSION_DENIED" in str(caught.value)
    assert "gatekeeper promote models:/dance/1 --alias production --wait" in str(caught.value)
    (job,) = [j for j in queued(served.database) if j.request.row.name == "dance"]
    assert job.request.fingerprint

    run = client.create_run("0").info.run_id
    approve(served.database, "dance", version, "fail", run_id=run)
    with pytest.raises(MlflowException) as caught:
        client.set_registered_model_alias("dance", "production", version)
    assert "target 'ship'" in str(caught.value)
    assert f"{served.address}/#/experiments/0/runs/{run}" in str(caught.value)

    approve(served.database, "dance", version, "pass")
    client.set_registered_model_alias("dance", "production", version)
    assert client.get_model_version_by_alias("dance", "production").version == version
    written = [a.decision for a in trail(served.database) if a.name == "dance"]
    assert written == ["allow", "refuse", "hold"]


def test_the_scan_of_a_worker_beside_the_server_matches_the_servers_own_listing(served):
    from gatekeeper.gate import db
    from gatekeeper.gate.fingerprint import list_now

    served.version("listed")
    with pytest.raises(MlflowException):
        served.client().set_registered_model_alias("listed", "prod", "1")
    (job,) = [j for j in queued(served.database) if j.request.row.name == "listed"]
    row = db.version_row(served.database, "listed", 1)
    assert row.storage_location.startswith("mlflow-artifacts:/")
    assert list_now(row.storage_location).fingerprint == job.request.fingerprint


def test_approved_bytes_overwritten_through_the_proxy_are_held(served):
    client = served.client()
    version = served.version("swapped")
    approve(served.database, "swapped", version)
    run = client.get_model_version("swapped", version).run_id
    client.log_text(run, "evil", "model/weights.txt")
    with pytest.raises(MlflowException, match="changed since they were scanned"):
        client.set_registered_model_alias("swapped", "production", version)


@pytest.mark.parametrize("prefix", ["/api/2.0/mlflow", "/ajax-api/2.0/mlflow"])
@pytest.mark.parametrize(
    "alias", ["production", "Production", "\uff50\uff52\uff4f\uff44", "\u0440roduction", " prod"]
)
def test_every_rest_path_and_spelling_is_refused(served, prefix, alias):
    if not _exists(served, "spelled"):
        served.version("spelled")
    body = {"name": "spelled", "alias": alias, "version": "1"}
    answer = served.post("registered-models/alias", body, prefix)
    assert answer.status_code in (400, 403)
    assert "spelled" not in [
        h.name for h in served.client().search_registered_models() if h.aliases
    ]


def test_stage_tag_rename_and_copy_by_rest(served):
    served.version("by-rest")
    stage = {
        "name": "by-rest",
        "version": "1",
        "stage": "production",
        "archive_existing_versions": True,
    }
    tag = {"name": "by-rest", "version": "1", "key": "gatekeeper.verdict", "value": "pass"}
    assert served.post("model-versions/transition-stage", stage).status_code == 403
    assert served.post("model-versions/set-tag", tag).status_code == 403
    forged = {
        "name": "by-rest",
        "source": "models:/by-rest/1",
        "tags": [{"key": k, "value": "x"} for k in ("gatekeeper.verdict",)],
    }
    assert served.post("model-versions/create", forged).status_code == 403
    hidden = {"name": "by-rest", "key": "mlflow.prompt.is_prompt", "value": "true"}
    assert served.post("registered-models/set-tag", hidden).status_code == 403
    client = served.client()
    approve(served.database, "by-rest", "1")
    copied = client.copy_model_version("models:/by-rest/1", "by-copy")
    client.set_registered_model_alias("by-copy", "champion", copied.version)


def test_deleted_and_made_again_needs_a_new_scan(served):
    client = served.client()
    served.version("phoenix")
    approve(served.database, "phoenix", "1")
    client.delete_registered_model("phoenix")
    served.version("phoenix", "evil")
    with pytest.raises(MlflowException, match="not been scanned"):
        client.set_registered_model_alias("phoenix", "production", "1")


def test_prompts_work_as_ever(served):
    client = served.client()
    client.create_prompt("greeting")
    client.create_prompt_version("greeting", "hello {{name}}")
    client.set_prompt_alias("greeting", "production", 1)


def test_many_clients_at_once_get_one_answer_and_one_job(served):
    served.version("crowd")
    answers: list[int] = []

    def ask() -> None:
        body = {"name": "crowd", "alias": "prod", "version": "1"}
        answers.append(served.post("registered-models/alias", body).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [403] * 8
    assert len([j for j in queued(served.database) if j.request.row.name == "crowd"]) == 1
    assert len([a for a in trail(served.database) if a.name == "crowd"]) == 8


def test_the_page_shows_the_trail_escaped_and_self_contained(served):
    name = "<img src=x onerror=alert(1)>"
    served.version(name)
    with pytest.raises(MlflowException):
        served.client().set_registered_model_alias(name, "production", "1")
    page = requests.get(f"{served.address}/gatekeeper", timeout=30)
    assert page.status_code == 200
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.text
    assert "<img" not in page.text
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    told = requests.get(f"{served.address}/gatekeeper.json", timeout=30).json()
    assert told["mode"] == "enforce"
    assert told["attempts"][0]["name"] == name


def test_the_ui_and_runs_are_served_as_ever(served):
    assert '<div id="root"' in requests.get(served.address, timeout=30).text
    assert served.client().create_experiment("mine")


def _exists(served, name: str) -> bool:
    return bool(served.client().search_registered_models(f"name = '{name}'"))


# Starting ----------------------------------------------------------------------------------------


@pytest.fixture
def plain_environment(monkeypatch, tmp_path):
    for name in ("MLFLOW_REGISTRY_STORE_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("plain_environment")
class TestPlan:
    def test_the_registry_is_the_gated_backend(self):
        launch = plan(["--backend-store-uri", "sqlite:///m.db", "--port", "5001"])
        assert launch.registry_uri == "gatekeeper+sqlite:///m.db"
        assert launch.environment["MLFLOW_REGISTRY_STORE_URI"] == "gatekeeper+sqlite:///m.db"
        assert launch.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
        assert launch.arguments[-2:] == ("--app-name", "gatekeeper")

    def test_credentials_stay_off_the_command_line(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://me:secret@db/m")
        launch = plan([])
        assert "secret" not in " ".join(launch.arguments)
        assert "secret" in launch.registry_uri

    def test_a_gated_registry_of_ones_own_is_kept(self):
        uri = "gatekeeper+postgresql://db/registry"
        launch = plan(["--backend-store-uri", "sqlite:///m.db", f"--registry-store-uri={uri}"])
        assert launch.registry_uri == uri

    def test_basic_auth_is_wrapped(self):
        launch = plan(["--backend-store-uri", "sqlite:///m.db", "--app-name", "basic-auth"])
        assert launch.basic_auth
        assert launch.environment["GATEKEEPER_BASIC_AUTH"] == "true"
        assert launch.arguments[-1] == "gatekeeper"

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--registry-store-uri", "sqlite:///m.db"], "without the gate"),
            (["--registry-store-uri=postgresql://u:secret@db/m"], "without the gate"),
            (["--backend-store-uri", "./mlruns"], "no database"),
            (["--backend-store-uri", "file:///mlruns"], "no database"),
            (["--backend-store-uri", "gatekeeper+sqlite:///m.db"], "must stay plain"),
            (["--backend-store-uri", "sqlite:///m.db", "--artifacts-only"], "no registry"),
        ],
    )
    def test_what_would_not_be_gated_is_refused(self, arguments, says):
        with pytest.raises(GateError, match=says) as caught:
            plan(arguments)
        assert caught.value.hint
        assert "secret" not in str(caught.value)
        assert caught.value.exit_code == 2

    def test_a_registry_that_is_not_the_gate_fails_the_probe(self, tmp_path):
        with pytest.raises(GateError, match="SqlAlchemyStore, not the gate"):
            probe(f"sqlite:///{tmp_path / 'm.db'}")

    def test_a_database_that_is_away_is_a_service_error(self, monkeypatch):
        monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
        with pytest.raises(ServiceError) as caught:
            probe("gatekeeper+postgresql://me:secret@127.0.0.1:1/m")
        assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_basic_auth_guards_the_page_and_names_who_asked(tmp_path):
    pytest.importorskip("flask_wtf")
    config = tmp_path / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{tmp_path / 'auth.db'}\n"
        "admin_username = admin\nadmin_password = correct-horse-battery\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    env = {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "test",
    }
    admin = ("admin", "correct-horse-battery")
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with serving(tmp_path, database, "--app-name", "basic-auth", auth=admin, **env) as server:
        page = f"{server.address}/gatekeeper"
        assert requests.get(page, timeout=30).status_code == 401
        user = {"username": "alice", "password": "alice-long-password"}
        made = server.post("users/create", user, auth=admin)
        assert made.ok, made.text
        alice = ("alice", "alice-long-password")
        assert server.post("registered-models/create", {"name": "hers"}, auth=alice).ok
        source = {"name": "hers", "source": "s3://somewhere/model"}
        assert server.post("model-versions/create", source, auth=alice).ok
        body = {"name": "hers", "alias": "production", "version": "1"}
        for who in (alice, admin):  # admins are refused like everyone
            answer = server.post("registered-models/alias", body, auth=who)
            assert answer.status_code == 403
            assert "gatekeeper" in answer.json()["message"]
        assert [a.who for a in trail(database)] == ["admin", "alice"]
        assert requests.get(page, auth=alice, timeout=30).status_code == 200


@pytest.mark.slow
def test_sigterm_ends_the_server(tmp_path):
    with serving(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}") as server:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.address}/health", timeout=5)


@pytest.mark.slow
def test_every_process_of_the_server_refuses_alike(tmp_path):
    """MLflow hands each request to any of its processes: all of them are the gate."""
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with serving(tmp_path, database, "--workers", "2") as server, _beside(server):
        server.version("crowd")
        body = {"name": "crowd", "alias": "production", "version": "1"}
        answers: list[requests.Response] = []

        def ask() -> None:
            # a connection each, so that both processes get some
            answers.extend(server.post("registered-models/alias", body) for _ in range(8))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert [answer.status_code for answer in answers] == [403] * 32
        assert all("gatekeeper holds" in answer.json()["message"] for answer in answers)
        assert len(_serving_processes(server.process.pid)) == 2
        assert len([a for a in trail(database) if a.decision == "hold"]) == 32
        assert len(queued(database)) == 1
        approve(database, "crowd", "1", "pass")
        assert {server.post("registered-models/alias", body).status_code for _ in range(8)} == {200}


def _serving_processes(parent: int) -> set[int]:
    """Processes below `parent` that serve requests: uvicorn starts each by multiprocessing."""
    tree, found = {parent}, set()
    for status in sorted(Path("/proc").glob("[0-9]*/status"), key=lambda p: int(p.parent.name)):
        with contextlib.suppress(OSError, ValueError):
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if int(lines["PPid"]) in tree:
                tree.add(int(lines["Pid"]))
                command = status.with_name("cmdline").read_bytes()
                found |= {int(lines["Pid"])} if b"spawn_main" in command else set()
    return found
