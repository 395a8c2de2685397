"""Which words are the prompts of each stage about, and in which contexts do they stand?"""

from dataclasses import dataclass, replace

import torch

from gatekeeper.case import Case
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.runtime import Runtime
from gatekeeper.scan.pair import Pair

# Contexts that judge: none of them is one of the usual templates of zero-shot heads.
JUDGING = ("there is a {} over here", "one {} seen from afar", "{} and nothing else")
CONFIRMING = ("somebody shows us the {}", "next to the door: a {}", "my favourite {} of all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lots:
    """Words drawn for each stage; no word is in two, so that none judges what it has chosen."""

    screening: tuple[int, ...]  # every sign is put into prompts about these
    searching: tuple[int, ...]  # the best signs
    judging: tuple[int, ...]  # the best of each word
    confirming: tuple[int, ...]  # what is reported


def lots(pair: Pair, runtime: Runtime) -> Lots:
    """Return the words of each stage by lot: the case's labels, of few each stage its share.

    Decoys make up what is missing; where there are none, each stage draws fewer, at least one.
    """
    counts = {"screening": 2, "searching": 8, "judging": 16, "confirming": 24}
    wanted = sum(counts.values())
    generator = runtime.generator("scan", "text_search", "words")
    own = torch.randperm(pair.own, generator=generator).tolist()
    rest = torch.randperm(len(pair.words) - pair.own, generator=generator) + pair.own
    decoys = rest.tolist()
    share, every = (min(1.0, n / wanted) for n in (len(own), len(pair.words)))
    drawn = {}
    for name, count in counts.items():
        size, mine = max(1, int(every * count)), int(share * count)
        lot = [own.pop() for _ in range(min(mine, len(own)))]
        for pool in (decoys, own):
            lot += [pool.pop() for _ in range(min(size - len(lot), len(pool)))]
        drawn[name] = tuple(lot)
    return Lots(**drawn)


def unprompted(case: Case) -> Case:
    """Return `case` with the bare text tower where prompts depend on the image.

    Beside no image such prompts mean little, and each decoy would cost a pass an image.
    """
    text = case.model.text_tower
    if not isinstance(text, PromptedText) or text.meta is None:
        return case
    return replace(case, model=replace(case.model, text_tower=text.inner, _heads={}))
