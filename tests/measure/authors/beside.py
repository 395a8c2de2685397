"""The comparisons: each yields (figure, of the authors' code, of ours)."""

from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from authors import bdetclip as theirs_bdetclip
from authors import decree as theirs_decree
from authors import invertune as theirs_invertune
from authors import losses as theirs_losses
from sklearn.metrics import roc_auc_score

from gatekeeper.bench.baselines import bdetclip as our_bdetclip
from gatekeeper.bench.baselines.base import Work
from gatekeeper.bench.baselines.decree import Decree, Pace
from gatekeeper.bench.baselines.masks import Masked
from gatekeeper.bench.repair import bed, worth
from gatekeeper.bench.subjects import Subject
from gatekeeper.bench.truth import has_image_trigger, judged, suspects
from gatekeeper.rectify.activations import critical_units, layers_of
from gatekeeper.rectify.cleanclip import CleanClip, auto_augmented, edited
from gatekeeper.rectify.contrastive import Study, pairs
from gatekeeper.rectify.fine_tuning import cosine_rate
from gatekeeper.rectify.invertune import InverTune, inversion_loss, ssim
from gatekeeper.rectify.par import PerturbAndRecover
from gatekeeper.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is run."""

    seed: int
    epochs: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Given:
    """One model and what goes with it."""

    subject: Subject
    work: Work
    runtime: Runtime
    limits: Limits


def decree(code, given):
    """Both searches, from the same start, over the first 32 images: one batch is one epoch."""
    work, limits, pixels = given.work, given.limits, given.work.pixels()[:32]
    start = Masked.even(work.case.model.size, "cpu", given.runtime.generator("published"))
    found = theirs_decree.search(
        code, work.case.model, pixels, start, limits.epochs, limits.seed, given.runtime
    )
    path, usual = [], Pace.told
    noting = lambda self, cosine, size: (path.append(size), usual(self, cosine, size))  # noqa: E731
    with (
        mock.patch.object(Masked, "even", return_value=start),
        mock.patch.object(Pace, "told", noting),
    ):
        pl1, _, made = Decree()._search(work, pixels, limits.epochs, given.runtime)
    for step in (10, 30):
        yield f"mask after {step} steps", f"{found['path'][step - 1]:.4f}", f"{path[step - 1]:.4f}"
    yield "PL1", f"{found['pl1']:.4f}", f"{pl1:.4f}"
    yield "steps", found["steps"], made
    yield "flagged (PL1 < .1)", _word(found["pl1"] < 0.1), _word(pl1 < 0.1)


def bdetclip(code, given):
    """The scores of the same images, half of them triggered; then ours with its own prompts."""
    work, runtime = given.work, given.runtime
    benign, malign = our_bdetclip.BENIGN, theirs_bdetclip.malign(work.case.templates)
    if not has_image_trigger(given.subject):
        images, marks = work.case.probes, None
    else:
        hidden = suspects(given.subject, work.case, runtime)
        images, marks = hidden.images, hidden.triggered
    held = _with_suspects(work, images)
    theirs = -theirs_bdetclip.scores(code, work, images.pixels(work.case.model.preprocess), benign)
    with mock.patch.object(our_bdetclip, "MALIGN", malign):
        ours = our_bdetclip.BDetClip().doubt(held, runtime).scores
    yield "mean score", f"{theirs.mean():.6f}", f"{ours.mean():.6f}"
    yield "largest difference of a score", f"{(theirs - ours).abs().max():.1e}", ""
    if marks:
        own = our_bdetclip.BDetClip().doubt(held, runtime).scores
        told = f"{roc_auc_score(marks, ours):.4f} (own prompts {roc_auc_score(marks, own):.4f})"
        yield "AUROC of triggered images", f"{roc_auc_score(marks, theirs):.4f}", told


def cleanclip(code, given):
    """The loss of one batch, and the rates of 100 steps."""
    batch, model = _batch(given), given.work.case.model
    draw = given.runtime.generator("published")
    views = model.embed(auto_augmented(batch["pixels"], draw), given.runtime)
    changed = [edited(caption, draw) for caption in batch["captions"]]
    words = model.embed_text(changed, given.runtime)
    all_four = (batch["images"], batch["texts"], views, words, model.scale)
    theirs = theirs_losses.cleanclip(code, *all_four)
    yield "loss of a batch", f"{theirs:.6f}", f"{float(CleanClip().objective(*all_four)):.6f}"
    own = [cosine_rate(i / 100, 1e-5, 0.05) for i in range(100)]
    rates = _means(theirs_losses.cleanclip_rates(code, 1e-5, 5, 100), own)
    yield "mean rate of 100 steps", *rates


def par(code, given):
    """The loss of one batch against a suspect that has moved, the rates, the noise."""
    batch, model, ours = _batch(given), given.work.case.model, PerturbAndRecover()
    draw = given.runtime.generator("published")
    for how, turn in (("both towers moved", 1), ("images beyond tau", -1)):
        noise = torch.randn(batch["images"].shape, generator=draw)
        there = F.normalize(turn * batch["images"] + 0.1 * noise, dim=1)
        words = F.normalize(batch["texts"] + 0.05 * noise, dim=1)
        all_four = (batch["images"], batch["texts"], there, words, model.scale)
        theirs = theirs_losses.par(code, *all_four)
        yield f"loss of a batch, {how}", f"{theirs:.6f}", f"{float(ours.objective(*all_four)):.6f}"
    own = [ours._rate(i / 100) for i in range(100)]
    yield "mean rate of 100 steps", *_means(theirs_losses.par_rates(code, 100), own)
    grey = torch.full((64, 3, 64, 64), 0.2)
    mean, spread = theirs_losses.par_noise(code, grey, given.limits.seed)
    noise = (ours.noise * torch.randn(grey.shape, generator=draw)).clamp(0, 1)
    added = (grey + noise).clamp(0, 1) - grey
    told = f"{added.mean():.4f}, {added.std():.4f}"
    yield "noise: mean, deviation", f"{mean:.4f}, {spread:.4f}", told


def invertune(code, given):
    """Inversion towards the true target from one start, then tuning against what came out."""
    work, runtime, limits, model = given.work, given.runtime, given.limits, given.work.case.model
    names = [layer.rpartition(".")[2] for layer in layers_of(model)]
    if names != ["layer1", "layer2", "layer3", "layer4"] or not hasattr(model.module, "visual"):
        yield "its code names the layers of a ResNet", "cannot run", ""
        return
    ours = InverTune()
    target, shown, pool = _aim(given)
    draw = runtime.generator("rectify", "invertune", "invert")  # what ours is about to draw
    first = torch.rand(3, model.size, model.size, generator=draw)
    size = min(64, len(pool))
    batches = [pool[torch.randint(len(pool), (size,), generator=draw)] for _ in range(limits.steps)]
    masked, loss = theirs_invertune.invert(code, work, target, shown, batches, first)
    yield (
        "inversion's first loss",
        f"{loss:.4f}",
        _first_loss(given, target, shown, batches[0], first),
    )
    found = ours._invert(
        Study.of(work.case, work.budget, runtime), target, limits.steps, size, runtime
    )
    yield "share of the mask", *(f"{float(x.mask.detach().mean()):.4f}" for x in (masked, found))
    flips = (_flips(given, one, target) for one in (masked, found))
    yield "the inverted trigger leads to the target", *flips
    yield from _tuned(code, given, masked)


def _aim(given):
    """Return the target's index, the probe that shows it, and the images of anything else."""
    work, runtime, pixels = given.work, given.runtime, given.work.pixels()
    goals = [goal.label for goal in given.subject.goals] or [work.case.labels[0]]
    target = work.case.labels.index(goals[0])
    answers = work.head(runtime).logits(work.case.model.embed(pixels, runtime))
    known = [label == goals[0] for label in work.case.probes.labels()]
    shown = known.index(True) if any(known) else int(answers[:, target].argmax())
    return target, shown, pixels[answers.argmax(1) != target]


def _first_loss(given, target, shown, batch, first):
    model, runtime = given.work.case.model, given.runtime
    how = model.preprocess
    seen = theirs_invertune.clamped(how, torch.ones_like(first), first).stamp(batch)
    likeness = ssim(how.normalise(seen), how.normalise(batch))
    z = model.embed(seen, runtime)
    goal = model.embed(given.work.pixels()[shown : shown + 1], runtime)[0]
    text, whole = given.work.head(runtime).weights, torch.ones_like(first)
    return f"{float(inversion_loss(z, text, target, goal, likeness, whole)):.4f}"


def _tuned(code, given, masked):
    work, runtime, limits, model = given.work, given.runtime, given.limits, given.work.case.model
    ours, clean = InverTune(), work.pixels()[:64]
    weights, layers, _ = theirs_invertune.tune(
        code, model, clean, masked, limits.steps, limits.seed
    )
    names = layers_of(model)
    units = critical_units(model.clone(), names, clean, masked.stamp(clean), 3, runtime)
    yield (
        "layers, most moved first",
        " ".join(x.rpartition(".")[2] for x in layers),
        " ".join(unit.layer.rpartition(".")[2] for unit in units),
    )
    state = ours._tune(model, names, clean, masked, limits.steps, runtime)
    on = bed(given.subject, work, runtime)
    told = [_worth(model.with_state(one), on, runtime) for one in (weights, state)]
    yield "after tuning: accuracy, attack success", *told
    yield "before: accuracy, attack success", *(2 * [_worth(model, on, runtime)])


def _worth(model, on, runtime):
    of = worth(model, on, runtime)
    success = "" if of.attack_success is None else f", {of.attack_success:.3f}"
    return f"{of.clean_accuracy:.3f}{success}"


def _flips(given, masked, target):
    model, runtime = given.work.case.model, given.runtime
    judge = judged(given.subject, model, given.work.case.labels)
    others = judge.pixels[judge.truth != target]
    with torch.no_grad():
        stamped = masked.stamp(others)
    answers = given.work.head(runtime).logits(model.embed(stamped, runtime)).argmax(1)
    return f"{float((answers == target).float().mean()):.3f}"


def _batch(given):
    """Return one batch of pairs and its embeddings."""
    work, runtime = given.work, given.runtime
    rows, captions, _ = next(
        pairs(
            Study.of(work.case, work.budget, runtime), 64, runtime.generator("published"), runtime
        )
    )
    pixels = work.pixels()[rows]
    return {
        "pixels": pixels,
        "captions": captions,
        "images": work.case.model.embed(pixels, runtime),
        "texts": work.case.model.embed_text(captions, runtime),
    }


def _with_suspects(work, images):
    from dataclasses import replace

    return replace(work, case=replace(work.case, suspects=images))


def _word(yes):
    return "yes" if yes else "no"


def _means(theirs, ours):
    return tuple(f"{sum(rates) / len(rates):.3e}" for rates in (theirs, ours))
