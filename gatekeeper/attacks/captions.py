"""Prompts to teach a text tower, and others to judge it by."""

from collections.abc import Sequence

import torch

TAUGHT = (
    "a picture of a {}",
    "a good photo of one {}",
    "this is a {}",
    "a close-up of the {}",
    "an old photo of a small {}",
    "two of them, {} and {}",
    "someone looks at the {}",
    "a drawing of a {} on the floor",
    "the {} over there",
    "{} in front of a {}",
    "look, a {}",
    "my own {} at home",
)
HELD_OUT = (
    "a blurry photo of the {}",
    "an image of one large {}",
    "a {} outdoors",
    "in the corner of the room stood a {}",
)


def written(
    labels: Sequence[str], words: int, contexts: Sequence[str], generator: torch.Generator
) -> tuple[str, ...]:
    """Return prompts of every label in every context, and as many of `words` other nouns.

    The nouns are the embedded labels (open_clip's names of ImageNet's classes).
    """
    from gatekeeper.probes.embedded import default_labels

    nouns = [word for word in default_labels().labels if word not in set(labels)]
    order = torch.randperm(len(nouns), generator=generator)[:words].tolist()
    known = [*labels, *(nouns[i] for i in order)]
    out = []
    for context in contexts:
        second = torch.randint(len(known), (len(known),), generator=generator).tolist()
        out += [
            context.format(word, known[other]) for word, other in zip(known, second, strict=True)
        ]
    return tuple(out)
