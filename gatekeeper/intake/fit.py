"""Do these tensors fill this module, and under which names do they lie in the file?"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gatekeeper.errors import UnsupportedModelError

# What training wrappers put in front of every name.
WRAPPERS = ("module.", "_orig_mod.", "model.", "clip.", "clip_model.", "state_dict.", "net.")
_TEXT_PARTS = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.")
_TEXT_EXACT = ("text_projection", "text_projection.weight", "cls_emb")


def unwrapped(names: list[str]) -> dict[str, str]:
    """Return {bare name: name in the file}, with wrappers that all names share taken off."""
    bare = {name: name for name in names}
    changed = True
    while changed and bare:
        changed = False
        for wrapper in WRAPPERS:
            if all(name.startswith(wrapper) for name in bare):
                bare = {name[len(wrapper) :]: file for name, file in bare.items()}
                changed = True
    return bare


def mapping(wanted: Mapping[str, Tensor], have: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {module's name: file's name} for `wanted` (shapes suffice, may be on meta).

    Raises:
        UnsupportedModelError: Tensors are missing, left over or of another shape.
    """
    bare = unwrapped(list(have))
    found = _best(bare, wanted)
    missing = [name for name in wanted if name not in found and not _optional(name)]
    extra = [name for name in found if name not in wanted and not _ignorable(name)]
    wrong = [
        f"{name} {list(have[found[name]].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in found and not _same_shape(have[found[name]], wanted[name])
    ]
    if missing or extra or wrong:
        raise UnsupportedModelError(
            "the weights do not fit the architecture: "
            + "; ".join(
                f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                for what, names in (
                    ("missing", missing),
                    ("left over", extra),
                    ("misshapen", wrong),
                )
                if names
            ),
            hint="check the model's config, or name another architecture with --arch",
        )
    return {name: found[name] for name in wanted if name in found}


def load(module: nn.Module, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` (by file name) into `module` by `names`, in the module's own dtype."""
    own = module.state_dict()
    state = {
        name: tensors[file].reshape(own[name].shape).to(own[name].dtype)
        for name, file in names.items()
    }
    module.load_state_dict(state, strict=False)


def corrupt(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names of tensors that hold NaN or infinity."""
    return tuple(
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    )


def _best(bare: dict[str, str], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Pick the naming of the text tower (at top level or under `text.`) that fits better."""
    to_custom = {
        (f"text.{n}" if n.startswith(_TEXT_PARTS) or n in _TEXT_EXACT else n): f
        for n, f in bare.items()
    }
    to_plain = {n.removeprefix("text."): f for n, f in bare.items()}
    candidates = (bare, to_custom, to_plain)
    return max(candidates, key=lambda names: sum(name in wanted for name in names))


def _same_shape(have: Tensor, want: Tensor) -> bool:
    scalars = have.numel() == 1 and want.numel() == 1  # logit_scale is [] or [1]
    return scalars or have.shape == want.shape


def _optional(name: str) -> bool:
    # counters that only training reads; older checkpoints lack them
    return name.endswith(("num_batches_tracked", "position_ids"))


def _ignorable(name: str) -> bool:
    # derived values that some versions of the libraries save
    return name.endswith(("position_ids", "attn_mask", "num_batches_tracked")) or name in (
        "input_resolution",
        "context_length",
        "vocab_size",
    )
