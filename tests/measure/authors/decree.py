"""GiantSeaweed/DECREE: its whole search (`main.main`) on one of our models and our images."""

import argparse
import contextlib
import io
import re
import tempfile

import numpy
import torch
from authors.loading import Stand, empty, load, on_cpu, pixels_of
from torch import nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what it normalises with
SIZES = re.compile(r"loss_reg=([\d.]+)")
NOTHING = 1e6  # it starts from 1e7: no mask that succeeded


class EnoughError(Exception):
    """As many passes over the images as were asked for."""


class Encoder(nn.Module):
    """Our image tower where the published code expects its own."""

    def __init__(self, model, runtime):
        super().__init__()
        self.model, self.runtime = model, runtime

    def forward(self, normalised):
        return self.model.embed_grad(pixels_of(normalised, *IMAGENET), self.runtime)

    def load_state_dict(self, *_, **__):
        """It is there already."""


class Images(torch.utils.data.Dataset):
    """Our images, rounded to bytes, channels last: as its own data set yields them."""

    def __init__(self, pixels):
        self.levels = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)

    def __len__(self):
        return len(self.levels)

    def __getitem__(self, index):
        return self.levels[index], 0

    def rand_sample(self, ratio):
        """Take all: the fifth of ImageNet that it takes is far more than there is."""


def search(code, model, pixels, start, epochs, seed, runtime):
    """Return what the published search found from `start`: PL1 (1: nothing), steps, path.

    `path` is the mask's share after each epoch.
    """
    module = _loaded(code, model, pixels, start, runtime)
    counted, usual = {"steps": 0}, module.compute_self_cos_sim
    rates = module.adjust_learning_rate

    def counting(z):
        counted["steps"] += 1
        return usual(z)

    def limited(optimiser, epoch, args):
        if epoch >= epochs:
            raise EnoughError
        rates(optimiser, epoch, args)

    module.compute_self_cos_sim, module.adjust_learning_rate = counting, limited
    args = argparse.Namespace(
        seed=seed, gpu="0", arch="", encoder_path="", encoder_usage_info="CLIP", model_flag="",
        mask_init="rand", batch_size=32, lr=0.5, thres=0.99, id="", result_file="",
    )  # fmt: skip
    told = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(told),
        contextlib.suppress(EnoughError),
    ):
        module.main(args)
    best = float(re.findall(r"cur_reg_best=([\d.]+)", told.getvalue())[-1])
    return {
        "pl1": best / (3 * model.size**2) if best < NOTHING else 1.0,
        "steps": counted["steps"],
        "path": [float(x) / (3 * model.size**2) for x in SIZES.findall(told.getvalue())],
    }


def _loaded(code, model, pixels, start, runtime):
    side = model.size
    mask, pattern = ((torch.tanh(x.detach().double()) + 1) / 2 for x in start.free)
    trigger = contextlib.nullcontext({"tm": None, "t": None})
    arrays = Stand(
        numpy, Inf=numpy.inf, infty=numpy.inf,
        load=lambda *_, **__: trigger,
        reshape=lambda *_, **__: numpy.zeros((side, side, 3)),
    )  # fmt: skip
    whole = nn.Module()
    whole.visual = Encoder(model, runtime)
    tools = load(code / "utils.py", {})
    module = load(
        code / "main.py",
        {
            "numpy": arrays,
            "utils": tools,
            "models": empty("models", get_encoder_architecture_usage=lambda args: whole),
            "models.simclr_model": empty("models.simclr_model"),
            "datasets.backdoor_dataset": empty("datasets.backdoor_dataset"),
            "imagenet": load(code / "imagenet.py", {"utils": tools}),
        },
    )
    module.np = arrays
    module.torch = on_cpu(
        load=lambda *_, **__: {"state_dict": {}},
        rand=lambda shape, **_: mask[0].clone() if len(shape) == 2 and shape[0] == side else mask,
        rand_like=lambda *_, **__: pattern.permute(1, 2, 0).clone(),
    )
    module.getTensorImageNet = lambda *_, **__: Images(pixels)
    return module
