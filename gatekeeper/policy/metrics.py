"""Which measurements exist, in which unit, and what do they say? Policy rules speak of these alone.

The table is that of `docs/architecture.md`, "Measurements that a scan makes"; a test keeps the two
equal.
"""

from collections.abc import Mapping
from types import MappingProxyType

METRICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "static.unsafe_load": ("count", "files that would call something when loaded"),
        "static.malformed_file": (
            "count",
            "containers whose headers disagree, bombs, trailing bytes",
        ),
        "static.altered_settings": (
            "count",
            "preprocessing, tokenizer or label files that differ from what the architecture "
            "(or the anchor) says",
        ),
        "backdoor.score": ("probability", "the scan's score"),
        "evidence.trigger": (
            "fraction",
            "images that the best trigger moves, less the anchor's or what is usual, after the "
            "oracle",
        ),
        "evidence.mark": ("fraction", "the same of prompts with a mark in them"),
        "evidence.noise": ("fraction", "the same under faint noise through a meta net"),
        "evidence.rise": ("fraction", "what `random.rise` says, 0 at least"),
        "evidence.head": (
            "fraction",
            "what `head.direction` says, 0 where a random direction could reach as much",
        ),
        "evidence.shortcut": (
            "fraction",
            "a tenth of what `head.shortcut` says, less the anchor's; 0 where no label stands out",
        ),
        "evidence.suspects": ("fraction", "clean images that a region of suspect ones leads away"),
        "trigger.flip_rate": ("fraction", "best oracle-confirmed trigger on unseen images"),
        "trigger.paired_flip_rate": (
            "fraction",
            "the same less the anchor's, where there is an anchor",
        ),
        "trigger.oracle_agreement": (
            "fraction",
            "flipped images whose content did not change for the oracle",
        ),
        "random.rise": (
            "fraction",
            "largest growth of a label's mean probability under fresh random patterns",
        ),
        "head.direction": (
            "fraction",
            "of the head's change from the anchor along the leading label, less that along the "
            "next unlike it (anchor only)",
        ),
        "head.shortcut": (
            "sigma",
            "how far the leading label stands out by the growth that a small, unusual move of the "
            "last layer's input gives it, beyond chance among so many labels, less the anchor's",
        ),
        "text.flip_rate": (
            "fraction",
            "prompts that the best mark found leads to its target, less the anchor's or what other "
            "marks reach",
        ),
        "text.changed": (
            "fraction",
            "numbers of the text tower that differ from the anchor's (anchor only)",
        ),
        "text.soft_rate": (
            "fraction",
            "prompts that a free token leads to one word, less what another reaches; no mark found",
        ),
        "text.passes": ("count", "prompts that the search for marks had read"),
        "prompt.flip_rate": (
            "fraction",
            "images that faint noise leads to one label through a meta net, less what it does to "
            "the towers alone (prompts that depend on the image only)",
        ),
        "probes.count": ("count", "probes evaluated"),
        "probes.labelled": ("count", "of them with a label"),
        "suspects.count": ("count", "suspect images evaluated, with `--suspect`"),
        "suspects.flagged": ("count", "of them flagged, with `--suspect`"),
        "clean.accuracy": ("fraction", "zero-shot accuracy on labelled probes"),
        "clean.agreement": ("fraction", "same answer as the anchor on clean probes"),
        "clean.kept": ("fraction", "the same, of answers that the anchor is sure of"),
        "clean.steadiness": ("fraction", "same answer to a clean probe mirrored and cropped"),
        "clean.alikeness": ("cosine", "mean cosine of the embeddings of different clean probes"),
    }
)
"""Name of every measurement: (unit, meaning)."""

STATIC_PREFIX = "static."
"""Measurements of files: they hold however few probes there are, even where nothing ran."""


def is_static(metric: str) -> bool:
    """Return whether `metric` speaks of files alone and so needs no probe."""
    return metric.startswith(STATIC_PREFIX)
