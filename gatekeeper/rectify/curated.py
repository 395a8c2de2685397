"""The compact set: which images a repair learns from, which it is measured on, what is right."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower
from gatekeeper.clip.model import ZeroShot
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.bank import stamp_stock
from gatekeeper.rectify.base import Prescription
from gatekeeper.rectify.teacher import Lesson, Teacher, join
from gatekeeper.rectify.training import Pool
from gatekeeper.runtime import Runtime

SMALLEST_CROP = 0.78  # of the side


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curated:
    """Clean images with the right answers to them, as they are and as random crops."""

    pixels: Tensor  # [N, 3, S, S], the images themselves
    known: tuple[str | None, ...]
    crops: tuple[Tensor, ...]  # each [N, 3, S, S]
    lesson: Lesson  # on `pixels`
    crop_lessons: tuple[Lesson, ...]
    victims: Tensor  # [V, 3, S, S] suspect images with a trigger
    victim_lesson: Lesson

    def clean(self, tower: LateTower, runtime: Runtime) -> Pool:
        """Return all clean views as `tower` sees them."""
        views = [self.pixels, *self.crops]
        return Pool(
            features=torch.cat([tower.features(view, runtime) for view in views]),
            lesson=join([self.lesson, *self.crop_lessons]),
        )

    def stocked(
        self,
        tower: LateTower,
        kinds: tuple[str, ...],
        generator: torch.Generator,
        runtime: Runtime,
    ) -> Pool:
        """Return every image with a fresh random pattern on."""
        pixels = stamp_stock(self.pixels, kinds, generator)
        return Pool(features=tower.features(pixels, runtime), lesson=self.lesson)

    def victim_pool(self, tower: LateTower, runtime: Runtime) -> Pool:
        """Return the suspect images with the captions an oracle gave them; may be empty."""
        return Pool(features=tower.features(self.victims, runtime), lesson=self.victim_lesson)


def split(
    case: Case, prescription: Prescription, most: int, share: float, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Return the rows of `case.probes` to learn from and those to measure on.

    The scan's compact set comes first, filled up with other probes to `most`: fewer images than
    that cost clean accuracy, and leave too few to measure on.

    Raises:
        RectifyError: Too few images for both.
    """
    named = [i for i in prescription.probes if 0 <= i < len(case.probes)]
    others = sorted(set(range(len(case.probes))) - set(named))
    rest = torch.randperm(len(others), generator=generator).tolist()
    chosen = (named + [others[i] for i in rest])[:most]
    order = torch.randperm(len(chosen), generator=generator).tolist()
    chosen = [chosen[i] for i in order]
    held = max(1, round(len(chosen) * share))
    if len(chosen) < 8:
        raise RectifyError(
            f"{len(chosen)} clean images are too few to learn from and to measure on",
            hint="hand over --probes with at least 8 images, better 200",
        )
    return chosen[held:], chosen[:held]


def curate(
    case: Case,
    prescription: Prescription,
    rows: list[int],
    views: int,
    teacher: Teacher,
    generator: torch.Generator,
    runtime: Runtime,
) -> Curated:
    """Return the compact set of `rows`, images of affected labels shown in one more crop."""
    pixels = case.probes.pixels(case.model.preprocess)[rows]
    labels = case.probes.labels()
    known = tuple(labels[i] for i in rows)
    crops = [(crop(pixels, generator), known) for _ in range(views)]
    lesson = _teach(teacher, pixels, known, runtime)
    affected = [teacher.head.labels.index(x) for x in prescription.affected if x in case.labels]
    more = [i for i, truth in enumerate(lesson.truth.tolist()) if truth in affected]
    if more:
        crops.append((crop(pixels[more], generator), tuple(known[i] for i in more)))
    victims, captions = _victims(case, prescription, teacher.head)
    tower = teacher.suspect
    return Curated(
        pixels=pixels,
        known=known,
        crops=tuple(view for view, _ in crops),
        lesson=lesson,
        crop_lessons=tuple(_teach(teacher, view, names, runtime) for view, names in crops),
        victims=victims,
        victim_lesson=teacher.correct(tower.features(victims, runtime), captions, runtime)
        if len(victims)
        else lesson.rows(torch.zeros(0, dtype=torch.int64)),
    )


def crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random crop of each image, half of them mirrored, at the same size."""
    side = pixels.shape[-1]
    out = []
    for image in pixels:
        size = int(torch.randint(round(SMALLEST_CROP * side), side + 1, (1,), generator=generator))
        y, x = (int(torch.randint(0, side - size + 1, (1,), generator=generator)) for _ in "yx")
        part = image[None, :, y : y + size, x : x + size]
        if float(torch.rand(1, generator=generator)) < 0.5:
            part = part.flip(-1)
        out.append(F.interpolate(part, (side, side), mode="bilinear", antialias=True)[0])
    return torch.stack(out)


def _teach(
    teacher: Teacher, pixels: Tensor, known: tuple[str | None, ...], runtime: Runtime
) -> Lesson:
    return teacher.teach(teacher.suspect.features(pixels, runtime), pixels, known, runtime)


def _victims(
    case: Case, prescription: Prescription, head: ZeroShot
) -> tuple[Tensor, tuple[str, ...]]:
    size = case.model.size
    if case.suspects is None:
        return torch.zeros(0, 3, size, size), ()
    places = {probe.file: i for i, probe in enumerate(case.suspects.probes)}
    usable = [(f, label) for f, label in prescription.victims if f in places]
    usable = [(f, label) for f, label in usable if label in head.labels]
    if not usable:
        return torch.zeros(0, 3, size, size), ()
    pixels = case.suspects.pixels(case.model.preprocess)[[places[f] for f, _ in usable]]
    return pixels, tuple(label for _, label in usable)
