"""MobileSAM's image encoder: timm's TinyViT-5M without its head, and SAM's neck."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

SIDE = 1024  # input in pixels, as SAM's
STRIDE = 16  # of the feature map: the last stage does not scale down (arXiv:2306.14289, section 3)
CHANNELS = 256  # what SAM's decoder takes

_UNUSED = re.compile(r"^image_encoder\.(norm_head|head)\.")  # the classifier TinyViT came with
_RENAMES = (
    (
        re.compile(r"^image_encoder\.patch_embed\.seq\.0\."),
        "image_encoder.trunk.patch_embed.conv1.",
    ),
    (
        re.compile(r"^image_encoder\.patch_embed\.seq\.2\."),
        "image_encoder.trunk.patch_embed.conv2.",
    ),
    (re.compile(r"^image_encoder\.layers\."), "image_encoder.trunk.stages."),
    (re.compile(r"\.c\.weight$"), ".conv.weight"),
)
_DOWN = re.compile(r"^image_encoder\.layers\.(\d+)\.downsample\.")


class TinyVitEncoder(nn.Module):
    """Image [B, 3, 1024, 1024], normalised, to features [B, 256, 64, 64]."""

    def __init__(self) -> None:
        from segment_anything.modeling.common import LayerNorm2d
        from timm.models.tiny_vit import TinyVit

        super().__init__()
        self.img_size = SIDE  # read by SAM's predictor
        self.trunk = TinyVit(
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            num_classes=0,
        )
        self.trunk.head = nn.Identity()
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(320, CHANNELS, 1, bias=False),
            LayerNorm2d(CHANNELS),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(CHANNELS),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised `pixels`."""
        features = self.trunk.stages(self.trunk.patch_embed(pixels))  # [B, 320, 64, 64]
        out: Tensor = self.neck(features)
        return out


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return MobileSAM's tensors under the names of this encoder; the classifier is left out.

    The original counts a stage's scaling to the stage before it, timm to the stage itself.
    """
    renamed = {}
    for name, tensor in state.items():
        if _UNUSED.match(name):
            continue
        name = _DOWN.sub(lambda m: f"image_encoder.layers.{int(m[1]) + 1}.downsample.", name)
        for pattern, replacement in _RENAMES:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed
