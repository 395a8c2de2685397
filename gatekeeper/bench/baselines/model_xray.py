"""Model X-ray (arXiv:2402.17465): what labels lie between three clean images?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatekeeper.bench.baselines.base import Opinion, Work, require_images
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelXray:
    """Hard labels on the triangles that three clean images span, no gradient.

    In a backdoored model the area that the three images' own labels hold shrinks, and one foreign
    label takes its place. Score: the mean share of one foreign label, the largest over labels;
    that label is the target. The entropy of the areas is in the note. The paper sets no threshold
    for a CLIP, so none is applied.
    """

    name: ClassVar[str] = "model_xray"
    source: ClassVar[str] = "Model X-ray, arXiv:2402.17465"
    triples: int = 100  # fewer where the budget ends earlier
    side: int = 8  # side * (side + 1) / 2 points a triangle: 36

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Return the largest mean share of a foreign label."""
        pixels = work.pixels()
        require_images(pixels, 6, self.name)
        points = barycentric(self.side)  # [G, 3]
        triples = max(1, min(self.triples, int(work.budget / len(points))))
        draw = runtime.generator("bench", self.name)
        head = work.head(runtime)
        corners = points.argmax(0)  # the images themselves lie on the grid
        foreign = torch.zeros(len(head.labels))
        owned, entropy = 0.0, 0.0
        for _ in runtime.progress(range(triples), "Model X-ray"):
            pick = torch.randperm(len(pixels), generator=draw)[:3]
            grid = torch.einsum("gk,kchw->gchw", points, pixels[pick])
            labels = head.logits(work.case.model.embed(grid, runtime)).argmax(1)
            shares = torch.bincount(labels, minlength=len(head.labels)) / len(labels)
            entropy += _renyi(shares) / triples
            own = torch.tensor(sorted(set(labels[corners].tolist())))
            owned += float(shares[own].sum()) / triples
            shares[own] = 0
            foreign += shares / triples
        order = foreign.argsort(descending=True).tolist()
        return Opinion(
            score=float(foreign[order[0]]),
            ranking=tuple(work.case.labels[i] for i in order[:20]),
            embedding=head.weights[order[0]],
            note=f"{triples} triangles: own labels hold {owned:.2f}, Renyi entropy {entropy:.2f}",
        )


def barycentric(side: int) -> Tensor:
    """Return the even grid over a triangle, [side (side + 1) / 2, 3], rows sum to 1."""
    steps = side - 1
    rows = [(i, j, steps - i - j) for i in range(side) for j in range(side - i)]
    return torch.tensor(rows, dtype=torch.float32) / steps


def _renyi(shares: Tensor) -> float:
    """Return the Renyi entropy of order 2 in nats."""
    return float(-shares.square().sum().log())
