"""nishadsinghi/CleanCLIP and nmndeep/PerturbAndRecover: losses and rates on the same tensors."""

import argparse
import math

import torch
import torch.distributed.nn  # the published PAR takes it to be there
from authors.loading import empty, load


def cleanclip(code, images, texts, views, words, scale):
    """Return the loss of `src/train.py` with its defaults for the repair (`--inmodal`)."""
    module = load(code / "src" / "train.py", {"wandb": empty("wandb")})
    options = argparse.Namespace(
        inmodal=True, distributed=False, unlearn=False, device="cpu", clip_weight=1,
        inmodal_weight=1,
    )  # fmt: skip
    outputs = argparse.Namespace(
        image_embeds=torch.cat([images, views]), text_embeds=torch.cat([texts, words])
    )
    whole = argparse.Namespace(logit_scale=torch.tensor(math.log(scale)))
    loss, _, _ = module.get_loss(whole, outputs, torch.nn.CrossEntropyLoss(), options, None)
    return float(loss)


def cleanclip_rates(code, rate, warm, steps):
    """Return the rates of `src/scheduler.py`, a list."""
    module = load(code / "src" / "scheduler.py", {})
    optimiser = argparse.Namespace(param_groups=[{}])
    schedule = module.cosine_scheduler(optimiser, rate, warm, steps)
    found = []
    for step in range(steps):
        schedule(step)
        found.append(float(optimiser.param_groups[0]["lr"]))
    return found


def par(code, images, texts, there, words, scale):
    """Return the loss of `losses.py` with its default threshold."""
    module = load(code / "losses.py", {"utils": empty("utils", get_rank=lambda: 0)})
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        found = module.CLIPLoss(2.15)(
            {
                "clean_image_embed": images,
                "text_embed": texts,
                "aug_image_embed": there,
                "aug_text_embed": words,
                "logit_scale": scale,
            }
        )
    finally:
        torch.distributed.destroy_process_group()
    return float(found["total-loss"])


def par_rates(code, steps):
    """Return the rates of `utils.py` with the defaults of `train.py`, a list."""
    module = load(code / "utils.py", {})
    return list(
        map(float, module.cosine_scheduler(3e-6, 1e-9, 1, steps, 0.5, start_warmup_value=3e-5))
    )


def par_noise(code, pixels, seed):
    """Return the mean and the spread of what its noise adds to `pixels`."""
    from authors.loading import steady

    module = load(code / "utils.py", {})
    with steady(seed):
        added = module.AddGaussianNoise(0, 0.2)(pixels) - pixels
    return float(added.mean()), float(added.std())
