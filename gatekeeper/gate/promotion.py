"""May these bytes stand behind this name? One pure function answers for every entry point.

The store plug-in, `gatekeeper promote` and the worker gather `Facts` and call `decide`; nobody
else compares verdicts. No I/O, no clock.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from shlex import quote

from gatekeeper.gate.db.records import ArtifactNote, DecisionRecord, DrillMark
from gatekeeper.types import Verdict


class Outcome(StrEnum):
    """The answer: HOLD is no answer yet, and refuses for now."""

    ALLOW = "allow"
    REFUSE = "refuse"
    HOLD = "hold"


class Mode(StrEnum):
    """What an answer other than ALLOW does: refuse, warn, or only be written down."""

    ENFORCE = "enforce"
    WARN = "warn"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants to do with a model version."""

    action: str  # alias | stage | copy
    name: str  # the model whose version it is
    version: int
    label: str  # the alias, the stage, or the model copied into

    @property
    def uri(self) -> str:
        """The version as a MODEL."""
        return f"models:/{self.name}/{self.version}"

    @property
    def phrase(self) -> str:
        """The wish as people say it."""
        what = {"alias": "alias", "stage": "stage", "copy": "copy into"}[self.action]
        return f"{what} '{self.label}' for {self.name} version {self.version}"

    @property
    def command(self) -> str:
        """The `gatekeeper promote` that does it."""
        option = {"alias": "--alias", "stage": "--stage", "copy": "--to"}[self.action]
        return f"gatekeeper promote {quote(self.uri)} {option} {quote(self.label)} --wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the answer depends on."""

    wish: Wish
    mode: Mode
    unrecognised: str  # allow | refuse: what becomes of models that are no CLIP
    policy_name: str
    policy_digest: str
    note: ArtifactNote | None  # the latest for exactly this row
    fingerprint: str | None  # as listed now
    fingerprint_problem: str = ""  # why it could not be listed
    decision: DecisionRecord | None  # the latest for (note.digest, policy_digest)
    other_policy: bool = False  # these bytes were decided on, but under another policy
    now: int  # ms
    cleaned: tuple[str, int] | None = None  # (name, version) of a rectified copy
    drill: DrillMark | None = None  # these bytes were planted on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, for the machine and for people."""

    outcome: Outcome
    mode: Mode
    reason: str  # one or two sentences
    next_step: str  # "" where there is nothing to do
    queue: bool  # a scan should be queued
    digest: str | None = None
    decision_id: int | None = None
    run_id: str | None = None
    binding: bool = False  # holds in every mode

    @property
    def moves(self) -> bool:
        """Whether the name may move: allowed, or not enforced."""
        if self.binding:
            return self.outcome is Outcome.ALLOW
        return self.outcome is Outcome.ALLOW or self.mode is not Mode.ENFORCE

    @property
    def written(self) -> str:
        """The word for the trail: allow, refuse, hold, allow_warn or allow_audit."""
        if self.outcome is Outcome.ALLOW or self.binding or self.mode is Mode.ENFORCE:
            return self.outcome.value
        return f"allow_{self.mode.value}"


def canonical(name: str) -> str:
    """Return the form in which protected names are compared.

    NFKC, without surrounding space and characters of no width, case folded: ` Production`,
    `PRODUCTION` and its full-width form are all `production`.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Mn")).strip()


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Say whether a name is one of the protected ones (globs), compared in canonical form."""
    plain = canonical(name)
    return any(fnmatchcase(plain, canonical(pattern)) for pattern in patterns)


def imitates(name: str, patterns: Iterable[str]) -> str | None:
    """Return the protected name that `name` looks like without being it, None if there is none.

    Only names without wildcards can be imitated.
    """
    for pattern in patterns:
        plain = not any(c in pattern for c in "*?[")
        if plain and name != pattern and canonical(name) == canonical(pattern):
            return pattern
    return None


def decide(facts: Facts) -> Decision:
    """Return ALLOW only for a passing, current decision on exactly these bytes.

    A drill model is refused whatever its verdict and the mode; it is scanned all the same, so
    that a fire drill learns what the scan would have said.
    """
    plain = _judged(facts)
    return plain if facts.drill is None else _drill(facts.drill, plain)


def _drill(mark: DrillMark, plain: Decision) -> Decision:
    said = {
        Outcome.ALLOW: "The scan alone would let it through",
        Outcome.REFUSE: "Without that mark it would be refused too",
        Outcome.HOLD: "Without that mark it would be held",
    }[plain.outcome]
    return replace(
        plain,
        outcome=Outcome.REFUSE,
        reason=f"it is a drill model, planted on purpose (attack '{mark.attack}', target "
        f"'{mark.target}'), and no policy lets one through. {said}: {plain.reason}",
        next_step="",
        binding=True,
    )


def _judged(facts: Facts) -> Decision:
    note = facts.note
    if note is None:
        return _hold(facts, "nothing is known of these bytes yet: they have not been scanned")
    if facts.fingerprint is None:
        why = facts.fingerprint_problem or "the artifact store does not answer"
        return _hold(
            facts, f"its files cannot be listed to compare them with what was scanned ({why})"
        )
    if note.fingerprint is None:
        return _hold(
            facts,
            "it was scanned where its files could not be listed, so nobody can say "
            "that they are still the same",
        )
    if note.fingerprint != facts.fingerprint:
        return _hold(facts, "its files have changed since they were scanned")
    if note.kind == "other":
        return _unrecognised(facts)
    if note.kind != "clip":
        return _hold(facts, "it has not been recognised as a CLIP or as something else yet")
    return _by_verdict(facts)


def _by_verdict(facts: Facts) -> Decision:
    record = facts.decision
    if record is None and facts.other_policy:
        return _hold(
            facts,
            f"it was judged under another policy than '{facts.policy_name}' "
            f"({facts.policy_digest[:19]})",
        )
    if record is None:
        return _hold(facts, "no verdict has been recorded for these bytes")
    if record.model_digest != (facts.note and facts.note.digest) or (
        record.policy_digest != facts.policy_digest
    ):
        return _hold(facts, "the verdict at hand is about other bytes or another policy")
    if record.expires_at is not None and record.expires_at <= facts.now:
        days = (facts.now - record.decided_at) // 86_400_000
        return _hold(facts, f"its verdict is {days} days old and has expired")
    if record.verdict is Verdict.PASS:
        return _answer(facts, Outcome.ALLOW, _passed(record), "", queue=False)
    if record.verdict is Verdict.FAIL:
        return _answer(facts, Outcome.REFUSE, _failed(record), _mend(facts), queue=False)
    # A rescan of the same bytes with the same policy answers the same: do not queue it for ever.
    return _answer(facts, Outcome.HOLD, _inconclusive(record), _look(facts), queue=False)


def _unrecognised(facts: Facts) -> Decision:
    if facts.unrecognised == "allow":
        reason = f"it holds no CLIP, and policy '{facts.policy_name}' lets other models through"
        return _answer(facts, Outcome.ALLOW, reason, "", queue=False)
    reason = f"it holds no CLIP, and policy '{facts.policy_name}' refuses what it cannot scan"
    step = "set `unrecognised: allow` in the policy if other models may be promoted"
    return _answer(facts, Outcome.REFUSE, reason, step, queue=False)


def _hold(facts: Facts, reason: str) -> Decision:
    step = f"{facts.wish.command}\n(or try again when a `gatekeeper worker` has done the scan)"
    return _answer(facts, Outcome.HOLD, reason, step, queue=True)


def _answer(facts: Facts, outcome: Outcome, reason: str, step: str, *, queue: bool) -> Decision:
    return Decision(
        outcome=outcome,
        mode=facts.mode,
        reason=reason,
        next_step=step,
        queue=queue,
        digest=facts.note.digest if facts.note else None,
        decision_id=facts.decision.id if facts.decision else None,
        run_id=facts.decision.run_id if facts.decision else None,
    )


def _passed(record: DecisionRecord) -> str:
    return f"scanned and passed under policy '{record.policy_name}'{_score(record)}"


def _failed(record: DecisionRecord) -> str:
    target = f", target '{record.targets[0]}'" if record.targets else ""
    why = _joined(record.reasons[:3])
    return f"the scan failed it under policy '{record.policy_name}'{_score(record)}{target}" + (
        f": {why}" if why else ""
    )


def _joined(sentences: Iterable[str]) -> str:
    """Return sentences as parts of one, whose full stop is set by whoever ends it."""
    return "; ".join(sentence.rstrip(". ") for sentence in sentences)


def _inconclusive(record: DecisionRecord) -> str:
    why = _joined(record.reasons[:2]) or "the policy says why in the report"
    return f"the scan was inconclusive under policy '{record.policy_name}': {why}"


def _score(record: DecisionRecord) -> str:
    return "" if record.score is None else f" (backdoor score {record.score:.2f})"


def _mend(facts: Facts) -> str:
    wish = facts.wish
    if facts.cleaned is not None:
        name, version = facts.cleaned
        cleaned = Wish(action=wish.action, name=name, version=version, label=wish.label)
        return f"a cleaned version is registered: {cleaned.command}"
    return f"gatekeeper rectify {quote(wish.uri)} --register {quote(wish.name)}"


def _look(facts: Facts) -> str:
    return (
        f"give the scan more to go on (`scan: {{probes, anchor}}` in the policy), then "
        f"{facts.wish.command}"
    )
