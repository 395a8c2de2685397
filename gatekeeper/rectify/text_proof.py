"""Does a mark in prompts stay without meaning: in other prompts, after training, part way back?"""

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name

from gatekeeper.clip.model import ClipModel
from gatekeeper.rectify.contrastive import embed_text
from gatekeeper.rectify.exam import Exam
from gatekeeper.rectify.limits import at_least, at_most
from gatekeeper.rectify.marks import MOST, PROVED, bare, marked_quality, text_names
from gatekeeper.rectify.persistence import BATCH, LOOKS, RATES, SHARES, part_way, returns_at
from gatekeeper.runtime import Runtime
from gatekeeper.types import Check


def marked_checks(exam: Exam, runtime: Runtime) -> list[Check]:
    """Return the checks of marks; none where no mark was found.

    Prompts are in contexts that neither repair nor its measurement has used. The fine-tuning is
    that of `persistence.rebound`, of the text tower: CLIP's loss over the texts of a batch.
    """
    if not exam.marks or not exam.state:
        return []
    limits, n = exam.limits, min(MOST, len(PROVED) * len(exam.head.labels))
    before = _success(exam, exam.case.model, runtime)
    after = _success(exam, exam.cleaned, runtime)
    way = tuple((share, _success(exam, part_way(exam, share), runtime)) for share in SHARES)
    told = f"Marked prompts led within {LOOKS[-1]} clean fine-tuning steps of the text tower"
    share = "Share of the way back to the suspect at which a mark works again"
    return [
        at_most("marked_prompts", "Marked prompts led, in words not used before", before, after,
                limits.led(limits.attack_success, n), n),
        at_most("marked_rebound", told, None, max(after, _rebound(exam, runtime)),
                limits.led(limits.rebound, n), n),
        at_least("marked_path", share, 0.0, returns_at(way), limits.returns_at, n),
    ]  # fmt: skip


def _rebound(exam: Exam, runtime: Runtime) -> float:
    """Return the highest success of a mark while a copy's text tower is fine-tuned."""
    tuned, words = exam.cleaned.clone(), exam.lessons
    images = exam.cleaned.embed(words.pixels, runtime).clone().to(runtime.device)
    names = text_names(bare(tuned), runtime)
    tuned.module.to(runtime.device).requires_grad_(False)
    free = [p.requires_grad_(True) for n, p in tuned.module.named_parameters() if n in names]
    optimiser = torch.optim.AdamW(free, lr=RATES[0], weight_decay=0.0)
    draw = runtime.generator("proof", "rebound", "text")
    reader, seen = bare(tuned), [0.0]

    def told() -> str:
        return f"clean fine-tuning of a copy's text tower, marks lead {seen[-1]:.0%}"

    for step in runtime.progress(range(1, LOOKS[-1] + 1), told):
        for group in optimiser.param_groups:
            group["lr"] = RATES[0] * (RATES[1] / RATES[0]) ** (step / LOOKS[-1])
        pick = torch.randint(len(images), (BATCH,), generator=draw)
        names_here, place = torch.unique(words.names[pick], return_inverse=True)
        first = [int(pick[place == i][0]) for i in range(len(names_here))]
        texts = embed_text(reader, [words.texts[i] for i in first], runtime)
        logits = exam.head.scale * images[pick] @ texts.T
        optimiser.zero_grad()
        F.cross_entropy(logits, place.to(logits.device)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step in LOOKS:
            seen.append(_success(exam, replace(tuned, _heads={}), runtime))
    return max(seen)


def _success(exam: Exam, model: ClipModel, runtime: Runtime) -> float:
    labels, templates = exam.head.labels, exam.case.templates
    suspect = exam.case.model
    before, head = (m.zero_shot(labels, templates, runtime) for m in (suspect, model))
    led, _ = marked_quality(suspect, model, before, head, exam.marks, runtime, PROVED)
    return led or 0.0
