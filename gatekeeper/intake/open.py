"""Open a model of any form without running any of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import UnsupportedModelError
from gatekeeper.intake import fit
from gatekeeper.intake.architecture import Architecture, from_arch_option, from_open_clip_config
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.settings import read_preprocess
from gatekeeper.types import Finding, Json, ModelRef, Severity

COUNTED = ("unsafe_load", "malformed_file", "altered_settings")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A model as found: its bytes by digest, what is wrong with them, and the towers."""

    ref: ModelRef
    model: ClipModel | None  # None: only with a finding that says why
    findings: tuple[Finding, ...]
    form: str  # open_clip | transformers | pytorch | pyfunc | artifacts | checkpoint
    weights_file: str  # relative path of the file the weights came from
    settings: Mapping[str, Json]  # preprocessing and tokenizer as found, for comparison
    architecture: Architecture | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # module's name -> name in the file

    def counts(self) -> dict[str, float]:
        """Return the `static.*` measurements: how many findings of each kind are critical."""
        found = Counter(f.kind for f in self.findings if f.severity is Severity.CRITICAL)
        return {f"static.{kind}": float(found[kind]) for kind in COUNTED}


def open_model(
    root: Path,
    *,
    uri: str,
    arch: str | None = None,
    anchor: Opened | None = None,
    prompts: Path | None = None,
) -> Opened:
    """Return the CLIP in the folder or file `root`."""
    from safetensors.torch import load_file

    digest, files = tree_digest(root)
    config = root / "open_clip_config.json"
    architecture = from_arch_option(arch) if arch else from_open_clip_config(config)
    if config.is_file():
        architecture = from_open_clip_config(config)
    weights = sorted(root.glob("*.safetensors"))
    if not weights:
        raise UnsupportedModelError(f"{root} holds no weights", hint="check the path")
    tensors = load_file(weights[0])
    names = fit.mapping(architecture.build("meta").state_dict(), tensors)
    module = architecture.build()
    fit.load(module, names, tensors)
    preprocess = read_preprocess(architecture, root)
    model = architecture.adapt(module, architecture.tokenizer(root), preprocess, digest)
    return Opened(
        ref=ModelRef(uri=uri, digest=digest, arch=architecture.name, files=files),
        model=model,
        findings=(),
        form="open_clip",
        weights_file=weights[0].name,
        settings={"preprocess": preprocess.describe()},
        architecture=architecture,
        names=names,
    )
