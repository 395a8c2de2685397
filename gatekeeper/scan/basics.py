"""What can be said of the clean probes: how many, how well answered, how like the anchor?"""

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.types import Measurement

MOST = 128  # probes; enough for a rate within 0.09 (95 %), and no more passes than that


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
    """Return zero-shot accuracy on labelled probes and agreement with the anchor."""
    count = min(MOST, len(case.probes))
    if count == 0 or len(case.labels) < 2:
        return ()
    pixels = case.probes.pixels(case.model.preprocess)[:count]
    head = case.model.zero_shot(case.labels, case.templates, runtime)
    answers = head.logits(case.model.embed(pixels, runtime)).argmax(dim=1).tolist()
    truth = case.probes.labels()[:count]
    known = [(case.labels[a], t) for a, t in zip(answers, truth, strict=True) if t in case.labels]
    rows = []
    if known:
        right = sum(a == t for a, t in known) / len(known)
        rows.append(Measurement(name="clean.accuracy", value=right, n=len(known)))
    if case.anchor is not None:
        other = case.anchor.zero_shot(case.labels, case.templates, runtime)
        seen = case.anchor.embed(case.anchor.resized(pixels), runtime)
        theirs = other.logits(seen).argmax(dim=1).tolist()
        same = sum(a == b for a, b in zip(answers, theirs, strict=True)) / count
        rows.append(Measurement(name="clean.agreement", value=same, n=count))
    return tuple(rows)
