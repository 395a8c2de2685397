"""The names a scan knows, and the prompts made of them."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from gatekeeper.errors import ProbeError

DEFAULT_TEMPLATES = ("a photo of a {}.", "{}", "a photo of the {}.")
MAX_LABEL_LENGTH = 300  # characters: CLIP reads 77 tokens, the rest of a longer text is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Unique label names in the user's order, and the templates that make prompts of them."""

    labels: tuple[str, ...]
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    source: str = "embedded"  # where they came from, for the report
    notes: tuple[str, ...] = ()  # what was changed on the way in, in sentences for people


def check_label(label: str, where: str) -> str:
    """Return `label` without surrounding blanks.

    Raises:
        ProbeError: No prompt can be made of it: empty, too long or holding control characters.
    """
    name = label.strip()
    if not name:
        raise ProbeError(f"{where}: the label is empty", hint="remove the row or name the label")
    if len(name) > MAX_LABEL_LENGTH:
        raise ProbeError(
            f"{where}: a label of {len(name)} characters, at most {MAX_LABEL_LENGTH} are read",
            hint="shorten it: a text tower reads about 75 tokens",
        )
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise ProbeError(
            f"{where}: the label {name!r} holds control characters",
            hint="write one plain-text label a line, in UTF-8",
        )
    return name


def check_template(template: str, where: str) -> str:
    """Return `template`.

    Raises:
        ProbeError: It does not hold exactly one `{}`.
    """
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise ProbeError(
            f"{where}: the template {template!r} must hold exactly one {{}}",
            hint="write templates such as 'a photo of a {}.'",
        )
    return template


def unique(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names once each, in order of first mention, and those mentioned again."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return tuple(seen), tuple(name for name, count in seen.items() if count > 1)
