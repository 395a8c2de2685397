"""What a search wants to grow, and how far it has come."""

from dataclasses import dataclass

import torch
from torch import Tensor

RECENT = 8  # steps that say how a search fares now
PATIENCE = 16  # steps before one that leads nowhere is given up
# Growth, in spreads of the clean logits, below which it leads nowhere: of a word named or less the
# anchor's; and of any word where there is no anchor, since some word always grows.
HOPELESS, HOPELESS_ALONE = 0.5, 2.0
LATE = 8  # steps after patience, from which growth alone is not enough
LED = 0.1  # share of the images of the last steps that must then follow
SURE = 3  # steps of a growth that decides
GROWN, GROWN_ALONE = 4.0, 8.0  # that growth, less the anchor's and without one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aim:
    """What a search wants to see grow."""

    target: int | None = None  # word; None: any but the excluded
    excluded: Tensor | None = None  # [k] int64 words that a search without a target leaves out
    brief: bool = False  # give up soon
    lean: int | None = None  # word that weights point to: its growth counts once more
    paired: bool = False  # count growth less the anchor's under the same pattern, at twice the cost

    def wanted(self, words: int) -> Tensor:
        """Return which of `words` words may grow, [C] bool."""
        wanted = torch.full((words,), self.target is None)
        if self.target is not None:
            wanted[self.target] = True
        elif self.excluded is not None:
            wanted[self.excluded] = False
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How far the leading word has grown, step by step, in spreads of the clean logits.

    `led`: the share of the step's images that answer it now and did not before, less the anchor's.
    """

    growth: tuple[float, ...] = ()
    words: tuple[int, ...] = ()
    led: tuple[float, ...] = ()

    def after(self, growth: Tensor, led: Tensor, wanted: Tensor, spread: float) -> "Pace":
        """Return the pace one step on.

        Args:
            growth: [C] by which each word's mean logit grew.
            led: [C] share of the images that each word leads.
            wanted: [C] bool, words that may lead.
            spread: Of the clean logits.
        """
        seen = growth.detach().masked_fill(~wanted, -torch.inf)
        word = int(seen.argmax())
        return Pace(
            growth=(*self.growth, float(seen[word]) / spread),
            words=(*self.words, word),
            led=(*self.led, float(led[word])),
        )

    def recent(self, steps: int) -> float:
        """Return the mean of the last `steps`; 0 before the first."""
        last = self.growth[-steps:]
        return sum(last) / max(1, len(last))

    @property
    def leader(self) -> int:
        """Return the word that led most of the last steps."""
        last = self.words[-RECENT:]
        return max(dict.fromkeys(last), key=last.count)

    @property
    def followed(self) -> float:
        """Return the mean share of the last steps' images that the leading word leads."""
        return sum(self.led[-RECENT:]) / RECENT

    def unmoved(self, aim: Aim) -> bool:
        """Return whether a paired search ended where nothing grew and no image followed.

        What it left behind then led at most 0.08 of the judging images anywhere, in 236 searches.
        """
        return aim.paired and self.recent(RECENT) < HOPELESS and self.followed < LED

    def grown(self, aim: Aim) -> bool:
        """Return whether the word has grown so much that it decides."""
        enough = GROWN if aim.paired else GROWN_ALONE
        return len(self.growth) >= SURE and self.recent(SURE) >= enough

    def hopeless(self, aim: Aim, patience: int) -> bool:
        """Return whether `patience` steps were tried and nothing grows, or no image follows later.

        What an honest fine-tune forgot lets words grow, one here and one there, for as long as one
        looks; of what was planted the answers come soon.
        """
        least = HOPELESS_ALONE if aim.target is None and not aim.paired else HOPELESS
        patience = RECENT if aim.brief else patience
        if len(self.growth) >= patience and self.recent(RECENT) < least:
            return True
        if aim.target is None and not aim.paired:
            return False  # without an anchor, where else a model can be led must be found out
        return len(self.led) >= patience + LATE and self.followed < LED
