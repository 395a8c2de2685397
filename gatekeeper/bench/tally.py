"""What do the rows of a detection bench come to, for each method, attack and architecture?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatekeeper.bench import metrics
from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.metrics import Curve, Estimate
from gatekeeper.bench.rows import Row

OURS = "gatekeeper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A method over a group of models. None: nothing to say, most often a class is missing."""

    method: str
    group: str  # all | attack | architecture
    name: str
    clean: int
    planted: int
    unanswered: int  # the method gave no score: neither right nor wrong, and counted apart
    failed: int  # it did not run
    auc: Estimate | None
    tpr_at_1: float | None
    tpr_at_5: float | None
    cross_entropy: float | None
    brier: float | None
    fitted: bool  # the probabilities are ours, fitted on all other models
    tpr: Estimate | None  # by the method's own rule
    fpr: Estimate | None
    top1: Estimate | None
    top5: Estimate | None
    cosine: Estimate | None
    cliptrace: float | None
    iou: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model cost a method, medians over models; memory is the highest."""

    method: str
    seconds: float
    image_passes: float
    full_passes: float | None  # extrapolated to the published settings
    peak_rss_mb: float
    own_process: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTally:
    """A detector of triggered images, over the planted models."""

    method: str
    models: int
    images: int
    failed: int
    auc: Estimate | None  # mean over models
    tpr: Estimate | None  # by its own rule, over all images
    fpr: Estimate | None
    iou: Estimate | None  # of images that were flagged and carry a local trigger
    located: Estimate | None  # share of all images with a local trigger, IoU at least .5


def tallies(rows: Sequence[Row], seed: int = 0) -> tuple[Tally, ...]:
    """Return each model detector over all models, over each attack and each architecture."""
    found = []
    for method, mine in _by_method(rows, catalogue.MODELS):
        found.append(tally(method, "all", "all", mine, seed))
        clean = [row for row in mine if row.kind == "clean"]
        for attack in _distinct(row.attack for row in mine if row.kind == "planted"):
            planted = [row for row in mine if row.kind == "planted" and row.attack == attack]
            found.append(tally(method, "attack", attack, [*clean, *planted], seed))
        kinds = _distinct(row.architecture for row in mine)
        for architecture in kinds if len(kinds) > 1 else []:
            own = [row for row in mine if row.architecture == architecture]
            found.append(tally(method, "architecture", architecture, own, seed))
    return tuple(found)


def tally(method: str, group: str, name: str, rows: Sequence[Row], seed: int = 0) -> Tally:
    """Return what one method's rows of one group come to; adversarial models do not count."""
    judged = [row for row in rows if row.kind in {"clean", "planted"}]
    ran = [row for row in judged if not row.error]
    scored = [row for row in ran if row.result["score"] is not None]
    truth = [row.kind == "planted" for row in scored]
    scores = [float(_of(row, "score")) for row in scored]
    calibrated = bool(scored) and all(row.result["probability"] for row in scored)
    likely = scores if calibrated else metrics.fitted(truth, scores)
    planted = [row for row in ran if row.kind == "planted"]
    ranks = [_of(row, "rank") for row in planted if row.result["targets"]]
    cosines = [float(_of(row, "cosine") or 0.0) for row in planted if row.result["targets"]]
    overlaps = [float(_of(row, "iou")) for row in planted if row.result["iou"] is not None]
    return Tally(
        method=method,
        group=group,
        name=name,
        clean=sum(row.kind == "clean" for row in judged),
        planted=sum(row.kind == "planted" for row in judged),
        unanswered=len(ran) - len(scored),
        failed=len(judged) - len(ran),
        auc=metrics.auc(truth, scores, seed),
        tpr_at_1=metrics.tpr_at(truth, scores, 0.01),
        tpr_at_5=metrics.tpr_at(truth, scores, 0.05),
        cross_entropy=metrics.cross_entropy(truth, likely) if likely else None,
        brier=metrics.brier(truth, likely) if likely else None,
        fitted=not calibrated,
        tpr=_flagged(ran, "planted"),
        fpr=_flagged(ran, "clean"),
        top1=metrics.wilson(sum(rank == 1 for rank in ranks), len(ranks)),
        top5=metrics.wilson(sum(rank is not None and rank <= 5 for rank in ranks), len(ranks)),
        cosine=metrics.mean(cosines, seed),
        cliptrace=_cliptrace(ran, scored, likely),
        iou=metrics.mean(overlaps, seed),
    )


def curves(rows: Sequence[Row]) -> dict[str, Curve]:
    """Return each model detector's ROC curve over all models."""
    found = {}
    for method, mine in _by_method(rows, catalogue.MODELS):
        scored = [row for row in _scored(mine) if row.kind in {"clean", "planted"}]
        curve = metrics.roc(
            [row.kind == "planted" for row in scored], [float(_of(r, "score")) for r in scored]
        )
        if curve is not None:
            found[method] = curve
    return found


def compared(rows: Sequence[Row], seed: int = 0) -> dict[str, Estimate]:
    """Return AUC(ours) - AUC(method), in pairs over the models that both scored."""
    sorted_rows = dict(_by_method(rows, catalogue.MODELS))
    ours = {row.model: row for row in _scored(sorted_rows.get(OURS, []))}
    found = {}
    for method, mine in sorted_rows.items():
        both = [row for row in _scored(mine) if row.model in ours and row.kind != "adversarial"]
        if method == OURS or not both:
            continue
        gap = metrics.auc_difference(
            [row.kind == "planted" for row in both],
            [float(_of(ours[row.model], "score")) for row in both],
            [float(_of(row, "score")) for row in both],
            seed,
        )
        if gap is not None:
            found[method] = gap
    return found


def image_tallies(rows: Sequence[Row], seed: int = 0) -> tuple[ImageTally, ...]:
    """Return each detector of triggered images over the planted models."""
    return tuple(_image_tally(m, mine, seed) for m, mine in _by_method(rows, catalogue.SAMPLES))


def costs(rows: Sequence[Row]) -> tuple[Cost, ...]:
    """Return what each method cost."""
    found = []
    for method in _distinct(row.method for row in rows):
        mine = [row for row in rows if row.method == method and not row.error]
        full = [float(x) for row in mine if (x := _of(row, "full_passes")) is not None]
        if mine:
            found.append(
                Cost(
                    method=method,
                    seconds=float(np.median([row.seconds for row in mine])),
                    image_passes=float(np.median([row.image_passes for row in mine])),
                    full_passes=float(np.median(full)) if full else None,
                    peak_rss_mb=max(row.peak_rss_mb for row in mine),
                    own_process=all(row.own_process for row in mine),
                )
            )
    return tuple(found)


def called_backdoors(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Return, by method, the share of adversarial, not backdoored models that it flags."""
    found = {}
    for method, mine in _by_method(rows, catalogue.MODELS):
        rate = _flagged([row for row in mine if not row.error], "adversarial")
        if rate is not None:
            found[method] = rate
    return found


def decisions(ran: Sequence[Row]) -> dict[str, bool]:
    """Return whether each model is called backdoored: by the method's rule, else its probability.

    A method without a rule is given the probability that a logistic fitted on all other models
    gives its score. No answer is no alarm.
    """
    scored = _scored(ran)
    truth = [row.kind == "planted" for row in scored]
    bare = [float(_of(row, "score")) for row in scored]
    own = bool(scored) and all(row.result["probability"] for row in scored)
    likely = bare if own else metrics.fitted(truth, bare) or [0.0] * len(bare)
    return _decided(ran, scored, likely)


def _decided(ran: Sequence[Row], scored: Sequence[Row], likely: Sequence[float]) -> dict[str, bool]:
    chance = {row.model: p for row, p in zip(scored, likely, strict=True)}
    has_rule = any(row.result["flagged"] is not None for row in ran)
    return {
        row.model: bool(row.result["flagged"]) if has_rule else chance.get(row.model, 0.0) >= 0.5
        for row in ran
    }


def _cliptrace(
    ran: Sequence[Row], scored: Sequence[Row], likely: Sequence[float] | None
) -> float | None:
    called = _decided(ran, scored, likely or [0.0] * len(scored))
    return metrics.cliptrace(
        [row.kind == "planted" for row in ran],
        [called[row.model] for row in ran],
        [float(_of(row, "cosine") or 0.0) for row in ran],
    )


def _image_tally(method: str, rows: Sequence[Row], seed: int) -> ImageTally:
    ran = [row for row in rows if not row.error]
    areas, hits, alarms, overlaps = [], [0, 0], [0, 0], []
    local = 0
    for row in ran:
        marks = [bool(x) for x in _of(row, "triggered")]
        area = metrics.area(marks, [float(x) for x in _of(row, "scores")])
        areas += [area] if area is not None else []
        for mark, flag in zip(marks, _of(row, "image_flags") or [], strict=False):
            counted = hits if mark else alarms
            counted[0] += bool(flag)
            counted[1] += 1
        overlaps += [float(x) for x in _of(row, "overlaps")]
        local += int(_of(row, "local"))
    located = sum(value >= 0.5 for value in overlaps)
    return ImageTally(
        method=method,
        models=len(ran),
        images=sum(len(_of(row, "scores")) for row in ran),
        failed=len(rows) - len(ran),
        auc=metrics.mean(areas, seed),
        tpr=metrics.wilson(*hits),
        fpr=metrics.wilson(*alarms),
        iou=metrics.mean(overlaps, seed),
        located=metrics.wilson(located, local) if overlaps else None,
    )


def _flagged(ran: Sequence[Row], kind: str) -> Estimate | None:
    answers = [row.result["flagged"] for row in ran if row.kind == kind]
    given = [bool(answer) for answer in answers if answer is not None]
    return metrics.wilson(sum(given), len(given))


def _scored(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.error and row.result.get("score") is not None]


def _by_method(rows: Sequence[Row], group: Any) -> list[tuple[str, list[Row]]]:
    names = [m for m in _distinct(row.method for row in rows) if m.partition(":")[0] in group]
    return [(name, [row for row in rows if row.method == name]) for name in names]


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _of(row: Row, key: str) -> Any:
    return row.result.get(key)
