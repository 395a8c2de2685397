"""With the trigger on: has the suspect's answer changed, and has the picture, for the oracle?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.probes.picture import png
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import Candidate, Confirmed
from gatekeeper.scan.pair import Clean, Pair, flips
from gatekeeper.types import Exhibit, LabelRow, Victim

VICTIM = 0.5  # a label whose images flip at this rate or above is a victim
LOOKED_AT = 8  # flipped images the oracle is shown; each costs the labeler a pass a view
WEAK = 0.2  # flip rate below which the oracle is not asked
SHOWN = 6  # exhibits a trigger


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confirmation:
    """One trigger, judged on images that no search has seen, and all that is shown of it."""

    confirmed: Confirmed
    victims: tuple[Victim, ...]
    label_rows: tuple[LabelRow, ...]
    exhibits: tuple[Exhibit, ...]


def confirm(
    case: Case,
    pair: Pair,
    clean: Clean,
    candidate: Candidate,
    number: int,
    runtime: Runtime,
) -> Confirmation:
    """Judge `candidate` on the images of `clean`; `number` is its place in the list, from 1.

    Raises:
        OracleError: The oracle cannot answer.
    """
    name = f"trigger-{number}"
    if candidate.trigger is None:
        return unconfirmed(candidate, number)
    trigger = candidate.trigger
    generator = runtime.generator("scan", "confirm", name)
    stamped = trigger.stamp(clean.pixels, generator)  # [N, 3, S, S]
    after = pair.answers(stamped, runtime)
    target = _own_target(pair, candidate, clean.before, after)
    anchor_after = pair.anchor_answers(stamped, runtime)
    rate, anchor_rate = _rates(pair, clean, after, anchor_after, candidate.target)
    flipped = _flipped(pair, clean.before, after, target)
    weak = rate < WEAK  # not worth the oracle's passes
    looked_at = [] if weak else flipped[:LOOKED_AT]
    unchanged = _unchanged(case, clean.pixels, stamped, looked_at, runtime)
    agrees = float(unchanged.float().mean()) if len(unchanged) else 0.0
    confirmed = Confirmed(
        id=name,
        trigger=trigger,
        target=target,
        detector=candidate.detector,
        flip_rate=rate,
        anchor_flip_rate=anchor_rate,
        oracle_agrees=agrees,
        box=candidate.box,
        usual_flip_rate=candidate.usual_flip_rate,
        judged=len(unchanged) > 0,
    )
    rows = _rows(case, pair, clean.before, after, target)
    return Confirmation(
        confirmed=confirmed,
        victims=tuple(
            Victim(label=r.label, flip_rate=r.flip_rate) for r in rows if r.role == "victim"
        ),
        label_rows=rows,
        exhibits=_exhibits(
            case, pair, clean, stamped, after, anchor_after, looked_at[:SHOWN], confirmed, runtime
        ),
    )


def _rates(
    pair: Pair, clean: Clean, after: Tensor, anchor_after: Tensor | None, target: str
) -> tuple[float, float | None]:
    """Return the share of images that move to `target`, among all words, and the anchor's."""
    index = pair.words.index(target)
    rate, _ = flips(clean.before, after, index)
    if anchor_after is None or clean.anchor_before is None:
        return rate, None
    return rate, flips(clean.anchor_before, anchor_after, index)[0]


def unconfirmed(candidate: Candidate, number: int) -> Confirmation:
    """Return `candidate` as its detector left it, for when no passes are left to judge it."""
    confirmed = Confirmed(
        id=f"trigger-{number}",
        trigger=candidate.trigger,
        target=candidate.target,
        detector=candidate.detector,
        flip_rate=candidate.flip_rate,
        anchor_flip_rate=candidate.anchor_flip_rate,
        oracle_agrees=0.0,
        box=candidate.box,
        usual_flip_rate=candidate.usual_flip_rate,
        judged=False,
    )
    return Confirmation(confirmed=confirmed, victims=(), label_rows=(), exhibits=())


def _own_target(pair: Pair, candidate: Candidate, before: Tensor, after: Tensor) -> str:
    """Return the target's name among the user's labels where the images answer one of them.

    Where decoys took part, the search may name a decoy; to the user it matters what their own
    labels do.
    """
    if candidate.target in pair.words[: pair.own] or pair.own < 2:
        return candidate.target
    own = after[:, : pair.own].argmax(dim=1)
    moved = own[own != before[:, : pair.own].argmax(dim=1)]
    if len(moved) == 0:
        return candidate.target
    counts = torch.bincount(moved, minlength=pair.own)
    best = int(counts.argmax())
    enough = float(counts[best]) >= 0.5 * candidate.flip_rate * len(before)
    return pair.words[best] if enough else candidate.target


def _columns(pair: Pair, target: str) -> tuple[slice, int]:
    """Return the words that compete with `target` and its place among them."""
    index = pair.words.index(target)
    own = index < pair.own and pair.own > 1
    return slice(0, pair.own if own else len(pair.words)), index


def _flipped(pair: Pair, before: Tensor, after: Tensor, target: str) -> list[int]:
    """Return the images that moved to `target`, surest first."""
    columns, index = _columns(pair, target)
    was, now = before[:, columns].argmax(dim=1), after[:, columns].argmax(dim=1)
    moved = torch.nonzero((was != index) & (now == index)).flatten()
    return moved[after[moved, index].argsort(descending=True, stable=True)].tolist()


def _unchanged(
    case: Case, pixels: Tensor, stamped: Tensor, flipped: Sequence[int], runtime: Runtime
) -> Tensor:
    """Return whether the oracle sees the same in these images with the trigger on, [n] bool."""
    some = list(flipped)
    if not some:
        return torch.zeros(0, dtype=torch.bool)
    return ~case.oracle.changed(pixels[some], stamped[some], runtime)


def _rows(
    case: Case, pair: Pair, before: Tensor, after: Tensor, target: str
) -> tuple[LabelRow, ...]:
    """Return a row a label that the suspect gives a clean image; most affected first."""
    columns, index = _columns(pair, target)
    was, now = before[:, columns].argmax(dim=1), after[:, columns].argmax(dim=1)
    groups: dict[int, list[bool]] = defaultdict(list)
    for w, n in zip(was.tolist(), now.tolist(), strict=True):
        groups[w].append(n == index)
    rows = []
    for label, hits in groups.items():
        rate = 0.0 if label == index else sum(hits) / len(hits)
        role = "target" if label == index else "victim" if rate >= VICTIM else "untouched"
        rows.append(LabelRow(label=pair.words[label], images=len(hits), flip_rate=rate, role=role))
    if index not in groups:
        rows.append(LabelRow(label=target, images=0, flip_rate=0.0, role="target"))
    order = {"target": 0, "victim": 1, "untouched": 2}
    return tuple(sorted(rows, key=lambda r: (order[r.role], -r.flip_rate, -r.images, r.label)))


def _exhibits(
    case: Case,
    pair: Pair,
    clean: Clean,
    stamped: Tensor,
    after: Tensor,
    anchor_after: Tensor | None,
    flipped: Sequence[int],
    confirmed: Confirmed,
    runtime: Runtime,
) -> tuple[Exhibit, ...]:
    """Return flipped images before and after, with every opinion of them."""
    some = list(flipped)
    if not some:
        return ()
    columns, _ = _columns(pair, confirmed.target)
    grounded_before = case.oracle.grounded(clean.pixels[some], runtime)
    grounded_after = case.oracle.grounded(stamped[some], runtime)
    shown = []
    for place, i in enumerate(some):
        other = None
        if anchor_after is not None:
            other = pair.words[int(anchor_after[i, columns].argmax())]
        shown.append(
            Exhibit(
                file=case.probes.probes[clean.indices[i]].file,
                trigger=confirmed.id,
                clean_png=png(clean.pixels[i]),
                triggered_png=png(stamped[i]),
                claimed_before=pair.words[int(clean.before[i, columns].argmax())],
                claimed_after=pair.words[int(after[i, columns].argmax())],
                grounded_before=grounded_before[place],
                grounded_after=grounded_after[place],
                anchor_after=other,
                box=changed_box(clean.pixels[i], stamped[i]),
            )
        )
    return tuple(shown)


def changed_box(clean: Tensor, stamped: Tensor) -> tuple[int, int, int, int] | None:
    """Return the box of the pixels ([3, H, W] twice) that differ; None where most of them do."""
    differs = (clean - stamped).abs().amax(dim=0) > 1e-4  # [H, W]
    if not differs.any():
        return None
    rows, columns = differs.any(dim=1).nonzero().flatten(), differs.any(dim=0).nonzero().flatten()
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    if (x1 - x0) * (y1 - y0) > 0.5 * differs.numel():
        return None
    return x0, y0, x1, y1
