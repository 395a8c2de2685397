"""The answers of a run in the form that the CLIPTrace 2026 challenge takes.

`predictions.json` (version "1.0"; model_id, label 0 or 1, embedding_file or null) and one unit
float32 vector a model called backdoored, `embeddings/ID.pt`, as its rules want it: a bare tensor
that loads with `weights_only`. Its official models have 768 dimensions; a zoo's have its own.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name

from gatekeeper.bench.rows import Row
from gatekeeper.bench.tally import decisions


def write_submission(rows: Sequence[Row], out: Path) -> Path:
    """Write one method's answers below the folder `out`, and as `submission.zip`; return that.

    A model called backdoored whose target was not recovered is submitted with a vector of the
    first axis, as the format knows no backdoor without one.
    """
    ran = [row for row in rows if not row.error]
    called = decisions(ran)
    (out / "embeddings").mkdir(parents=True, exist_ok=True)
    predictions = []
    for row in sorted(ran, key=lambda one: one.model):
        name = f"embeddings/{row.model}.pt" if called[row.model] else None
        if name:
            torch.save(_vector(row, ran), out / name)
        predictions.append(
            {"model_id": row.model, "label": int(called[row.model]), "embedding_file": name}
        )
    text = json.dumps({"version": "1.0", "predictions": predictions}, indent=2)
    (out / "predictions.json").write_text(text + "\n", encoding="utf-8")
    archive = out / "submission.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(out / "predictions.json", "predictions.json")
        for item in predictions:
            if item["embedding_file"]:
                packed.write(out / str(item["embedding_file"]), str(item["embedding_file"]))
    return archive


def _vector(row: Row, others: Sequence[Row]) -> torch.Tensor:
    found: Any = row.result.get("embedding")
    if found:
        return F.normalize(torch.tensor(found, dtype=torch.float32), dim=0)
    known: Any = next((o.result["embedding"] for o in others if o.result.get("embedding")), [0.0])
    blank = torch.zeros(len(known))
    blank[0] = 1.0
    return blank
