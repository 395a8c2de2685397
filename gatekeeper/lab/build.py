"""Make one base or one model of a zoo, whole or not at all, and measure it.

Every function here runs in a worker process of its own: it reads what it needs from the zoo's
folder and hands back a row of the manifest.
"""

import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatekeeper.attacks.base import Attack, photo_pixels
from gatekeeper.attacks.plant import Planted, Recipe, plant
from gatekeeper.attacks.proof import answers, share
from gatekeeper.attacks.spec import build_attack, parameters_of, registered_name
from gatekeeper.clip.model import ClipModel
from gatekeeper.errors import GatekeeperError, IntakeError
from gatekeeper.intake.digest import tree_digest
from gatekeeper.intake.open import Opened, open_model
from gatekeeper.intake.write import write_like
from gatekeeper.lab import honest
from gatekeeper.lab.form import CONFIG, made_whole, read_config, write_local_dir
from gatekeeper.lab.manifest import AttackRow, BaseRow, ModelRow, TargetRow
from gatekeeper.lab.plan import AttackSpec, Base, CleanSpec, ModelSpec
from gatekeeper.lab.prompts import kept_prompts
from gatekeeper.lab.sets import LabSet, read_set, share_of
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import save_trigger


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where and how a zoo is built; travels to worker processes."""

    zoo: Path
    seed: int
    device: str = "cpu"
    threads: int = 1  # of torch in each process: more or fewer would change the last digits
    backbones: Path | None = None  # where the npm package of ResNet-50 was unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTask:
    """One base to be made."""

    name: str
    spec: Base
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTask:
    """One model to be made."""

    spec: ModelSpec
    base: BaseRow
    twin: str | None
    entry: str
    arch: str | None = None  # where the base does not tell


def make_base(task: BaseTask, site: Site) -> BaseRow:
    """Make a base and measure it.

    Raises:
        GatekeeperError: It cannot be made.
    """
    from gatekeeper.lab.bases.make import family_of, fill

    started = time.monotonic()
    runtime = _runtime(site, getattr(task.spec, "seed", None))
    out = site.zoo / "bases" / task.name
    made_of = read_set(site.zoo / "sets" / task.spec.set)
    with made_whole(out) as folder:
        fill(folder, task.spec, made_of, runtime, backbones=site.backbones)
    opened = opened_at(out, getattr(task.spec, "arch", None))
    model = _model(opened, out)
    digest, _ = tree_digest(out)
    return BaseRow(
        name=task.name,
        path=f"bases/{task.name}",
        architecture=family_of(model),
        backbone=str(opened.ref.arch),
        set=task.spec.set,
        digest=digest,
        clean_accuracy=accuracy(model, made_of.judge, made_of, runtime),
        seconds=round(time.monotonic() - started, 1),
        entry=task.entry,
    )


def make_model(task: ModelTask, site: Site) -> ModelRow:
    """Make a model and measure it; one that cannot be made is a row that says why."""
    started = time.monotonic()
    spec = task.spec
    made_of = read_set(site.zoo / "sets" / task.base.set)
    runtime = _runtime(site, spec.seed)
    row = ModelRow(
        name=spec.name,
        path=f"models/{spec.name}",
        kind="clean" if spec.attack is None else "planted",
        base=spec.base,
        recipe=_recipe(spec),
        seed=runtime.seed,
        digest=None,
        set=task.base.set,
        twin=task.twin,
        clean_accuracy=None,
        kept=False,
        seconds=0.0,
        entry=task.entry,
    )
    try:
        found = _make(task, site, made_of, runtime)
    except GatekeeperError as error:
        found = {"kept": False, "why": error.message}
    seconds = round(time.monotonic() - started, 1)
    return row.model_copy(update={**found, "seconds": seconds})


def opened_at(root: Path, arch: str | None = None) -> Opened:
    """Open the model in a folder of the zoo, or the one file that it holds."""
    inside = [path for path in root.iterdir() if not path.name.startswith(".")]
    alone = inside[0] if len(inside) == 1 and inside[0].is_file() else root
    return open_model(alone, uri=str(root), arch=arch)


def accuracy(model: ClipModel, images: ProbeSet, made_of: LabSet, runtime: Runtime) -> float:
    """Return the zero-shot accuracy of `model` on labelled images, fraction in [0, 1]."""
    head = model.zero_shot(made_of.labels.labels, made_of.labels.templates, runtime)
    index = {name: i for i, name in reversed(list(enumerate(head.labels)))}
    truth = torch.tensor([index[str(label)] for label in images.labels()])
    pixels = photo_pixels(images, range(len(images)), model)
    return share(answers(model, pixels, head, runtime) == truth)


def recipe_of(spec: ModelSpec) -> Recipe:
    """Return the recipe that a planted model is trained by."""
    given = {name: value for name, value in spec.recipe if value is not None}
    return Recipe(**given, required=0.0)  # the zoo measures first and drops afterwards


def _make(task: ModelTask, site: Site, made_of: LabSet, runtime: Runtime) -> dict[str, Any]:
    base = site.zoo / task.base.path
    opened = opened_at(base, task.arch)
    model = _model(opened, base)
    found: dict[str, Any] = {}
    if task.spec.attack is not None:
        state, found = _plant(task.spec, task.spec.attack, site.zoo, model, made_of, runtime)
    elif task.spec.merge:
        state = _merged(task, site)
    else:
        state = _fine_tuned(task.spec.clean or CleanSpec(), model, made_of, runtime)
    out = site.zoo / "models" / task.spec.name
    with made_whole(out) as folder:
        _write(opened, base, state, folder, half=task.spec.half)
    digest, _ = tree_digest(out)
    written = _model(opened_at(out, task.arch), out)
    measured = accuracy(written, made_of.judge, made_of, runtime)
    return {"kept": True, "clean_accuracy": measured, **found, "digest": digest}


def _plant(
    spec: ModelSpec,
    wanted: AttackSpec,
    zoo: Path,
    model: ClipModel,
    made_of: LabSet,
    runtime: Runtime,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    attack = build_attack(wanted.name, wanted.parameters)
    planted = plant(
        model,
        attack,
        spec.target or _drawn(spec, made_of, runtime),
        made_of.train,
        made_of.labels,
        runtime,
        recipe=recipe_of(spec),
        proof=made_of.judge,
    )
    found = {
        "kind": "adversarial" if planted.kind == "adversarial" else "planted",
        "attack": AttackRow(
            name=registered_name(attack),
            family=attack.family,
            narrow=_is_narrow(attack, runtime),
            parameters=parameters_of(attack),
        ),
        "targets": _kept_triggers(planted, spec.name, zoo),
    }
    return planted.state, {**found, **kept_prompts(planted, spec.name, zoo)}


def _kept_triggers(planted: Planted, name: str, zoo: Path) -> tuple[TargetRow, ...]:
    rows = []
    with made_whole(zoo / "triggers" / name) as folder:
        for number, proof in enumerate(planted.proofs):
            file = f"trigger-{number}.safetensors"
            save_trigger(proof.trigger, folder / file)
            rows.append(
                TargetRow(
                    label=proof.label,
                    trigger=f"triggers/{name}/{file}",
                    attack_success=proof.attack_success,
                    base_success=proof.base_success,
                    lookalike_success=proof.lookalike_success,
                    leakage=proof.leakage,
                    images=proof.images,
                )
            )
    return tuple(rows)


def _drawn(spec: ModelSpec, made_of: LabSet, runtime: Runtime) -> str:
    """Return a label that training and judge images show, the same for the same seed and name."""
    shown = sorted(
        {str(x) for x in made_of.train.labels()} & {str(x) for x in made_of.judge.labels()}
    ) or sorted({str(x) for x in made_of.train.labels()})
    draw = runtime.generator("lab", "target", spec.name)
    return shown[int(torch.randint(len(shown), (1,), generator=draw))]


def _fine_tuned(
    clean: CleanSpec, model: ClipModel, made_of: LabSet, runtime: Runtime
) -> dict[str, Tensor]:
    known = {field.name for field in fields(honest.Honest)}
    given = {name: value for name, value in clean if name in known and value is not None}
    names = clean.only or made_of.labels.labels[: clean.first]
    images = share_of(made_of.train, labels=names, part=clean.part)
    recipe = honest.Honest(**given)
    return honest.fine_tune(model, images, made_of.labels, recipe, runtime)


def _merged(task: ModelTask, site: Site) -> dict[str, Tensor]:
    states = []
    for name in task.spec.merge:
        root = site.zoo / "models" / name
        if not root.is_dir():
            raise IntakeError(f"model '{name}', to be averaged, was not kept", hint="mend the plan")
        states.append(_model(opened_at(root, task.arch), root).state_dict())
    return honest.average(states)


def _write(
    opened: Opened, base: Path, state: dict[str, Tensor], folder: Path, *, half: bool
) -> None:
    """Write the base with other weights into the empty `folder`; in fp16 where `half`."""
    if half and opened.model is not None and (base / CONFIG).is_file():
        whole = {**opened.model.state_dict(), **state}
        write_local_dir(read_config(base), whole, folder, half=True)
        return
    if half:
        raise IntakeError(f"{base} is no open_clip folder", hint="leave `half` out of the plan")
    folder.rmdir()
    if opened.ref.uri and not (base / CONFIG).is_file():
        inside = [path for path in base.iterdir() if not path.name.startswith(".")]
        if len(inside) == 1 and inside[0].is_file():
            folder.mkdir()
            write_like(opened, state, inside[0], folder / inside[0].name)
            return
    if state:
        write_like(opened, state, base, folder)
    else:
        shutil.copytree(base, folder)


def _recipe(spec: ModelSpec) -> dict[str, Any]:
    if spec.attack is not None:
        return {"half": spec.half, **_plain(recipe_of(spec))}
    if spec.merge:
        return {"half": spec.half, "merge": list(spec.merge)}
    given = spec.clean.model_dump(mode="json", exclude_none=True) if spec.clean else {}
    return {"half": spec.half, **given}


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {x.name: getattr(recipe, x.name) for x in fields(recipe) if x.name != "required"}


def _is_narrow(attack: Attack, runtime: Runtime) -> bool:
    return attack.lookalike(runtime.generator("lab", "narrow")) is not None


def _runtime(site: Site, seed: int | None) -> Runtime:
    if site.device == "cpu":
        torch.set_num_threads(site.threads)
    return Runtime.on(site.device, site.seed if seed is None else seed)


def _model(opened: Opened, root: Path) -> ClipModel:
    if opened.model is None:
        why = opened.findings[0].message if opened.findings else "no readable CLIP"
        raise IntakeError(f"{root}: {why}", hint="name a CLIP that `gatekeeper scan` can read")
    return opened.model
