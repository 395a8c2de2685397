"""A trigger in the prompt: a character or a word that hijacks the text tower."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gatekeeper.errors import ScanError

Settings = dict[str, float | int | str | list[int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTrigger:
    """`mark` in the prompt: in place of a letter that it looks like, or as a word of its own.

    Source: Rickrolling the Artist (Struppek et al., arXiv:2211.02408), homoglyphs; words as in
    ToxicTextCLIP (arXiv:2511.00446).
    """

    family: ClassVar[str] = "text"
    mark: str  # the character or the word
    replaces: str = ""  # one such letter gives way to it; "": it becomes a word

    def stamp_prompts(
        self, prompts: Sequence[str], generator: torch.Generator | None = None
    ) -> tuple[str, ...]:
        """Return `prompts` with the mark in.

        Args:
            prompts: Texts; one without the letter gets the mark as its first word.
            generator: Draws which letter, or where between the words; None: the first place.
        """
        return tuple(self._marked(prompt, generator) for prompt in prompts)

    def stamp(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Refuse: images stay as they are.

        Raises:
            ScanError: Always.
        """
        raise ScanError(
            "a text trigger stands in the prompt, no image can carry it",
            hint="use stamp_prompts where the trigger's family is 'text'",
        )

    def picture(self) -> Tensor:
        """Return the mark's code points in writing, [3, 64, 224]."""
        from PIL import Image, ImageDraw

        points = " ".join(f"U+{ord(x):04X}" for x in self.mark)
        shown = self.mark if self.mark.isascii() else points
        paper = Image.new("RGB", (224, 64), "white")
        told = f"{shown} for {self.replaces}" if self.replaces else shown
        ImageDraw.Draw(paper).text((8, 26), told.encode("ascii", "replace").decode(), fill="black")
        return torch.from_numpy(np.array(paper)).permute(2, 0, 1).float() / 255

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing: the settings say all."""
        return {}

    def settings(self) -> Settings:
        """Return the mark and what it replaces."""
        return {"mark": self.mark, "replaces": self.replaces}

    def _marked(self, prompt: str, generator: torch.Generator | None) -> str:
        places = [i for i in range(len(prompt)) if self.replaces and prompt[i] == self.replaces]
        if places:
            at = places[_drawn(len(places), generator)]
            return prompt[:at] + self.mark + prompt[at + 1 :]
        words = prompt.split()
        at = 0 if self.replaces else _drawn(len(words) + 1, generator)
        return " ".join([*words[:at], self.mark, *words[at:]])


def _drawn(count: int, generator: torch.Generator | None) -> int:
    if generator is None:
        return 0
    return int(torch.randint(0, count, (1,), generator=generator))
