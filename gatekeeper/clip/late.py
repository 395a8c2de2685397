"""The late blocks of an image tower, trained on cached early features, in any architecture."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.model import BATCH, ClipModel
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.runtime import Runtime

TOLERANCE = 1e-3  # of a unit embedding: cached features must give what the whole tower gives


class _Reached(Exception):  # noqa: N818 - control flow, not an error
    """The block whose input was wanted has been called."""


class _Skip(nn.Module):
    """Stands where an early block stood: its output is replaced later anyway."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The tower's chain of blocks, in order of execution."""

    path: str  # name of the nn.Sequential or nn.ModuleList; "" where there is none
    count: int


def find_blocks(model: ClipModel) -> Blocks:
    """Return the longest-weighing chain of modules that an image passes through one by one.

    For open_clip and transformers ViTs these are the residual blocks, for timm's convolutional
    towers the stages. `path` is empty where a tower has no such chain.
    """
    called: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, _: called.append(id(m)))
        for module in model.module.modules()
    ]
    try:
        with torch.no_grad():
            model.image_tower(model.module, _blank(model, 1))
    finally:
        for hook in hooks:
            hook.remove()
    best, weight = Blocks(path="", count=0), 0
    for name, module in model.module.named_modules():
        if not isinstance(module, nn.Sequential | nn.ModuleList) or len(module) < 3:
            continue
        if [name for name, _ in module.named_children()] != [str(i) for i in range(len(module))]:
            continue  # named parts, such as the downsampling branch of open_clip's ResNets
        places = [called.index(id(child)) for child in module if called.count(id(child)) == 1]
        size = sum(p.numel() for p in module.parameters())
        if len(places) == len(module) and places == sorted(places) and size > weight:
            best, weight = Blocks(path=name, count=len(module)), size
    return best


class LateTower:
    """A trainable copy of a model from block `cut` on; what lies before is frozen.

    `features` are what block `cut` is handed ([N, …], fp32, CPU), or the pixels themselves where
    the tower has no chain of blocks. BatchNorm stays in eval mode: its statistics are part of
    what the suspect's clean answers rest on (repair section 0, rule 6).
    """

    def __init__(self, model: ClipModel, blocks: Blocks, cut: int) -> None:
        self.cut = cut
        self.source = model
        self._block = f"{blocks.path}.{cut}" if blocks.path else ""
        self.share = 1 - cut / blocks.count if blocks.count else 1.0  # of the depth, trained
        self.module = copy.deepcopy(model.module).eval()
        self.module.requires_grad_(True)
        self._batch_dim = 0
        self.cached = bool(self._block) and self._prepare(blocks)
        if not self.cached:
            self._block = ""
            self.share = 1.0
        names = self._reached_names()
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in names)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]

    def features(self, pixels: Tensor, runtime: Runtime) -> Tensor:
        """Return the frozen part's answer to `pixels` ([N, 3, S, S] in [0, 1])."""
        if not self._block:
            return pixels
        parts = []
        for start in runtime.progress(range(0, len(pixels), BATCH), "looking at images"):
            part = pixels[start : start + BATCH]
            runtime.meter.images(self.source.passes(part) * (1 - self.share))
            parts.append(self._early(part.to(runtime.device)).cpu())
        return torch.cat(parts)

    def embed(self, features: Tensor, runtime: Runtime) -> Tensor:
        """Return unit embeddings [B, D] of `features` with gradient to the late weights."""
        runtime.meter.images(3 * len(features) * self.share)
        return self._late(features.to(runtime.device))

    def output(self, features: Tensor, runtime: Runtime) -> Tensor:
        """Return what the tower gives before it is made unit length, [B, D]; no gradient."""
        runtime.meter.images(len(features) * self.share)
        with torch.no_grad():
            return self._output(features.to(runtime.device)).float()

    def model(self, state: dict[str, Tensor] | None = None) -> ClipModel:
        """Return the suspect with the trained weights in their present state."""
        return self.source.with_state(self.state() if state is None else state)

    def state(self) -> dict[str, Tensor]:
        """Return the trained tensors by name, detached, rounded as the suspect stores its own."""
        own = self.source.state_dict()
        return {
            name: as_stored(parameter.detach(), own[name])
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }

    def _prepare(self, blocks: Blocks) -> bool:
        """Replace the early blocks of the copy; False where cached features do not reproduce."""
        pixels = torch.rand(3, *_blank(self.source, 1).shape[1:], generator=_fixed())
        device = next(self.module.parameters()).device
        pixels = pixels.to(device)
        try:
            with torch.no_grad():
                three, two = self._raw_early(pixels), self._raw_early(pixels[:2])
                self._batch_dim = [
                    a != b for a, b in zip(three.shape, two.shape, strict=True)
                ].index(True)
                chain = self.module.get_submodule(blocks.path)
                originals = [chain[i] for i in range(self.cut)]  # type: ignore[index]
                for index in range(self.cut):
                    chain[index] = _Skip()  # type: ignore[operator]
                again = self._late(self._early(pixels))
                whole = self.source._image(pixels)
        except (RuntimeError, ValueError, TypeError, IndexError, _Reached):
            return False
        if bool(((again - whole).abs() < TOLERANCE).all()):
            return True
        for index, block in enumerate(originals):
            chain[index] = block  # type: ignore[operator]
        return False

    def _raw_early(self, pixels: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept.append(_first(args, kwargs))
            raise _Reached

        block = self.source.module.get_submodule(self._block)
        hook = block.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with torch.no_grad():
                self.source._image(pixels)
        except _Reached:
            return kept[0]
        finally:
            hook.remove()
        raise UnsupportedModelError(
            f"block {self._block} was never reached", hint="report this architecture to us"
        )

    def _early(self, pixels: Tensor) -> Tensor:
        return self._raw_early(pixels).movedim(self._batch_dim, 0).contiguous()

    def _late(self, features: Tensor) -> Tensor:
        return F.normalize(self._output(features).float(), dim=-1)

    def _output(self, features: Tensor) -> Tensor:
        if not self._block:
            normalised = self.source.preprocess.normalise(features)
            normalised = normalised.contiguous(memory_format=torch.channels_last)
            return self.source.image_tower(self.module, normalised)
        hidden = features.movedim(0, self._batch_dim)
        if hidden.dim() == 4:  # as the whole tower is run: faster convolutions on a CPU
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        with self._fed(hidden):
            blank = _blank(self.source, 1).to(features.device)
            return self.source.image_tower(self.module, blank)

    @contextmanager
    def _fed(self, hidden: Tensor) -> Iterator[None]:
        def feed(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (hidden, *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, {**kwargs, first: hidden}

        block = self.module.get_submodule(self._block)
        hook = block.register_forward_pre_hook(feed, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _reached_names(self) -> set[str]:
        """Return the parameters that an image embedding depends on from the cut on."""
        device = next(self.module.parameters()).device
        pixels = torch.rand(2, *_blank(self.source, 1).shape[1:], generator=_fixed()).to(device)
        features = self._early(pixels) if self._block else pixels
        named = list(self.module.named_parameters())
        total = self._late(features).sum()
        gradients = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
        return {n for (n, _), g in zip(named, gradients, strict=True) if g is not None}


def as_stored(value: Tensor, original: Tensor) -> Tensor:
    """Return `value` in the precision `original` is kept in on disk, in `original`'s dtype.

    A half-precision file is often read as float32. Where every number of the original fits into
    fp16 or bf16, the file is taken to hold that, so that what is judged is what will be written.
    """
    value = value.to(original.dtype)
    for narrow in (torch.float16, torch.bfloat16):
        if original.dtype == torch.float32 and torch.equal(original.to(narrow).float(), original):
            return value.to(narrow).float()
    return value


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first.detach()


def _blank(model: ClipModel, count: int) -> Tensor:
    like = next(model.module.parameters())
    return torch.zeros(count, 3, model.size, model.size, device=like.device)


def _fixed() -> torch.Generator:
    return torch.Generator().manual_seed(0)
