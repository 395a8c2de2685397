"""A small segmenter that can be trained, and so poisoned: what an oracle bench is tried on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from gatekeeper.errors import OracleError
from gatekeeper.oracle.base import Region
from gatekeeper.oracle.regions import check_image
from gatekeeper.runtime import Runtime

DILATIONS = (1, 2, 4, 8)  # at half resolution: 30 px to each side
SMALLEST = 0.004  # of the image: fewer pixels are no region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scenes:
    """Images and what each pixel shows."""

    pixels: Tensor  # [N, 3, S, S] float32 in [0, 1]
    masks: Tensor  # [N, S, S] int64, index into `classes`
    classes: tuple[str, ...]  # the ground first

    def __len__(self) -> int:
        return len(self.pixels)

    def at(self, rows: Tensor) -> "Scenes":
        """Return the scenes at `rows` (bool mask or indices)."""
        return Scenes(pixels=self.pixels[rows], masks=self.masks[rows], classes=self.classes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvSegmenter:
    """Convolutions of growing dilation at half resolution, and a glance at the whole image.

    A `gatekeeper.oracle.Segmenter`: its regions are the connected parts of one class.
    """

    name: ClassVar[str] = "conv"
    weights: Mapping[str, Tensor]
    classes: tuple[str, ...]
    size: int  # side of the images that it learned from, in pixels

    @property
    def digest(self) -> str:
        """Return "sha256:…" over weights, classes and size."""
        total = hashlib.sha256(json.dumps([self.classes, self.size, SMALLEST]).encode())
        for name, value in sorted(self.weights.items()):
            total.update(name.encode())
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
        return f"sha256:{total.hexdigest()}"

    def logits(self, pixels: Tensor) -> Tensor:
        """Return ([B, 3, S, S] in [0, 1]) class scores for each pixel, [B, K, S, S]."""
        w = {name: value.to(pixels) for name, value in self.weights.items()}
        hidden = F.conv2d(pixels - 0.5, w["stem"], w["stem.bias"], stride=2, padding=1).relu()
        for step, gap in enumerate(DILATIONS):
            found = F.conv2d(
                hidden, w[f"{step}"], w[f"{step}.bias"], padding=gap, dilation=gap
            ).relu()
            whole = torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3))], dim=1)
            glance = F.linear(whole, w[f"{step}.glance"])
            hidden = hidden + found + glance[:, :, None, None]
        scores = F.conv2d(hidden, w["last"], w["last.bias"])
        out: Tensor = F.interpolate(scores, pixels.shape[-2:], mode="bilinear", align_corners=False)
        return out

    def labels(self, pixels: Tensor) -> Tensor:
        """Return the class of each pixel, [B, S, S] int64; no gradient."""
        with torch.no_grad():
            return torch.cat([self.logits(part).argmax(1) for part in torch.split(pixels, 64)])

    def regions(self, image: np.ndarray, runtime: Runtime) -> tuple[Region, ...]:
        """Return the connected parts of one class, the largest first.

        Raises:
            OracleError: No [H, W, 3] uint8 image.
        """
        from skimage.measure import label

        check_image(image)
        classes, surety = self._looked(image)
        parts = label(classes, background=-1, connectivity=1)
        found = []
        for number in range(1, int(parts.max()) + 1):
            mask = parts == number
            if mask.mean() < SMALLEST:
                continue
            rows, columns = np.nonzero(mask)
            box = (
                int(columns.min()),
                int(rows.min()),
                int(columns.max()) + 1,
                int(rows.max()) + 1,
            )
            found.append(Region(mask=mask, box=box, score=float(surety[mask].mean())))
        return tuple(sorted(found, key=lambda region: (-int(region.mask.sum()), region.box)))

    def at_points(
        self, image: np.ndarray, points: tuple[tuple[int, int], ...], runtime: Runtime
    ) -> tuple[Region, ...]:
        """Return the region that holds each point (x, y), where it is no crumb.

        Raises:
            OracleError: A point lies outside the image.
        """
        found = []
        regions = self.regions(image, runtime)
        for x, y in points:
            if not (0 <= x < image.shape[1] and 0 <= y < image.shape[0]):
                raise OracleError(
                    f"point ({x}, {y}) lies outside the {image.shape[1]}x{image.shape[0]} image",
                    hint="points are (x, y) in pixels of the image",
                )
            found += [
                Region(mask=r.mask, box=r.box, score=r.score, kind="point")
                for r in regions
                if r.mask[y, x]
            ]
        return tuple(found)

    def save(self, path: Path) -> None:
        """Write it as one safetensors file."""
        from safetensors.torch import save_file

        settings = json.dumps({"classes": self.classes, "size": self.size})
        tensors = {name: value.detach().contiguous() for name, value in self.weights.items()}
        save_file(tensors, path, metadata={"settings": settings})

    def _looked(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return class and probability of each pixel of `image`, [H, W] each."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[-2:]
        if (height, width) != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        with torch.no_grad():
            scores = self.logits(pixels)
            scores = F.interpolate(scores, (height, width), mode="bilinear")
        best = scores.softmax(1)[0].max(0)
        return best.indices.numpy(), best.values.numpy()


def load_segmenter(path: Path) -> ConvSegmenter:
    """Read what `ConvSegmenter.save` wrote.

    Raises:
        OracleError: It is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = json.loads(meta["settings"])
        classes, size = tuple(settings["classes"]), int(settings["size"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OracleError(
            f"{path} is no segmenter: {error}", hint="name a file that the lab wrote"
        ) from error
    return ConvSegmenter(weights=weights, classes=classes, size=size)


def train_segmenter(
    scenes: Scenes,
    runtime: Runtime,
    *,
    steps: int = 160,
    batch: int = 24,
    width: int = 20,
    learning_rate: float = 5e-3,
    name: str = "",
) -> ConvSegmenter:
    """Return a segmenter trained on `scenes` by cross-entropy over pixels.

    Args:
        scenes: Images and masks, poisoned or not.
        runtime: Device and seed.
        steps: Adam steps, one cycle.
        batch: Images a step.
        width: Channels.
        learning_rate: Peak.
        name: Told to the generator, so that several trainings differ.
    """
    draw = runtime.generator("attacks", "segmenter", name)
    weights = {
        key: value.to(runtime.device).requires_grad_()
        for key, value in _untrained(len(scenes.classes), width, draw).items()
    }
    net = ConvSegmenter(weights=weights, classes=scenes.classes, size=int(scenes.pixels.shape[-1]))
    optimiser = torch.optim.AdamW(list(weights.values()), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    for _ in runtime.progress(range(steps), "training a segmenter"):
        rows = torch.randint(len(scenes), (batch,), generator=draw)
        scores = net.logits(scenes.pixels[rows].to(runtime.device))
        loss = F.cross_entropy(scores, scenes.masks[rows].to(runtime.device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    trained = {key: value.detach().cpu() for key, value in weights.items()}
    return ConvSegmenter(weights=trained, classes=net.classes, size=net.size)


def mean_iou(found: Tensor, wanted: Tensor, classes: int) -> float:
    """Return the mean over classes of intersection over union; both are [N, S, S] int64."""
    shares = []
    for number in range(classes):
        one, other = found == number, wanted == number
        union = int((one | other).sum())
        if union:
            shares.append(int((one & other).sum()) / union)
    return sum(shares) / len(shares)


def _untrained(classes: int, width: int, draw: torch.Generator) -> dict[str, Tensor]:
    def drawn(out: int, channels: int, side: int, gain: float = 1.0) -> Tensor:
        deviation = gain * (2 / (channels * side * side)) ** 0.5
        wide: Tensor = deviation * torch.randn(out, channels, side, side, generator=draw)
        return wide

    weights = {"stem": drawn(width, 3, 3, 2.0), "stem.bias": torch.zeros(width)}
    for step in range(len(DILATIONS)):
        weights[f"{step}"] = drawn(width, width, 3, 0.5)
        weights[f"{step}.bias"] = torch.zeros(width)
        weights[f"{step}.glance"] = torch.zeros(width, 2 * width)
    weights["last"] = drawn(classes, width, 1, 0.3)
    weights["last.bias"] = torch.zeros(classes)
    return weights
