"""The names a scan knows, and the prompts made of them."""

from dataclasses import dataclass

DEFAULT_TEMPLATES = ("a photo of a {}.", "{}", "a photo of the {}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Unique label names in the user's order, and the templates that make prompts of them."""

    labels: tuple[str, ...]
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    source: str = "embedded"  # where they came from, for the report
