"""The text tower by itself: cheap reading of short prompts, its token embedding, its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.prompted import PromptedText
from gatekeeper.runtime import Runtime

AT_ONCE = 256  # prompts a forward
SAME = 1e-4  # largest distance of two unit embeddings that count as one
_SAMPLE = ("a photo of a cat.", "an old brick house in the rain", "x")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reader:
    """A text tower that is shown no more columns of padding than it needs.

    Most towers read 77 columns, of which a short prompt fills ten: what the tower makes of the
    shorter rows is compared once with what it makes of the whole ones.
    """

    model: ClipModel
    short: bool
    passes: list[float]  # made by this reader, one entry; a frozen record cannot count

    @classmethod
    def of(cls, model: ClipModel, runtime: Runtime) -> "Reader":
        """Return a reader of `model`, short where that changes nothing."""
        whole = cls(model=model, short=False, passes=[0.0])
        cut = cls(model=model, short=True, passes=[0.0])
        try:
            far = (whole.read(_SAMPLE, runtime) - cut.read(_SAMPLE, runtime)).norm(dim=1).max()
        except (RuntimeError, IndexError, ValueError):  # the tower insists on its length
            return whole
        return cut if float(far) < SAME else whole

    def read(self, prompts: Sequence[str], runtime: Runtime) -> Tensor:
        """Return unit embeddings [N, D] (CPU) of `prompts`; no gradient."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(prompts), AT_ONCE):
                tokens = self.model.tokenize(list(prompts[start : start + AT_ONCE]))
                parts.append(self.embed(tokens, runtime).cpu())
        return torch.cat(parts) if parts else torch.zeros(0, 1)

    def embed(self, tokens: Tensor, runtime: Runtime, cost: float = 1.0) -> Tensor:
        """Return unit embeddings [B, D] of `tokens` ([B, L] int64); gradients flow."""
        runtime.meter.texts(cost * len(tokens))
        self.passes[0] += cost * len(tokens)
        model, whole = self.model, tokens.shape[1]
        needed = min(whole, _filled(tokens) + _learned(model)) if self.short else whole
        if needed == whole:
            out = model.text_tower(model.module, tokens.to(runtime.device))
        else:
            cut = tokens[:, :needed].to(runtime.device)
            text = _Text(model)
            out = torch.func.functional_call(text, _cut(text, whole, needed), (cut,))
        return F.normalize(out.float(), dim=-1)


class _Text(nn.Module):
    """The text tower as a module's forward, so that parts of it can be swapped for one call."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.module = model.module
        self.tower = model.text_tower
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tower(self.module, tokens)


def _cut(text: nn.Module, whole: int, needed: int) -> dict[str, Tensor]:
    """Return positions and masks for the first `needed` columns of `whole`."""
    out = {}
    for name, value in [*text.named_parameters(), *text.named_buffers()]:
        if name.endswith("positional_embedding") and value.shape[:1] == (whole,):
            out[name] = value[:needed]
        elif name.endswith("attn_mask") and value.shape == (whole, whole):
            out[name] = value[:needed, :needed]
    return out


def _filled(tokens: Tensor) -> int:
    """Return how many columns of `tokens` ([B, L]) hold more than the padding that ends a row."""
    same = tokens == tokens[:, -1:]
    run = same.flip(1).int().cumprod(dim=1).sum(dim=1)  # [B]; padding may be the end token itself
    return int((tokens.shape[1] - run).max()) + 1


def _learned(model: ClipModel) -> int:
    text = model.text_tower
    return int(text.context.shape[-2]) if isinstance(text, PromptedText) else 0


def token_embedding(model: ClipModel, runtime: Runtime) -> nn.Embedding | None:
    """Return the layer that turns tokens into vectors, None where the tower has none.

    Known by what it is fed, not by its name: positions are looked up by the like.
    """
    tokens = model.tokenize([_SAMPLE[0]]).to(runtime.device)
    fed: list[nn.Embedding] = []

    def hear(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Embedding) and given and given[0].shape[0] == 1:
            words = set(tokens.flatten().tolist())
            if words <= set(given[0].flatten().tolist()) | {0}:
                fed.append(layer)

    layers = [m for m in model.module.modules() if isinstance(m, nn.Embedding)]
    hooks = [layer.register_forward_pre_hook(hear) for layer in layers]
    try:
        with torch.inference_mode():
            model.text_tower(model.module, tokens)
    finally:
        for hook in hooks:
            hook.remove()
    return fed[0] if fed else None


def text_state(model: ClipModel, runtime: Runtime) -> dict[str, Tensor]:
    """Return the tensors of the text tower: all that are not in modules which images alone reach.

    One image pass and one text pass. Single numbers (the logit scale) are left out.
    """
    seen: dict[str, set[str]] = {"image": set(), "text": set()}
    tower = "image"

    def hear(name: str) -> None:
        seen[tower].add(name)

    hooks = [
        m.register_forward_pre_hook(lambda *_, name=n: hear(name))
        for n, m in model.module.named_modules()
        if n
    ]
    try:
        model.embed(torch.zeros(1, 3, model.size, model.size), runtime)
        tower = "text"
        model.embed_text(_SAMPLE[:1], runtime)
    finally:
        for hook in hooks:
            hook.remove()
    images = tuple(f"{name}." for name in seen["image"] - seen["text"])
    return {
        name: value
        for name, value in model.state_dict().items()
        if value.numel() > 1 and not name.startswith(images)
    }


def changed_share(model: ClipModel, anchor: ClipModel, runtime: Runtime) -> float | None:
    """Return the share of the text tower's numbers that differ from the anchor's.

    0 only where tower, tokens and learned prompts are the same, bit for bit, and so is what comes
    out. None where nothing can be compared: another architecture, or no weights of its own.
    """
    ours, theirs = text_state(model, runtime), text_state(anchor, runtime)
    if not ours or {n: v.shape for n, v in ours.items()} != {n: v.shape for n, v in theirs.items()}:
        return None
    differ = sum(int((v.cpu() != theirs[n].to(v.dtype).cpu()).sum()) for n, v in ours.items())
    total = sum(v.numel() for v in ours.values())
    if differ == 0 and not _alike(model, anchor, runtime):
        return None
    return differ / total


def _alike(model: ClipModel, anchor: ClipModel, runtime: Runtime) -> bool:
    """Return whether equal weights are also read alike: tokens, settings, prompts."""
    prompts = (*_SAMPLE, "phot\u043e of a \u200bcaf\u00e9", "\U0001f602 zx")
    if not torch.equal(model.tokenize(prompts), anchor.tokenize(prompts)):
        return False
    mine, its = model.embed_text(prompts, runtime), anchor.embed_text(prompts, runtime)
    return mine.shape == its.shape and float((mine - its).norm(dim=1).max()) < SAME


def moved_most(model: ClipModel, anchor: ClipModel, runtime: Runtime, most: int) -> list[int]:
    """Return the tokens whose vectors moved most from the anchor's, at most `most`, most first."""
    ours, theirs = token_embedding(model, runtime), token_embedding(anchor, runtime)
    if ours is None or theirs is None or ours.weight.shape != theirs.weight.shape:
        return []
    far = (ours.weight.detach() - theirs.weight.detach()).float().norm(dim=1).cpu()
    order = far.argsort(descending=True, stable=True)[:most]
    return [int(token) for token in order if far[token] > 0]
