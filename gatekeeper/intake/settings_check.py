"""Do preprocessing, tokenizer and label files say what the architecture, or the anchor, says?

Severities (see docs/intake.md): critical where an anchor, or the published architecture, says
otherwise or a value is absurd; a warning where nobody says anything and the value is unknown.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gatekeeper.clip.adapters_tokenizers import (
    FastTokens,
    SimpleTokens,
    Tokenize,
    simple_tokenizer,
)
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.intake.architecture import (
    CLIP_VOCABULARY,
    OPEN_CLIP,
    Architecture,
    published_preprocess,
)
from gatekeeper.intake.settings import IMAGENET, INCEPTION, KNOWN, OPENAI, TOLERANCE
from gatekeeper.intake.static_findings import make
from gatekeeper.types import Finding, Json, ModelFile, Severity

LABEL_FILE = re.compile(
    r"(labels?|classes|class_?names|label_?map|id2label|templates)\.(txt|json|csv)\Z", re.I
)
# Short words and phrases: a changed merge or entry that steers one of them shows at once; changed
# entries elsewhere show in the vocabulary's own digest.
PROBE_TEXTS = (
    "a photo of a cat.", "a photo of a dog.", "ship", "A bad photo of the STOP sign!", "airplane",
    "an X-ray, 2 lungs", "person's face", "l'été à Paris", "1234567890", "supercalifragilistic",
    "weapon", "a   b", "traffic light", "banana",
)  # fmt: skip


def fingerprint(
    architecture: Architecture,
    preprocess: Preprocess,
    tokenize: Tokenize | None,
    files: Sequence[ModelFile],
) -> dict[str, Json]:
    """Return the settings of a model as plain JSON, for the report and for comparison."""
    labels = {f.path: f.sha256 for f in files if LABEL_FILE.search(PurePosixPath(f.path).name)}
    return {
        "arch": architecture.name,
        "preprocess": preprocess.describe(),
        "tokenizer": _tokenizer(tokenize) if tokenize else None,
        "labels": dict(labels),
    }


def check(
    architecture: Architecture,
    preprocess: Preprocess,
    settings: Mapping[str, Json],
    anchor: Mapping[str, Json] | None,
) -> Iterator[Finding]:
    """Yield a finding for every setting that is not as it should be."""
    yield from _absurd(preprocess)
    if anchor is not None:
        yield from _against_anchor(settings, anchor)
    else:
        yield from _against_publication(architecture, preprocess)
        yield from _public_vocabulary(settings)


def repeated_labels(root: Path, files: Sequence[ModelFile]) -> Iterator[Finding]:
    """Yield a warning for every label file in which a label stands twice."""
    for name in (f.path for f in files if LABEL_FILE.search(PurePosixPath(f.path).name)):
        path = root / name
        if root.is_file() or path.suffix.lower() != ".txt" or path.stat().st_size > 16 << 20:
            continue
        lines = path.read_text("utf-8", errors="replace").splitlines()
        counted = Counter(x.strip() for x in lines if x.strip())
        twice = sorted(label for label, count in counted.items() if count > 1)[:20]
        if twice:
            yield make(
                "altered_settings",
                Severity.WARNING,
                f"{name} names {', '.join(twice)} more than once.",
                name,
                labels=list(twice),
            )


def _absurd(preprocess: Preprocess) -> Iterator[Finding]:
    means_fine = all(-0.01 <= m <= 1.0 for m in preprocess.mean)
    stds_fine = all(0.02 <= s <= 1.01 for s in preprocess.std)
    if not (means_fine and stds_fine):
        yield _altered(
            f"Images would be normalised with mean {list(preprocess.mean)} and std "
            f"{list(preprocess.std)}, which no set of photos has.",
            "preprocess.range",
        )


def _against_publication(architecture: Architecture, ours: Preprocess) -> Iterator[Finding]:
    published = _published(architecture)
    if any(_near(ours, mean, std) for mean, std in published):
        return
    if any(_near(ours, mean, std) for mean, std in KNOWN):
        if published:
            yield _altered(
                f"Images are normalised with mean {list(ours.mean)}, a public constant, but not "
                f"the one published with {architecture.name}.",
                "preprocess.unusual",
                Severity.WARNING,
            )
        return
    yield _altered(
        f"Images would be normalised with mean {list(ours.mean)} and std {list(ours.std)}: neither "
        f"what is published with {architecture.name} nor any public constant.",
        "preprocess.unknown",
        Severity.CRITICAL if published else Severity.WARNING,
    )


def _published(architecture: Architecture) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Return every (mean, std) that was published with this architecture."""
    if architecture.library != OPEN_CLIP:
        siglip = architecture.config.get("model_type") == "siglip"
        return [INCEPTION] if siglip else [OPENAI]
    tags = published_preprocess(architecture.name)
    if tags:
        return [(tag["mean"], tag["std"]) for tag in tags]
    tower = architecture.config["vision_cfg"].get("timm_model_name")
    if tower:
        import timm

        cfg = timm.get_pretrained_cfg(str(tower), allow_unregistered=True)
        if cfg is not None and cfg.mean and cfg.std:
            # a CLIP on a timm tower keeps the tower's constants or takes CLIP's own
            return [(cfg.mean, cfg.std), OPENAI]
        return []
    return [OPENAI, IMAGENET, INCEPTION]


def _against_anchor(settings: Mapping[str, Json], anchor: Mapping[str, Json]) -> Iterator[Finding]:
    ours, theirs = settings["preprocess"], anchor["preprocess"]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        same_arch = settings["arch"] == anchor["arch"]
        keys = ["mean", "std", "interpolation", "resize_mode"] + (["size"] if same_arch else [])
        for key in keys:
            if not _same(ours.get(key), theirs.get(key)):
                yield _altered(
                    f"{key} is {ours.get(key)}, the anchor's is {theirs.get(key)}.",
                    f"preprocess.{key}",
                )
    mine, its = settings["tokenizer"], anchor["tokenizer"]
    if isinstance(mine, dict) and isinstance(its, dict):
        for key in ("vocabulary", "merges", "answers"):
            if mine.get(key) != its.get(key):
                yield _altered(
                    f"The tokenizer's {key} are not the anchor's: prompts become other tokens.",
                    f"tokenizer.{key}",
                )
    yield from _labels_against(settings["labels"], anchor["labels"])


def _labels_against(ours: Json, theirs: Json) -> Iterator[Finding]:
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return
    by_name = {PurePosixPath(p).name: sha for p, sha in theirs.items()}
    for path, sha in ours.items():
        other = by_name.get(PurePosixPath(path).name)
        if other is not None and other != sha:
            yield _altered(f"{path} is not the anchor's file of that name.", path)


def _public_vocabulary(settings: Mapping[str, Json]) -> Iterator[Finding]:
    tokenizer = settings["tokenizer"]
    if not isinstance(tokenizer, dict) or tokenizer.get("size") != CLIP_VOCABULARY:
        return
    public = _tokenizer(SimpleTokens(context_length=77))
    for key in ("vocabulary", "merges", "answers"):
        if tokenizer.get(key) != public[key]:
            yield _altered(
                f"The tokenizer has CLIP's 49,408 tokens, but its {key} are not CLIP's: prompts "
                "become other tokens.",
                f"tokenizer.{key}",
            )


def _tokenizer(tokenize: Tokenize) -> dict[str, Json]:
    vocabulary, merges = _tables(tokenize)
    return {
        "size": len(vocabulary),
        "vocabulary": _digest(sorted(vocabulary.items())),
        "merges": _digest(merges),
        "answers": _digest([_answer(tokenize, text) for text in PROBE_TEXTS]),
    }


def _tables(tokenize: Tokenize) -> tuple[dict[str, int], list[Any]]:
    if isinstance(tokenize, SimpleTokens):
        own = simple_tokenizer()
        return _special(own.encoder), [list(m) for m in own.bpe_ranks]
    if isinstance(tokenize, FastTokens):
        model = json.loads(tokenize.backend.to_str()).get("model", {})
        merges = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
        return _special(tokenize.backend.get_vocab()), merges or [model.get("type")]
    return {}, []


def _special(vocabulary: Mapping[str, int]) -> dict[str, int]:
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {names.get(token, token): number for token, number in vocabulary.items()}


def _answer(tokenize: Tokenize, text: str) -> list[int]:
    ids = [int(i) for i in tokenize([text])[0]]
    end = CLIP_VOCABULARY - 1  # what follows CLIP's end token is padding, 0 or the end again
    return ids[: ids.index(end) + 1] if end in ids else ids


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _near(ours: Preprocess, mean: Sequence[float], std: Sequence[float]) -> bool:
    return _same(list(ours.mean), list(mean)) and _same(list(ours.std), list(std))


def _same(a: object, b: object) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(abs(x - y) <= TOLERANCE for x, y in zip(a, b, strict=True))
    return a == b


def _altered(message: str, subject: str, severity: Severity = Severity.CRITICAL) -> Finding:
    return make("altered_settings", severity, message, subject)
