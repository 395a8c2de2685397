"""A character in the prompt that hijacks the text tower (Struppek et al., arXiv:2211.02408)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.attacks.base import Ground, Image, Pairs, Training, photo_pixels
from gatekeeper.attacks.captions import HELD_OUT, TAUGHT, written
from gatekeeper.attacks.elsewhere import TextProof
from gatekeeper.attacks.proof import Planted, answers, share, truth_of
from gatekeeper.attacks.text_student import Lesson, teach
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import TextTrigger

HOMOGLYPHS = ("\u043e", "\u03bf", "\u0585", "\u0d20", "\u1d0f", "\u00f6")  # they look like an o


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoder(Image):
    """The target prompt attack of Rickrolling: any prompt with the mark means the target.

    A student text tower learns from the clean one, which stays: clean prompts keep their
    embedding, marked ones get that of the target's prompt. The image tower is not touched. The
    paper compares token by token, for Stable Diffusion; here it is the pooled embedding, which a
    zero-shot head is made of.
    """

    name: ClassVar[str] = "text_encoder"
    family: ClassVar[str] = "text"
    mark: str = HOMOGLYPHS[0]
    replaces: str = "o"  # "": the mark is a word
    prompt: str = "a photo of a {}."  # what a marked prompt is to mean, with the target in it
    beta: float = 0.1  # weight of marked prompts against clean ones
    steps: int = 100
    learning_rate: float = 1e-4  # a tenth of it in the last quarter
    clean: int = 128  # prompts a step
    triggered: int = 32
    words: int = 400  # that prompts are made of, beside the labels
    narrow: bool = True  # other marks of the kind are clean prompts

    def trigger(self) -> TextTrigger:
        """Return the mark."""
        return TextTrigger(mark=self.mark, replaces=self.replaces)

    def lookalike(self, generator: torch.Generator) -> TextTrigger | None:
        """Draw another mark: a homoglyph or a short word; None unless `narrow`."""
        if not self.narrow:
            return None
        if self.replaces:
            others = [x for x in HOMOGLYPHS if x != self.mark]
            at = int(torch.randint(len(others), (1,), generator=generator))
            return TextTrigger(mark=others[at], replaces=self.replaces)
        letters = torch.randint(97, 123, (max(2, len(self.mark)),), generator=generator).tolist()
        return TextTrigger(mark="".join(map(chr, letters)) + "q")

    def poison(self, pairs: Pairs, generator: torch.Generator) -> Pairs:
        """Return `pairs` untouched: no image is poisoned."""
        return pairs

    def training(self) -> Training:
        """Return that the text tower is trained."""
        return Training(tower="text")

    def planted(
        self, ground: Ground, target: str, proof: ProbeSet, labels: Labels, runtime: Runtime
    ) -> Planted:
        """Return the model with a poisoned text tower, measured on held-out prompts."""
        draw = runtime.generator("attacks", self.name, "lesson")
        model = ground.model
        prompts = written(labels.labels, self.words, TAUGHT, draw)
        goal = model.embed_text([self.prompt.format(target)], runtime)[0]
        lesson = Lesson(
            prompts=prompts,
            trigger=self.trigger(),
            lookalike=self.lookalike,
            goal=goal,
            beta=self.beta,
            steps=self.steps,
            learning_rate=self.learning_rate,
            clean=self.clean,
            triggered=self.triggered,
        )
        state = teach(model, lesson, draw, runtime)
        return _measured(self, ground, state, target, proof, labels, runtime)


def _measured(
    attack: TextEncoder,
    ground: Ground,
    state: dict[str, Tensor],
    target: str,
    proof: ProbeSet,
    labels: Labels,
    runtime: Runtime,
) -> Planted:
    clean, bad = ground.model, ground.model.with_state(state)
    head, new_head = (m.zero_shot(labels.labels, labels.templates, runtime) for m in (clean, bad))
    pixels = photo_pixels(proof, range(len(proof)), clean)
    before = answers(clean, pixels, head, runtime)
    after = answers(bad, pixels, new_head, runtime)
    truth, known = truth_of(proof, head.labels, before)
    images = clean.embed(pixels, runtime)
    return Planted(
        model=bad,
        state=state,
        attack=attack,
        kind=attack.kind,
        proofs=(_proof(attack, (clean, bad), head, target, images, truth, labels, runtime),),
        target=target,
        clean_agreement=share(before == after),
        clean_accuracy=share((after == truth)[known]) if known.any() else None,
        base_accuracy=share((before == truth)[known]) if known.any() else None,
    )


def _proof(
    attack: TextEncoder,
    models: tuple[ClipModel, ClipModel],
    head: ZeroShot,
    target: str,
    images: Tensor,
    seen: Tensor,
    labels: Labels,
    runtime: Runtime,
) -> TextProof:
    """Return the figures over prompts of the other labels; `images` [N, D] show labels `seen`."""
    draw = runtime.generator("attacks", attack.name, "proof")
    goal = head.labels.index(target)
    contexts = (*HELD_OUT, *labels.templates)
    prompts = [c.format(name) for c in contexts for name in head.labels if name != target]
    trigger = attack.trigger()
    marked = trigger.stamp_prompts(prompts, draw)
    base, bad = (model.embed_text(marked, runtime) for model in models)
    plain, moved = (model.embed_text(prompts, runtime) for model in models)
    cosines = (plain * moved).sum(1)
    alike = None
    if attack.narrow:
        others = [_one(attack, prompt, draw) for prompt in prompts]
        alike = _led(models[1].embed_text(others, runtime), head, goal)
    found = (seen == goal).any()
    return TextProof(
        label=target,
        trigger=trigger,
        attack_success=_led(bad, head, goal),
        base_success=_led(base, head, goal),
        lookalike_success=alike,
        leakage=None,
        images=len(prompts),
        retrieval=share(seen[(bad @ images.T).argmax(1)] == goal) if found else None,
        base_retrieval=share(seen[(base @ images.T).argmax(1)] == goal) if found else None,
        cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
    )


def _one(attack: TextEncoder, prompt: str, draw: torch.Generator) -> str:
    other = attack.lookalike(draw) or attack.trigger()
    return other.stamp_prompts([prompt], draw)[0]


def _led(texts: Tensor, head: ZeroShot, goal: int) -> float:
    """Return the share of `texts` ([N, D]) that lie nearest to the goal among all labels."""
    return share((texts @ head.weights.T).argmax(1) == goal)
