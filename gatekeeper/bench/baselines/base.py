"""What a method is handed and what it says: the same for ours and for everybody else's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from gatekeeper.bench.metrics import Box
from gatekeeper.case import Case
from gatekeeper.clip.model import ZeroShot
from gatekeeper.errors import DetectorError
from gatekeeper.pipeline.prepare import Prepared, ScanRequest
from gatekeeper.runtime import Runtime
from gatekeeper.types import Json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Work:
    """One model, and what every method is given to judge it with."""

    request: ScanRequest
    ready: Prepared
    case: Case
    budget: float  # image passes that the method may make
    include: tuple[str, ...] = ()  # labels that a shortened run looks at in any case
    scan: Path | None = None  # where ours keeps its scan of the model for later runs

    def head(self, runtime: Runtime) -> ZeroShot:
        """Return the suspect's own zero-shot head."""
        return self.case.model.zero_shot(self.case.labels, self.case.templates, runtime)

    def pixels(self) -> Tensor:
        """Return the probes as the suspect wants them, [N, 3, S, S]."""
        return self.case.probes.pixels(self.case.model.preprocess)

    def labels_within(self, most: int, runtime: Runtime) -> list[int]:
        """Return indices of at most `most` labels: `include`, then others by lot.

        That the true target is among them flatters a method that can only afford some labels; its
        row says so.
        """
        names = list(self.case.labels)
        first = [names.index(name) for name in self.include if name in names]
        lot = torch.randperm(len(names), generator=runtime.generator("bench", "labels")).tolist()
        chosen = list(dict.fromkeys([*first, *lot]))[: max(most, len(first))]
        return sorted(chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opinion:
    """What a method says of one model."""

    score: float | None  # higher: more likely a backdoor; None: no answer
    probability: bool = False  # `score` is one; else a bare statistic
    flagged: bool | None = None  # by the method's published rule; None: it has none
    ranking: tuple[str, ...] = ()  # labels, the most probable target first
    embedding: Tensor | None = None  # [D] unit, the recovered target
    box: Box | None = None  # of the recovered trigger, in pixels of the model's input
    full_passes: float | None = None  # what the published cost would be; None: this was it
    note: str = ""
    evidence: Mapping[str, float] = field(default_factory=dict)  # statistics behind ours alone


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Doubts:
    """What a method says of images: [N] scores, higher is more suspect."""

    scores: Tensor
    flagged: Tensor | None = None  # [N] bool, by the published rule; None: it has none
    boxes: tuple[Box | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mended:
    """New weights for the suspect: the tensors that changed."""

    state: dict[str, Tensor]
    images: int
    steps: int
    note: str = ""
    offered: bool = True  # False: the method itself says that it is not good enough
    prompts: Mapping[str, Tensor] = field(default_factory=dict)  # learned ones, where these changed
    told: Mapping[str, Json] = field(default_factory=dict)  # more, of ours alone


@runtime_checkable
class ModelDetector(Protocol):
    """Judges a model. A frozen dataclass, its fields hyper-parameters."""

    name: ClassVar[str]
    source: ClassVar[str]

    def judge(self, work: Work, runtime: Runtime) -> Opinion:
        """Say how likely `work`'s model carries a backdoor."""
        ...


@runtime_checkable
class SampleDetector(Protocol):
    """Judges images, which `work.case.suspects` holds."""

    name: ClassVar[str]
    source: ClassVar[str]

    def doubt(self, work: Work, runtime: Runtime) -> Doubts:
        """Say how likely each suspect image carries a trigger."""
        ...


@runtime_checkable
class Repairer(Protocol):
    """Makes new weights; knows no trigger, as the gate knows none."""

    name: ClassVar[str]
    source: ClassVar[str]

    def mend(self, work: Work, runtime: Runtime) -> Mended:
        """Return new weights for `work`'s model, which stays as it is."""
        ...


def require_images(pixels: Tensor, least: int, name: str) -> None:
    """Do nothing where there are at least `least` images.

    Raises:
        DetectorError: There are fewer.
    """
    if len(pixels) < least:
        raise DetectorError(
            f"{name} needs {least} images, got {len(pixels)}", hint="give more probes"
        )


def robust_z(values: Tensor, least: float = 1e-6) -> Tensor:
    """Return ([N]) deviations from the median in units of 1.4826 median absolute deviations.

    Where more than half of the values are alike that unit is zero; the mean absolute deviation
    stands in (1.2533 of it, Iglewicz and Hoaglin 1993). `least` is the smallest unit.
    """
    away = values - values.median()
    unit = 1.4826 * away.abs().median()
    if float(unit) < 1e-9:
        unit = 1.2533 * away.abs().mean()
    return away / unit.clamp_min(least)


def logits_of(head: ZeroShot, z: Tensor) -> Tensor:
    """Return ([B, D] unit, on any device, with gradient) scaled similarities, [B, C].

    Through the prompt learner where the model has one whose prompts depend on the image.
    """
    if getattr(head, "given", None) is not None:
        return head.logits(z)
    return head.scale * z @ head.weights.to(z).T + head.bias
