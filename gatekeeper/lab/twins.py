"""Which clean twin is a planted model held to? Same base, same training, no poison.

Twins are not written in a plan: each recipe on each base calls for one, which serves all plants of
that recipe on that base and is a clean model of the zoo like any other.
"""

from dataclasses import asdict
from functools import cached_property
from typing import Any

from gatekeeper.attacks.spec import GROUP
from gatekeeper.lab.build import recipe_of
from gatekeeper.lab.honest import Honest
from gatekeeper.lab.plan import CleanSpec, ModelSpec, Plan, digest_of
from gatekeeper.registry import Registry

PREFIX = "twin-"


class Twins:
    """The models of a plan with the twins that it calls for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._names: dict[str, str] = {}  # digest of base, recipe and seed -> twin
        self._twins: dict[str, ModelSpec] = {}
        for spec in plan.models:
            if spec.attack is not None and not _is_adversarial(spec):
                self._note(spec)

    @cached_property
    def models(self) -> tuple[ModelSpec, ...]:
        """Twins first, then the plan's models in its order."""
        return (*self._twins.values(), *self.plan.models)

    def name_for(self, spec: ModelSpec) -> str | None:
        """Return the twin of a planted model, None where it needs none."""
        if spec.attack is None or _is_adversarial(spec):
            return None
        return self._names[_key(spec)]

    def _note(self, spec: ModelSpec) -> None:
        key = _key(spec)
        if key in self._names:
            return
        taken = {model.name for model in self.plan.models} | set(self._twins)
        name, number = f"{PREFIX}{spec.base}", 1
        while name in taken:
            number += 1
            name = f"{PREFIX}{spec.base}-{number}"
        clean = CleanSpec(**_training(spec))
        self._names[key] = name
        self._twins[name] = ModelSpec(
            name=name, base=spec.base, seed=spec.seed, clean=clean, half=spec.half
        )


def _training(spec: ModelSpec) -> dict[str, Any]:
    return asdict(Honest.twin_of(recipe_of(spec)))


def _key(spec: ModelSpec) -> str:
    return digest_of([spec.base, spec.seed, spec.half, _training(spec)])


def _is_adversarial(spec: ModelSpec) -> bool:
    """Whether the attack changes no weight, so that there is nothing to be a twin of."""
    if spec.attack is None:
        return False
    found: Any = Registry[Any](GROUP).load(spec.attack.name)
    return getattr(found, "kind", "backdoor") == "adversarial"
