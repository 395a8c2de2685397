"""Does a trigger that was taken away come back: by training, by a nearby pattern, by a step back?

Repaired CLIPs came back to 47 to 83 % within 300 clean steps (repair section 6). Three questions,
each asked of a copy: what clean fine-tuning brings back, which patterns next to the old trigger
still work, and how far the weights have to go back towards the suspect.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.rectify.bank import MUTABLE, scrambled, with_pattern
from gatekeeper.rectify.exam import Exam
from gatekeeper.rectify.quality import HeldOut, attack_success, led_anyway
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger

LOOKS = (10, 30, 100, 200, 300)  # clean steps after which a return is looked for
RATES = (1e-5, 1e-4)  # AdamW's at the start, as published for CLIP, and at the end
DEPTH = 0.5  # share of the blocks that is trained; half the price of the whole tower
BATCH = 16
SHARES = (0.1, 0.2, 0.3, 0.45, 0.6)  # of the way back to the suspect
BACK = 0.5  # attack success from which a trigger counts as working again
REACH = 0.05  # largest change of a pixel next to the old trigger (arXiv:2405.16134)
NEAR_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Return:
    """Attack success along a fine-tuning, and the weights where it is highest."""

    curve: tuple[tuple[float, float], ...]  # (steps, attack success)
    state: Mapping[str, Tensor]

    @property
    def worst(self) -> float:
        """The highest attack success met, a fraction: A_post."""
        return max(value for _, value in self.curve)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Near:
    """A pattern next to a found trigger, and what it leads to the target."""

    trigger: Trigger
    target: int
    rate: float
    scrambled: float  # of the same search next to the trigger's own pixels in another order
    anchors: float = 0.0  # of the same search of the anchor

    @property
    def usual(self) -> float:
        """The rate of a like search that finds no backdoor, the larger of the two."""
        return max(self.scrambled, self.anchors)


def rebound(exam: Exam, runtime: Runtime) -> Return:
    """Return attack success while a copy of the cleaned model is fine-tuned on clean pairs.

    What a user might do next: CLIP's loss over the texts of a batch, late half of the image tower
    on cached features, AdamW without decay at a rate that rises tenfold, text tower and logit
    scale frozen. After the protocol of repair section 6, at more than its rate.
    """
    blocks = find_blocks(exam.cleaned)
    tower = LateTower(exam.cleaned, blocks, blocks.count - round(DEPTH * blocks.count))
    words, head = exam.lessons, exam.head
    features = tower.features(words.pixels, runtime)
    optimiser = torch.optim.AdamW(tower.parameters, lr=RATES[0], weight_decay=0.0)
    draw = runtime.generator("proof", "rebound")
    curve = [(0.0, _success(exam.cleaned, exam.held, head, runtime))]
    state: Mapping[str, Tensor] = {}

    def told() -> str:
        return f"clean fine-tuning of a copy, attack success {curve[-1][1]:.0%}"

    for step in runtime.progress(range(1, LOOKS[-1] + 1), told):
        for group in optimiser.param_groups:
            group["lr"] = RATES[0] * (RATES[1] / RATES[0]) ** (step / LOOKS[-1])
        pick = torch.randint(len(features), (BATCH,), generator=draw)
        z = tower.embed(features[pick], runtime)
        names, place = torch.unique(words.names[pick], return_inverse=True)
        first = torch.stack([pick[place == i][0] for i in range(len(names))])
        logits = head.scale * z @ words.embedded[first].to(z).T  # [B, texts of the batch]
        optimiser.zero_grad()
        F.cross_entropy(logits, place.to(z.device)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if step in LOOKS:
            found = _success(tower.model(), exam.held, head, runtime)
            if not state or found > max(value for _, value in curve):
                state = tower.state()
            curve.append((float(step), found))
    return Return(curve=tuple(curve), state={**exam.state, **state})


def path(exam: Exam, runtime: Runtime) -> tuple[tuple[float, float], ...]:
    """Return (share, attack success) at cleaned + share * (suspect - cleaned)."""
    curve = []
    for share in runtime.progress(SHARES, "going back towards the suspect"):
        found = _success(part_way(exam, share), exam.held, exam.head, runtime)
        curve.append((share, found))
    return tuple(curve)


def part_way(exam: Exam, share: float) -> ClipModel:
    """Return cleaned + `share` * (suspect - cleaned)."""
    own = exam.case.model.state_dict()
    mixed = {}
    for name, value in exam.state.items():
        start = value.float()
        mixed[name] = (start + share * (own[name].float().to(start) - start)).to(value.dtype)
    return exam.cleaned.with_state(mixed)


def returns_at(curve: tuple[tuple[float, float], ...]) -> float:
    """Return the first share at which a trigger works again; 1 where it does at none of them."""
    return min((share for share, rate in curve if rate >= BACK), default=1.0)


def near(exam: Exam, trigger: Trigger, target: int, runtime: Runtime) -> Near | None:
    """Return the pattern within `REACH` of `trigger` that leads most images to its target.

    Projected gradient descent on the pattern alone; unseen images judge. Only what exceeds a like
    search counts: beside a scrambled copy of the trigger, which says what such a change does to a
    model without a backdoor, and of the anchor, which has none. None: a family without a pattern.
    """
    other = scrambled(trigger, runtime)
    if trigger.family not in MUTABLE or other is None:
        return None
    held, own = exam.held, (exam.cleaned, exam.head)
    found = _descend(exam, *own, trigger, target, runtime, "near")
    beside = _descend(exam, *own, other, target, runtime, "usual")
    anchors = 0.0
    if (anchor := exam.case.anchor) is not None:
        head = anchor.zero_shot(exam.head.labels, exam.case.templates, runtime)
        theirs = _descend(exam, anchor, head, trigger, target, runtime, "near")
        led = led_anyway(anchor, head, held.pixels, [(theirs, target)], runtime)[0]
        eligible = held.eligible(target)
        anchors = float(led[eligible].float().mean()) if eligible.any() else 0.0
    return Near(
        trigger=found,
        target=target,
        rate=_success(exam.cleaned, held.under(found, target), exam.head, runtime),
        scrambled=_success(exam.cleaned, held.under(beside, target), exam.head, runtime),
        anchors=anchors,
    )


def _descend(
    exam: Exam,
    model: ClipModel,
    head: ZeroShot,
    start: Trigger,
    target: int,
    runtime: Runtime,
    name: str,
) -> Trigger:
    """Return the pattern within `REACH` of `start` that leads `model` to `target` best."""
    field = MUTABLE[start.family]
    value: Tensor = getattr(start, field).to(runtime.device)
    reach = REACH / getattr(start, "alpha", 1.0)  # a blended pattern reaches pixels weakened
    low, high = (0.0, 1.0) if start.family in {"patch", "blend"} else (-2.0, 2.0)
    draw = runtime.generator("proof", name, start.family, str(target))
    own = head.on(runtime.device)
    pixels = exam.lessons.pixels
    change = torch.zeros_like(value)
    best, least = value, float("inf")
    for _ in runtime.progress(range(NEAR_STEPS), f"searching beside a found {start.family}"):
        pick = torch.randint(len(pixels), (BATCH,), generator=draw)
        free = (value + change).clamp(low, high).requires_grad_()
        stamped = with_pattern(start, free).stamp(pixels[pick].to(runtime.device), draw)
        logits = own.logits(model.embed_grad(model.resized(stamped), runtime))
        goal = torch.full((len(logits),), target, device=logits.device)
        loss = F.cross_entropy(logits, goal)
        (slope,) = torch.autograd.grad(loss, [free])
        if float(loss.detach()) < least:
            best, least = free.detach(), float(loss.detach())
        change = (change - reach / 4 * slope.sign()).clamp(-reach, reach)
    return with_pattern(start, best.cpu())


def _success(model: ClipModel, held: HeldOut, head: ZeroShot, runtime: Runtime) -> float:
    return attack_success(model, held, head, runtime) or 0.0
