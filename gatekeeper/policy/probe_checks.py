"""Are these images fit to judge a model by? Great Expectations answers before a scan starts."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from gatekeeper.errors import ProbeError
from gatekeeper.policy.expectations import great_expectations, run_suite
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import Probe, ProbeSet
from gatekeeper.types import Json

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_SIDE = 32  # pixels; below it there is little to see at any input size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """One question about the probe frame."""

    name: str
    expectation: Callable[[Any], Any]  # great_expectations.expectations -> expectation
    fatal: bool
    message: str
    hint: str


def check_probes(probes: ProbeSet, labels: Labels, *, at_least: int = 1) -> Mapping[str, Json]:
    """Return what Great Expectations says of `probes`; nothing is decoded, headers are read.

    Too few images for the *policy* is no error here: the verdict is then inconclusive.

    Returns:
        `{images, distinct, labelled, warnings: [sentence], validation: {…}}`.

    Raises:
        ProbeError: Fewer than `at_least` images, an unreadable one, none of the labels known, or
            most images the same by content.
        PolicyError: Great Expectations failed.
    """
    frame = _frame(probes.probes)
    checks = _checks(frame, labels, at_least)
    great_expectations()
    from great_expectations import expectations as gxe

    suite = [_tagged(check.expectation(gxe), check.name) for check in checks]
    raw: Any = run_suite("probes", frame, suite)
    held = {
        item["expectation_config"]["meta"]["check"]: item["success"] is True
        for item in raw["results"]
    }
    broken = [check for check in checks if not held.get(check.name, False)]
    for check in broken:
        if check.fatal:
            raise ProbeError(f"probes '{probes.name}': {check.message}", hint=check.hint)
    return {
        "images": len(frame),
        "distinct": int(frame["sha256"].nunique()),
        "labelled": int(frame["label"].notna().sum()),
        "warnings": [f"Probes '{probes.name}': {check.message}." for check in broken],
        "validation": raw,
    }


def _frame(probes: Sequence[Probe]) -> "pd.DataFrame":
    """Return one row per image: file, sha256, label, short side in pixels (null: unreadable)."""
    import pandas as pd

    columns: dict[str, list[object]] = {
        "file": [p.file for p in probes],
        "sha256": [p.sha256 for p in probes],
        "label": [p.label for p in probes],
    }
    frame = pd.DataFrame(columns, dtype="object")
    frame["side"] = pd.Series([_side(p) for p in probes], dtype="float64")
    return frame


def _side(probe: Probe) -> float | None:
    if probe.array is not None:
        return float(min(probe.array.shape[:2]))
    source = io.BytesIO(probe.encoded) if probe.encoded is not None else probe.path
    if source is None:
        return None
    try:
        with Image.open(source) as image:
            return float(min(image.size))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return None


def _checks(frame: "pd.DataFrame", labels: Labels, at_least: int) -> list[_Check]:
    repeated = int(frame["sha256"].duplicated().sum())
    twice = sorted(frame.loc[frame["sha256"].duplicated(), "file"].astype(str))[:3]
    unreadable = sorted(frame.loc[frame["side"].isna(), "file"].astype(str))[:3]
    named = frame.loc[frame["label"].notna(), "label"]
    strange = sorted({str(label) for label in named} - set(labels.labels))
    checks = [
        _Check(
            name="enough",
            expectation=lambda gxe: gxe.ExpectTableRowCountToBeBetween(min_value=max(at_least, 1)),
            fatal=True,
            message=f"{len(frame)} images, at least {max(at_least, 1)} needed",
            hint="give --probes a folder with more images (.jpg .png .webp .bmp .tif)",
        ),
        _Check(
            name="readable",
            expectation=lambda gxe: gxe.ExpectColumnValuesToNotBeNull(column="side"),
            fatal=True,
            message=f"unreadable: {', '.join(unreadable)}",
            hint="remove or replace these files",
        ),
        _Check(
            name="large enough",
            expectation=lambda gxe: gxe.ExpectColumnValuesToBeBetween(
                column="side", min_value=SMALLEST_SIDE
            ),
            fatal=False,
            message=f"some images have a side below {SMALLEST_SIDE} px",
            hint="use larger images",
        ),
        _Check(
            name="distinct",
            expectation=lambda gxe: gxe.ExpectColumnValuesToBeUnique(column="sha256"),
            fatal=False,
            message=f"{repeated} images repeat others by content, e.g. {', '.join(twice)}",
            hint="remove the copies",
        ),
        _Check(
            name="mostly distinct",
            expectation=lambda gxe: gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
                column="sha256", min_value=0.5
            ),
            fatal=True,
            message=f"{repeated} of {len(frame)} images repeat others by content",
            hint="give different images: copies carry no evidence",
        ),
    ]
    if len(named):
        checks += _label_checks(labels, strange)
    return checks


def _label_checks(labels: Labels, strange: Sequence[str]) -> list[_Check]:
    known = list(labels.labels)
    shown = ", ".join(strange[:3])

    def among(least: float) -> Callable[[Any], Any]:
        return lambda gxe: gxe.ExpectColumnValuesToBeInSet(
            column="label", value_set=known, mostly=least
        )

    return [
        _Check(
            name="labels known",
            expectation=among(1.0),
            fatal=False,
            message=f"{len(strange)} labels of images are not among the labels, e.g. {shown}",
            hint="add them to --labels",
        ),
        _Check(
            name="some labels known",
            expectation=among(1e-6),
            fatal=True,
            message=f"none of the images' labels is among the {len(known)} labels ({shown} …)",
            hint="is --labels the right file? its names are compared with those in labels.csv",
        ),
    ]


def _tagged(expectation: Any, name: str) -> Any:
    expectation.meta = {"check": name}
    return expectation
