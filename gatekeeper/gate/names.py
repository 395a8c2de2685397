"""Which names are protected, and which writes around them are refused whatever the verdict.

Each `bad_…` returns the reason for a refusal, "" where there is none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry.prompt_version import IS_PROMPT_TAG_KEY
from mlflow.prompt.constants import _STORE_PROMPT_SOURCE_PLACEHOLDER as PROMPT_SOURCE

from gatekeeper.gate.promotion import canonical, imitates, matches
from gatekeeper.policy.schema import Protects

RESERVED = "gatekeeper."


@dataclass(frozen=True, slots=True)
class Names:
    """The policy's `protects`, asked about names."""

    protects: Protects

    def protects_alias(self, name: str, alias: str) -> bool:
        """Say whether this alias of this model needs a decision."""
        return matches(name, self.protects.models) and canonical(alias) in map(
            canonical, self.protects.aliases
        )

    def protects_stage(self, name: str, stage: str) -> bool:
        """Say whether this (canonical) stage of this model needs a decision."""
        return matches(name, self.protects.models) and stage in self.protects.stages

    def is_copy_target(self, name: str) -> bool:
        """Say whether only approved versions may be copied into this model."""
        return matches(name, self.protects.copy_targets)

    def is_protected(self, name: str) -> bool:
        """Say whether anything about this model needs a decision."""
        return matches(name, self.protects.models) or self.is_copy_target(name)

    def bad_alias(self, name: str, alias: str) -> str:
        """An alias in other letters can look like a protected one and be another."""
        if self.is_protected(name) and not alias.isascii():
            return f"aliases of protected models are ASCII, and {alias!a} is not"
        return self.bad_name(name) if self.protects_alias(name, alias) else ""

    def bad_name(self, name: str) -> str:
        """A model whose name is not ASCII can look like another."""
        if self.is_protected(name) and not name.isascii():
            return f"names of protected models are ASCII, and {name!a} is not"
        return ""

    def bad_new_name(self, name: str) -> str:
        """A new name may not imitate a protected one."""
        imitated = imitates(name, (*self.protects.copy_targets, *self.protects.models))
        if imitated:
            return f"{name!a} imitates the protected model '{imitated}'"
        return self.bad_name(name)

    def bad_rename(self, name: str, new_name: str, held: tuple[str, ...]) -> str:
        """A rename may not move a protected name past the gate."""
        for one in (name, new_name):
            if self.is_copy_target(one):
                return f"'{one}' is a protected model: versions come into it by copy, never by name"
        if held:
            labels = ", ".join(f"'{label}'" for label in held)
            return f"it carries {labels}: a rename would move them to a name with no decision"
        return self.bad_new_name(new_name)

    def bad_tag(self, key: str, *, on_prompt: bool) -> str:
        """The gate's own tags are written by the gate; a model may not pose as a prompt."""
        if canonical(key).startswith(RESERVED):
            return f"tags that begin with '{RESERVED}' are written by the gate alone"
        if key == IS_PROMPT_TAG_KEY and not on_prompt:
            return f"the tag '{key}' would hide a model among the prompts"
        return ""

    def bad_tags(self, tags: Iterable[Any] | None) -> str:
        """The same for the tags that a new model comes with; a new prompt says that it is one."""
        tags = tuple(tags or ())
        prompt = makes_prompt(tags)
        return next(filter(None, (self.bad_tag(t.key, on_prompt=prompt) for t in tags or ())), "")

    def bad_version_tags(
        self, tags: Iterable[Any] | None, inherited: dict[str, str], source: str, prompt: bool
    ) -> str:
        """The same for a new version; a copy may keep what the gate wrote on its origin."""
        for tag in tags or ():
            if inherited.get(tag.key) == tag.value and canonical(tag.key).startswith(RESERVED):
                continue
            reason = self.bad_tag(tag.key, on_prompt=prompt)
            if reason:
                return reason
        if prompt and source != PROMPT_SOURCE:
            return "a prompt holds text, and this version would hold a model's files"
        return ""

    def needs_copy(self, name: str, source: str) -> str:
        """A protected model takes versions of other registered models alone."""
        return (
            f"'{name}' is a protected model and takes copies of approved versions alone, "
            f"not {source.split('?', 1)[0][:200]!r}; register it elsewhere, then "
            f"`gatekeeper promote models:/NAME/VERSION --to {name}`"
        )


def makes_prompt(tags: Iterable[Any] | None) -> bool:
    """Say whether a model created with these tags is a prompt."""
    values = {str(tag.key): str(tag.value) for tag in tags or ()}
    return values.get(IS_PROMPT_TAG_KEY, "").lower() == "true"
