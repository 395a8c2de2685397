"""InverTune (arXiv:2506.12411, NDSS 2026): guess a target, invert its trigger, calm the units."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.case import Case
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.activations import Critical, critical_units, layers_of, recorded
from gatekeeper.rectify.base import Prescription, Rectified
from gatekeeper.rectify.clamped import Clamped
from gatekeeper.rectify.contrastive import Study, Trained
from gatekeeper.rectify.ground import Ground, changed
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Patch

FEWEST = 8  # images


@dataclass(frozen=True, slots=True, kw_only=True)
class InverTune:
    """Three steps, all of the published code's weights; layers are the tower's chain of blocks.

    1. A universal adversarial patch (its file is an input of the published code; here an untargeted
       one is trained: cross-entropy away from the clean answer); the label whose share of the
       answers rises most is the target. 2. Mask (opaque at first) and pattern, on normalised
       pixels, Adam .01: 5 CE + .5 |f(x') - f(an image of the target)| + (1 - SSIM) + .01 |m|,
       norms over the whole batch.
    3. In the three blocks whose activations the trigger moves most, the units of the higher of two
       clusters are drawn back to their clean values on one batch, with distillation: AdamW 2e-6.
    """

    name: ClassVar[str] = "invertune"
    source: ClassVar[str] = "InverTune, arXiv:2506.12411"
    patch: float = 0.17  # of the side: 3 % of the area
    patch_steps: int = 200
    inversion_steps: int = 200
    tune_steps: int = 200
    batch: int = 64
    rate: float = 2e-6
    layers: int = 3

    def rectify(self, case: Case, prescription: Prescription, runtime: Runtime) -> Rectified:
        """Return the weights, measured with what was found; it guesses a target of its own.

        Raises:
            RectifyError: Too few images, or the image tower has no chain of blocks to look at.
        """
        ground = Ground.of(case, prescription, runtime)
        return self.train(Study.on(ground), runtime).finish(ground, self.name)

    def train(self, study: Study, runtime: Runtime) -> Trained:
        """Return the tuned weights.

        Raises:
            RectifyError: Too few images, or the image tower has no chain of blocks to look at.
        """
        model, pixels = study.model, study.pixels
        if len(pixels) < FEWEST:
            raise RectifyError(
                f"InverTune needs {FEWEST} images, got {len(pixels)}", hint="give more probes"
            )
        layers = layers_of(model)
        if len(layers) < self.layers:
            raise RectifyError(
                "InverTune needs a tower of blocks", hint="leave it out for this architecture"
            )
        batch = min(self.batch, len(pixels))
        share = min(1.0, study.budget / (3 * batch * (self._all_steps() + self.tune_steps)))
        target = self._target(study, max(1, int(share * self.patch_steps)), batch, runtime)
        inversion_steps = max(1, int(share * self.inversion_steps))
        masked = self._invert(study, target, inversion_steps, batch, runtime)
        steps = max(1, int(share * self.tune_steps))
        state = self._tune(model, layers, pixels[:batch], masked, steps, runtime)
        name = study.head.labels[target]
        return Trained(state=state, steps=steps, note=f"guessed target: {name}")

    def _all_steps(self) -> int:
        return self.patch_steps + self.inversion_steps + self.tune_steps

    def _target(self, study: Study, steps: int, batch: int, runtime: Runtime) -> int:
        """Return the label whose share of the answers an untargeted patch raises most."""
        model, head, pixels = study.model, study.head, study.pixels
        draw = runtime.generator("rectify", self.name, "patch")
        side = max(4, round(self.patch * model.size))
        corner = max(0, model.size - side - round(14 / 224 * model.size))
        free = torch.randn(3, side, side, generator=draw).to(runtime.device).requires_grad_()
        optimiser = torch.optim.Adam([free], lr=0.1)
        before, own = head.logits(model.embed(pixels, runtime)).argmax(1), head.on(runtime.device)
        for _ in runtime.progress(range(steps), "InverTune: universal patch"):
            pick = torch.randint(len(pixels), (batch,), generator=draw)
            seen = _pasted(pixels[pick].to(runtime.device), torch.sigmoid(free), corner)
            logits = own.logits(model.embed_grad(seen, runtime))
            away = -F.cross_entropy(logits, before[pick].to(logits.device))
            (free.grad,) = torch.autograd.grad(away, [free])
            optimiser.step()
        patch = Patch(pixels=torch.sigmoid(free).detach().cpu(), place=[corner, corner])
        after = head.logits(model.embed(patch.stamp(pixels), runtime)).argmax(1)
        count = len(head.labels)
        rise = torch.bincount(after, minlength=count) - torch.bincount(before, minlength=count)
        return int(rise.argmax())

    def _invert(
        self, study: Study, target: int, steps: int, batch: int, runtime: Runtime
    ) -> Clamped:
        """Return the mask and pattern that lead to `target` in both spaces."""
        model, head, pixels = study.model, study.head, study.pixels
        draw = runtime.generator("rectify", self.name, "invert")
        how = model.preprocess
        masked = Clamped.opaque(model.size, runtime.device, draw, how.mean, how.std)
        optimiser = torch.optim.Adam(masked.free, lr=0.01)
        clean = model.embed(pixels, runtime)
        answers = head.logits(clean)
        known = [name == head.labels[target] for name in study.known]
        shown = known.index(True) if any(known) else int(answers[:, target].argmax())
        goal, text = clean[shown].to(runtime.device), head.weights.to(runtime.device)
        others = torch.nonzero(answers.argmax(1) != target).flatten()
        pool = pixels[others] if len(others) else pixels
        for _ in runtime.progress(range(steps), "InverTune: inversion"):
            pick = torch.randint(len(pool), (batch,), generator=draw)
            x = pool[pick].to(runtime.device)
            seen = masked.stamp(x)
            z = model.embed_grad(seen, runtime)
            likeness = ssim(how.normalise(seen), how.normalise(x))
            loss = inversion_loss(z, text, target, goal, likeness, masked.mask)
            for free, grad in zip(masked.free, torch.autograd.grad(loss, masked.free), strict=True):
                free.grad = grad
            optimiser.step()
            masked.hold()
        return masked

    def _tune(
        self,
        model: ClipModel,
        layers: list[str],
        clean: Tensor,
        masked: Clamped,
        steps: int,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """Return the weights after the activations were drawn back."""
        tuned = model.clone()
        tuned.module.to(runtime.device).requires_grad_(True)
        clean = clean.to(runtime.device)
        with torch.no_grad():
            stamped = masked.stamp(clean)
        before = model.embed(clean.cpu(), runtime).to(runtime.device)
        units: list[Critical] = critical_units(tuned, layers, clean, stamped, self.layers, runtime)
        free = [p for n, p in tuned.module.named_parameters() if "logit_" not in n]
        optimiser = torch.optim.AdamW(free, lr=self.rate, weight_decay=1e-4)
        annealed = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 100, eta_min=1e-7)
        best, state = float("inf"), changed(model, tuned)
        for step in runtime.progress(range(steps), "InverTune: tuning"):
            with recorded(tuned, [unit.layer for unit in units]) as kept:
                now = tuned.embed_grad(clean, runtime)
                calm = dict(kept)
                tuned.embed_grad(stamped, runtime)
                moved = dict(kept)
            loss = 0.5 * (now - before).norm()
            for unit in units:
                loss = loss + unit.distance(calm[unit.layer], moved[unit.layer])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in free if p.grad is not None], 1.0)
            optimiser.step()
            annealed.step()
            looked_at = (step + 1) % 10 == 0 or step + 1 == steps
            if looked_at and float(loss.detach()) < best:  # the checkpoint of the lowest loss
                best, state = float(loss.detach()), changed(model, tuned)
        return state


def inversion_loss(
    z: Tensor, text: Tensor, target: int, goal: Tensor, likeness: Tensor, mask: Tensor
) -> Tensor:
    """Return step 2's loss.

    Args:
        z: Unit embeddings of the stamped images, [B, D].
        text: Unit embeddings of the labels, [C, D].
        target: Index of the target label.
        goal: Unit embedding of an image of the target, [D].
        likeness: SSIM of the stamped images with the clean ones.
        mask: [3, S, S] in [0, 1].
    """
    wanted = torch.full((len(z),), target, device=z.device)
    loss: Tensor = 5 * F.cross_entropy(z @ text.T / 0.07, wanted) + 0.5 * (z - goal).norm()
    return loss + (1 - likeness) + 0.01 * mask.abs().sum()


def ssim(one: Tensor, other: Tensor, window: int = 11, deviation: float = 1.5) -> Tensor:
    """Return the mean structural similarity of [B, 3, S, S] for a range of 1, Gaussian windows.

    Source: Wang et al., IEEE TIP 2004; differentiable, which scikit-image's is not.
    """
    away = torch.arange(window, dtype=one.dtype, device=one.device) - window // 2
    bell = torch.exp(-(away**2) / (2 * deviation**2))
    bell = (bell / bell.sum()).expand(one.shape[1], 1, 1, window)

    def local(x: Tensor) -> Tensor:
        rows = F.conv2d(x, bell, groups=x.shape[1])
        both: Tensor = F.conv2d(rows, bell.mT, groups=x.shape[1])
        return both

    a, b = local(one), local(other)
    varied = local(one * one) - a * a, local(other * other) - b * b
    together = local(one * other) - a * b
    top = (2 * a * b + 0.01**2) * (2 * together + 0.03**2)
    found: Tensor = top / ((a * a + b * b + 0.01**2) * (varied[0] + varied[1] + 0.03**2))
    return found.mean()


def _pasted(pixels: Tensor, patch: Tensor, corner: int) -> Tensor:
    out = pixels.clone()
    side = patch.shape[-1]
    out[:, :, corner : corner + side, corner : corner + side] = patch
    return out
