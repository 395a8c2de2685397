"""Open a model of any form without running any of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from gatekeeper.clip.adapters_tokenizers import Tokenize
from gatekeeper.clip.model import ClipModel
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.errors import DigestMismatchError, UnsupportedModelError
from gatekeeper.intake import choose, fit, notes, settings_check, static_findings, tensors
from gatekeeper.intake.architecture import Architecture
from gatekeeper.intake.child import inspect_tree
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.layout import Layout, find
from gatekeeper.intake.prompts import with_prompts
from gatekeeper.intake.settings import processor_config, read_preprocess
from gatekeeper.intake.tensors import Place
from gatekeeper.types import Finding, Json, ModelFile, ModelRef, Severity

COUNTED = ("unsafe_load", "malformed_file", "altered_settings")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """A model as found: its bytes by digest, what is wrong with them, and the towers."""

    ref: ModelRef
    model: ClipModel | None  # None: only with a finding that says why
    findings: tuple[Finding, ...]
    form: str  # open_clip | transformers | pytorch | pyfunc | artifacts | checkpoint
    weights_file: str  # relative path of the file the weights came from, "" where none could be
    settings: Mapping[str, Json]  # preprocessing and tokenizer as found, for comparison
    architecture: Architecture | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # module's name -> name in the file
    places: Mapping[str, Place] = field(default_factory=dict)  # name in the file -> its bytes
    containers: Mapping[str, str] = field(default_factory=dict)  # weight file -> its container

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
    """Return the CLIP in the folder or file `root`, with all that its bytes tell.

    Nothing in the model is executed: files are read by a child process with limits, weights are
    mapped by a table of spans, the module is built from a config by the installed libraries.

    Args:
        root: A folder, or one checkpoint file.
        uri: The name that the report gives it.
        arch: An open_clip name or a config file, used where the tree holds no config.
        anchor: A trusted model: lends architecture, text tower and tokenizer where the tree has
            none, and says what the settings should be.
        prompts: Learned context vectors, see `gatekeeper.intake.prompts`.

    Raises:
        IntakeError: No such path, or an empty folder.
        UnsupportedModelError: No CLIP in it, or an architecture that nobody names.
        DigestMismatchError: The files changed while they were read.
    """
    before = _stamps(root)
    digest, files = tree_digest(root)
    reports = inspect_tree(root, [f.path for f in files])
    findings = list(static_findings.of_files(reports))
    layout = find(root, reports)
    opened = Opened(
        ref=ModelRef(uri=uri, digest=digest, arch=None, files=files),
        model=None,
        findings=(),
        form=layout.form,
        weights_file=layout.weights[0] if layout.weights else "",
        settings={},
        containers={name: str(reports[name]["container"]) for name in layout.weights},
    )
    places: dict[str, Place] = {}
    for name in layout.weights:
        places |= tensors.places_of(name, reports[name])
    findings += notes.of_tree(root, layout, files, opened.containers)
    if not places:
        notes.require_reason(root, findings)
        return replace(opened, findings=_sorted(findings))
    opened = _with_model(root, layout, replace(opened, places=places), arch, anchor, findings)
    if prompts is not None and opened.model is not None:
        model, prompts_digest, said = with_prompts(opened.model, prompts)
        settings = {**opened.settings, "prompts": prompts_digest}
        opened = replace(opened, model=model, settings=settings)
        findings += said
    if _stamps(root) != before:
        raise DigestMismatchError(
            f"{root} changed while it was read", hint="scan a copy that nobody writes to"
        )
    return replace(opened, findings=_sorted(findings))


def _with_model(
    root: Path,
    layout: Layout,
    opened: Opened,
    arch: str | None,
    anchor: Opened | None,
    findings: list[Finding],
) -> Opened:
    """Return `opened` with its towers; adds to `findings`."""
    have = choose.shapes(opened.places)
    told = layout.config is not None or arch is not None or anchor is not None
    alone = choose.looks_like_image_tower(list(have))
    if alone and (anchor is None or anchor.model is None):
        findings.append(notes.text_missing(opened.weights_file))
        return opened
    if not told and alone:
        return opened
    architecture = choose.architecture_of(
        root, layout.config, arch, anchor.architecture if anchor else None, opened.places
    )
    borrowed: Mapping[str, str] = {}
    if alone and anchor is not None and anchor.architecture is not None:
        architecture = anchor.architecture
        borrowed = choose.image_names(architecture, have)
    names = dict(borrowed) or fit.mapping(architecture.build("meta").state_dict(), have)
    loaded = tensors.read(root, {file: opened.places[file] for file in names.values()})
    corrupt = fit.corrupt(loaded)
    if corrupt:
        findings.append(notes.corrupt(corrupt, opened.weights_file))
    module = architecture.build()
    if borrowed and anchor is not None and anchor.model is not None:
        module.load_state_dict(anchor.model.state_dict(), strict=False)
        findings.append(notes.borrowed(opened.weights_file))
    fit.load(module, names, loaded)
    tokenize = _tokenizer(root, layout, architecture, opened.ref.files, anchor)
    preprocess = _preprocess(root, layout, architecture, opened.ref.files, anchor)
    ours = settings_check.fingerprint(architecture, preprocess, tokenize, opened.ref.files)
    theirs = anchor.settings if anchor is not None and anchor.settings else None
    findings += settings_check.check(architecture, preprocess, ours, theirs)
    findings += settings_check.repeated_labels(root, opened.ref.files)
    model = architecture.adapt(module, tokenize, preprocess, opened.ref.digest)
    return replace(
        opened,
        ref=replace(opened.ref, arch=architecture.name),
        model=None if corrupt else model,
        settings=ours,
        architecture=architecture,
        names=names,
    )


def _tokenizer(
    root: Path,
    layout: Layout,
    architecture: Architecture,
    files: Sequence[ModelFile],
    anchor: Opened | None,
) -> Tokenize:
    folder = _folder_with(root, layout, files, _VOCABULARIES)
    try:
        return architecture.tokenizer(folder)
    except UnsupportedModelError:
        if folder is None and anchor is not None and anchor.model is not None:
            return anchor.model.tokenize
        raise


def _preprocess(
    root: Path,
    layout: Layout,
    architecture: Architecture,
    files: Sequence[ModelFile],
    anchor: Opened | None,
) -> Preprocess:
    folder = _folder_with(root, layout, files, _PROCESSORS)
    said = architecture.preprocess or processor_config(folder)
    if not said and anchor is not None and anchor.model is not None:
        own = anchor.model.preprocess
        return replace(own, size=architecture.image_size())
    return read_preprocess(architecture, folder)


def _folder_with(
    root: Path, layout: Layout, files: Sequence[ModelFile], wanted: Sequence[str]
) -> Path | None:
    """Return the folder of the tree that holds one of `wanted`: the model's own one first."""
    if root.is_file():
        return None
    folders = {PurePosixPath(f.path).parent for f in files if PurePosixPath(f.path).name in wanted}
    if not folders:
        return None
    own = PurePosixPath(layout.folder or ".")
    best = min(folders, key=lambda p: (p != own, own.parent not in p.parents, len(p.parts), str(p)))
    return root / best


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = [Severity.CRITICAL, Severity.WARNING, Severity.INFO]
    return tuple(sorted(findings, key=lambda f: order.index(f.severity)))


def _stamps(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return size, change time and inode of every file, to notice a swap during reading."""
    if not root.exists():
        return {}
    paths = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    stats = {str(p): p.stat() for p in paths}
    return {name: (s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats.items()}
