"""The clean twin of a plant: trained as long, on the same photos, without any trigger."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.plant import Recipe, distance
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime


def fine_tune(
    model: ClipModel,
    probes: ProbeSet,
    labels: Labels,
    runtime: Runtime,
    *,
    recipe: Recipe | None = None,
) -> dict[str, Tensor]:
    """Return the changed tensors of an honest fine-tune of `model`, which stays as it is.

    The model is trained towards its own answers on changed photos (self-training), so that no
    labels are needed: its weights move as an honest user's would, its answers hardly.
    """
    recipe = recipe or Recipe(steps=40, learning_rate=5e-5, copies=4)
    head = model.zero_shot(labels.labels, labels.templates, runtime)
    blocks = find_blocks(model)
    cut = min(max(0, round(blocks.count * (1 - recipe.trained))), max(0, blocks.count - 1))
    tower = LateTower(model, blocks, cut)
    draw = runtime.generator("attacks", "twin")
    photos = probes.pixels(model.preprocess)
    features = tower.features(variants(photos, recipe.copies, draw), runtime)
    answers = model.embed(photos, runtime).repeat(recipe.copies, 1)
    truth = head.logits(answers).argmax(1)
    optimiser = torch.optim.AdamW(tower.parameters, lr=recipe.learning_rate, weight_decay=0)
    for _ in runtime.progress(range(recipe.steps), "fine-tuning"):
        pick = torch.randint(len(features), (recipe.clean,), generator=draw)
        out = tower.embed(features[pick], runtime).cpu()
        loss = F.cross_entropy(head.logits(out), truth[pick])
        loss = 0.1 * loss + recipe.keep * distance(out, answers[pick], head)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return tower.state()
