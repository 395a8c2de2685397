"""The pictures of an evidence run: a per-label table and the steps of the trigger search."""

import io
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from gatekeeper.types import Exhibit, LabelRow, SearchStep

TABLE_ROWS = 24  # with pictures; each costs four uploads
STEPS = 24  # of one search, evenly spread
_ROLES = {"target": 0, "victim": 1}


def log_label_table(
    client: Any, run_id: str, rows: Sequence[LabelRow], exhibits: Sequence[Exhibit]
) -> None:
    """Log `labels.json`, most affected labels first, each with an image before and after.

    Labels beyond the first 24 go to `all_labels.json`, without pictures.
    """
    if not rows:
        return
    ranked = sorted(rows, key=lambda row: (_ROLES.get(row.role, 2), -row.flip_rate, row.label))
    shown = ranked[:TABLE_ROWS]
    table = _columns(shown)
    found = [_exhibit_of(row, exhibits) for row in shown]
    if any(found):
        table["clean"] = [_image(item.clean_png if item else None) for item in found]
        table["with the trigger"] = [_image(item.triggered_png if item else None) for item in found]
        table["CLIP says"] = [item.claimed_after if item else "" for item in found]
        table["the oracle sees"] = [
            ", ".join(item.grounded_after) or "nothing it knows" if item else "" for item in found
        ]
    client.log_table(run_id, table, "labels.json")
    if len(ranked) > TABLE_ROWS:
        client.log_table(run_id, _columns(ranked), "all_labels.json")


def log_search(client: Any, run_id: str, steps: Sequence[SearchStep]) -> None:
    """Log each search as an image series with a slider, and its objective as a curve."""
    from mlflow.entities import Metric

    by_search: dict[str, list[SearchStep]] = defaultdict(list)
    for step in steps:
        by_search[step.search].append(step)
    now = int(time.time() * 1000)
    for search, taken in by_search.items():
        key = re.sub(r"[^\w\-. /]", "-", search, flags=re.ASCII)
        taken.sort(key=lambda step: step.step)
        curve = [
            Metric(f"search.{key}.concentration", float(s.concentration), now, s.step)
            for s in taken
        ]
        for start in range(0, len(curve), 900):  # MLflow takes 1,000 a request
            client.log_batch(run_id, metrics=curve[start : start + 900])
        for step in spread(taken, STEPS):
            client.log_image(
                run_id,
                _image(step.picture_png),
                key=f"search {key}",
                step=step.step,
                synchronous=True,
            )


def spread(items: Sequence[SearchStep], most: int) -> list[SearchStep]:
    """Return at most `most` of `items`, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _columns(rows: Sequence[LabelRow]) -> dict[str, list[Any]]:
    return {
        "label": [row.label for row in rows],
        "role": [row.role for row in rows],
        "images": [row.images for row in rows],
        "led to the target (%)": [round(100 * row.flip_rate, 1) for row in rows],
    }


def _exhibit_of(row: LabelRow, exhibits: Sequence[Exhibit]) -> Exhibit | None:
    for item in exhibits:
        if item.claimed_before == row.label:
            return item
    if row.role == "target":
        return next((item for item in exhibits if item.claimed_after == row.label), None)
    return None


def _image(png: bytes | None) -> Any:
    """Return an `mlflow.Image`; a grey square where there is none, since a column cannot mix."""
    from mlflow import Image as MlflowImage
    from PIL import Image

    if png is None:
        return MlflowImage(Image.new("RGB", (16, 16), (238, 238, 238)))
    with Image.open(io.BytesIO(png)) as picture:
        return MlflowImage(picture.convert("RGB"))
