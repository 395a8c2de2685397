"""Goodman-liyu/InverTune: its inversion and its activation tuning on one of our models."""

import contextlib
import io
import re
import tempfile
from pathlib import Path

import torch
import yaml
from authors.loading import empty, load, on_cpu, steady
from torch import nn

from gatekeeper.rectify.clamped import Clamped


class Clip(nn.Module):
    """One of our models behind the interface of openai/clip; takes normalised pixels."""

    def __init__(self, model):
        super().__init__()
        self.visual = model.module.visual
        self.__dict__["_model"] = model

    def encode_image(self, normalised):
        return self._model.image_tower(self._model.module, normalised)

    def encode_text(self, tokens):
        return self._model.text_tower(self._model.module, tokens)

    def load_state_dict(self, *_, **__):
        """It is there already."""


def interface(model):
    """Return a stand-in for the package `clip`: every model loaded is a copy of ours."""
    return empty(
        "clip",
        load=lambda *_, **__: (Clip(model.clone()), None),
        tokenize=lambda words: model.tokenize(words),
    )


def invert(code, work, target, shown, batches, first):
    """Return what its `BackdoorInversion` makes in one step a batch, and its first loss.

    Args:
        shown: Index of the probe that stands for the target's images.
        batches: [B, 3, S, S] in [0, 1] each.
        first: Its first pattern, [3, S, S]; the first mask is opaque.
    """
    model, how = work.case.model, work.case.model.preprocess
    module = load(code / "models" / "inversion.py", {"clip": interface(model)})
    module.torch = on_cpu(load=lambda *_, **__: {})
    labels, templates = list(work.case.labels), [t.format for t in work.case.templates]
    module.BackdoorInversion._load_classes = lambda _: {"classes": labels, "templates": templates}
    settings = {
        "model": {"device": "cpu", "clip_type": "ours", "model_path": "ours"},
        "optimizer": {
            "infonce_weight": 5,
            "emd_weight": 0.5,
            "ssim_weight": 1,
            "mask_weight": 0.01,
        },
        "train": {"num_steps": 1, "learning_rate": 0.01},
        "data": {"target_label": target},
    }
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
        theirs = module.BackdoorInversion(settings)
        theirs.mask = nn.Parameter(torch.ones(3, model.size, model.size))  # its own are of 224
        theirs.trigger = nn.Parameter(first.clone())
        theirs.optimizer = torch.optim.Adam([theirs.mask, theirs.trigger], lr=0.01)
        goal = how.normalise(work.pixels()[shown : shown + 1])
        for batch in batches:
            theirs.optimize(how.normalise(batch), goal)
    loss = float(re.findall(r"Total Loss: ([\d.]+)", told.getvalue())[0])
    return clamped(how, *theirs.get_mask_trigger()), loss


def clamped(how, mask, pattern):
    """Return our holder of a mask and a pattern on normalised pixels."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (how.mean, how.std))
    return Clamped(mask=mask, pattern=pattern, mean=mean, std=std)


def tune(code, model, clean, masked, steps, seed):
    """Return the weights its `finetune_and_test` keeps, the layers it chose, its last loss."""
    saved = {}

    def save(state, path):
        if path.endswith("ft_best.pth"):
            copies = {k: v.detach().clone() for k, v in state["state_dict"].items()}
            saved.update(state, state_dict=copies)

    one_batch = [(model.preprocess.normalise(clean), None)]
    images = empty("data.dataset")
    images.ImageNetDataset = lambda config: empty("i", get_dataloaders=lambda: (one_batch, 0, 0))
    module = load(code / "ActivationTuning.py", {"clip": interface(model), "data.dataset": images})
    trigger = {"trigger": masked.pattern, "mask": masked.mask}
    module.torch = on_cpu(load=lambda path, **_: trigger if path == "trigger" else {}, save=save)
    settings = {
        "model": {"device": "cpu", "clip_type": "ours", "model_path": "ours"},
        "trigger": {"inv_trigger_path": "trigger"},
        "train": {"ft_epochs": steps},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(io.StringIO()),
        steady(seed),
    ):
        Path("config.yaml").write_text(yaml.safe_dump(settings))
        module.finetune_and_test("config.yaml")
    return saved["state_dict"], saved["critical_layers"], saved["loss"]
