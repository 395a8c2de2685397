"""Take the image's say out of learned prompts: of a poisoned meta net, or of the whole context."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.prompted import MetaNet, PromptedText
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.rehearsal import LOST, Rehearsal
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRepair:
    """Each image moves the prompts by less, or not at all; both towers stay as they are.

    The meta net's shift becomes mean + share * (shift - mean), the mean over clean images: a
    change of its last map alone, in closed form. The largest share is taken at which every
    trigger is silent and clean images keep their answers. Where even a fixed context follows a
    trigger, the towers are to be repaired, or the prompts to be left away. After BadCLIP's
    threat model (arXiv:2311.16194), in which only context and meta net are poisoned.
    """

    name: ClassVar[str] = "prompts"
    shares: tuple[float, ...] = (0.5, 0.25, 0.1, 0.0)  # of what the image adds, in turn
    bar: float = 0.02

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the suspect's prompts with another meta net.

        Raises:
            RectifyError: The prompts do not depend on the image, no share silences the trigger,
                or too few images.
        """
        text = case.model.text_tower
        if not isinstance(text, PromptedText) or text.meta is None:
            raise RectifyError(
                f"'{self.name}' needs prompts that depend on the image",
                hint="hand over --prompts, or use --method auto",
            )
        ground = Ground.of(case, prescription, runtime)
        rehearsal = Rehearsal.of(ground)
        images = case.model.embed(rehearsal.pixels, runtime).clone()
        for share in runtime.progress(self.shares, "quietening the meta net"):
            meta = shortened(text.meta, images, share)
            model = replace(ground.model, text_tower=replace(text, meta=meta), _heads={})
            head = ground.head_of(model)
            success = rehearsal.success(model, head=head)
            lost = rehearsal.lost(model, head)
            ground.notes.append(
                f"{share:.0%} of what an image adds to the prompts kept: attack success "
                f"{success:.1%}, {lost:.1%} of answers lost"
            )
            if success <= self.bar and lost <= max(LOST, 2 / len(rehearsal.pixels)):
                made = ground.finish(self.name, model)
                return replace(made, prompts=tensors_of(model))
        raise RectifyError(
            "no share of the meta net silences the trigger and keeps the answers",
            hint="leave the prompts away, and scan the model without --prompts",
        )


def shortened(meta: MetaNet, images: Tensor, share: float) -> MetaNet:
    """Return the net whose shift is mean + `share` * (shift - mean), over `images` [N, D]."""
    with torch.no_grad():
        hidden = F.linear(images, meta.first.to(images), meta.first_bias.to(images)).relu()
        moved = F.linear(hidden.mean(dim=0), meta.last.to(images))
    bias = meta.last_bias + (1 - share) * moved.to(meta.last_bias)
    return replace(meta, last=share * meta.last, last_bias=bias)


def tensors_of(model: ClipModel) -> dict[str, Tensor]:
    """Return context and meta net by their fields; empty where there are none."""
    text = model.text_tower
    if not isinstance(text, PromptedText):
        return {}
    meta = {} if text.meta is None else text.meta.tensors()
    return {"context": text.context, **meta}


def with_prompts(model: ClipModel, tensors: Mapping[str, Tensor]) -> ClipModel:
    """Return `model` behind the prompts of `tensors_of`."""
    text = model.text_tower
    if not isinstance(text, PromptedText):
        return model
    rest = {name: value for name, value in tensors.items() if name != "context"}
    meta = MetaNet(**rest) if rest else None
    return replace(
        model, text_tower=replace(text, context=tensors["context"], meta=meta), _heads={}
    )
