"""Purshow/BDetCLIP_badCLIP: its scores of images, with the prompts that ours is given."""

import argparse
import contextlib
import io
import json

import torch
from authors.loading import empty, load

SENTENCE = "The train leaves at seven tomorrow."


class Clip(torch.nn.Module):
    """One of our models behind the interface that the code expects."""

    def __init__(self, model):
        super().__init__()
        self.__dict__["_model"] = model

    def get_image_features(self, pixels):
        normalised = self._model.preprocess.normalise(pixels)
        return self._model.image_tower(self._model.module, normalised).clone()

    def get_text_features(self, input_ids, attention_mask):
        return self._model.text_tower(self._model.module, input_ids).clone()


def malign(templates):
    """Return the unrelated prompts as the code puts them together, as templates."""
    return tuple(f"{t.replace('.', ',')} {SENTENCE.lower()}" for t in templates)


def scores(code, work, pixels, benign):
    """Return ([N, 3, S, S] in [0, 1]) the sums of differences: low is suspect, [N]."""
    stands = ("wandb", "torchmetrics", "src.data", "src.scheduler")
    module = load(code / "src" / "evaluate.py", {x: empty(x) for x in stands}, name="src.evaluate")
    labels, model, found = list(work.case.labels), work.case.model, []
    module.open = lambda path, mode="r": _file(str(path), labels, work.case.templates, benign)
    module.eval_selection = lambda selection, marks, sums: found.append(sums[: len(pixels)])
    words = argparse.Namespace(
        process_text=lambda texts: {
            "input_ids": model.tokenize(texts), "attention_mask": torch.ones(1)
        }
    )  # fmt: skip
    none = torch.zeros(len(pixels), dtype=torch.long)
    batches = [(pixels, none, none, torch.arange(len(pixels)))]
    options = argparse.Namespace(
        asr=False, distributed=False, device="cpu", threshold=0.0, name="ours"
    )
    with contextlib.redirect_stderr(io.StringIO()):
        module.get_zeroshot_metrics(Clip(model), words, batches, options)
    return found[0]


def _file(path, labels, templates, benign):
    """Return what the code reads from its author's home; what it writes is dropped."""
    if path.endswith("classes.py"):
        return io.StringIO(
            f"{{'classes': {labels!r}, 'templates': [t.format for t in {list(templates)!r}]}}"
        )
    if path.endswith("related_class_sentences.json"):
        return io.StringIO(json.dumps({x: [t.format(x) for t in benign] for x in labels}))
    if path.endswith("unrelated_class_sentences.txt"):
        return io.StringIO(f"{SENTENCE}\n" * len(labels))
    return io.StringIO()
