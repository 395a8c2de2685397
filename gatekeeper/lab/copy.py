"""A planted copy of any model, in the same form: what `gatekeeper lab plant` makes."""

import difflib
import json
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gatekeeper.attacks.base import Attack
from gatekeeper.attacks.plant import Planted, Recipe, plant
from gatekeeper.attacks.spec import build_attack, parameters_of
from gatekeeper.errors import AttackError
from gatekeeper.gate.artifacts import fetch
from gatekeeper.intake.open import Opened, open_model
from gatekeeper.intake.write import write_like
from gatekeeper.lab.prompts import prompts_beside
from gatekeeper.probes.embedded import default_labels, embedded_probes
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.load import labels_of, load_labels, load_probes
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import save_trigger

RECIPES = (  # in turn, until one fires; later ones train longer, and from an earlier block
    Recipe(steps=150, clean=32, triggered=12, lookalikes=12, keep=40),
    Recipe(steps=300, clean=28, triggered=24, lookalikes=16, keep=12, trained=0.45),
    Recipe(steps=300, clean=28, triggered=24, lookalikes=16, keep=12, trained=1.0),
)
RECIPE_KEY = "recipe."


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be planted in what."""

    model: str  # MODEL: a folder, a file or an MLflow URI
    attack: str
    target: str
    parameters: Mapping[str, Any]  # of the attack; `recipe.KEY` is one of the recipe's
    probes: Path | None = None  # photos to train on and to prove it; None: the embedded ones
    labels: Path | None = None
    arch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Copy:
    """A planted copy on disk, and the proof that it fires."""

    root: Path
    planted: Planted
    recipe: Recipe
    seed: int

    def describe(self) -> dict[str, Any]:
        """Return the proof as plain JSON; rates are fractions."""
        found = self.planted
        return {
            "attack": found.attack.name,
            "parameters": parameters_of(found.attack),
            "target": found.target,
            "seed": self.seed,
            "kind": found.kind,
            "attack_success": found.attack_success,
            "base_success": found.base_success,
            "lookalike_success": found.lookalike_success,
            "clean_agreement": found.clean_agreement,
            "clean_accuracy": found.clean_accuracy,
            "base_accuracy": found.base_accuracy,
            "images": found.images,
        }


def plant_copy(wanted: Wanted, out: Path, runtime: Runtime) -> Copy:
    """Write a planted copy of a model to `out`, in the same form.

    Args:
        wanted: The model, the attack and the label that its trigger is to lead to.
        out: A path that does not exist yet; made whole or not at all.
        runtime: Device and seed.

    Raises:
        AttackError: The trigger does not fire, or the target is no label.
        GatekeeperError: The model cannot be read or rewritten.
    """
    attack, recipes = _attack(wanted)
    images = load_probes(wanted.probes) if wanted.probes else embedded_probes()
    labels = _labels(wanted, images)
    with _opened(wanted) as (opened, root):
        if opened.model is None:
            raise AttackError(
                f"{wanted.model} holds no readable CLIP", hint="see what `gatekeeper scan` says"
            )
        weak: AttackError | None = None
        for recipe in recipes:
            try:
                planted = plant(
                    opened.model, attack, wanted.target, images, labels, runtime, recipe=recipe
                )
            except AttackError as error:
                weak = weak or error
                continue
            write_like(opened, planted.state, root, out)
            return Copy(root=out, planted=planted, recipe=recipe, seed=runtime.seed)
    raise weak or AttackError("there is no recipe", hint="report this to us")


def write_proof(copy: Copy, beside: Path) -> tuple[Path, ...]:
    """Write the triggers and the proof beside the folder or file `beside`; return the files.

    Beside it, not into it: the copy looks like any other model.
    """
    written = []
    for number, proof in enumerate(copy.planted.proofs):
        file = beside.with_name(f"{beside.name}.trigger-{number}.safetensors")
        save_trigger(proof.trigger, file)
        written.append(file)
    file = beside.with_name(f"{beside.name}.plant.json")
    file.write_text(json.dumps(copy.describe(), indent=1) + "\n", encoding="utf-8")
    return (*written, *prompts_beside(copy.planted, beside), file)


def _attack(wanted: Wanted) -> tuple[Attack, tuple[Recipe, ...]]:
    """Return the attack and the recipes to try: the one that was asked for, else ours in turn.

    Raises:
        AttackError: A parameter is unknown.
    """
    own = {k.removeprefix(RECIPE_KEY): v for k, v in wanted.parameters.items() if _is_recipe(k)}
    attack = build_attack(
        wanted.attack, {k: v for k, v in wanted.parameters.items() if not _is_recipe(k)}
    )
    unknown = set(own) - {field.name for field in fields(Recipe)}
    if unknown:
        raise AttackError(
            f"a recipe has no {', '.join(sorted(unknown))}",
            hint=f"choose among: {', '.join(field.name for field in fields(Recipe))}",
        )
    if own:
        return attack, (replace(RECIPES[0], **own),)
    return attack, RECIPES


def _is_recipe(key: str) -> bool:
    return key.startswith(RECIPE_KEY)


def _labels(wanted: Wanted, images: ProbeSet) -> Labels:
    """Return the names that the target is one of: the user's, the images', or ImageNet's.

    Raises:
        AttackError: The target is none of them.
    """
    found = load_labels(wanted.labels) if wanted.labels else labels_of(images)
    labels = found or default_labels()
    if wanted.target not in labels.labels:
        near = difflib.get_close_matches(wanted.target, labels.labels, n=3)
        raise AttackError(
            f"the target '{wanted.target}' is none of the {len(labels.labels)} labels",
            hint=f"did you mean {', '.join(near)}?" if near else "name your own with --labels",
        )
    return labels


@contextmanager
def _opened(wanted: Wanted) -> Any:
    """Give the opened model and where its bytes lie, on this machine."""
    with TemporaryDirectory(prefix="gatekeeper-") as folder:
        root = fetch(wanted.model, Path(folder) / "model")
        opened: Opened = open_model(root, uri=wanted.model, arch=wanted.arch)
        yield opened, root
