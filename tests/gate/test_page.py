"""The page tells the trail, links into MLflow's UI, and escapes what clients can name."""

import pytest
from flask import Flask
from gate_rows import DIGEST, POLICY, row, verdict

from gatekeeper.gate import db
from gatekeeper.gate.overview import Decided, Held, Overview
from gatekeeper.gate.page import age, blueprint, render, run_link, spelled, version_link
from gatekeeper.gate.promotion import Mode
from gatekeeper.gate.settings import Settings

NOW = 1_800_000_000_000
DAY = 86_400_000
EVIL = '<script>alert("x")</script>'


@pytest.fixture
def app():
    made = Flask(__name__)
    made.register_blueprint(blueprint())
    with made.test_request_context("/gatekeeper"):
        yield made


def overview(**changes) -> Overview:
    values = {
        "settings": Settings(policy=POLICY, mode=Mode.ENFORCE),
        "held": (),
        "attempts": (),
        "decisions": (),
        "jobs": (),
        "experiments": {},
        "now": NOW,
    }
    return Overview(**(values | changes))


def attempt(**changes) -> db.Attempt:
    values = {
        "at": NOW,
        "who": "alice",
        "action": "alias",
        "workspace": "default",
        "name": "clip",
        "alias_or_stage": "production",
        "version": 3,
        "digest": DIGEST,
        "decision": "refuse",
        "reason": "the scan failed it",
        "run_id": "r1",
    }
    return db.Attempt(**(values | changes))


def job(**changes) -> db.Job:
    values = {
        "id": 41,
        "request": db.JobRequest(row=row(), policy_digest=POLICY.digest, want_alias="production"),
        "status": "queued",
        "lease_owner": None,
        "lease_until": None,
        "heartbeat": None,
        "attempts": 0,
        "max_attempts": 3,
        "not_before": 0,
        "error": None,
        "decision_id": None,
        "created_at": NOW - 2 * DAY,
        "started_at": None,
        "finished_at": None,
    }
    return db.Job(**(values | changes))


@pytest.mark.usefixtures("app")
class TestPage:
    def test_an_empty_registry_says_so(self):
        html = render(overview())
        assert "Nobody has tried" in html
        assert "Nothing has been scanned yet" in html
        assert "gatekeeper worker" in html

    def test_an_attempt_is_told_with_who_what_why_and_links(self):
        html = render(overview(attempts=(attempt(),), experiments={"r1": "5"}))
        for told in ("alice", "production", "refused", "the scan failed it"):
            assert told in html
        assert 'href="/#/models/clip/versions/3"' in html
        assert 'href="/#/experiments/5/runs/r1/artifacts/report.html"' in html

    def test_everything_from_outside_is_escaped(self):
        said = attempt(
            who=EVIL, name=EVIL, alias_or_stage=EVIL, reason=EVIL, run_id=EVIL, action=EVIL
        )
        decided = Decided(
            record=verdict("fail", reasons=(EVIL,), targets=(EVIL,)), name=EVIL, version=1
        )
        held = Held(
            name=EVIL, label=EVIL, kind="alias", version=1, decision=verdict(), digest=DIGEST
        )
        waits = job(
            error=EVIL,
            lease_owner=EVIL,
            request=db.JobRequest(row=row(name=EVIL), policy_digest="p", want_alias=EVIL),
        )
        html = render(
            overview(
                attempts=(said,),
                decisions=(decided,),
                held=(held,),
                jobs=(waits,),
            ),
            name=EVIL,
        )
        assert "<script" not in html
        assert "&lt;script&gt;" in html

    def test_it_loads_nothing(self):
        html = render(overview(attempts=(attempt(),), jobs=(job(),)))
        assert "http://" not in html
        assert "https://" not in html
        assert "src=" not in html
        assert "@import" not in html

    def test_a_look_alike_alias_shows_as_one(self):
        html = render(overview(attempts=(attempt(alias_or_stage="\u0440roduction"),)))
        assert "\\u0440roduction" in html

    @pytest.mark.parametrize("mode", [Mode.WARN, Mode.AUDIT])
    def test_a_gate_that_refuses_nothing_says_so_first(self, mode):
        html = render(overview(settings=Settings(policy=POLICY, mode=mode)))
        assert "Nothing is refused." in html
        assert html.index("Nothing is refused.") < html.index("Protected names in use")
        assert "Nothing is refused." not in render(overview())

    def test_expired_and_foreign_verdicts_show(self):
        expired = Held(
            name="clip",
            label="prod",
            kind="alias",
            version=1,
            decision=verdict(expires_at=NOW - 1),
            digest=DIGEST,
        )
        unknown = Held(
            name="clip", label="champion", kind="alias", version=2, decision=None, digest=None
        )
        old = Decided(record=verdict(policy_digest="sha256:old"), name="clip", version=1)
        html = render(overview(held=(expired, unknown), decisions=(old,)))
        assert "expired" in html
        assert "none under this policy" in html
        assert "no longer in force" in html

    def test_the_queue_shows_ages_and_finished_jobs_leave_it(self):
        html = render(overview(jobs=(job(), job(id=42, status="done"))))
        assert "2 d ago" in html
        assert ">42<" not in html


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (None, "never"),
        (NOW, "0 ms ago"),
        (NOW - 3000, "3 s ago"),
        (NOW - 3_600_000, "1 h ago"),
        (NOW + 3 * DAY, "in 3 d"),
    ],
)
def test_ages(at, said):
    assert age(NOW, at) == said


def test_links_are_quoted():
    assert version_link("a b#c", 2) == "/#/models/a%20b%23c/versions/2"
    assert run_link("r1", {}) is None
    assert run_link(None, {}) is None


def test_ascii_stays_and_the_rest_is_spelled():
    assert spelled("production") == "production"
    assert spelled("pr\u00f6d") == "pr\\xf6d"
