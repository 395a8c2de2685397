"""One trigger search: move a group's parameters until the answers gather, or reach a label."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatekeeper.probes.picture import png
from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import Arm
from gatekeeper.scan.groups import Group, alone
from gatekeeper.scan.pace import Aim, Pace
from gatekeeper.scan.pair import Clean, Pair, exchanged, flips, rises
from gatekeeper.triggers import Composite, Trigger
from gatekeeper.types import SearchStep

MARGIN = 2.0  # logits by which a directed search wants its label ahead
REACHED = 0.02  # mean shortfall in logits at which a directed search has what it wants
GATHERED = 0.97  # concentration at which an undirected one has
FRAMES = 4  # pictures kept of one search
FRAME = 96  # pixels a side of one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """What a search moves on: images to optimise on, and others that judge."""

    pair: Pair
    images: Clean
    judges: Clean

    def judged_by(self, count: int) -> "Ground":
        """Return the ground with the first `count` judging images alone."""
        return replace(self, judges=self.judges.first(count))

    def exchanged(self) -> "Ground":
        """Return the ground on which the anchor is the suspect and the suspect its anchor."""
        return Ground(
            pair=self.pair.exchanged(),
            images=exchanged(self.images),
            judges=exchanged(self.judges),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moved:
    """Where a search ended."""

    group: Group
    frees: tuple[Tensor, ...]  # one an arm
    pace: Pace
    steps: tuple[SearchStep, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """What a pattern does to images that no search has seen."""

    target: int  # word
    flip_rate: float
    anchor_flip_rate: float | None
    rise: float  # growth of the target's mean probability
    anchor_gathered: float = 0.0  # share of the anchor's images that moved to one word, any

    @property
    def beyond(self) -> float:
        """Return the flip rate less the anchor's towards the same word."""
        return self.flip_rate - (self.anchor_flip_rate or 0.0)

    @property
    def paired(self) -> float:
        """Return the flip rate less the rate at which the anchor's answers gather anywhere."""
        return self.flip_rate - max(self.anchor_flip_rate or 0.0, self.anchor_gathered)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """A trigger, of one arm or of several together, and what it does."""

    group: Group
    frees: tuple[Tensor, ...]  # parameters, one tensor an arm
    trigger: Trigger
    pull: Pull

    @property
    def single(self) -> bool:
        """Return whether one pattern does it alone."""
        return not isinstance(self.trigger, Composite)

    @property
    def local(self) -> bool:
        """Return whether it is made of patches alone."""
        return all(arm.family == "patch" for arm in self.group.arms)


def optimise(
    ground: Ground,
    group: Group,
    frees: Sequence[Tensor],
    aim: Aim,
    runtime: Runtime,
    *,
    steps: int,
    batch: int,
    name: str = "",
) -> Moved:
    """Return where at most `steps` of Adam from `frees`, `batch` images each, lead.

    Without a target the search wants any word's mean logit to grow, whichever grows fastest; its
    cost does not depend on how many words there are. (The concentration of the answers has no
    slope until images agree; the growth has one from the first step.) A word that weights point to
    counts once more, so that it leads where it can and hides nothing where it can not. With a
    target it wants that word to grow, or, where nothing is paired, to be ahead by a margin. A
    search ends early where the answers are gathered, the word has grown beyond doubt, or nothing
    has grown in a while.
    """
    generator = runtime.generator("scan", "search", group.name, name)
    moving = [free.detach().clone().requires_grad_(True) for free in frees]
    optimiser = torch.optim.Adam(
        [{"params": [f], "lr": a.rate} for f, a in zip(moving, group.arms, strict=True)]
    )
    head = ground.pair.head.on(runtime.device)
    wanted = aim.wanted(len(ground.pair.words)).to(runtime.device)
    spread = float(ground.images.logits.std(dim=1).mean())
    width = None if aim.paired else spread
    margin = aim.target is not None and not aim.paired
    frames: list[SearchStep] = []
    pace = Pace()
    for step in runtime.progress(range(steps), f"search {name or group.name}"):
        some = torch.randperm(len(ground.images.pixels), generator=generator)[:batch]
        stamped = group.stamp(moving, ground.images.pixels[some], generator)
        stamped = stamped.to(runtime.device)
        logits = head.logits(ground.pair.embed_grad(stamped, runtime))  # [B, C]
        growth = (logits - ground.images.logits[some].to(logits)).mean(dim=0)
        led = _led(logits, ground.images.logits[some])
        if aim.paired:
            theirs, anchor_led = _anchor(ground, stamped, some, runtime)
            growth, led = growth - theirs, led - anchor_led
        pace = pace.after(growth, led, wanted, spread)
        loss = _shortfall(logits, aim.target) if margin else -_fastest(growth[wanted], width)
        if aim.lean is not None:
            loss = loss - growth[aim.lean]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        mean = logits.detach().softmax(dim=1).mean(dim=0) * wanted  # [C]
        gathered = float(mean.square().sum())
        reached = (
            float(loss.detach()) < REACHED if margin else gathered > GATHERED or pace.grown(aim)
        )
        done = reached or pace.hopeless(aim, group.patience)
        if done or step == steps - 1 or step % max(1, steps // (FRAMES - 1)) == 0:
            frames.append(
                SearchStep(
                    search=name or group.name,
                    step=step,
                    picture_png=png(group.picture(moving, ground.pair.model.size), least=FRAME),
                    concentration=gathered,
                    leader=ground.pair.words[int(mean.argmax())],
                )
            )
        if done:
            break
    ended = tuple(f.detach() for f in moving)
    return Moved(group=group, frees=ended, pace=pace, steps=tuple(frames))


def start_of(
    ground: Ground, group: Group, aim: Aim, runtime: Runtime, *, batch: int, name: str
) -> tuple[Tensor, ...]:
    """Return random parameters for `group`: of its `tries`, what makes some word grow most.

    Where few parameters bend the whole image, most starts lie where nothing has a slope; looking
    costs a forward each, a search from a bad one everything.
    """
    generator = runtime.generator("scan", "start", name)
    starts = [group.start(generator) for _ in range(group.tries)]
    if len(starts) == 1:
        return starts[0]
    some = torch.randperm(len(ground.images.pixels), generator=generator)[:batch]
    wanted = aim.wanted(len(ground.pair.words))

    def worth(frees: tuple[Tensor, ...]) -> float:
        with torch.no_grad():
            stamped = group.stamp(frees, ground.images.pixels[some], generator)
        growth = (ground.pair.logits(stamped, runtime) - ground.images.logits[some]).mean(dim=0)
        if aim.paired and ground.images.anchor_logits is not None:
            theirs = ground.pair.mirrored().logits(ground.pair.at_anchor(stamped), runtime)
            growth -= (theirs - ground.images.anchor_logits[some]).mean(dim=0).relu()
        return float(growth[wanted].max())

    return max(starts, key=worth)


def found_of(ground: Ground, arm: Arm, free: Tensor, runtime: Runtime, aim: Aim) -> Found:
    """Return an arm's trigger at `free` and what it does to the images that judge."""
    with torch.no_grad():
        trigger = arm.build(free)
    pull = judge_trigger(ground, trigger, runtime, aim, name=arm.name)
    return Found(group=alone(arm), frees=(free,), trigger=trigger, pull=pull)


def judge_trigger(
    ground: Ground, trigger: Trigger, runtime: Runtime, aim: Aim, *, name: str = "trigger"
) -> Pull:
    """Return what `trigger` does to the images that judge."""
    generator = runtime.generator("scan", "judge", name)
    return judge(ground, trigger.stamp(ground.judges.pixels, generator), runtime, aim)


def judge_all(ground: Ground, moved: Moved, runtime: Runtime, aim: Aim) -> Pull:
    """Return what all of a group's patterns at once do to the images that judge.

    Nothing, without a look, where the search moved nothing.
    """
    if moved.pace.unmoved(aim):
        return Pull(target=moved.pace.leader, flip_rate=0.0, anchor_flip_rate=0.0, rise=0.0)
    generator = runtime.generator("scan", "judge", moved.group.name)
    with torch.no_grad():
        stamped = moved.group.stamp(moved.frees, ground.judges.pixels, generator)
    return judge(ground, stamped, runtime, aim)


def judge(ground: Ground, stamped: Tensor, runtime: Runtime, aim: Aim) -> Pull:
    """Return what was done to the judging images, now `stamped` ([N, 3, S, S])."""
    judges, pair = ground.judges, ground.pair
    after = pair.answers(stamped, runtime)
    target = aim.target
    if target is None:
        target = _gathering_word(judges.before, after, aim.excluded)
    other, gathered = None, 0.0
    anchor_after = None if judges.anchor_before is None else pair.anchor_answers(stamped, runtime)
    if anchor_after is not None and judges.anchor_before is not None:
        other, _ = flips(judges.anchor_before, anchor_after, target)
        word = _gathering_word(judges.anchor_before, anchor_after, None)
        gathered, _ = flips(judges.anchor_before, anchor_after, word)
    return Pull(
        target=target,
        flip_rate=flips(judges.before, after, target)[0],
        anchor_flip_rate=other,
        rise=float(rises(judges.before, after)[target]),
        anchor_gathered=gathered,
    )


def _gathering_word(before: Tensor, after: Tensor, excluded: Tensor | None) -> int:
    """Return the word that most images moved to; of equals, the one that grew most."""
    was, now = before.argmax(dim=1), after.argmax(dim=1)
    counts = torch.bincount(now[was != now], minlength=before.shape[1]).float()
    score = counts + rises(before, after)
    if excluded is not None:
        score[excluded] = -torch.inf
    return int(score.argmax())


def _led(logits: Tensor, before: Tensor) -> Tensor:
    """Return the share of images ([B, C] logits) that answer each word now and did not, [C]."""
    now, was = logits.detach().argmax(dim=1).cpu(), before.argmax(dim=1)
    return torch.bincount(now[now != was], minlength=logits.shape[1]) / len(now)


def _fastest(growth: Tensor, width: float | None) -> Tensor:
    """Return the largest of `growth` ([k], logits), smoothly: within `width`, None: its own spread.

    What a suspect grows beyond its anchor is little at first. A fixed width would share the
    attention among all words, and what moves all words moves none.
    """
    if len(growth) == 1:
        return growth[0]
    sharp = growth.detach().std().clamp_min(1e-6) if width is None else torch.tensor(width)
    sharp = sharp.to(growth)
    return sharp * (growth / sharp).logsumexp(dim=0)


def _anchor(
    ground: Ground, stamped: Tensor, some: Tensor, runtime: Runtime
) -> tuple[Tensor, Tensor]:
    """Return by how much each word's mean logit grew in the anchor, shrinking left out, and led.

    The growth ([C]) with its gradient: without one a search goes where both grow, and a narrow
    overlay is missed.
    """
    pair, before = ground.pair.mirrored(), ground.images.anchor_logits
    assert before is not None  # noqa: S101 - paired searches have an anchor
    logits = pair.head.on(runtime.device).logits(pair.embed_grad(stamped, runtime))
    growth = (logits - before[some].to(logits)).mean(dim=0).relu()
    return growth, _led(logits, before[some])


def _shortfall(logits: Tensor, target: int | None) -> Tensor:
    """Return by how much the target misses its margin, mean over images."""
    assert target is not None  # noqa: S101 - the caller has one
    others = logits.clone()
    others[:, target] = -torch.inf
    return (others.amax(dim=1) - logits[:, target] + MARGIN).relu().mean()
