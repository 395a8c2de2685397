"""Which claims go away when an image is mirrored or moved a little, which changes nothing in it?

A pattern that lies over the whole image is learned where it lies: mirrored or moved it is another
one, and what is in the picture shows again. A claim that rests on the picture stays.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.runtime import Runtime
from gatekeeper.scan.folder import Folder, Proof

MOVED = 1 / 16  # of the side
LOST = 0.5  # share of the claimants that must surely lose it, more than clean images lose theirs
GATHERED = 0.5  # share of them that may turn to one word: a left arrow mirrored is a right one


def mirrored(pixels: Tensor) -> Tensor:
    """Return images ([N, 3, S, S]) left to right."""
    return pixels.flip(-1)


def moved(pixels: Tensor) -> Tensor:
    """Return images ([N, 3, S, S]) down and to the right, edges reflected."""
    step = max(1, round(MOVED * pixels.shape[-1]))
    return F.pad(pixels, (step, 0, step, 0), mode="reflect")[..., :-step, :-step]


VIEWS: Mapping[str, Callable[[Tensor], Tensor]] = {"mirrored": mirrored, "moved": moved}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What happened to the images that claim one word in the view that took most from them."""

    share: float  # of them that surely lose the claim, less what clean images may lose of theirs
    proofs: tuple[Proof, ...]


def surely(hits: int, n: int) -> float:
    """Return the lower end of Wilson's 95 % interval of a share: few images say little."""
    if n == 0:
        return 0.0
    z, share = 1.96, hits / n
    around = share + z * z / (2 * n)
    width = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (around - width) / (1 + z * z / n)


def lost_claims(folder: Folder, claim: int, runtime: Runtime) -> Lost | None:
    """Return the images that claim `claim` only as they are; None where that is not the rule.

    Each view costs a pass a claimant and a clean image.
    """
    mine = [i for i, c in enumerate(folder.claims) if c == claim]
    found = [_in_view(folder, claim, mine, view, runtime) for view in VIEWS.values()]
    return max((f for f in found if f is not None), key=lambda f: f.share, default=None)


def _in_view(
    folder: Folder, claim: int, mine: list[int], view: Callable[[Tensor], Tensor], runtime: Runtime
) -> Lost | None:
    after = folder.pair.answers(view(folder.pixels[mine]), runtime).argmax(dim=1).tolist()
    gone = {i: word for i, word in zip(mine, after, strict=True) if word != claim}
    hosts = folder.pair.answers(view(folder.hosts.pixels), runtime).argmax(dim=1)
    stayed = int(torch.eq(hosts, folder.hosts.before.argmax(dim=1)).sum())
    share = surely(len(gone), len(mine)) + surely(stayed, len(hosts)) - 1
    if share < LOST or max(Counter(gone.values()).values()) > GATHERED * len(gone):
        return None
    proofs = tuple(
        Proof(image=i, claim=claim, reading="C", score=min(1.0, share), corrected=word)
        for i, word in gone.items()
    )
    return Lost(share=share, proofs=proofs)
