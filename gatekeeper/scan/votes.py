"""How unlike clean images is a suspect one, by where it lies alone? Votes that prove nothing alone.

Each test gives an image a conformal p-value against clean probes, so that no threshold is guessed:
the share of them that look at least as odd (Vovk et al., Algorithmic learning in a random world).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.runtime import Runtime
from gatekeeper.scan.basics import MOST
from gatekeeper.scan.folder import Folder
from gatekeeper.scan.pair import shuffled
from gatekeeper.types import Json

LEVEL = 0.05  # p-value at which a test votes for an image
FOLDS = 8  # clean images are judged by a space that was fitted without them
LARGEST = 24  # directions of that space, at most, and a third of the images
ASKED = 24  # labels, at most, of which descriptions are read; each costs 8 text passes
# What says more of a label, and what says nothing of it (BDetCLIP, arXiv:2405.15269, whose
# descriptions a language model writes; none is at hand offline).
TOLD = (
    "a close-up of a {} with its typical texture.",
    "a {} in its usual surroundings.",
    "the characteristic parts of a {}.",
    "a typical example of a {}.",
)
BESIDE = (
    "a {}, and the train leaves at seven tomorrow.",
    "a {}, while prices rose by two percent.",
    "a {}. Please remember to close the window.",
    "a {}. The committee postponed its decision.",
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Votes:
    """p-values of each suspect image, [N] in (0, 1], by test."""

    outlying: Tensor  # far from the subspace of clean embeddings
    aligned: Tensor  # nearer to the claimed words than clean images are to theirs
    deaf: Tensor  # hardly cares whether a label is described (BDetCLIP)

    def count(self) -> Tensor:
        """Return how many tests vote for each image, [N] int64."""
        rows = torch.stack([self.outlying, self.aligned, self.deaf])
        return (rows <= LEVEL).sum(dim=0)

    def told(self, image: int) -> dict[str, Json]:
        """Return the p-values of one image by test, for people."""
        rows = {"outlying": self.outlying, "aligned": self.aligned, "deaf": self.deaf}
        return {name: round(float(row[image]), 4) for name, row in rows.items()}


def cast(case: Case, folder: Folder, runtime: Runtime) -> Votes:
    """Return the votes on a folder's images.

    Costs a pass an image, one each of 128 probes that no detector has looked at yet, and 192 text
    passes.
    """
    rows = shuffled(case, runtime)[:MOST]
    clean = case.embedded(case.model, rows, runtime)
    images = folder.embeddings
    weights = folder.pair.head.weights
    deaf = _deafness(case.model, case.labels, runtime)
    return Votes(
        outlying=p_values(_distance(clean, images), _folded(_distance, clean)),
        aligned=p_values((images @ weights.T).amax(dim=1), (clean @ weights.T).amax(dim=1)),
        deaf=p_values(images @ deaf, clean @ deaf),
    )


def p_values(scores: Tensor, clean: Tensor) -> Tensor:
    """Return, for each of `scores` ([N]), the share of `clean` ([M]) that is at least as large.

    Itself counted among them, so that none is 0.
    """
    above = (clean[None] >= scores[:, None]).sum(dim=1)
    return (above + 1) / (len(clean) + 1)


def _distance(clean: Tensor, images: Tensor) -> Tensor:
    """Return how far `images` ([N, D]) lie from the main directions of `clean` ([M, D]), [N].

    After the subspace tests of poisoned embeddings (LoREx; detection by local outliers,
    arXiv:2502.01385).
    """
    middle = clean.mean(dim=0)
    axes = torch.linalg.svd(clean - middle, full_matrices=False).Vh
    axes = axes[: max(1, min(LARGEST, len(clean) // 3))]
    rest = images - middle
    outside: Tensor = (rest - (rest @ axes.T) @ axes).norm(dim=1)
    return outside


def _folded(distance: Callable[[Tensor, Tensor], Tensor], clean: Tensor) -> Tensor:
    """Return the distance of each clean row ([M, D]) from those of the other folds, [M]."""
    place = torch.arange(len(clean)) % min(FOLDS, len(clean))
    out = torch.zeros(len(clean))
    for fold in range(int(place.max()) + 1):
        inside = place == fold
        out[inside] = distance(clean[~inside], clean[inside])
    return out


def _deafness(model: ClipModel, labels: tuple[str, ...], runtime: Runtime) -> Tensor:
    """Return the direction [D] along which images lie that care little for descriptions."""
    order = torch.randperm(len(labels), generator=runtime.generator("scan", "votes", "labels"))
    asked = [labels[i] for i in order[:ASKED].tolist()]
    told, beside = (model.zero_shot(asked, t, runtime).weights for t in (TOLD, BESIDE))
    return (beside - told).sum(dim=0)
