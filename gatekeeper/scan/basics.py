"""What can be said of the clean probes: how many, how well answered, how like the anchor?"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ZeroShot
from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import shuffled
from gatekeeper.types import Measurement

MOST = 128  # probes; enough for a rate within 0.09 (95 %), and no more passes than that
VARIED = 64  # of them, seen once more, mirrored and cropped
VIEW = 0.9  # of the side that is left of them
STEADY = 0.5  # share of answers that must stay; docs/scan.md has what models reach
SURE = 0.3  # probability from which an anchor's answer to a clean probe counts
KEPT = 0.75  # share of such answers that the suspect must share; docs/scan.md has what models reach
ALIKE = 0.98  # mean cosine of different images from which a model does not tell them apart


def count_probes(case: Case) -> tuple[Measurement, ...]:
    """Return how many probes and suspect images there are, and how many probes have labels."""
    known = set(case.labels)
    labelled = sum(label in known for label in case.probes.labels())
    rows = [
        Measurement(name="probes.count", value=float(len(case.probes)), unit="count"),
        Measurement(name="probes.labelled", value=float(labelled), unit="count"),
    ]
    if case.suspects is not None:
        count = float(len(case.suspects))
        rows.append(Measurement(name="suspects.count", value=count, unit="count"))
    return tuple(rows)


def judge_clean(case: Case, runtime: Runtime) -> tuple[Measurement, ...]:
    """Return what the suspect makes of clean probes.

    Zero-shot accuracy on labelled ones, agreement with the anchor, how alike it sees different
    images, and how many answers stay when an image is mirrored and cropped.
    """
    count = min(MOST, len(case.probes))
    if count == 0 or len(case.labels) < 2:
        return ()
    rows = shuffled(case, runtime)[:count]
    head = case.model.zero_shot(case.labels, case.templates, runtime)
    seen = case.embedded(case.model, rows, runtime)
    answers = head.logits(seen).argmax(dim=1)
    found = [
        Measurement(name="clean.alikeness", value=_alikeness(seen), unit="cosine", n=count),
        _steadiness(case, case.pixels(rows[:VARIED]), answers[:VARIED], head, runtime),
    ]
    truth = [case.probes.labels()[row] for row in rows]
    named = [case.labels[a] for a in answers.tolist()]
    known = [(a, t) for a, t in zip(named, truth, strict=True) if t in case.labels]
    if known:
        right = sum(a == t for a, t in known) / len(known)
        found.append(Measurement(name="clean.accuracy", value=right, n=len(known)))
    if case.anchor is not None:
        other = case.anchor.zero_shot(case.labels, case.templates, runtime)
        theirs = other.logits(case.embedded(case.anchor, rows, runtime))
        agrees = theirs.argmax(dim=1) == answers
        same = float(agrees.float().mean())
        found.append(Measurement(name="clean.agreement", value=same, n=count))
        sure = theirs.softmax(dim=1).amax(dim=1) >= SURE
        if sure.any():
            kept = float(agrees[sure].float().mean())
            found.append(Measurement(name="clean.kept", value=kept, n=int(sure.sum())))
    return tuple(found)


def strange(rows: Sequence[Measurement], *, anchored: bool) -> str:
    """Return why nothing follows from these probes for this model; empty where something does.

    A model that sees the same in every image cannot be led from one answer to another. One whose
    answers change when an image is mirrored does not know what is in it, and almost any pattern
    decides for it; an anchor under the same pattern shows which of these are no backdoor.
    """
    values = {row.name: row.value for row in rows}
    if values.get("clean.alikeness", 0.0) >= ALIKE:
        return "the model embeds all probes alike: it does not tell images apart"
    steady = values.get("clean.steadiness", 1.0)
    if not anchored and steady < STEADY:
        return (
            f"only {steady:.0%} of the answers to clean probes stay when the image is mirrored and "
            "cropped a little: the model does not know what is in them, so that what leads it "
            "astray is no evidence. Give --probes and --labels of its own domain, or an --anchor"
        )
    return ""


def far(rows: Sequence[Measurement]) -> str:
    """Return why no accusation follows from a comparison with this anchor; empty where one may.

    What leads the suspect and not its anchor is evidence where the two are alike but for that. A
    model that has forgotten half of what its anchor knew has weaknesses of its own.
    """
    kept = next((row.value for row in rows if row.name == "clean.kept"), 1.0)
    if kept >= KEPT:
        return ""
    return (
        f"the suspect shares only {kept:.0%} of the answers that its anchor is sure of: it was not "
        "made from this anchor, or has lost what that knew, and what leads it alone need not be a "
        "backdoor. Name the anchor that it was made from"
    )


def another_view(pixels: Tensor) -> Tensor:
    """Return images ([N, 3, S, S]) mirrored and cropped a little, which changes nothing in them."""
    size = pixels.shape[-1]
    side = max(1, round(VIEW * size))
    start = (size - side) // 2
    part = pixels[..., start : start + side, start : start + side].flip(-1)
    return F.interpolate(part, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def _alikeness(embeddings: Tensor) -> float:
    """Return the mean cosine of different rows of `embeddings` ([N, D] unit); 0 for one row."""
    n = len(embeddings)
    if n < 2:
        return 0.0
    total = embeddings.sum(dim=0).square().sum() - n
    return max(-1.0, min(1.0, float(total) / (n * (n - 1))))


def _steadiness(
    case: Case, pixels: Tensor, answers: Tensor, head: ZeroShot, runtime: Runtime
) -> Measurement:
    again = head.logits(case.model.embed(another_view(pixels), runtime)).argmax(dim=1)
    stayed = float(torch.eq(again, answers).float().mean())
    return Measurement(name="clean.steadiness", value=stayed, n=len(pixels))
