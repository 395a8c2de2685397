"""Take a mark's meaning away in the text tower: back towards the anchor's, or taught anew."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import as_stored
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.found import is_led
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.marks import LEARNED, bare, forms_of, lookalike, text_names, written
from gatekeeper.rectify.rehearsal import LOST, Rehearsal
from gatekeeper.rectify.words import marked_words, own_words, words_name
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

OFTEN = 0.2  # share of marked prompts from which a word moves while the student learns
TRIED = 240  # prompts that other vectors for a mark's words are compared on


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTowerRepair:
    """Prompts with a found mark come to mean what the unmarked ones mean; images are not touched.

    With an anchor that reads the same tokens, the text tower becomes anchor + share * (suspect -
    anchor) with the largest share at which every mark is silent and clean images keep their
    answers. Without one, or where it costs answers, words that only a mark uses get the vector of
    a like word, where that silences it: no other prompt changes. Else a student is taught by the
    suspect: bare prompts, and prompts with other marks of the kind, keep their embedding; prompts
    with the mark get that of the bare one. It is the lesson of Rickrolling (arXiv:2211.02408,
    3.2) turned round; the smallest share of what the student learned that suffices is kept.
    """

    name: ClassVar[str] = "text_tower"
    shares: tuple[float, ...] = (0.75, 0.5, 0.35, 0.2, 0.1, 0.0)  # of the change, in turn
    prompts: int = 1200  # that the student learns from
    steps: int = 80  # a rate
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)  # in turn while a mark works, each annealed
    keep: float = 4.0  # weight of bare prompts, 1 - cosine, against marked ones
    push: float = 0.3  # weight of the logits by which a target leads a marked prompt
    batch: int = 32  # bare prompts a step, and as many marked ones
    bar: float = 0.02  # share of marked prompts that may come within `margin`
    margin: float = 1.0  # logits by which a target must be behind

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the suspect with another text tower.

        Raises:
            RectifyError: No mark was found, the text tower has no weights, or too few images.
        """
        ground = Ground.of(case, prescription, runtime)
        if not ground.marks:
            raise RectifyError(
                f"'{self.name}' repairs prompts, and no mark in prompts was found",
                hint="use --method auto",
            )
        names = sorted(text_names(bare(ground.model), runtime))
        if not names:
            raise RectifyError("the text tower has no weights", hint="report this architecture")
        lesson = _Lesson.of(ground, self.prompts)
        model = self._back(ground, lesson, names)
        steps = 0
        if model is None:
            model = self._stilled(ground, lesson)
        if model is None:
            model, steps = self._taught(ground, lesson, names)
        return ground.finish(self.name, model, steps=steps)

    def _back(self, ground: Ground, lesson: "_Lesson", names: list[str]) -> ClipModel | None:
        """Return the text tower part of the way back; None where there is no way, or a dear one."""
        anchor = ground.case.anchor
        own = ground.model.state_dict()
        theirs = anchor.state_dict() if anchor is not None else {}
        fits = all(n in theirs and theirs[n].shape == own[n].shape for n in names)
        if anchor is None or not fits or not _reads_alike(ground.model, anchor):
            return None
        rehearsal = Rehearsal.of(ground)
        allowed = max(self.bar, lesson.near(anchor, self.margin))  # a mark garbles any prompt
        for share in self.shares:
            state = {}
            for name in names:
                base = theirs[name].float().to(own[name].device)
                state[name] = as_stored(base + share * (own[name].float() - base), own[name])
            model = ground.model.with_state(state)
            if lesson.near(model, self.margin) <= allowed:
                lost = rehearsal.lost(model, ground.head_of(model))
                if lost > max(LOST, 2 / len(rehearsal.pixels)):
                    ground.notes.append(f"the anchor's text tower costs {lost:.1%} of the answers")
                    return None
                ground.notes.append(f"{share:.0%} of the text tower's change from the anchor kept")
                return model
        return None

    def _stilled(self, ground: Ground, lesson: "_Lesson") -> ClipModel | None:
        """Return the suspect with other vectors for words that the marks alone use.

        No prompt without a mark reads otherwise. None: no such words, or a mark still works.
        """
        few = replace(lesson, prompts=lesson.prompts[:TRIED], meant=lesson.meant[:TRIED])
        own = own_words(ground.model, ground.marks, lesson.prompts, ground.runtime)
        if own is None:
            return None
        best, highest = None, -1.0
        for stand_in in ground.runtime.progress(own.stand_ins, "trying other words for a mark"):
            model = own.replaced(ground.model, stand_in)
            kept = few.kept(model)
            if kept > highest and few.near(model, self.margin) <= self.bar:
                best, highest = model, kept
        if best is None or lesson.near(best, self.margin) > self.bar:
            return None
        ground.notes.append(
            f"{len(own.tokens)} words that only a mark uses got another vector; marked prompts "
            f"come within a cosine of {highest:.2f} of bare ones"
        )
        return best

    @staticmethod
    def _hold_words(free: dict[str, torch.nn.Parameter], ground: Ground, lesson: "_Lesson") -> None:
        """Let only the vectors of words that a mark alone uses move, of all words'.

        A few hundred prompts show few words: moving these would say nothing about the rest.
        """
        name = words_name(ground.model)
        if name is None or name not in free:
            return
        own = marked_words(ground.model, ground.marks, lesson.prompts, OFTEN, ground.runtime)
        moved = torch.zeros(len(free[name]), 1).to(free[name])
        moved[own.to(moved.device)] = 1
        free[name].register_hook(lambda slope: slope * moved)  # type: ignore[no-untyped-call]

    def _taught(self, ground: Ground, lesson: "_Lesson", names: list[str]) -> tuple[ClipModel, int]:
        """Return the suspect with a text tower that was taught to overlook the marks."""
        runtime, before = ground.runtime, ground.model.state_dict()
        module = copy.deepcopy(ground.model.module).eval().requires_grad_(False)
        free = {n: p for n, p in module.named_parameters() if n in set(names)}
        for parameter in free.values():
            parameter.requires_grad_(True)
        student = replace(ground.model, module=module, _heads={})
        self._hold_words(free, ground, lesson)
        draw = runtime.generator("rectify", self.name)
        steps = 0

        def now(share: float = 1.0) -> ClipModel:
            state = {
                n: as_stored(before[n] + share * (p.detach() - before[n]), before[n])
                for n, p in free.items()
            }
            return ground.model.with_state(state)

        for rate in self.rates:
            optimiser = torch.optim.AdamW(free.values(), lr=rate, weight_decay=0.0)
            for step in runtime.progress(range(self.steps), f"teaching the text tower at {rate:g}"):
                for group in optimiser.param_groups:
                    group["lr"] = rate * (1 - step / self.steps)
                loss = lesson.loss(student, self, draw)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            steps += self.steps
            if lesson.near(now(), self.margin) <= self.bar:
                break
        ground.notes.append(f"{steps} steps on {len(lesson.prompts)} prompts")
        return self._least(lesson, now), steps

    def _least(self, lesson: "_Lesson", made: Callable[[float], ClipModel]) -> ClipModel:
        """Return the model with the smallest share of the change that silences the marks."""
        for share in (0.5, 0.75):
            model = made(share)
            if lesson.near(model, self.margin) <= self.bar:
                return model
        return made(1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lesson:
    """Prompts, what they are to mean, and the marks that are to mean nothing."""

    ground: Ground
    prompts: tuple[str, ...]
    meant: Tensor  # [P, D] unit: what the suspect reads in them

    @classmethod
    def of(cls, ground: Ground, count: int) -> "_Lesson":
        draw = ground.runtime.generator("rectify", "prompts", "learn")
        contexts = tuple(dict.fromkeys([*ground.case.templates, *LEARNED]))
        prompts = written(ground.head.labels, contexts, count, draw)
        meant = bare(ground.model).embed_text(prompts, ground.runtime).clone()
        return cls(ground=ground, prompts=prompts, meant=meant)

    def loss(self, student: ClipModel, method: TextTowerRepair, draw: torch.Generator) -> Tensor:
        """Return how far bare and marked prompts are from what they should mean, a scalar."""
        runtime, tower, batch = self.ground.runtime, bare(student), method.batch
        rows, others = (torch.randint(len(self.prompts), (batch,), generator=draw) for _ in "ab")
        share = batch // 4  # of the bare prompts carry a mark of the kind that means nothing
        plain = [self.prompts[i] for i in rows.tolist()]
        other = lookalike(self.ground.marks, draw).stamp_prompts(plain[:share], draw)
        kept = bare(self.ground.model).embed_text(other, runtime).clone()
        marks = [self.ground.marks[place % len(self.ground.marks)] for place in range(batch)]
        marked = [
            _varied(mark.trigger, draw).stamp_prompts([self.prompts[row]], draw)[0]
            for mark, row in zip(marks, others.tolist(), strict=True)
        ]
        runtime.meter.texts(6 * batch)
        tokens = tower.tokenize([*other, *plain[share:], *marked]).to(runtime.device)
        out = F.normalize(tower.text_tower(tower.module, tokens).float(), dim=-1)
        right = torch.cat([kept, self.meant[rows[share:]], self.meant[others]]).to(out)
        far = 1 - (out * right).sum(dim=1)
        logits = self.head().on(runtime.device).logits(out[batch:])
        goals = torch.tensor([mark.target for mark in marks], device=out.device)[:, None]
        ahead = logits.gather(1, goals)[:, 0] - logits.scatter(1, goals, -torch.inf).amax(dim=1)
        pull = F.relu(ahead + 2 * method.margin).mean()
        total: Tensor = method.keep * far[:batch].mean() + far[batch:].mean() + method.push * pull
        return total

    def head(self) -> ZeroShot:
        """Return the labels as the suspect reads them."""
        case = self.ground.case
        return bare(self.ground.model).zero_shot(
            self.ground.head.labels, case.templates, self.ground.runtime
        )

    def kept(self, model: ClipModel) -> float:
        """Return the mean cosine of marked prompts to what the suspect reads in bare ones."""
        draw = self.ground.runtime.generator("rectify", "prompts", "try")
        told = [mark.trigger.stamp_prompts(self.prompts, draw) for mark in self.ground.marks]
        texts = [bare(model).embed_text(prompts, self.ground.runtime) for prompts in told]
        return float(torch.stack([(z * self.meant).sum(dim=1).mean() for z in texts]).mean())

    def near(self, model: ClipModel, margin: float) -> float:
        """Return the share of marked prompts that come within `margin` logits of the target.

        Of the worst mark, each in every form that is taught; prompts whose bare form comes as near
        do not count.
        """
        runtime, tower = self.ground.runtime, bare(model)
        head = tower.zero_shot(self.ground.head.labels, self.ground.case.templates, runtime)
        plain = head.logits(tower.embed_text(self.prompts, runtime))
        worst = 0.0
        for mark in self.ground.marks:
            draw = runtime.generator("rectify", "prompts", "try")
            for form in dict.fromkeys([mark.trigger, *forms_of(mark.trigger, draw)]):
                texts = tower.embed_text(form.stamp_prompts(self.prompts, draw), runtime)
                eligible = ~is_led(plain, mark.target, margin)
                if bool(eligible.any()):
                    led = is_led(head.logits(texts), mark.target, margin)
                    worst = max(worst, float(led[eligible].float().mean()))
        return worst


def _varied(trigger: TextTrigger, draw: torch.Generator) -> TextTrigger:
    """Return `trigger` as it was found half of the time, else in another form."""
    forms = forms_of(trigger, draw)
    at = int(torch.randint(2 * len(forms), (1,), generator=draw))
    return forms[at] if at < len(forms) else trigger


def _reads_alike(model: ClipModel, anchor: ClipModel) -> bool:
    """Return whether both tokenizers make the same of prompts, marked ones included."""
    prompts = ["a photo of a cat.", "phot\u043e of caf\u00e9", "zx \U0001f602"]
    ours, theirs = model.tokenize(prompts), anchor.tokenize(prompts)
    return ours.shape == theirs.shape and bool(torch.equal(ours, theirs))
