"""What is a cleaned model still worth: labels under triggers, retrieval, embeddings, prompts?"""

from dataclasses import replace

import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.bank import scrambled
from gatekeeper.rectify.exam import Exam, Words
from gatekeeper.rectify.limits import at_least, at_most
from gatekeeper.rectify.quality import (
    HeldOut,
    attack_success,
    led_anyway,
    predictions,
    under_triggers,
)
from gatekeeper.runtime import Runtime
from gatekeeper.types import Check

OTHER_TEMPLATES = (
    "this is a {}.", "a picture of the {}.", "an image of a {}.", "art of the {}.", "one {}.",
)  # fmt: skip


def checks(exam: Exam, runtime: Runtime) -> list[Check]:
    """Return every check of what was kept; those of triggers only where there is one."""
    found = [*_prompts(exam, runtime), *_recalls(exam, runtime), _alignment(exam, runtime)]
    if exam.held.triggers:
        found = [_recovery(exam, runtime), *found]
    return found


def recall_at(model: ClipModel, words: Words, k: int, runtime: Runtime) -> tuple[float, int]:
    """Return how many texts find one of their own images among the first `k`, and the texts."""
    images = model.embed(words.pixels, runtime)
    first = [int((words.names == name).nonzero()[0]) for name in torch.unique(words.names)]
    nearest = (words.embedded[first] @ images.T).topk(min(k, len(images)), dim=1).indices
    right = words.names[nearest] == words.names[first][:, None]
    return float(right.any(dim=1).float().mean()), len(first)


def _recovery(exam: Exam, runtime: Runtime) -> Check:
    """Return the share of right answers that a trigger costs, the worst over triggers.

    A trigger hides part of the image from any model. What that costs a clean twin is what it costs
    the anchor; without one, what the trigger's cells in another order cost suspect or cleaned
    model, whichever is less: they hide as much and mean nothing.
    """
    worst, usual, before = -1.0, 0.0, 0.0
    for trigger, target in exam.held.triggers:
        one = exam.held.under(trigger, target)
        cost = _cost(exam.cleaned, one, exam.head, runtime)
        if exam.case.anchor is not None:
            fair = _anchor_cost(exam, one, runtime)
        elif (cells := scrambled(trigger, runtime)) is not None:
            other = exam.held.under(cells, target)
            fair = min(_cost(m, other, exam.head, runtime) for m in (exam.case.model, exam.cleaned))
        else:
            fair = 0.0
        if cost - fair > worst - usual:
            worst, usual = cost, fair
            before = _cost(exam.case.model, one, exam.head, runtime)
    n = len(exam.rows)
    limit = max(exam.limits.recovery_lost, exam.limits.slack(n))
    what = "True labels that a trigger costs, beyond what hiding as much costs a clean model"
    return at_most("recovery", what, before - usual, worst - usual, limit, n)


def _cost(model: ClipModel, held: HeldOut, head: ZeroShot, runtime: Runtime) -> float:
    """Return the share of images right without and wrong with the trigger, less the reverse."""
    target = held.triggers[0][1]
    eligible = held.eligible(target)
    replies = under_triggers(model, held, head, runtime)
    if not replies:
        return 0.0
    clean = predictions(model, held.pixels[eligible], head, runtime)
    right = replies[0].right
    return float((clean == right).float().mean() - (replies[0].given == right).float().mean())


def _anchor_cost(exam: Exam, held: HeldOut, runtime: Runtime) -> float:
    anchor = exam.case.anchor
    if anchor is None:
        return 0.0
    head = anchor.zero_shot(exam.head.labels, exam.case.templates, runtime)
    own = replace(held, pixels=anchor.resized(held.pixels))
    return _cost(anchor, own, head, runtime)


def _recalls(exam: Exam, runtime: Runtime) -> list[Check]:
    found = []
    for k in (1, 5):
        before, n = recall_at(exam.case.model, exam.unseen[0], k, runtime)
        after, _ = recall_at(exam.cleaned, exam.unseen[1], k, runtime)
        limit = before - max(exam.limits.recall_lost, exam.limits.slack(n))
        what = f"Texts that find an image of theirs, recall at {k}"
        found.append(at_least(f"recall_{k}", what, before, after, max(0.0, limit), n))
    return found


def _alignment(exam: Exam, runtime: Runtime) -> Check:
    own, new = (m.embed(exam.held.pixels, runtime) for m in (exam.case.model, exam.cleaned))
    mean = float((own * new).sum(dim=1).mean().clamp(0, 1))
    what = "Cosine of clean images' embeddings to the suspect's"
    return at_least("alignment", what, 1.0, mean, exam.limits.alignment, len(exam.rows))


def _prompts(exam: Exam, runtime: Runtime) -> list[Check]:
    """Return accuracy and attack success with prompts that neither scan nor repair has used."""
    suspect, limits, n = exam.case.model, exam.limits, len(exam.rows)
    templates = tuple(t for t in OTHER_TEMPLATES if t not in exam.case.templates)[:3]
    head = own = suspect.zero_shot(exam.head.labels, templates, runtime)
    if exam.rereads:
        own = exam.cleaned.zero_shot(exam.head.labels, templates, runtime)
    both = ((suspect, head), (exam.cleaned, own))
    answers = [predictions(m, exam.held.pixels, h, runtime) for m, h in both]
    truth = torch.where(exam.held.known >= 0, exam.held.known, exam.held.answers)
    before, after = (float((given == truth).float().mean()) for given in answers)
    limit = max(0.0, before - max(limits.accuracy_lost, limits.slack(n)))
    what = "Clean accuracy with prompts not used before"
    found = [at_least("other_prompts_accuracy", what, before, after, limit, n)]
    if exam.held.triggers:
        held = replace(exam.held, answers=answers[0], excused=_excused(exam, templates, runtime))
        led = [attack_success(m, held, h, runtime) or 0.0 for m, h in both]
        allowed = limits.led(limits.attack_success, n)
        what = "Attack success with prompts not used before"
        found.append(at_most("other_prompts", what, led[0], led[1], allowed, n))
    return found


def _excused(exam: Exam, templates: tuple[str, ...], runtime: Runtime) -> tuple[Tensor, ...]:
    """Return which images each trigger leads with the anchor too, by these prompts or the usual."""
    anchor = exam.case.anchor
    if anchor is None:
        return exam.held.excused
    head = anchor.zero_shot(exam.head.labels, templates, runtime)
    led = led_anyway(anchor, head, exam.held.pixels, exam.held.triggers, runtime)
    return tuple(a | b for a, b in zip(led, exam.held.excused, strict=True))
