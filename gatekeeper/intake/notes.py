"""Findings about a tree as a whole: code beside the model, weights that were left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from gatekeeper.clip.adapters_tokenizers import read_json
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake import static_findings
from gatekeeper.intake.child import file_of
from gatekeeper.intake.layout import Layout
from gatekeeper.intake.static_findings import make
from gatekeeper.types import Finding, ModelFile, Severity


def of_tree(
    root: Path, layout: Layout, files: Sequence[ModelFile], containers: Mapping[str, str]
) -> list[Finding]:
    """Return what a reader should know of the tree besides the verdict on its files."""
    notes = []
    code = [f.path for f in files if f.path.endswith(".py")]
    if code:
        notes.append(
            make(
                "code",
                Severity.INFO,
                f"The tree carries Python files ({static_findings.listed(code)}). None was run or "
                "judged here; whoever serves this model through MLflow runs them.",
                files=list(code[:100]),
            )
        )
    if layout.others:
        notes.append(
            make(
                "unscanned_weights",
                Severity.WARNING,
                f"Besides {', '.join(layout.weights)} the tree holds weights in "
                f"{static_findings.listed(layout.others)}, which were not scanned.",
                files=list(layout.others[:100]),
            )
        )
    for file in files:
        if PurePosixPath(file.path).name in ("tokenizer_config.json", "config.json"):
            notes += _remote(file_of(root, file.path), file.path)
    if "pt2" in containers.values():
        notes.append(
            make(
                "exported_graph",
                Severity.INFO,
                "The weights of this exported program were judged in the named architecture; the "
                "graph stored beside them was not compared with it.",
            )
        )
    return notes


def _remote(path: Path, name: str) -> list[Finding]:
    try:
        named = read_json(path).get("auto_map")
    except UnsupportedModelError:
        return []
    if not named:
        return []
    return [
        make(
            "unsafe_load",
            Severity.CRITICAL,
            f"{name} asks the loading program to run code of its own (auto_map: {named}).",
            name,
            file=name,
            globals=[str(named)[:500]],
        )
    ]


def require_reason(root: Path, findings: Sequence[Finding]) -> None:
    """Raise unless a critical finding says why there are no weights."""
    if not any(f.severity is Severity.CRITICAL for f in findings):
        raise UnsupportedModelError(
            f"{root} holds no model that can be read: no file with weights in it",
            hint="a model is an open_clip or transformers folder, an MLflow model, or a "
            "checkpoint (.safetensors, .pt, .pth, .bin)",
        )


def text_missing(weights: str) -> Finding:
    """Return the finding that there is an image tower alone."""
    return make(
        "text_tower_missing",
        Severity.WARNING,
        f"{weights} holds an image tower alone, so no prompt can be compared with an image. "
        "Name the base model with --anchor: its text tower completes it.",
    )


def borrowed(weights: str) -> Finding:
    """Return the note that the anchor's text tower completes the model."""
    return make(
        "note",
        Severity.INFO,
        f"{weights} holds an image tower alone; text tower and tokenizer are the anchor's.",
        "text-tower",
    )


def corrupt(names: Sequence[str], weights: str) -> Finding:
    """Return the finding that weights are not numbers."""
    return make(
        "corrupt_weights",
        Severity.CRITICAL,
        f"{weights} holds NaN or infinity in {static_findings.listed(names)}: what the model "
        "answers cannot be measured.",
        weights,
        tensors=list(names[:100]),
    )
