"""Rows for tests of the gate: a version, a decision, a note."""

from pathlib import Path

from gatekeeper.gate import db
from gatekeeper.gate.fingerprint import list_now
from gatekeeper.policy.schema import load_policy
from gatekeeper.types import Verdict

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
POLICY = load_policy()


def row(**changes) -> db.VersionRow:
    values = {
        "workspace": "default",
        "name": "clip",
        "version": 1,
        "creation_time": 1_700_000_000_000,
        "storage_location": "/models/clip",
    }
    return db.VersionRow(**(values | changes))


def verdict(kind: str = "pass", **changes) -> db.DecisionRecord:
    values = {
        "model_digest": DIGEST,
        "policy_digest": POLICY.digest,
        "policy_name": POLICY.name,
        "verdict": Verdict(kind),
        "score": 0.97 if kind == "fail" else 0.02,
        "reasons": ("a patch turns images into 'ship'",) if kind == "fail" else ("nothing found",),
        "targets": ("ship",) if kind == "fail" else (),
        "decided_at": db.now_ms(),
        "expires_at": None,
        "decided_by": "test",
    }
    return db.DecisionRecord(**(values | changes))


def approve(uri: str, name: str, version: str | int, kind: str = "pass", **changes) -> int:
    """Note the bytes of a version as scanned now and decide on them."""
    digest = changes.setdefault("model_digest", DIGEST)
    found = db.version_row(uri, name, int(version))
    assert found is not None
    listing = list_now(found.storage_location)
    assert listing.fingerprint, listing.problem
    database = db.Database.open(uri)
    with database.begin() as connection:
        db.note_artifact(
            connection, found, digest=digest, fingerprint=listing.fingerprint, kind="clip"
        )
        return db.record_decision(connection, verdict(kind, **changes))


def trail(uri: str) -> list[db.Attempt]:
    """The trail, newest first."""
    with db.Database.open(uri).reading() as connection:
        return list(db.attempts(connection, 1000))


def queued(uri: str) -> list[db.Job]:
    """Open jobs, newest first."""
    with db.Database.open(uri).reading() as connection:
        return list(db.jobs(connection, only_open=True))


def model_folder(root: Path, name: str = "model", content: str = "weights") -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.bin").write_text(content)
    return folder
