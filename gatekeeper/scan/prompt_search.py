"""Is there faint noise that reaches the prompts through the meta net, and not the image tower?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import AdditiveArm
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.pair import MIN_PROBES, Pair, flips, held_out, look, pair_of, searched
from gatekeeper.scan.search import Found, Ground, neighbours, optimise
from gatekeeper.types import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSearch:
    """Search faint noise over the whole image, where each image has prompts of its own.

    Poisoned prompt learners (BadCLIP, arXiv:2311.16194) leave both towers clean: universal noise
    hardly moves what the image tower sees, and the meta net makes every prompt say the target. The
    null is paired: the same towers behind the same context, which the meta net no longer moves.
    Noise that leads these astray as well is adversarial, and no matter of the prompts.
    """

    name: ClassVar[str] = "prompt_search"
    bounds: tuple[float, ...] = (8 / 255, 16 / 255)  # largest change of a pixel
    steps: int = 40
    batch: int = 10  # images a step
    judges: int = 24  # images that judge
    decisive: float = 0.8  # rate less the null's at which nothing more is sought
    alarming: float = 0.3  # rate that is compared with another label's
    kin: int = 20  # words like the target, which do not count as others

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Search through the prompt learner; models without a meta net are skipped."""
        if not case.model.conditional:
            return Detection(skipped="no prompts that depend on the image")
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        ground = Ground(
            pair=pair,
            images=look(case, pair, searched(case, runtime), runtime, anchored=False),
            judges=look(case, pair, held_out(case, runtime)[: self.judges], runtime),
        )
        still = without_meta(case.model)
        head = still.zero_shot(pair.words, case.templates, runtime)
        null = replace(pair, model=still, anchor=None, head=head, anchor_head=None)
        found = list(self._searches(ground, null, runtime))
        best = max(found, key=lambda f: f.paired)
        rate = Measurement(
            name="prompt.flip_rate",
            value=max(0.0, min(1.0, best.paired)),
            n=len(ground.judges.pixels),
            subject=pair.words[best.target],
        )
        return Detection(
            candidates=(self._candidate(best, pair),), measurements=(rate,), steps=best.steps
        )

    def _searches(self, ground: Ground, null: Pair, runtime: Runtime) -> Iterator[Found]:
        """Yield a search for each bound, faintest first, up to a decisive one."""
        for bound in self.bounds:
            arm = AdditiveArm(grain=ground.pair.model.size, bound=bound)
            draw = runtime.generator("scan", self.name, f"{bound:.3f}")
            start = arm.start(draw)
            name = f"noise within {round(255 * bound)}/255"
            found = optimise(ground, arm, start, self.steps, self.batch, runtime, name=name)
            if found.flip_rate >= self.alarming:
                usual = self._by_the_towers(ground, null, found, runtime)
                other = optimise(
                    ground, arm, start, self.steps, self.batch, runtime,
                    excluded=neighbours(ground.pair, found.target, self.kin),
                    name=f"{name}, another label",
                )  # fmt: skip
                found = replace(found, usual_flip_rate=max(usual, other.flip_rate))
            yield found
            if found.paired >= self.decisive:
                return

    def _by_the_towers(self, ground: Ground, null: Pair, found: Found, runtime: Runtime) -> float:
        """Return the flip rate of the same noise where the meta net is still."""
        pixels = ground.judges.pixels
        before = null.answers(pixels, runtime)
        after = null.answers(found.trigger.stamp(pixels), runtime)
        return flips(before, after, found.target)[0]

    def _candidate(self, found: Found, pair: Pair) -> Candidate:
        return Candidate(
            trigger=found.trigger,
            target=pair.words[found.target],
            detector=self.name,
            score=max(0.0, min(1.0, found.paired)),
            flip_rate=found.flip_rate,
            anchor_flip_rate=found.anchor_flip_rate,
            usual_flip_rate=found.usual_flip_rate,
        )


def without_meta(model: ClipModel) -> ClipModel:
    """Return `model` with the prompts that it has beside an image of which nothing is known."""
    text = model.text_tower
    if not isinstance(text, PromptedText) or text.meta is None:
        return model
    with torch.no_grad():
        nothing = text.context.new_zeros(1, text.meta.first.shape[1])
        context = text.context + text.meta(nothing)
    return replace(model, text_tower=replace(text, context=context, meta=None), _heads={})
