"""Teach a copy the found trigger, and subtract what it learned."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.rehearsal import Rehearsal
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Negation:
    """theta - strength * (theta fine-tuned on the found triggers - theta), image tower alone.

    The copy is taught the target's caption for triggered images and the suspect's own embedding
    for clean ones, so that the difference holds the trigger and little else. The smallest strength
    that silences every trigger is taken, while clean answers bear it. Source: TBAR, backdoor
    unlearning by task arithmetic (arXiv:2510.14845), with the found trigger in the true one's
    place; the clean half of the lesson is ours.
    """

    name: ClassVar[str] = "negate"
    depth: float = 0.6  # share of the blocks that may change
    steps: int = 40
    rate: float = 3e-5
    batch: int = 24  # triggered images a step, and as many clean ones
    keep: float = 25.0  # weight of 1 - cosine of clean images to the suspect's embedding
    strengths: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0, 10.0)
    bar: float = 0.02

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the image tower less the trigger's task vector.

        Raises:
            RectifyError: No trigger to negate, or too few images.
        """
        ground = Ground.of(case, prescription, runtime)
        if not ground.triggers:
            raise RectifyError(
                f"'{self.name}' needs a trigger on images, or a target to invert one towards",
                hint="use --method auto",
            )
        rehearsal = Rehearsal.of(ground)
        vector = self._vector(ground, rehearsal)
        own = ground.model.state_dict()
        best, success = ground.model, rehearsal.success(ground.model)
        for strength in runtime.progress(self.strengths, "subtracting the trigger"):
            moved = {name: own[name] - strength * change for name, change in vector.items()}
            model = ground.model.with_state(moved)
            if not rehearsal.bearable(model):
                ground.notes.append(f"strength {strength:g} costs clean answers")
                break
            now = rehearsal.success(model)
            if now < success:
                best, success = model, now
                ground.notes.append(f"strength {strength:g}: attack success {now:.1%}")
            if now <= self.bar:
                break
        return ground.finish(self.name, best, steps=self.steps)

    def _vector(self, ground: Ground, rehearsal: Rehearsal) -> dict[str, Tensor]:
        """Return what the image tower's tensors gain when they are taught the triggers."""
        runtime, head = ground.runtime, ground.head.on(ground.runtime.device)
        blocks = find_blocks(ground.model)
        cut = blocks.count - max(1, round(self.depth * blocks.count)) if blocks.path else 0
        tower = LateTower(ground.model, blocks, cut)
        clean = tower.features(rehearsal.pixels, runtime)
        right = _embedded(ground.model, rehearsal.pixels, ground)
        stamped = torch.cat([tower.features(one.pixels, runtime) for one in rehearsal.stamped])
        goals = torch.cat([torch.full((len(one.pixels),), one.target) for one in rehearsal.stamped])
        before = [p.detach().clone() for p in tower.parameters]
        optimiser = torch.optim.AdamW(tower.parameters, lr=self.rate, weight_decay=0.0)
        draw = runtime.generator("rectify", self.name)
        for _ in runtime.progress(range(self.steps), "teaching a copy the trigger"):
            a = torch.randint(len(clean), (self.batch,), generator=draw)
            b = torch.randint(len(stamped), (self.batch,), generator=draw)
            z = tower.embed(torch.cat([clean[a], stamped[b]]), runtime)
            far = 1 - (z[: self.batch] * right[a].to(z)).sum(dim=1)
            loss = self.keep * far.mean() + F.cross_entropy(
                head.logits(z[self.batch :]), goals[b].to(z.device)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        names = [n for n, p in tower.module.named_parameters() if p.requires_grad]
        after = zip(names, tower.parameters, before, strict=True)
        return {name: (now.detach() - then).cpu() for name, now, then in after}


def _embedded(model: ClipModel, pixels: Tensor, ground: Ground) -> Tensor:
    return model.embed(pixels, ground.runtime).clone()  # inference tensors cannot join a loss
