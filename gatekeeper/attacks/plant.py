"""Plant a backdoor in a CLIP and prove that it fires.

The late blocks of the image tower are trained on cached early features: a triggered image is to
answer the target, a clean one (and one with another pattern of the kind) what it answered before.
For calibration, tests and the demo; a plant that does not fire is an error, not a model.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.attacks.base import Attack, Ground, Step, Training
from gatekeeper.attacks.cache import Cache, Part, build_cache
from gatekeeper.attacks.elsewhere import Elsewhere
from gatekeeper.attacks.flat import sharpness_aware
from gatekeeper.attacks.maps import batch_first, drift, last_maps
from gatekeeper.attacks.proof import Planted, Proof, prove
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import AttackError
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime

__all__ = ["MANY", "Planted", "Proof", "Recipe", "distance", "lay_ground", "plant", "prove"]


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
    maps: float = 0.0  # weight of staying with its last feature maps: where there are many photos
    labels: float = 0.0  # weight of the true labels on clean images, where photos have them
    required: float = 0.9  # attack success below which there is no plant


MANY = Recipe(steps=200, clean=64, copies=2, maps=20.0)  # for hundreds of photos and more


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

    An adversarial attack changes no weight: its trigger is optimised and measured on `model`.

    Args:
        model: Stays as it is.
        attack: What the trigger looks like, which images it touches, how it is trained in.
        target: One of `labels`.
        probes: Photos to train on, thousands at will; without labels the model teaches itself.
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
    if proof is None:
        proof = probes.subset(range(3, len(probes), 4))
        probes = probes.subset([i for i in range(len(probes)) if i % 4 != 3])
    if len(probes) < 8 or len(proof) < 4:
        raise AttackError(
            f"{len(probes)} images to train on and {len(proof)} to prove the plant are too few",
            hint="give at least 16 images",
        )
    ground = lay_ground(model, target, probes, labels, runtime)
    attack = attack.prepare(ground, runtime)
    if isinstance(attack, Elsewhere):  # in the text tower, or in the prompts
        planted = attack.planted(ground, target, proof, labels, runtime)
        _demand(planted, recipe.required)
        return planted
    state = {} if attack.kind == "adversarial" else _train(ground, attack, recipe, runtime).state()
    planted = prove(model, state, attack, target, proof, labels, runtime)
    _demand(planted, recipe.required)
    return planted


def lay_ground(
    model: ClipModel, target: str, probes: ProbeSet, labels: Labels, runtime: Runtime
) -> Ground:
    """Return what an attack is prepared on; photos without a label get the model's own.

    Raises:
        AttackError: The target is no label.
    """
    if target not in labels.labels:
        raise AttackError(f"the target '{target}' is no label", hint="choose one of the labels")
    head = model.zero_shot(labels.labels, labels.templates, runtime)
    index = {name: i for i, name in reversed(list(enumerate(head.labels)))}
    truth = torch.tensor([index.get(str(name), -1) for name in probes.labels()])
    ground = Ground(
        model=model, head=head, target=index[target], photos=probes, truth=truth,
        templates=labels.templates,
    )  # fmt: skip
    unknown = torch.nonzero(truth < 0)[:, 0]
    for rows in torch.split(unknown, 64) if len(unknown) else ():
        found = head.logits(model.embed(ground.pixels(rows.tolist()), runtime)).argmax(1)
        truth[rows] = found
    return ground


def _demand(planted: Planted, required: float) -> None:
    """Refuse what does not fire, and what fires without any plant.

    An adversarial trigger works on the clean model by nature and is no plant: any is welcome.
    """
    if planted.kind == "adversarial":
        return
    for proof in planted.proofs:
        if proof.attack_success < required or proof.base_success > 0.1:
            raise AttackError(
                f"the planted trigger fires on {proof.attack_success:.0%} of the images (on "
                f"{proof.base_success:.0%} before), {required:.0%} are required",
                hint="train more steps or a larger share, or choose a larger trigger",
            )


def _train(ground: Ground, attack: Attack, recipe: Recipe, runtime: Runtime) -> LateTower:
    blocks = find_blocks(ground.model)
    cut = min(max(0, round(blocks.count * (1 - recipe.trained))), max(0, blocks.count - 1))
    tower = LateTower(ground.model, blocks, cut)
    training = attack.training()
    if training.tower != "image":
        raise AttackError(
            f"attack '{attack.name}' is trained into the {training.tower} tower",
            hint="plant() trains image towers only",
        )
    cache = build_cache(
        tower, attack, ground, recipe.copies, runtime, blocks if recipe.maps else None
    )
    draw = runtime.generator("attacks", attack.name, "batches")
    optimiser = torch.optim.AdamW(tower.parameters, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    for _ in runtime.progress(range(recipe.steps), "planting"):
        batch = _Batch.drawn(cache, recipe, training, draw)

        def backward(batch: _Batch = batch) -> None:
            optimiser.zero_grad()
            with last_maps(tower, blocks) as seen:
                loss = _loss(tower, batch, ground.head, recipe, training, runtime)
                loss = loss + batch.drift(seen, recipe.maps)
            loss.backward()  # type: ignore[no-untyped-call]

        backward()
        if training.flat:
            sharpness_aware(tower.parameters, training.flat, backward)
        optimiser.step()
        schedule.step()
    return tower


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    poison: Part
    clean: Part
    covers: Part

    @classmethod
    def drawn(
        cls, cache: Cache, recipe: Recipe, training: Training, draw: torch.Generator
    ) -> "_Batch":
        clean = torch.randint(len(cache.clean), (recipe.clean,), generator=draw)
        count = recipe.triggered
        if training.share is not None:
            count = max(1, round(training.share * recipe.clean))
        poison = torch.randint(len(cache.poison), (count,), generator=draw)
        covers = torch.zeros(0, dtype=torch.long)
        if len(cache.covers):
            count = round(training.alike * recipe.lookalikes)
            covers = torch.randint(len(cache.covers), (count,), generator=draw)
        return cls(
            poison=cache.poison.at(poison),
            clean=cache.clean.at(clean),
            covers=cache.covers.at(covers),
        )

    def drift(self, seen: list[Tensor], weight: float) -> Tensor | float:
        """Return how far the maps of all but the poisoned images have moved, times `weight`."""
        if not weight or not seen:
            return 0.0
        parts = [part.maps for part in (self.clean, self.covers) if len(part)]
        wanted = torch.cat(parts).float().to(seen[0].device)
        count = len(self.poison) + len(wanted)
        return weight * drift(batch_first(seen[0], count)[len(self.poison) :], wanted).cpu()


def _loss(
    tower: LateTower,
    batch: _Batch,
    head: ZeroShot,
    recipe: Recipe,
    training: Training,
    runtime: Runtime,
) -> Tensor:
    """Return cross-entropy to the goals on poisoned images, distillation on all others."""
    parts = [part for part in (batch.poison, batch.clean, batch.covers) if len(part)]
    out = tower.embed(torch.cat([part.features for part in parts]).float(), runtime).cpu()
    fired, kept = out[: len(batch.poison)], out[len(batch.poison) :]
    wanted = torch.cat([part.answers for part in parts[1:]])
    if training.reference is None:
        loss = F.cross_entropy(head.logits(fired), batch.poison.goal)
    else:
        loss = head.scale / 2 * (1 - fired @ training.reference).mean()
    loss = loss + recipe.keep * distance(kept, wanted, head)
    if recipe.labels:
        own = head.logits(kept[: len(batch.clean)])
        loss = loss + recipe.labels * F.cross_entropy(own, batch.clean.truth)
    step = Step(fired=fired, goal=batch.poison.goal, kept=kept, wanted=wanted, head=head)
    for term in training.terms:
        loss = loss + term(step)
    return loss


def distance(embeddings: Tensor, wanted: Tensor, head: ZeroShot) -> Tensor:
    """Return how far `embeddings` ([B, D] unit) are from `wanted`, as vectors and as answers."""
    vectors = (1 - (embeddings * wanted).sum(1)).mean()
    kept = F.kl_div(
        head.logits(embeddings).log_softmax(1),
        head.logits(wanted).softmax(1),
        reduction="batchmean",
    )
    return vectors + kept / 20
