"""What does Segment Anything hold for one thing?"""

import hashlib
import json
import pickle  # noqa: TID251 - for the name of its error alone; nothing is unpickled here
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from gatekeeper.errors import OracleError
from gatekeeper.oracle import tiny_vit
from gatekeeper.oracle.base import Region
from gatekeeper.oracle.regions import check_image, mask_box
from gatekeeper.runtime import Runtime

WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # of the position embedding
ARCHS = (*WIDTHS.values(), "vit_t")
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam:
    """Segment Anything (arXiv:2304.02643) or, as vit_t, MobileSAM (arXiv:2306.14289).

    The checkpoint is read as tensors only. Thresholds are lower than the original's, since few
    points a side are asked on a CPU; segments below 0.2 % of the image are dropped (a 16 px patch
    of a 224 px image is 0.5 %). One run of the encoder counts as one image pass.
    """

    name: ClassVar[str] = "sam"
    checkpoint: Path
    arch: str | None = None  # None: recognised by the tensors' shapes
    points_per_side: int = 8
    points_per_batch: int = 64  # bounds memory, changes no answer
    least_iou: float = 0.80  # the model's own estimate of a mask's quality
    least_stability: float = 0.90
    nms_iou: float = 0.7
    least_area: float = 0.002  # share of the image
    largest_area: float = 0.9
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Return "sha256:…" over the checkpoint's bytes and every parameter.

        Raises:
            OracleError: The checkpoint cannot be read.
        """
        stat = _stat(self.checkpoint)
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_IN_DIGEST}
        settings |= {"version": 1, "weights": _file_digest(str(self.checkpoint), *stat)}
        text = json.dumps(settings, sort_keys=True)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def regions(self, image: np.ndarray, runtime: Runtime) -> tuple[Region, ...]:
        """Return automatic masks of `image` ([H, W, 3] uint8), largest first.

        Raises:
            OracleError: Not an RGB image, or the checkpoint cannot be used.
        """
        from segment_anything import SamAutomaticMaskGenerator

        check_image(image)
        generator = SamAutomaticMaskGenerator(
            self._model(runtime),
            points_per_side=self.points_per_side,
            points_per_batch=self.points_per_batch,
            pred_iou_thresh=self.least_iou,
            stability_score_thresh=self.least_stability,
            box_nms_thresh=self.nms_iou,
        )
        runtime.meter.images(1)
        with torch.inference_mode():
            masks = generator.generate(image)
        found = [_region(m["segmentation"], float(m["predicted_iou"]), "segment") for m in masks]
        return self._sorted(found)

    def at_points(
        self, image: np.ndarray, points: tuple[tuple[int, int], ...], runtime: Runtime
    ) -> tuple[Region, ...]:
        """Return up to three masks (whole, part, subpart) for each point (x, y) of `image`."""
        from segment_anything import SamPredictor

        check_image(image)
        height, width = image.shape[:2]
        outside = [p for p in points if not (0 <= p[0] < width and 0 <= p[1] < height)]
        if outside:
            raise OracleError(
                f"point {outside[0]} lies outside the {width}x{height} image",
                hint="points are (x, y) in pixels of the image",
            )
        if not points:
            return ()
        predictor = SamPredictor(self._model(runtime))
        runtime.meter.images(1)
        found: list[Region | None] = []
        with torch.inference_mode():
            predictor.set_image(image)
            for point in points:
                masks, scores, _ = predictor.predict(np.array([point]), np.array([1]))
                found += [
                    _region(mask, float(score), "point")
                    for mask, score in zip(masks, scores, strict=True)
                ]
        return tuple(r for r in found if r)

    def _sorted(self, regions: list[Region | None]) -> tuple[Region, ...]:
        fit = [r for r in regions if r and self.least_area <= r.area_fraction <= self.largest_area]
        return tuple(sorted(fit, key=lambda r: (-int(r.mask.sum()), r.box)))

    def _model(self, runtime: Runtime) -> nn.Module:
        """Return the loaded model on the runtime's device, loaded once."""
        if "model" not in self._loaded:
            self._loaded["model"] = load(self.checkpoint, self.arch)
        model: nn.Module = self._loaded["model"].to(runtime.device)
        return model


_NOT_IN_DIGEST = ("checkpoint", "points_per_batch", "_loaded")


def load(checkpoint: Path, arch: str | None) -> nn.Module:
    """Return the model in `checkpoint`, in evaluation mode, on the CPU.

    Raises:
        OracleError: No such file, more in it than tensors, no SAM, or another architecture.
    """
    state = read_tensors(checkpoint)
    recognised = recognise(state)
    if recognised is None:
        raise OracleError(
            f"{checkpoint} holds no Segment Anything model: {_sample(state)}",
            hint="give the checkpoint of sam_vit_b, sam_vit_l, sam_vit_h or mobile_sam",
        )
    if arch is not None and arch != recognised:
        raise OracleError(
            f"{checkpoint} was said to be {arch}, its tensors are those of {recognised}",
            hint=f"use sam:{checkpoint}:{recognised}, or leave the architecture out",
        )
    model = _empty(recognised)
    if recognised == "vit_t":
        state = tiny_vit.rename(state)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise OracleError(
            f"{checkpoint} does not fit {recognised}: {str(error)[:300]}",
            hint="the file may be truncated or fine-tuned with another code; download it again",
        ) from error
    return model.eval().requires_grad_(False)


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or PyTorch checkpoint; nothing in it is executed.

    Raises:
        OracleError: No such file, or it holds something else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _stat(checkpoint)
    try:
        if checkpoint.suffix == ".safetensors":
            return dict(load_file(checkpoint))
        zipped = zipfile.is_zipfile(checkpoint)  # only these can be mapped, which saves memory
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=zipped)
    except (*_UNREADABLE, SafetensorError) as error:
        raise OracleError(
            f"{checkpoint} is not a file of tensors: {_first_line(error)}",
            hint="only safetensors and tensor-only PyTorch files are read; "
            "download the checkpoint again from its publisher",
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise OracleError(
            f"{checkpoint} holds a {type(state).__name__}, not tensors by name",
            hint="give the state dict that the model's publisher released",
        )
    return {str(name): tensor.float() for name, tensor in state.items()}


_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return the architecture that these tensors belong to, None where it is no SAM."""
    if not any(name.startswith("mask_decoder.") for name in state):
        return None
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "vit_t"
    position = state.get("image_encoder.pos_embed")
    if position is None or position.ndim != 4:
        return None
    return WIDTHS.get(int(position.shape[-1]))


def _empty(arch: str) -> nn.Module:
    """Return the architecture without weights (none are drawn: they would take seconds)."""
    from segment_anything import sam_model_registry

    if arch == "vit_t":
        return _mobile()
    with torch.device("meta"):
        model: nn.Module = sam_model_registry[arch](checkpoint=None)
    model.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), persistent=False)
    model.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(-1, 1, 1), persistent=False)
    return model


def _mobile() -> nn.Module:
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
    from segment_anything.modeling import Sam as SamModel

    dim, side = tiny_vit.CHANNELS, tiny_vit.SIDE // tiny_vit.STRIDE
    model: nn.Module = SamModel(
        image_encoder=tiny_vit.TinyVitEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(side, side),
            input_image_size=(tiny_vit.SIDE, tiny_vit.SIDE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=2048, num_heads=8),
            transformer_dim=dim,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
        pixel_mean=list(PIXEL_MEAN),
        pixel_std=list(PIXEL_STD),
    )
    return model


def _region(mask: np.ndarray, score: float, kind: str) -> Region | None:
    if not mask.any():
        return None
    mask = mask.astype(bool)
    return Region(mask=mask, box=mask_box(mask), score=min(1.0, max(0.0, score)), kind=kind)


def _stat(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise OracleError(
            f"no checkpoint file {path}",
            hint="download a SAM or MobileSAM checkpoint, or use --oracle regions",
        ) from error
    if not path.is_file():
        raise OracleError(f"{path} is no file", hint="name the checkpoint file itself")
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _file_digest(path: str, size_bytes: int, modified_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def _sample(state: Mapping[str, Tensor]) -> str:
    names = ", ".join(sorted(state)[:3]) or "no tensors"
    return f"{len(state)} tensors ({names}, …)"
