"""Take out the directions that a backdoor has hijacked: of a change, or before the head."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.contrastive import Course, Study, contrast, fine_tune
from gatekeeper.rectify.ground import Ground
from gatekeeper.rectify.mixture import Mixture, mixture_of
from gatekeeper.rectify.projection import find_projection, hidden
from gatekeeper.rectify.rehearsal import Rehearsal
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """Directions removed in one shot, no training of the suspect.

    With an anchor, OrthoPurify (arXiv:2610.09941): in every matrix of the image tower the leading
    right singular directions of the suspect's change are compared with those of the anchor's own
    change under a few clean steps; of what lies more than `angle` away, the change is undone.
    Without one, or where that is not enough, direction ablation (arXiv:2603.10806): the leading
    differences between triggered and clean features are projected out, here before the last
    matrix alone, which every answer passes, and obliquely: they are read where clean features say
    least. The paper's upright projection cost more clean answers than are borne.
    """

    name: ClassVar[str] = "ablate"
    directions: int = 10  # of each matrix's change
    angle: float = 50.0  # degrees
    steps: int = 8  # of the anchor, on clean images
    rate: float = 1e-5
    batch: int = 16
    ranks: tuple[int, ...] = (1, 2, 3)  # of triggered less clean features, in turn
    ridge: float = 1.0  # of the clean features' second moment, by which directions are read
    bar: float = 0.02

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the image tower without these directions.

        Raises:
            RectifyError: No trigger to judge by, or too few images.
        """
        ground = Ground.of(case, prescription, runtime)
        if not ground.triggers:
            raise RectifyError(
                f"'{self.name}' needs a trigger on images, or a target to invert one towards",
                hint="use --method auto",
            )
        rehearsal = Rehearsal.of(ground)
        model = ground.model
        mixture = mixture_of(model, case.anchor)
        if mixture is not None:
            model = self._purified(mixture, ground, rehearsal)
        if rehearsal.success(model) > self.bar:
            model = self._projected(model, ground, rehearsal)
        return ground.finish(self.name, model)

    def _purified(self, mixture: Mixture, ground: Ground, rehearsal: Rehearsal) -> ClipModel:
        """Return the suspect less what is hijacked of its change; itself where that costs much."""
        own, base = mixture.suspect.state_dict(), mixture.anchor.state_dict()
        usual = self._usual(mixture.anchor, ground)
        state, taken = {}, 0
        for name in mixture.names:
            if own[name].ndim < 2 or name not in usual:
                continue
            start = base[name].float().cpu()
            change = own[name].float().cpu() - start
            clean = usual[name].float() - start
            bad = hijacked(change.flatten(1), clean.flatten(1), self.directions, self.angle)
            taken += bad.shape[1]
            gone = (change.flatten(1) @ bad) @ bad.T
            state[name] = start + change - gone.view_as(change)
        model = mixture.suspect.with_state(state)
        cost = rehearsal.lost(model)
        ground.notes.append(
            f"{taken} directions of {len(state)} matrices removed, {cost:.1%} of answers lost"
        )
        return model if rehearsal.bearable(model) else mixture.suspect

    def _usual(self, anchor: ClipModel, ground: Ground) -> dict[str, Tensor]:
        """Return what a few clean steps make of the anchor's tensors."""
        study = Study(
            model=anchor,
            pixels=ground.pixels(ground.rows[:64]),
            known=ground.known(ground.rows[:64]),
            head=ground.anchor_head or ground.head,
            templates=ground.case.templates,
        )
        course = Course(
            name=self.name, steps=self.steps, batch=self.batch, rate=lambda _: self.rate, decay=0.0
        )
        made = fine_tune(
            study, ground.runtime, lambda m, b, _: contrast(b.images, b.texts, m.scale), course
        )
        return made.state

    def _projected(self, model: ClipModel, ground: Ground, rehearsal: Rehearsal) -> ClipModel:
        """Return `model` with the leading differences taken out before its last matrix."""
        runtime, blocks = ground.runtime, find_blocks(model)
        tower = LateTower(model, blocks, max(0, blocks.count - 1))
        projection = find_projection(tower, runtime)
        if projection is None:
            ground.notes.append("the image tower ends in no single matrix")
            return model
        clean = hidden(tower, projection, tower.features(rehearsal.pixels, runtime), runtime)
        away = [
            hidden(tower, projection, tower.features(one.pixels, runtime), runtime) - clean
            for one in rehearsal.stamped
        ]
        matrix = model.state_dict()[projection.name].float().cpu()
        own = matrix.T if projection.transposed else matrix  # [width, D]
        best, success = model, rehearsal.success(model)
        for rank in self.ranks:
            along = torch.cat([leading(one, rank) for one in away])  # [K, width]
            kept = own - taken_out(own, along, clean, self.ridge)
            now = model.with_state({projection.name: kept.T if projection.transposed else kept})
            if not rehearsal.bearable(now):
                ground.notes.append(f"{rank} directions before the last matrix cost clean answers")
                break
            if (rate := rehearsal.success(now)) < success:
                best, success = now, rate
                ground.notes.append(f"{rank} directions projected out: attack success {rate:.1%}")
            if rate <= self.bar:
                break
        return best


def hijacked(change: Tensor, usual: Tensor, count: int, angle: float) -> Tensor:
    """Return the directions [I, K] of `change` ([O, I]) that lie far from those of `usual`.

    The leading `count` right singular directions of both are compared by principal angles; those
    of the first at more than `angle` degrees are returned, orthonormal, K of 0 to `count`.
    """
    ours, theirs = (torch.linalg.svd(x, full_matrices=False).Vh[:count].T for x in (change, usual))
    turned, cosines, _ = torch.linalg.svd(ours.T @ theirs)
    near = torch.zeros(turned.shape[1])
    near[: len(cosines)] = cosines.clamp(0, 1)
    far = torch.rad2deg(torch.arccos(near)) > angle
    directions: Tensor = ours @ turned[:, far]
    return directions


def taken_out(matrix: Tensor, along: Tensor, clean: Tensor, ridge: float) -> Tensor:
    """Return what `matrix` ([W, D]) makes of the part of features that lies `along` ([K, W]).

    That part is read by the directions that respond to `along` in full and to `clean` ([N, W])
    features least.
    """
    moment = clean.T @ clean / len(clean)
    moment = moment + ridge * moment.diagonal().mean() * torch.eye(len(moment))
    basis = torch.linalg.qr(along.T).Q  # [W, K]
    read = torch.linalg.solve(moment.double(), basis.double())
    read = read @ torch.linalg.inv(basis.double().T @ read)
    gone: Tensor = (read @ (basis.double().T @ matrix.double())).float()
    return gone


def leading(away: Tensor, rank: int) -> Tensor:
    """Return the mean of `away` ([N, W]) and the `rank` - 1 leading directions beside it, unit."""
    mean = F.normalize(away.mean(dim=0, keepdim=True), dim=1)
    rest = away - (away @ mean.T) @ mean
    others = torch.linalg.svd(rest, full_matrices=False).Vh[: rank - 1]
    return torch.cat([mean, others])
