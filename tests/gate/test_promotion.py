"""One function decides, and everything but a passing, current decision on these bytes refuses."""

import pytest
from gate_rows import DIGEST, OTHER, POLICY, row, verdict

from gatekeeper.gate import db
from gatekeeper.gate.guard import message
from gatekeeper.gate.promotion import (
    Facts,
    Mode,
    Outcome,
    Wish,
    canonical,
    decide,
    imitates,
    matches,
)
from gatekeeper.types import Verdict

NOW = 1_800_000_000_000
DAY = 86_400_000


def note(**changes) -> db.ArtifactNote:
    values = {"row": row(), "digest": DIGEST, "fingerprint": "f", "kind": "clip", "noted_at": 1}
    return db.ArtifactNote(**(values | changes))


def facts(**changes) -> Facts:
    values = {
        "wish": Wish(action="alias", name="clip", version=1, label="production"),
        "mode": Mode.ENFORCE,
        "unrecognised": "refuse",
        "policy_name": POLICY.name,
        "policy_digest": POLICY.digest,
        "note": note(),
        "fingerprint": "f",
        "decision": verdict(id=7, run_id="r1"),
        "now": NOW,
    }
    return Facts(**(values | changes))


def test_a_passing_current_decision_on_the_same_bytes_allows():
    answer = decide(facts())
    assert answer.outcome is Outcome.ALLOW
    assert answer.moves
    assert answer.written == "allow"
    assert (answer.digest, answer.decision_id, answer.run_id) == (DIGEST, 7, "r1")


@pytest.mark.parametrize(
    ("changes", "outcome", "queues", "says"),
    [
        ({"note": None, "decision": None}, Outcome.HOLD, True, "not been scanned"),
        ({"note": None}, Outcome.HOLD, True, "not been scanned"),
        ({"fingerprint": "g"}, Outcome.HOLD, True, "changed since"),
        ({"fingerprint": None, "fingerprint_problem": "gone"}, Outcome.HOLD, True, "gone"),
        ({"note": note(fingerprint=None)}, Outcome.HOLD, True, "could not be listed"),
        ({"note": note(kind="unknown")}, Outcome.HOLD, True, "not been recognised"),
        ({"note": note(kind="anything")}, Outcome.HOLD, True, "not been recognised"),
        ({"note": note(kind="other")}, Outcome.REFUSE, False, "no CLIP"),
        ({"decision": None}, Outcome.HOLD, True, "no verdict"),
        ({"decision": None, "other_policy": True}, Outcome.HOLD, True, "another policy"),
        ({"decision": verdict(expires_at=NOW)}, Outcome.HOLD, True, "expired"),
        ({"decision": verdict(expires_at=NOW - DAY)}, Outcome.HOLD, True, "expired"),
        ({"decision": verdict("fail")}, Outcome.REFUSE, False, "'ship'"),
        ({"decision": verdict("inconclusive")}, Outcome.HOLD, False, "inconclusive"),
        ({"decision": verdict(model_digest=OTHER)}, Outcome.HOLD, True, "other bytes"),
        ({"decision": verdict(policy_digest="sha256:x")}, Outcome.HOLD, True, "other bytes"),
    ],
)
def test_anything_else_does_not(changes, outcome, queues, says):
    answer = decide(facts(**changes))
    assert answer.outcome is outcome
    assert not answer.moves
    assert answer.queue is queues
    assert says in answer.reason
    assert answer.next_step


def test_a_refusal_names_score_target_and_the_way_out():
    answer = decide(facts(decision=verdict("fail")))
    assert "0.97" in answer.reason
    assert "a patch turns images into 'ship'" in answer.reason
    assert answer.next_step == "gatekeeper rectify models:/clip/1 --register clip"


@pytest.mark.parametrize("kind", ["fail", "inconclusive"])
def test_reasons_that_are_sentences_leave_one_full_stop(kind):
    reasons = ("A patch turns images into 'tench'.", "The head leans to it.")
    answer = decide(facts(decision=verdict(kind, reasons=reasons)))
    told = message(answer, facts().wish, "", "").splitlines()[0]
    assert told.endswith("into 'tench'; The head leans to it.")
    assert ".." not in told


def test_a_cleaned_version_is_offered_where_there_is_one():
    answer = decide(facts(decision=verdict("fail"), cleaned=("clip", 4)))
    assert "gatekeeper promote models:/clip/4 --alias production" in answer.next_step


def test_the_next_command_survives_a_shell():
    wish = Wish(action="alias", name="a b;rm -rf", version=1, label="prod")
    answer = decide(facts(wish=wish, note=None))
    assert "'models:/a b;rm -rf/1'" in answer.next_step


def test_models_that_are_no_clip_are_the_policys_choice():
    answer = decide(facts(note=note(kind="other"), decision=None, unrecognised="allow"))
    assert answer.outcome is Outcome.ALLOW


@pytest.mark.parametrize("mode", [Mode.WARN, Mode.AUDIT])
def test_other_modes_let_it_move_and_say_so(mode):
    answer = decide(facts(mode=mode, decision=verdict("fail")))
    assert answer.outcome is Outcome.REFUSE
    assert answer.moves
    assert answer.written == f"allow_{mode.value}"
    assert decide(facts(mode=mode)).written == "allow"


@pytest.mark.parametrize("kind", list(Verdict))
def test_only_pass_ever_allows_a_clip(kind):
    allowed = decide(facts(decision=verdict(kind.value))).outcome is Outcome.ALLOW
    assert allowed is (kind is Verdict.PASS)


@pytest.mark.parametrize(
    "name",
    [
        "production",
        "Production",
        "PRODUCTION",
        " production",
        "production\n",
        "\uff50\uff52\uff4f\uff44\uff55\uff43\uff54\uff49\uff4f\uff4e",
        "prod\u200buction",
        "\u2060production\ufeff",
        "prod\u00aduction",
    ],
)
def test_look_alikes_have_one_canonical_form(name):
    assert canonical(name) == "production"


def test_other_names_stay_other():
    assert canonical("champion-1") != canonical("champion")
    assert canonical("\u0440roduction") != "production"  # Cyrillic: refused as not ASCII instead


def test_names_are_matched_as_globs_in_canonical_form():
    assert matches("PROD-Clip", ("prod-*",))
    assert not matches("staging-clip", ("prod-*",))
    assert not matches("clip", ())


def test_only_another_spelling_imitates():
    assert imitates("Prod-Clip", ("prod-clip",)) == "prod-clip"
    assert imitates("prod-clip", ("prod-clip",)) is None
    assert imitates("anything", ("*",)) is None
