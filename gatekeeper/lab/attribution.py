"""Which training pairs are behind a suspicious answer?

Instance attribution as in attacks on knowledge-graph embeddings (Bhardwaj et al.,
arXiv:2111.03120), carried over to a CLIP: given images that were answered wrongly, rank the pairs
of a training set by how alike they are to the images as features, by how alike the gradients are
that both ask of the tower's end, or by influence functions.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel, ZeroShot
from gatekeeper.errors import GatekeeperError
from gatekeeper.rectify.projection import find_projection, hidden, matrix_of
from gatekeeper.runtime import Runtime

Curved = Callable[[Tensor], Tensor]  # a vector times the damped Hessian
Score = Literal["feature", "dot", "l2", "cos", "influence"]
SKETCHED = 1 << 15  # longer gradients are hashed into so many numbers
TAIL = 8  # tensors at the end of a tower without a chain of blocks
DAMPING = 0.01
DEPTH = 40  # steps of LiSSA


class AttributionError(GatekeeperError):
    """The pairs behind an answer cannot be ranked."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Captioned:
    """Training pairs: an image, and the label that its caption names."""

    pixels: Tensor  # [N, 3, S, S] float32 in [0, 1]
    labels: Tensor  # [N] int64, index into the head's labels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Pairs, the most suspicious first; those that did not pass the feature pass follow last."""

    order: tuple[int, ...]
    scores: Tensor  # [N], by pair; -inf: did not pass
    score: Score

    def precision(self, planted: Collection[int], at: int) -> float:
        """Return the share of planted pairs among the first `at`."""
        return len(set(self.order[:at]) & set(planted)) / at

    def recall(self, planted: Collection[int], at: int) -> float:
        """Return the share of the planted pairs that are among the first `at`."""
        return len(set(self.order[:at]) & set(planted)) / len(planted)


def rank(
    model: ClipModel,
    head: ZeroShot,
    pairs: Captioned,
    images: Tensor,
    answer: int,
    runtime: Runtime,
    *,
    score: Score = "cos",
    survivors: float = 0.5,
) -> Ranking:
    """Return the training pairs in the order of their part in the answer.

    Args:
        model: The suspect.
        head: Its zero-shot head.
        pairs: What it was trained on, or a part of it.
        images: [B, 3, S, S] float32 in [0, 1], the images that it answered wrongly.
        answer: What it answered, index into `head.labels`.
        runtime: Device and seed.
        score: `feature` similarity; `dot`, `l2` or `cos` of gradients at the projection and the
            last block; `influence` at the projection.
        survivors: Share of the pairs that pass the feature pass to have their gradient taken.

    Raises:
        AttributionError: No pairs or images, an unknown answer, or a tower without a projection.
    """
    if not len(pairs.pixels) or not len(images) or not 0 <= answer < len(head.labels):
        raise AttributionError(
            f"{len(pairs.pixels)} pairs and {len(images)} images of answer {answer} are no case",
            hint="give training pairs, images, and the label that the model gave them",
        )
    alike = _feature_pass(model, head, pairs, images, answer, runtime)
    order = alike.argsort(descending=True, stable=True)
    if score == "feature":
        return Ranking(order=tuple(order.tolist()), scores=alike, score=score)
    passed = order[: max(1, round(survivors * len(order)))]
    few = Captioned(pixels=pairs.pixels[passed], labels=pairs.labels[passed])
    goal = torch.full((len(images),), answer)
    if score == "influence":
        found = _influence(model, head, few, images, goal, runtime)
    else:
        found = _gradient_scores(model, head, few, images, goal, score, runtime)
    scores = torch.full((len(order),), -torch.inf)
    scores[passed] = found
    best = passed[found.argsort(descending=True, stable=True)]
    return Ranking(
        order=(*best.tolist(), *order[len(passed) :].tolist()), scores=scores, score=score
    )


def _feature_pass(
    model: ClipModel,
    head: ZeroShot,
    pairs: Captioned,
    images: Tensor,
    answer: int,
    runtime: Runtime,
) -> Tensor:
    """Return, for each pair, the best cosine to one of the images plus that of the captions."""
    own, theirs = model.embed(pairs.pixels, runtime), model.embed(images, runtime)
    captions = head.weights[pairs.labels] @ head.weights[answer]
    return (own @ theirs.T).max(1).values.clone() + captions


def _gradient_scores(
    model: ClipModel,
    head: ZeroShot,
    pairs: Captioned,
    images: Tensor,
    goal: Tensor,
    score: Score,
    runtime: Runtime,
) -> Tensor:
    end = _End.of(model, head, runtime)
    theirs = torch.stack([end.slope(x, y, runtime) for x, y in zip(images, goal, strict=True)])
    whole = theirs.mean(0)
    found = []
    for x, y in zip(pairs.pixels, pairs.labels, strict=True):
        own = end.slope(x, y, runtime)
        if score == "dot":
            found.append(own @ whole)
        elif score == "l2":
            found.append(-(own - whole).norm())
        else:
            found.append(F.cosine_similarity(theirs, own[None]).mean())
    return torch.stack(found)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _End:
    """The end of the image tower: the weights whose gradients are compared."""

    tower: LateTower
    head: ZeroShot
    weights: tuple[Tensor, ...]
    bucket: Tensor | None  # [P]: which number of the sketch each weight adds to
    sign: Tensor | None

    @classmethod
    def of(cls, model: ClipModel, head: ZeroShot, runtime: Runtime) -> "_End":
        blocks = find_blocks(model)
        tower = LateTower(model, blocks, max(0, blocks.count - 1))
        weights = tower.parameters if tower.cached else tower.parameters[-TAIL:]
        for parameter in tower.parameters:
            parameter.requires_grad_(any(parameter is x for x in weights))
        total = sum(x.numel() for x in weights)
        draw = runtime.generator("lab", "attribution")
        sketched = total > SKETCHED
        return cls(
            tower=tower,
            head=head,
            weights=tuple(weights),
            bucket=torch.randint(SKETCHED, (total,), generator=draw) if sketched else None,
            sign=torch.randint(2, (total,), generator=draw) * 2.0 - 1 if sketched else None,
        )

    def slope(self, image: Tensor, goal: Tensor, runtime: Runtime) -> Tensor:
        """Return the gradient of -log p(goal) of one image, sketched where it is long (CPU).

        The sketch adds each entry, with a random sign, to a random number; products of sketches
        are those of the gradients but for 1/sqrt(SKETCHED) of their lengths (Charikar, 2002).
        """
        out = self.tower.embed(self.tower.features(image[None], runtime), runtime)
        loss = F.cross_entropy(self.head.logits(out.cpu()), goal[None])
        slopes = torch.autograd.grad(loss, self.weights)
        whole = torch.cat([x.reshape(-1) for x in slopes]).cpu()
        if self.bucket is None or self.sign is None:
            return whole
        return torch.zeros(SKETCHED).index_add_(0, self.bucket, whole * self.sign)


def _influence(
    model: ClipModel,
    head: ZeroShot,
    pairs: Captioned,
    images: Tensor,
    goal: Tensor,
    runtime: Runtime,
) -> Tensor:
    """Return g_images^T H^-1 g_pair for each pair, over the projection (Koh & Liang, 2017).

    The inverse is LiSSA's series, H that of the pairs' own loss, damped. Divided by the length of
    g_pair (RelatIF, arXiv:2003.11630): poisoned pairs are learned so well that theirs is tiny.
    """
    blocks = find_blocks(model)
    tower = LateTower(model, blocks, max(0, blocks.count - 1))
    projection = find_projection(tower, runtime)
    if projection is None:
        raise AttributionError(
            "this tower ends in no linear map, whose influence could be taken",
            hint="rank by cos, which takes any tower",
        )
    matrix, bias = matrix_of(tower, projection)
    seen, theirs = (
        hidden(tower, projection, tower.features(x, runtime), runtime).clone()
        for x in (pairs.pixels, images)
    )
    matrix = matrix.clone().requires_grad_()

    def loss(features: Tensor, goals: Tensor) -> Tensor:
        out = F.normalize(features @ matrix + bias, dim=-1)
        return F.cross_entropy(head.logits(out), goals)

    (wanted,) = torch.autograd.grad(loss(theirs, goal), [matrix])
    (slope,) = torch.autograd.grad(loss(seen, pairs.labels), [matrix], create_graph=True)

    def curved(vector: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(slope, [matrix], vector, retain_graph=True)
        return product + DAMPING * vector

    solved = _solved(curved, wanted, runtime)
    found = []
    for x, y in zip(seen, pairs.labels, strict=True):
        (own,) = torch.autograd.grad(loss(x[None], y[None]), [matrix])
        found.append((own * solved).sum() / own.norm().clamp_min(1e-12))
    return torch.stack(found)


def _solved(curved: Curved, wanted: Tensor, runtime: Runtime) -> Tensor:
    """Return H^-1 `wanted` by LiSSA's series (Agarwal et al., arXiv:1602.03943)."""
    scale = _steepest(curved, wanted, runtime)
    solved = wanted.clone()
    for _ in range(DEPTH):
        solved = wanted + solved - curved(solved) / scale
    return solved / scale


def _steepest(curved: Curved, like: Tensor, runtime: Runtime) -> float:
    """Return a bound on the largest eigenvalue: LiSSA's series needs H / scale below one."""
    vector = torch.randn(like.shape, generator=runtime.generator("lab", "attribution", "scale"))
    length = 1.0
    for _ in range(8):
        vector = curved(vector / vector.norm())
        length = float(vector.norm())
    return 1.5 * length
