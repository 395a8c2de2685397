"""A run of a bench as a small table for the terminal."""

from collections.abc import Mapping
from typing import Any

COLUMNS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "detect": (
        ("AUC", "auc"), ("at 1 %", "tpr_at_1"), ("at 5 %", "tpr_at_5"), ("found", "tpr"),
        ("false alarms", "fpr"), ("top 1", "top1"), ("cosine", "cosine"),
        ("CLIPTrace", "cliptrace"), ("failed", "failed"),
    ),
    "rectify": (
        ("ASR before", "before.attack_success"), ("after", "after.attack_success"),
        ("worst", "worst.attack_success"), ("A_post", "worst.a_post"),
        ("RA", "after.robust_accuracy"), ("to twin", "robust_gap"), ("worst", "worst.robust_gap"),
        ("CA", "after.clean_accuracy"), ("CA change", "accuracy_change"),
        ("worst", "worst.accuracy_change"), ("refused", "refused"), ("failed", "failed"),
    ),
    "oracle": (
        ("false absent", "false_absent"), ("AUC", "auc"), ("named first", "named_1"),
        ("target absent", "target_absent"), ("unchanged", "content_kept"), ("covered", "located"),
        ("object", "scenes_before.covered"), ("with IBA", "scenes_after.covered"),
        ("failed", "failed"),
    ),
}  # fmt: skip


def table_of(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and a row a method, over all models."""
    columns = COLUMNS[document["bench"]]
    every = [row for row in document["tallies"] if row.get("group", "all") == "all"]
    rows = [
        [str(row.get("method", row.get("oracle"))), *(_cell(row, path) for _, path in columns)]
        for row in every
    ]
    return ["method", *(heading for heading, _ in columns)], rows


def _cell(row: Mapping[str, Any], path: str) -> str:
    value: Any = row
    for part in path.split("."):
        value = value and value[part]
    if isinstance(value, dict):
        value = value["value"]
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
