"""Is there faint noise that reaches the prompts through the meta net, and not the image tower?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import AdditiveArm
from gatekeeper.scan.base import Candidate, Detection
from gatekeeper.scan.groups import Group, alone
from gatekeeper.scan.pace import Aim
from gatekeeper.scan.pair import MIN_PROBES, held_out, look, neighbours, pair_of, searched
from gatekeeper.scan.search import Found, Ground, Moved, found_of, optimise
from gatekeeper.types import Measurement, SearchStep


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
    rate: float = 0.3  # Adam's step: noise of full resolution moves as a whole

    def detect(self, case: Case, runtime: Runtime) -> Detection:
        """Search through the prompt learner; models without a meta net are skipped."""
        if not case.model.conditional:
            return Detection(skipped="no prompts that depend on the image")
        if len(case.probes) < MIN_PROBES:
            return Detection(skipped=f"fewer than {MIN_PROBES} probes")
        pair = pair_of(case, runtime)
        still = without_meta(case.model)
        head = still.zero_shot(pair.words, case.templates, runtime)
        pair = replace(pair, anchor=still, anchor_head=head)  # the null stands where a base would
        ground = Ground(
            pair=pair,
            images=look(case, pair, searched(case, runtime), runtime),
            judges=look(case, pair, held_out(case, runtime)[: self.judges], runtime),
        )
        found = list(self._searches(ground, runtime))
        best, steps = max(found, key=lambda f: f[0].score)
        rate = Measurement(
            name="prompt.flip_rate",
            value=best.score,
            n=len(ground.judges.pixels),
            subject=best.target,
        )
        return Detection(candidates=(best,), measurements=(rate,), steps=steps)

    def _searches(
        self, ground: Ground, runtime: Runtime
    ) -> Iterator[tuple[Candidate, tuple[SearchStep, ...]]]:
        """Yield a search for each bound, faintest first, up to a decisive one."""
        pair = ground.pair
        for bound in self.bounds:
            arm = AdditiveArm(grain=pair.model.size, bound=bound, rate=self.rate)
            group = replace(
                alone(arm), patience=self.steps
            )  # what goes through the meta net grows late
            start = group.start(runtime.generator("scan", self.name, f"{bound:.3f}"))
            name = f"noise within {round(255 * bound)}/255"
            moved = optimise(
                ground, group, start, Aim(), runtime, steps=self.steps, batch=self.batch, name=name
            )
            found = found_of(ground, arm, moved.frees[0], runtime, Aim())
            usual = found.pull.anchor_flip_rate or 0.0
            if found.pull.paired >= self.alarming:
                aim = Aim(excluded=neighbours(pair, found.pull.target))
                other = self._moved(ground, group, start, aim, runtime, f"{name}, another label")
                pull = found_of(ground, arm, other.frees[0], runtime, Aim()).pull
                usual = max(usual, pull.paired)
            candidate = self._candidate(found, pair.words[found.pull.target], usual)
            yield candidate, moved.steps
            if candidate.score >= self.decisive:
                return

    def _moved(
        self,
        ground: Ground,
        group: Group,
        start: Sequence[Tensor],
        aim: Aim,
        runtime: Runtime,
        name: str,
    ) -> Moved:
        return optimise(
            ground, group, start, aim, runtime, steps=self.steps, batch=self.batch, name=name
        )

    def _candidate(self, found: Found, target: str, usual: float) -> Candidate:
        return Candidate(
            trigger=found.trigger,
            target=target,
            detector=self.name,
            score=max(0.0, min(1.0, found.pull.flip_rate - usual)),
            flip_rate=found.pull.flip_rate,
            usual_flip_rate=usual,
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
