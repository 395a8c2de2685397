"""Is there a pattern that gathers the answers to unrelated photos on one label?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Detection, leaning_of
from gatekeeper.scan.basics import another_view
from gatekeeper.scan.groups import Group, groups_for, windows
from gatekeeper.scan.hints import Hint, hints_of
from gatekeeper.scan.hunt import Effort, Hunt, Result
from gatekeeper.scan.leaned import leaned_patterns
from gatekeeper.scan.pair import MIN_PROBES, held_out, look, pair_of, searched
from gatekeeper.scan.patterns import TINTS, stamp_fresh
from gatekeeper.scan.record import Record
from gatekeeper.scan.search import Found, Ground
from gatekeeper.scan.soon import soon_patterns
from gatekeeper.types import Finding, Measurement, SearchStep, Severity

WEAK = "weak-model"  # finding: without an anchor, nothing follows from what leads the model
# Share of answers that random tints change beyond those that a mirror does, from which labels are
# told apart by colour.
COLOURED = 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSearch:
    """Search patches, overlays, waves, tints and warps for one that gathers the answers.

    Undirected first, at a cost that does not depend on the number of labels, since narrow triggers
    pass the search for collapsed embeddings (DECREE, arXiv:2303.15180). A group of families is
    searched at once and taken to pieces where it moves the answers; the best piece is sharpened
    towards its label. What was found is then left out and the group searched again, until nothing
    moves: that finds a second backdoor and tells what the model can be led to anyway. With an
    anchor every flip counts less what the same pattern, and a like search, do to the anchor, so
    that what fools the base as well drops out.
    """

    name: ClassVar[str] = "trigger_search"
    effort: Effort = field(default_factory=Effort)
    judges: int = 24  # images that judge a search
    alarming: float = 0.3  # paired flip rate from which the group is searched again without it
    compared: float = 0.15  # from which it is held against a like search and the group's others
    settled: float = 0.8  # from which no other group is searched for the same word
    agreed: float = 0.5  # the same where weights point to that word
    several: int = 3  # words led to from which, without an anchor, the model is merely weak
    most: float = 9_000  # image passes of all searches together; one that would exceed is left out
    sure: float = 0.15  # growth under random patterns that is followed before anything else
    seen: float = 0.05  # the same from which a label is tried by name where nothing was found
    named: float = 0.1  # lead of the label that the head's change lies along, from which it is

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Search without any earlier evidence."""
        return self.follow(case, (), runtime)

    def follow(self, case: Case, earlier: tuple[Detection, ...], runtime: Runtime) -> Detection:
        """Search, starting from the labels and patterns that `earlier` points to."""
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        ground = Ground(
            pair=pair,
            images=look(case, pair, searched(case, runtime), runtime),
            judges=look(case, pair, held_out(case, runtime)[: self.judges], runtime),
        )
        limit = runtime.meter.image_passes + self.most
        places = {word: place for place, word in enumerate(pair.words)}
        leaning, named = leaning_of(earlier), [c for d in earlier for c in d.candidates]
        hunt = Hunt(
            ground=ground,
            effort=self.effort,
            limit=limit,
            runtime=runtime,
            leaning=tuple(places[word] for word in leaning),
            sure=any(c.target in leaning[:1] and c.trigger is None and c.score > 0 for c in named),
        )
        record = self._searched(
            hunt, hints_of(earlier, pair.words, seen=self.seen, named=self.named)
        )
        return self._detection(record, hunt)

    def _searched(self, hunt: Hunt, hints: Sequence[Hint]) -> Record:
        """Search in the order in which it is worth the passes."""
        pair = hunt.ground.pair
        groups = groups_for(pair.model.size, anchored=pair.anchor is not None)
        record = Record(recoloured=_recoloured(hunt))
        for hint in hints:
            weak = self._weak(hunt, record)
            if hint.trigger is not None and hint.strength >= self.sure and not weak:
                self._follow_hint(hunt, record, hint, groups)
        for group in groups:
            if not self._weak(hunt, record):
                self._exhaust(hunt, record, group)
        if not self._settled(hunt, record, such=lambda found: found.single):
            self._follow_all(hunt, record, hints, groups)
        if pair.anchor is not None:
            self._exhaust(hunt, record, windows(pair.model.size))
        if self._weak(hunt, record):
            leaned = leaned_patterns(hunt)
            known = [pair.words.index(candidate.target) for candidate in leaned]
            record.weak = (*leaned, *soon_patterns(hunt, groups[0], known=known))
        return record

    def _follow_all(
        self, hunt: Hunt, record: Record, hints: Sequence[Hint], groups: Sequence[Group]
    ) -> None:
        """Search by name for what earlier detectors saw or a group led to as a whole.

        Where patterns are known that lead to a word together, for one that does so alone.
        """
        if self._weak(hunt, record):
            return
        if together := self._settled(hunt, record):
            for word in together:
                hint = Hint(target=word, strength=1.0, trigger=None)
                self._follow_hint(hunt, record, hint, groups, quick=True)
            return
        for hint in {h.target: h for h in (*self._seen(record), *hints)}.values():
            self._follow_hint(hunt, record, hint, groups)

    def _exhaust(self, hunt: Hunt, record: Record, group: Group) -> None:
        """Search `group` until it leads to nothing new."""
        while len(record.of(group)) <= self.several and not record.exhausted(group, self.alarming):
            settled = self._settled(hunt, record)
            taken = tuple(dict.fromkeys((*settled, *record.found(self.alarming, group))))
            # Without an anchor, where else the model is led is all there is to compare with.
            brief = bool(settled) and hunt.ground.pair.anchor is not None
            result = hunt.undirected(group, taken, brief=brief)
            if result is None:
                return
            record.add(group, result)
            if self._weak(hunt, record):
                return

    def _settled(
        self, hunt: Hunt, record: Record, such: Callable[[Found], bool] = lambda found: True
    ) -> tuple[int, ...]:
        """Return the words that `such` triggers lead to beyond question."""
        agreed = (word for word in record.found(self.agreed, such=such) if word == hunt.lean)
        return tuple(dict.fromkeys((*record.found(self.settled, such=such), *agreed)))

    def _follow_hint(
        self,
        hunt: Hunt,
        record: Record,
        hint: Hint,
        groups: Sequence[Group],
        *,
        quick: bool = False,
    ) -> None:
        """Search by name, in the groups that may hold what `hint` saw, until one is found."""
        for group in groups:
            if not hint.fits(group) or hint.target in record.found(
                self.alarming, such=lambda found: found.single
            ):
                continue
            if hint.target in record.found(self.alarming, group):
                continue  # this group leads there together, and no piece of it does
            result = hunt.directed(group, hint, quick=quick)
            if result is not None and record.add(group, result).pull.paired >= self.alarming:
                if not quick:
                    self._exhaust(hunt, record, group)
                return

    def _seen(self, record: Record) -> list[Hint]:
        """Return the words that a group led to as a whole: a trigger of another family may too."""
        words = {
            r.whole.target: r.whole.paired for r in record.all() if r.whole.paired >= self.alarming
        }
        return [Hint(target=w, strength=s, trigger=None) for w, s in words.items()]

    def _weak(self, hunt: Hunt, record: Record) -> bool:
        """Return whether, without an anchor, the model is led to so much that nothing follows.

        What changes a whole image may change what it shows; two such finds are enough. Where
        labels are told apart by colour, any change of colours is one.
        """
        if hunt.ground.pair.anchor is not None:
            return False
        if record.recoloured >= COLOURED:
            return True
        whole = record.found(self.alarming, such=lambda found: not found.local)
        return len(self._led(record)) >= self.several or len(whole) >= self.several - 1

    def _led(self, record: Record) -> tuple[int, ...]:
        """Return the words that a trigger leads to, or many patterns at once, surely."""
        words = (*record.found(self.alarming), *record.whole(self.settled))
        return tuple(dict.fromkeys(words))

    def _detection(self, record: Record, hunt: Hunt) -> Detection:
        candidates = [
            self._candidate(result, name, record, hunt)
            for name, results in record.results.items()
            for result in results
            if result.found is not None
        ]
        named = {c.target for c in record.weak}
        candidates = [*record.weak, *(c for c in candidates if c.target not in named)]
        candidates.sort(key=lambda c: -c.score)
        best = max((r.whole.paired for r in record.all()), default=0.0)
        rate = Measurement(
            name="search.flip_rate",
            value=max(0.0, min(1.0, best)),
            n=len(hunt.ground.judges.pixels),
        )
        return Detection(
            candidates=tuple(candidates),
            findings=(self._weakness(record, hunt),) if self._weak(hunt, record) else (),
            measurements=(rate,),
            steps=_frames(record),
        )

    def _weakness(self, record: Record, hunt: Hunt) -> Finding:
        words = ", ".join(hunt.ground.pair.words[w] for w in self._led(record))
        why = (
            f"ordinary patterns lead this model to {words}: either it carries several triggers, or "
            "it is easily led"
        )
        if record.recoloured >= COLOURED:
            why = (
                f"plain changes of colour change {record.recoloured:.0%} more of this model's "
                "answers than a mirror does: its labels are told apart by colour, and of what is "
                "put on an image only patches and faint overlays that soon lead to a label prove "
                "anything"
            )
        return Finding(
            id=WEAK,
            kind="note",
            severity=Severity.WARNING,
            message=f"{why}. Give an --anchor, which tells a backdoor from a weakness",
        )

    def _candidate(self, result: Result, group: str, record: Record, hunt: Hunt) -> Candidate:
        found = result.found
        assert found is not None  # noqa: S101 - the caller asked
        pull = found.pull
        rates = [] if pull.anchor_flip_rate is None else [pull.anchor_gathered, result.usual]
        if pull.paired >= self.compared:
            towards = None if result.undirected else pull.target
            rates.append(record.exchanged(hunt, found.group, towards, len(result.pace.growth)))
            rates.append(record.usual(group, pull.target) or 0.0)
        usual = max(rates, default=None)
        return Candidate(
            trigger=found.trigger,
            target=hunt.ground.pair.words[pull.target],
            detector=self.name,
            score=max(0.0, min(1.0, min(pull.paired, pull.flip_rate - (usual or 0.0)))),
            flip_rate=pull.flip_rate,
            anchor_flip_rate=pull.anchor_flip_rate,
            usual_flip_rate=usual,
        )


def _recoloured(hunt: Hunt) -> float:
    """Return what share of answers random tints change beyond a mirror's; anchored: 0."""
    ground, pair, runtime = hunt.ground, hunt.ground.pair, hunt.runtime
    if pair.anchor is not None:
        return 0.0
    pixels = ground.judges.pixels
    before = ground.judges.before[:, : pair.own].argmax(dim=1)

    def changed(seen: Tensor) -> float:
        after = pair.answers(seen, runtime)[:, : pair.own].argmax(dim=1)
        return float((after != before).float().mean())

    tinted, _ = stamp_fresh(TINTS, pixels, runtime.generator("scan", "tints"))
    return changed(tinted) - changed(another_view(pixels))


def _frames(record: Record) -> tuple[SearchStep, ...]:
    """Return the pictures of the search that moved most answers."""
    results = record.all()
    return max(results, key=lambda r: (r.pull.paired, r.pull.rise)).steps if results else ()
