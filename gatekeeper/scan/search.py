"""One trigger search: move an arm's parameters until the answers gather, or reach a label."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import Arm
from gatekeeper.scan.pair import Clean, Pair, flips, rises
from gatekeeper.scan.picture import png
from gatekeeper.triggers import Trigger
from gatekeeper.types import SearchStep

MARGIN = 2.0  # logits by which a directed search wants its label ahead
REACHED = 0.02  # mean shortfall in logits at which a directed search has what it wants
GATHERED = 0.97  # concentration at which an undirected one has
FRAMES = 4  # pictures kept of one search


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """Where a search ended, judged on images it has not optimised on."""

    arm: Arm
    free: Tensor  # the arm's parameters
    trigger: Trigger
    target: int  # word
    flip_rate: float
    anchor_flip_rate: float | None
    rise: float  # growth of the target's mean probability
    usual_flip_rate: float | None = None  # to the best other label, where there is no anchor
    steps: tuple[SearchStep, ...]

    @property
    def paired(self) -> float:
        """Return the flip rate less what is usual: the anchor's, or that of another label."""
        return self.flip_rate - max(self.anchor_flip_rate or 0.0, self.usual_flip_rate or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """What a search moves on: images to optimise on, and others that judge."""

    pair: Pair
    images: Clean
    judges: Clean


def optimise(
    ground: Ground,
    arm: Arm,
    free: Tensor,
    count: int,
    batch: int,
    runtime: Runtime,
    *,
    target: int | None = None,
    excluded: Tensor | None = None,
    name: str = "",
) -> Found:
    """Return where `count` steps of Adam from `free` lead.

    Without `target` the search maximises the concentration of the answers over the words, the sum
    over words of the squared mean probability: its cost does not depend on how many words there
    are. With one it wants that word ahead by a margin. `excluded` ([k] int64) are words that an
    undirected search leaves out.
    """
    generator = runtime.generator("scan", "search", arm.name, name)
    device = runtime.device
    free = free.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([free], lr=arm.rate)
    head = ground.pair.head.on(device)
    frames: list[SearchStep] = []
    for step in runtime.progress(range(count), f"search {name or arm.name}"):
        some = torch.randperm(len(ground.images.pixels), generator=generator)[:batch]
        stamped = arm.build(free).stamp(ground.images.pixels[some], generator)
        embeddings = ground.pair.model.embed_grad(stamped.to(device), runtime)
        logits = head.logits(embeddings)  # [B, C]
        mean = logits.softmax(dim=1).mean(dim=0)  # [C]
        kept = mean if excluded is None else _without(mean, excluded)
        gathered = kept.square().sum()
        reached = float(gathered.detach())
        loss = -gathered.log() if target is None else _shortfall(logits, target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        done = float(loss.detach()) < REACHED if target is not None else reached > GATHERED
        if done or step == count - 1 or step % max(1, count // (FRAMES - 1)) == 0:
            leader = ground.pair.words[int(mean.argmax())]
            frames.append(_frame(arm, free, name or arm.name, step, reached, leader))
        if done:
            break
    return judge(ground, arm, free.detach(), target, runtime, tuple(frames), excluded)


def judge(
    ground: Ground,
    arm: Arm,
    free: Tensor,
    target: int | None,
    runtime: Runtime,
    steps: tuple[SearchStep, ...] = (),
    excluded: Tensor | None = None,
) -> Found:
    """Return what the arm's trigger at `free` does to the images that judge."""
    trigger = _frozen(arm, free)
    judges, pair = ground.judges, ground.pair
    stamped = trigger.stamp(judges.pixels, runtime.generator("scan", "judge", arm.name))
    after = pair.answers(stamped, runtime)
    if target is None:
        target = _gathering_word(judges.before, after, excluded)
    rate, _ = flips(judges.before, after, target)
    other = None
    anchor_after = None if judges.anchor_before is None else pair.anchor_answers(stamped, runtime)
    if anchor_after is not None and judges.anchor_before is not None:
        other, _ = flips(judges.anchor_before, anchor_after, target)
    return Found(
        arm=arm,
        free=free,
        trigger=trigger,
        target=target,
        flip_rate=rate,
        anchor_flip_rate=other,
        rise=float(rises(judges.before, after)[target]),
        steps=steps,
    )


def _gathering_word(before: Tensor, after: Tensor, excluded: Tensor | None) -> int:
    """Return the word that most images moved to; of equals, the one that grew most."""
    was, now = before.argmax(dim=1), after.argmax(dim=1)
    counts = torch.bincount(now[was != now], minlength=before.shape[1]).float()
    score = counts + rises(before, after)
    if excluded is not None:
        score[excluded] = -torch.inf
    return int(score.argmax())


def _without(mean: Tensor, words: Tensor) -> Tensor:
    """Return `mean` ([C]) with the share of `words` ([k] int64) at 0."""
    kept = torch.ones_like(mean)
    kept[words.to(mean.device)] = 0
    return mean * kept


def neighbours(pair: Pair, word: int, count: int) -> Tensor:
    """Return `word` and the `count` words whose prompts are nearest to its own, [count + 1]."""
    near = pair.head.weights @ pair.head.weights[word]
    return near.topk(min(count + 1, max(1, len(near) // 2))).indices


def _shortfall(logits: Tensor, target: int) -> Tensor:
    """Return by how much the target misses its margin, mean over images."""
    others = logits.clone()
    others[:, target] = -torch.inf
    return (others.amax(dim=1) - logits[:, target] + MARGIN).relu().mean()


def _frozen(arm: Arm, free: Tensor) -> Trigger:
    with torch.no_grad():
        return arm.build(free)


def _frame(
    arm: Arm, free: Tensor, name: str, step: int, gathered: float, leader: str
) -> SearchStep:
    return SearchStep(
        search=name,
        step=step,
        picture_png=png(_frozen(arm, free).picture(), least=96),
        concentration=gathered,
        leader=leader,
    )
