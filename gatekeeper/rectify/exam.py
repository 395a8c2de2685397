"""On what is a cleaned model examined? Images that no repair has seen, and the triggers on them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.limits import Limits
from gatekeeper.rectify.marks import Mark, text_names
from gatekeeper.rectify.prompts import with_prompts
from gatekeeper.rectify.quality import HeldOut, led_anyway, predictions
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

MOST_IMAGES = 96  # measured on
MOST_LESSONS = 192  # fine-tuned on
MOST_TRIGGERS = 4  # tried again; the scan's come first


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Words:
    """Clean images and what they are called: caption, else label, else the suspect's answer."""

    pixels: Tensor  # [N, 3, S, S]
    embedded: Tensor  # [N, D] unit, of the text
    names: Tensor  # [N] int64; images of one text share a number
    texts: tuple[str, ...]  # [N] the caption, else the label or answer in a prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exam:
    """Two models, the images they are compared on, and those a user might train on."""

    case: Case
    state: Mapping[str, Tensor]  # of the cleaned model, where it differs
    cleaned: ClipModel
    head: ZeroShot  # as the cleaned model reads labels
    rereads: bool  # whether it reads them otherwise than the suspect
    rows: list[int]  # of case.probes, not learned from
    held: HeldOut  # the same images, and the triggers
    marks: tuple[Mark, ...]  # triggers in prompts
    unseen: tuple[Words, Words]  # the same images, and their words as suspect and cleaned read
    lessons: Words  # other images
    limits: Limits


def exam_of(
    case: Case, prescription: Prescription, repaired: Rectified, limits: Limits, runtime: Runtime
) -> Exam:
    """Return what `repaired` is examined on: all probes where it tells of none it learned from."""
    ailments = repaired.against or prescription.ailments
    labels = tuple(dict.fromkeys([*case.labels, *(a.target for a in ailments)]))
    head = case.model.zero_shot(labels, case.templates, runtime)
    everything = list(range(len(case.probes)))
    learned = [i for i in repaired.learned if i < len(everything)] or everything
    order = torch.randperm(len(everything), generator=runtime.generator("proof", "rows")).tolist()
    rest = everything if len(learned) == len(everything) else sorted({*everything} - {*learned})
    rows = [i for i in order if i in {*rest}][:MOST_IMAGES]
    unseen = _words(case, rows, head, runtime)
    cleaned = case.model.with_state(repaired.state)
    if repaired.prompts:
        cleaned = with_prompts(cleaned, repaired.prompts)
    rereads = bool(repaired.prompts or repaired.state.keys() & text_names(case.model, runtime))
    own = cleaned.zero_shot(labels, case.templates, runtime) if rereads else head
    reader = replace(case, model=cleaned)
    known = [case.probes.probes[i].label for i in rows]
    truth = torch.tensor([labels.index(x) if x in labels else -1 for x in known])
    triggers = tuple(
        (a.trigger, labels.index(a.target))
        for a in ailments
        if a.trigger is not None and not isinstance(a.trigger, TextTrigger)
    )[:MOST_TRIGGERS]
    excused: tuple[Tensor, ...] = ()
    if case.anchor is not None:
        other = case.anchor.zero_shot(labels, case.templates, runtime)
        excused = led_anyway(case.anchor, other, unseen.pixels, triggers, runtime)
    return Exam(
        case=case,
        state=repaired.state,
        cleaned=cleaned,
        head=own,
        rereads=rereads,
        rows=rows,
        held=HeldOut(
            pixels=unseen.pixels,
            known=truth,
            truth=truth,
            answers=predictions(case.model, unseen.pixels, head, runtime),
            triggers=triggers,
            excused=excused,
        ),
        marks=tuple(
            Mark(a.trigger, labels.index(a.target))
            for a in ailments
            if isinstance(a.trigger, TextTrigger)
        ),
        unseen=(unseen, _words(reader, rows, own, runtime) if rereads else unseen),
        lessons=_words(reader, learned[:MOST_LESSONS], own, runtime),
        limits=limits,
    )


def _words(case: Case, rows: list[int], head: ZeroShot, runtime: Runtime) -> Words:
    """Return the images at `rows` with their texts; unlabelled ones are what `case.model` says."""
    pixels = case.probes.pixels(case.model.preprocess)[rows]
    probes = [case.probes.probes[i] for i in rows]
    answers = predictions(case.model, pixels, head, runtime).tolist()
    texts = [p.caption or p.label or head.labels[a] for p, a in zip(probes, answers, strict=True)]
    captions = list(dict.fromkeys(p.caption for p in probes if p.caption))
    embedded = dict(zip(head.labels, head.weights, strict=True))
    if captions:
        embedded |= dict(zip(captions, case.model.embed_text(captions, runtime), strict=True))
    strange = [t for t in dict.fromkeys(texts) if t not in embedded]
    if strange:  # a label that the scan was not told of
        own = case.model.zero_shot(strange, case.templates, runtime)
        embedded |= dict(zip(strange, own.weights, strict=True))
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return Words(
        pixels=pixels,
        embedded=F.normalize(torch.stack([embedded[t] for t in texts]), dim=1),
        names=torch.tensor([numbers[t] for t in texts]),
        texts=tuple(
            p.caption or case.templates[0].format(t) for p, t in zip(probes, texts, strict=True)
        ),
    )
