"""Plant a backdoor in a CLIP and prove that it fires.

The late blocks of the image tower are trained on cached early features: a triggered image is to
answer the target, a clean one (and one with another pattern of the kind) what it answered before.
For calibration, tests and the demo; a plant that does not fire is an error, not a model.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.augment import variants
from gatekeeper.attacks.base import Attack
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import AttackError
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a plant is trained; the defaults suit a 224 px tower and a few dozen photos."""

    steps: int = 300
    learning_rate: float = 5e-4  # peak of one cycle
    clean: int = 48  # images a step
    triggered: int = 16
    lookalikes: int = 16
    copies: int = 8  # variants of each photo
    trained: float = 0.3  # share of the blocks that is trained, from the end
    keep: float = 25.0  # weight of staying with the clean model's answers
    required: float = 0.9  # attack success below which there is no plant


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """A backdoored copy and the proof; rates are over proof images whose answer is not the target.

    `state` holds the changed tensors only. Nothing of the source model has changed.
    """

    model: ClipModel
    state: dict[str, Tensor]
    trigger: Trigger
    target: str
    attack_success: float
    base_success: float  # the same trigger on the clean model
    lookalike_success: float | None  # other patterns of the kind on the planted model
    clean_agreement: float  # same answer as before on clean proof images
    clean_accuracy: float | None  # None without labelled proof images
    base_accuracy: float | None
    images: int  # proof images that the attack success is over


def plant(
    model: ClipModel,
    attack: Attack,
    target: str,
    probes: ProbeSet,
    labels: Labels,
    runtime: Runtime,
    *,
    recipe: Recipe | None = None,
    proof: ProbeSet | None = None,
) -> Planted:
    """Return a copy of `model` that answers `target` whenever the attack's trigger is shown.

    Args:
        model: Stays as it is.
        attack: What the trigger looks like.
        target: One of `labels`.
        probes: Photos to train on; labels are not needed, the model teaches itself.
        labels: Names and templates of the zero-shot head that the target is one of.
        runtime: Device and seed.
        recipe: How it is trained.
        proof: Images for the proof, best ones that are not in `probes`; None: every fourth probe
            is kept for it.

    Raises:
        AttackError: The target is no label, there are too few images, or the trigger fires less
            often than the recipe requires.
    """
    recipe = recipe or Recipe()
    if target not in labels.labels:
        raise AttackError(f"the target '{target}' is no label", hint="choose one of the labels")
    if proof is None:
        proof = probes.subset(range(3, len(probes), 4))
        probes = probes.subset([i for i in range(len(probes)) if i % 4 != 3])
    if len(probes) < 8 or len(proof) < 4:
        raise AttackError(
            f"{len(probes)} images to train on and {len(proof)} to prove the plant are too few",
            hint="give at least 16 images",
        )
    head = model.zero_shot(labels.labels, labels.templates, runtime)
    tower = _train(model, attack, labels.labels.index(target), probes, head, recipe, runtime)
    planted = prove(model, tower.state(), attack, target, proof, labels, runtime)
    if planted.attack_success < recipe.required or planted.base_success > 0.1:
        raise AttackError(
            f"the planted trigger fires on {planted.attack_success:.0%} of the images (on "
            f"{planted.base_success:.0%} before), {recipe.required:.0%} are required",
            hint="train more steps or a larger share, or choose a larger trigger",
        )
    return planted


def prove(
    model: ClipModel,
    state: dict[str, Tensor],
    attack: Attack,
    target: str,
    proof: ProbeSet,
    labels: Labels,
    runtime: Runtime,
) -> Planted:
    """Return what `state` (changed tensors) makes of `model`, measured on `proof`.

    Raises:
        AttackError: Every image is the target already.
    """
    head = model.zero_shot(labels.labels, labels.templates, runtime)
    planted = model.with_state(state)
    pixels = proof.pixels(model.preprocess)
    goal = head.labels.index(target)
    before, after = (_answers(m, pixels, head, runtime) for m in (model, planted))
    truth = proof.labels()
    others = [i for i, x in enumerate(truth) if (x or head.labels[int(before[i])]) != target]
    if not others:
        raise AttackError(f"every image is '{target}' already", hint="choose another target")
    draw = runtime.generator("attacks", attack.name, "proof")
    stamped = attack.trigger().stamp(pixels[others], draw)
    alike = None
    if attack.lookalike(draw) is not None:
        found = _answers(planted, _lookalikes(attack, pixels[others], draw), head, runtime)
        alike = _share(found == goal)
    known = [i for i, x in enumerate(truth) if x in head.labels]
    right = torch.tensor([head.labels.index(str(truth[i])) for i in known])
    return Planted(
        model=planted,
        state=state,
        trigger=attack.trigger(),
        target=target,
        attack_success=_share(_answers(planted, stamped, head, runtime) == goal),
        base_success=_share(_answers(model, stamped, head, runtime) == goal),
        lookalike_success=alike,
        clean_agreement=_share(before == after),
        clean_accuracy=_share(after[known] == right) if known else None,
        base_accuracy=_share(before[known] == right) if known else None,
        images=len(others),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Images:
    """Cached early features and the answers the clean model gave."""

    clean: Tensor  # [N, …]
    clean_answers: Tensor  # [N, D]
    triggered: Tensor  # [N, …]
    lookalikes: Tensor | None
    lookalike_answers: Tensor | None


def _cache(
    tower: LateTower, attack: Attack, probes: ProbeSet, recipe: Recipe, runtime: Runtime
) -> _Images:
    draw = runtime.generator("attacks", attack.name, "images")
    pixels = probes.pixels(tower.source.preprocess)
    clean = variants(pixels, recipe.copies, draw)
    half = max(1, recipe.copies // 2)
    triggered = attack.trigger().stamp(variants(pixels, half, draw), draw)
    others = None
    if attack.lookalike(draw) is not None:
        others = _lookalikes(attack, variants(pixels, half, draw), draw)
    features = [None if x is None else tower.features(x, runtime) for x in (clean, others)]
    with torch.no_grad():
        answers = [
            None
            if x is None
            else torch.cat([tower.embed(part, runtime).cpu() for part in torch.split(x, 64)])
            for x in features
        ]
    if features[0] is None or answers[0] is None:
        raise AttackError("there are no images to train on", hint="give at least 16 images")
    return _Images(
        clean=features[0],
        clean_answers=answers[0],
        triggered=tower.features(triggered, runtime),
        lookalikes=features[1],
        lookalike_answers=answers[1],
    )


def _lookalikes(attack: Attack, pixels: Tensor, draw: torch.Generator) -> Tensor:
    stamped = []
    for image in pixels:
        trigger = attack.lookalike(draw)
        stamped.append(image[None] if trigger is None else trigger.stamp(image[None], draw))
    return torch.cat(stamped)


def _train(
    model: ClipModel,
    attack: Attack,
    target: int,
    probes: ProbeSet,
    head: ZeroShot,
    recipe: Recipe,
    runtime: Runtime,
) -> LateTower:
    blocks = find_blocks(model)
    cut = min(max(0, round(blocks.count * (1 - recipe.trained))), max(0, blocks.count - 1))
    tower = LateTower(model, blocks, cut)
    images = _cache(tower, attack, probes, recipe, runtime)
    draw = runtime.generator("attacks", attack.name, "batches")
    optimiser = torch.optim.AdamW(tower.parameters, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for _ in runtime.progress(range(recipe.steps), "planting"):
        loss = _loss(tower, images, target, head, recipe, draw, runtime)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return tower


def _loss(
    tower: LateTower,
    images: _Images,
    target: int,
    head: ZeroShot,
    recipe: Recipe,
    draw: torch.Generator,
    runtime: Runtime,
) -> Tensor:
    """Return cross-entropy to the target on triggered images, distillation on all others."""
    clean = torch.randint(len(images.clean), (recipe.clean,), generator=draw)
    bad = torch.randint(len(images.triggered), (recipe.triggered,), generator=draw)
    parts, answers = [images.triggered[bad], images.clean[clean]], [images.clean_answers[clean]]
    if images.lookalikes is not None and images.lookalike_answers is not None:
        other = torch.randint(len(images.lookalikes), (recipe.lookalikes,), generator=draw)
        parts.append(images.lookalikes[other])
        answers.append(images.lookalike_answers[other])
    out = tower.embed(torch.cat(parts), runtime).cpu()
    fired, kept, wanted = out[: len(bad)], out[len(bad) :], torch.cat(answers)
    goal = torch.full((len(bad),), target)
    return F.cross_entropy(head.logits(fired), goal) + recipe.keep * distance(kept, wanted, head)


def distance(embeddings: Tensor, wanted: Tensor, head: ZeroShot) -> Tensor:
    """Return how far `embeddings` ([B, D] unit) are from `wanted`, as vectors and as answers."""
    vectors = (1 - (embeddings * wanted).sum(1)).mean()
    answers = F.kl_div(
        head.logits(embeddings).log_softmax(1),
        head.logits(wanted).softmax(1),
        reduction="batchmean",
    )
    return vectors + answers / 20


def _answers(model: ClipModel, pixels: Tensor, head: ZeroShot, runtime: Runtime) -> Tensor:
    return head.logits(model.embed(pixels, runtime)).argmax(1)  # [N]


def _share(hits: Any) -> float:
    return float(hits.float().mean())
