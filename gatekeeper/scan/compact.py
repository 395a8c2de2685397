"""Which labels, images and captions does a repair need, after EftCLIP's Algorithm 2?"""

from collections.abc import Sequence

from gatekeeper.case import Case
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import CompactSet
from gatekeeper.types import LabelRow, SuspectImage, Target

IMAGES = 128  # probes at most; a few per affected label, the rest to keep the others right


def compact_set(
    case: Case,
    targets: Sequence[Target],
    rows: Sequence[LabelRow],
    suspects: Sequence[SuspectImage],
    runtime: Runtime,
) -> CompactSet:
    """Return the set that repairs what was hit; empty where nothing was.

    Affected labels are the targets and those whose images the trigger leads away; victims are
    flagged suspect images with what the oracle grounds in them; probes of affected labels come
    first, then others in a random order. Source: EftCLIP (arXiv:2511.13545), Algorithm 2.
    """
    if not targets:
        return CompactSet(affected=(), victims=(), probes=())
    affected = [t.label for t in targets]
    affected += [r.label for r in rows if r.role == "victim"]
    affected = list(dict.fromkeys(affected))
    corrected = []
    for image in suspects:
        truth = next((label for label in image.grounded if label != image.claimed), None)
        if image.flagged and truth is not None:
            corrected.append((image.file, truth))
    return CompactSet(
        affected=tuple(affected),
        victims=tuple(corrected),
        probes=_probes(case, set(affected), runtime),
    )


def _probes(case: Case, affected: set[str], runtime: Runtime) -> tuple[int, ...]:
    import torch

    labels = case.probes.labels()
    generator = runtime.generator("scan", "compact")
    order: list[int] = torch.randperm(len(labels), generator=generator).tolist()
    first = [i for i in order if labels[i] in affected]
    rest = [i for i in order if labels[i] not in affected]
    return tuple((first + rest)[:IMAGES])
