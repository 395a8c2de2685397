"""The suspect, moved part of the way back to the anchor that it was fine-tuned from.

A planted backdoor lives in what fine-tuning changed, and fades sooner than the rest of it when the
change is shortened: half of the way back removed the triggers of three planted photo CLIPs
(docs/rectify.md). Weight interpolation after WiSE-FT (arXiv:2109.01903), as a means against
backdoors after arXiv:2402.19334. What the head learned about the target itself goes as a whole:
a change of the last matrix along one label's direction is what an all-to-one plant leaves there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gatekeeper.clip.late import Blocks, LateTower, as_stored
from gatekeeper.clip.model import ClipModel
from gatekeeper.rectify.projection import Projection


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """Two image towers of one architecture, and the tensors in which they differ."""

    suspect: ClipModel
    anchor: ClipModel
    names: tuple[str, ...]

    def model(
        self, share: float, projection: Projection | None, directions: Tensor | None
    ) -> ClipModel:
        """Return anchor + `share` * (suspect - anchor), in the suspect's precision.

        Args:
            share: Of the suspect's own change, in [0, 1].
            projection: The last matrix; None leaves `directions` unused.
            directions: [K, D] along which that matrix becomes the anchor's.
        """
        own, theirs = self.suspect.state_dict(), self.anchor.state_dict()
        state = {}
        for name in self.names:
            base = theirs[name].float().to(own[name].device)
            change = share * (own[name].float() - base)
            if projection is not None and name == projection.name and directions is not None:
                along = torch.linalg.qr(directions.T.to(change)).Q  # [D, K]
                if projection.transposed:
                    change = change - along @ (along.T @ change)
                else:
                    change = change - (change @ along) @ along.T
            state[name] = as_stored(base + change, own[name])
        return self.suspect.with_state(state)

    def after(self, tower: LateTower) -> bool:
        """Return True where the towers are one up to the cut of `tower`."""
        trained = {n for n, p in tower.module.named_parameters() if p.requires_grad}
        owners = {name.rpartition(".")[0] for name in trained}
        return all(n in trained or n.rpartition(".")[0] in owners for n in self.names)


def mixture_of(suspect: ClipModel, anchor: ClipModel | None) -> Mixture | None:
    """Return what can be mixed; None without an anchor of the same form, or without a difference.

    The text tower is left out: labels mean what the suspect's user takes them to mean.
    """
    if anchor is None or suspect.preprocess != anchor.preprocess:
        return None
    own, theirs = suspect.state_dict(), anchor.state_dict()
    if own.keys() != theirs.keys() or any(own[n].shape != theirs[n].shape for n in own):
        return None
    whole = LateTower(suspect, Blocks(path="", count=0), 0)
    seen = {n for n, p in whole.module.named_parameters() if p.requires_grad}
    seen |= {n for n, b in whole.module.named_buffers() if b.is_floating_point()}
    names = tuple(n for n in own if n in seen and not torch.equal(own[n], theirs[n].to(own[n])))
    return Mixture(suspect=suspect, anchor=anchor, names=names) if names else None


def first_block(mixture: Mixture | None, blocks: Blocks, latest: int) -> int:
    """Return the first block in which the towers differ, at most `latest`."""
    if mixture is None or not blocks.path:
        return latest
    start = f"{blocks.path}."
    inside = [n.removeprefix(start) for n in mixture.names if n.startswith(start)]
    return min([latest, *(int(name.split(".")[0]) for name in inside)])
