"""Which segmenter does `--oracle SPEC` name?"""

from pathlib import Path
from typing import Any

from gatekeeper.errors import OracleError, PluginError
from gatekeeper.oracle.base import Segmenter
from gatekeeper.registry import Registry

GROUP = "gatekeeper.oracles"
SAM_ARCHS = ("vit_b", "vit_l", "vit_h", "vit_t")


def build_segmenter(spec: str) -> Segmenter:
    """Return the segmenter that `spec` names.

    Args:
        spec: `regions`, `sam:CHECKPOINT[:vit_b|vit_l|vit_h|vit_t]`, or a plug-in's name.

    Raises:
        OracleError: The spec cannot be understood, or names no segmenter.
    """
    name, _, rest = spec.partition(":")
    if name == "sam":
        return _sam(spec, rest)
    if rest:
        raise OracleError(
            f"--oracle {spec}: '{name}' takes nothing after a colon",
            hint="use regions, sam:CHECKPOINT[:vit_b|vit_l|vit_h|vit_t], or a plug-in's name",
        )
    try:
        plugin: Any = Registry[Segmenter](GROUP).load(name)
        segmenter = plugin()
    except (PluginError, TypeError) as error:
        known = ", ".join(Registry[Segmenter](GROUP).names())
        raise OracleError(
            f"--oracle {spec}: no such segmenter ({error})",
            hint=f"use one of: {known}; Segment Anything as sam:CHECKPOINT",
        ) from error
    if not isinstance(segmenter, Segmenter):
        raise OracleError(
            f"--oracle {spec}: {type(segmenter).__name__} is no segmenter",
            hint="a plug-in of group gatekeeper.oracles has name, digest, regions and at_points",
        )
    return segmenter


def _sam(spec: str, rest: str) -> Segmenter:
    from gatekeeper.oracle.sam import Sam

    checkpoint, _, last = rest.rpartition(":")
    arch: str | None = last
    if last not in SAM_ARCHS:  # the colon, if any, belongs to the path
        checkpoint, arch = rest, None
    if not checkpoint:
        raise OracleError(
            f"--oracle {spec}: no checkpoint named",
            hint="use sam:CHECKPOINT[:vit_b|vit_l|vit_h|vit_t]",
        )
    path = Path(checkpoint)
    if not path.is_file():
        stem, _, tail = checkpoint.rpartition(":")
        if stem and Path(stem).is_file():
            raise OracleError(
                f"--oracle {spec}: '{tail}' is no Segment Anything architecture",
                hint=f"use one of: {', '.join(SAM_ARCHS)}",
            )
        raise OracleError(
            f"--oracle {spec}: no checkpoint file {path}",
            hint="download a SAM or MobileSAM checkpoint, or use --oracle regions",
        )
    return Sam(checkpoint=path, arch=arch)
