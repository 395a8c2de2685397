"""Which labels are grounded in an image, and which are absent?"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import OracleError
from gatekeeper.oracle import conformal, consistency, views
from gatekeeper.oracle.base import CleanImages, Region, Segmenter
from gatekeeper.oracle.cache import (
    OracleCache,
    image_digest,
    pack_regions,
    unpack_regions,
)
from gatekeeper.oracle.conformal import Thresholds
from gatekeeper.runtime import Runtime

RANK_LIMIT = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What the labeler makes of one image: its views as unit vectors, the whole image first."""

    embeddings: Tensor  # [J, D] float32, unit length
    boxes: np.ndarray  # [J, 4] int32, pixels of the image
    hidden: np.ndarray  # [J, 4] int32, painted over in it; zeros: nothing


@dataclass(frozen=True, slots=True, eq=False)
class Oracle:
    """Regions from a segmenter, labels for them from a trusted labeler, and the word "absent".

    A label is absent when its best regional support lies below a conformal threshold *and* the
    labeler ranks it low on the whole image (docs/oracle.md). Where the labeler is the suspect
    itself (`independent` is false), a label must be supported whatever small part of the image is
    hidden, so that a trigger inside one part supports nothing; that costs 16 views more.

    Pixels are the suspect's input, float32 RGB in [0, 1]; an image costs the labeler one pass a
    view, and none when the cache knows it.

    Source: EftCLIP (arXiv:2511.13545), Algorithm 1, the oracle's part.
    """

    segmenter: Segmenter
    labeler: ClipModel
    independent: bool
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    cache: OracleCache = field(default_factory=OracleCache)
    regions_per_image: int = 8  # views beside the whole image; what more bring: docs/oracle.md
    masked: bool = False  # show each segment without its surroundings as well
    alpha: float = 0.05  # share of present labels that may be declared unsupported
    thresholds: Thresholds | None = None  # None until calibrated

    @property
    def digest(self) -> str:
        """Return "sha256:…" over segmenter, labeler, labels, prompts, settings and thresholds."""
        settled = {
            "segmenter": self.segmenter.digest,
            "labeler": self.labeler.digest,
            "independent": self.independent,
            "labels": list(self.labels),
            "templates": list(self.templates),
            "regions_per_image": self.regions_per_image,
            "masked": self.masked,
            "alpha": self.alpha,
            "thresholds": None if self.thresholds is None else self.thresholds.digest,
        }
        return f"sha256:{hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()}"

    def calibrate(self, probes: CleanImages, runtime: Runtime) -> "Oracle":
        """Return the oracle with thresholds set on clean images.

        Unlabelled probes, and labels that are not among `labels`, are replaced by the labeler's
        own prediction where it is more confident than on half of them.

        Raises:
            OracleError: No probe, or none with a usable label.
        """
        if len(probes) == 0:
            raise OracleError(
                "the oracle cannot be calibrated without clean images",
                hint="give --probes, or leave it out to use the embedded set",
            )
        pixels = probes.pixels(self.labeler.preprocess)
        evidence = self._evidence(pixels, runtime)
        weights = self._weights(runtime)
        truth = self._truth(probes, evidence, runtime)
        best = torch.stack([self._best(e, weights) for e in evidence])  # [N, C]
        offset = conformal.background([e.embeddings @ weights.T for e in evidence], truth)
        thresholds = conformal.fit(best, truth, offset, self.alpha)
        return replace(self, thresholds=thresholds)

    def regions(self, pixels: Tensor, runtime: Runtime) -> tuple[Region, ...]:
        """Return the segmenter's regions of one image ([3, H, W] in [0, 1]); cached."""
        image = views.to_bytes(pixels)
        key = ("regions/1", image_digest(image), self.segmenter.digest)
        kept = self.cache.get(*key)
        if kept is not None:
            try:
                return unpack_regions(kept)
            except (KeyError, ValueError):
                pass  # an entry of another format: asked anew
        found = self.segmenter.regions(image, runtime)
        self.cache.put(pack_regions(found), *key)
        return found

    def support(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return each label's best regional similarity less its offset, [N, C].

        Args:
            pixels: [N, 3, H, W] float32 in [0, 1].
            runtime: Counts the labeler's passes.
        """
        thresholds, weights = self._settled(), self._weights(runtime)
        rows = [self._best(e, weights) for e in self._evidence(pixels, runtime)]
        return _stacked(rows, len(self.labels)) - thresholds.offset

    def present(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return [N, C] bool; False only where both signs say that the label is absent."""
        supported = self.support(pixels, runtime) >= self._settled().cut
        return supported | (self.rank(pixels, runtime) <= self.rank_limit)

    def absent(
        self, pixels: Tensor, label_indices: Tensor | Sequence[int] | int, runtime: Runtime
    ) -> Tensor:
        """Return [N] bool: is image n's label `label_indices[n]` (or the one label) absent?"""
        present = self.present(pixels, runtime)
        indices = torch.as_tensor(label_indices, dtype=torch.int64).expand(len(present))
        return ~present.gather(1, indices[:, None])[:, 0]

    def rank(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return the labeler's whole-image rank of each label, [N, C] int64, 1 the best.

        Where the labeler is the suspect, it is the worst rank over images with one small part
        hidden: the whole image is what a trigger misleads.
        """
        weights = self._weights(runtime)
        rows = []
        for item in self._evidence(pixels, runtime):
            similarity = item.embeddings @ weights.T  # [J, C]
            if self.independent:
                rows.append(consistency.ranks(similarity[0]))
            else:
                rows.append(consistency.robust_rank(similarity, item.boxes, item.hidden))
        return _stacked(rows, len(self.labels)).long()

    @property
    def rank_limit(self) -> int:
        """Return the worst whole-image rank at which a label still counts as possibly present.

        20; with few labels a quarter of them, or no label of ten could ever be absent.
        """
        return max(1, min(RANK_LIMIT, len(self.labels) // 4))

    def grounded(self, pixels: Tensor, runtime: Runtime, at_most: int = 3) -> list[tuple[str, ...]]:
        """Return, for people, the best supported names of each image, best first."""
        thresholds = self._settled()
        support = self.support(pixels, runtime)
        near = self.rank(pixels, runtime) <= self.rank_limit
        score = (support / thresholds.spread).masked_fill(~near, -torch.inf)
        found = []
        for row, ok in zip(score, near & (support >= thresholds.cut), strict=True):
            best = row.argsort(descending=True, stable=True)[:at_most].tolist()
            found.append(tuple(self.labels[i] for i in best if ok[i]))
        return found

    def changed(
        self,
        clean: Tensor,
        triggered: Tensor,
        runtime: Runtime,
        claimed: Tensor | Sequence[int] | int | None = None,
    ) -> Tensor:
        """Return [N] bool: does `triggered` show something else than `clean` for the oracle?

        Args:
            clean: [N, 3, H, W] float32 in [0, 1].
            triggered: The same images with a trigger on.
            runtime: Counts the labeler's passes.
            claimed: What the suspect says of the triggered images (label index, one or one an
                image): where that is present now and was not before, the image has changed.

        Raises:
            OracleError: The shapes differ.
        """
        if clean.shape != triggered.shape:
            raise OracleError(
                f"images of different shape: {tuple(clean.shape)} and {tuple(triggered.shape)}",
                hint="hand `changed` the same images without and with the trigger",
            )
        if self.independent:
            changed = self._content_changed(clean, triggered, runtime)
        else:
            changed = consistency.structure_changed(clean, triggered)
        if claimed is None:
            return changed
        came = self.absent(clean, claimed, runtime) & ~self.absent(triggered, claimed, runtime)
        return changed | came

    def _content_changed(self, clean: Tensor, triggered: Tensor, runtime: Runtime) -> Tensor:
        weights = self._weights(runtime)
        before, after = self._evidence(clean, runtime), self._evidence(triggered, runtime)
        rows = []
        for b, a, x, y in zip(before, after, clean, triggered, strict=True):
            stamp = consistency.stamped(x, y)
            rows.append(
                consistency.content_changed(
                    b.embeddings @ weights.T,
                    a.embeddings @ weights.T,
                    consistency.outside(b.boxes, stamp),
                    consistency.outside(a.boxes, stamp),
                )
            )
        return torch.tensor(rows, dtype=torch.bool)

    def _settled(self) -> Thresholds:
        if self.thresholds is None:
            raise OracleError(
                "the oracle has no thresholds yet", hint="use what oracle.calibrate(...) returns"
            )
        return self.thresholds

    def _weights(self, runtime: Runtime) -> Tensor:
        return self.labeler.zero_shot(self.labels, self.templates, runtime).weights.float().cpu()

    def _best(self, evidence: Evidence, weights: Tensor) -> Tensor:
        """Return the best regional similarity [C] of each label."""
        similarity = evidence.embeddings @ weights.T  # [J, C]
        if self.independent:
            return similarity.amax(dim=0)
        return consistency.robust_best(similarity, evidence.boxes, evidence.hidden)

    def _evidence(self, pixels: Tensor, runtime: Runtime) -> list[Evidence]:
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise OracleError(
                f"the oracle wants [N, 3, H, W] pixels, got {tuple(pixels.shape)}",
                hint="hand it images as `ClipModel.preprocess` makes them",
            )
        images = runtime.progress(pixels, "oracle: looking at regions")
        return [self._look(image, runtime) for image in images]

    def _look(self, pixels: Tensor, runtime: Runtime) -> Evidence:
        """Return one image's evidence; one batch an image, so that no answer depends on others."""
        image = views.to_bytes(pixels)
        key = (
            "views/2",
            image_digest(image),
            self.segmenter.digest,
            self.labeler.digest or f"unnamed {id(self.labeler)}",
            f"{self.regions_per_image} {self.masked}" + ("" if self.independent else " hidden"),
        )
        cache = self.cache if self.labeler.digest else OracleCache(_memory=self.cache._memory)
        kept = cache.get(*key)
        if kept is not None and {"embeddings", "boxes", "hidden"} <= kept.keys():
            return Evidence(
                embeddings=torch.from_numpy(kept["embeddings"].copy()),
                boxes=kept["boxes"],
                hidden=kept["hidden"],
            )
        regions = self.regions(pixels, runtime)
        shown = views.choose(regions, (image.shape[0], image.shape[1]), self.regions_per_image)
        looks = views.cut(image, shown, self.labeler.size, masked=self.masked)
        if not self.independent:
            looks = views.with_hidden(looks, image, self.labeler.size)
        embeddings = self.labeler.embed(looks.pixels, runtime).float()
        arrays = {"embeddings": embeddings.numpy(), "boxes": looks.boxes, "hidden": looks.hidden}
        cache.put(arrays, *key)
        return Evidence(embeddings=embeddings, boxes=looks.boxes, hidden=looks.hidden)

    def _truth(self, probes: CleanImages, evidence: list[Evidence], runtime: Runtime) -> Tensor:
        """Return each probe's label index [N]; the labeler's confident guess where unknown."""
        index = {label: i for i, label in enumerate(self.labels)}
        truth = torch.tensor([index.get(label or "", -1) for label in probes.labels()])
        unknown = torch.nonzero(truth < 0).flatten()
        if len(unknown) == 0 or len(self.labels) < 2:
            return truth
        head = self.labeler.zero_shot(self.labels, self.templates, runtime)
        wholes = torch.stack([evidence[i].embeddings[0] for i in unknown.tolist()])
        top = (wholes @ head.weights.float().cpu().T).topk(2, dim=1)
        margin = top.values[:, 0] - top.values[:, 1]
        sure = margin >= margin.median()
        truth[unknown[sure]] = top.indices[sure, 0]
        return truth


def _stacked(rows: list[Tensor], width: int) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, width)
