"""From a name and plain parameters (a YAML plan, a command line) to an attack, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from gatekeeper.attacks.base import Attack
from gatekeeper.errors import AttackError
from gatekeeper.registry import Registry
from gatekeeper.types import Json

GROUP = "gatekeeper.attacks"
INNER = "of"  # the parameter of an attack that wraps others: {name: …, …} or a list of them


def build_attack(name: str, parameters: Mapping[str, Any] | None = None) -> Attack:
    """Return the attack called `name`; lists become tuples, `of` the attacks it describes.

    Raises:
        AttackError: A parameter is unknown or out of range.
        PluginError: There is no attack of that name.
    """
    attack_class: Any = Registry[Attack](GROUP).load(name)
    known = [x.name for x in fields(attack_class) if x.init and x.repr]
    given = {key: _plain(key, value) for key, value in (parameters or {}).items()}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise AttackError(
            f"attack '{name}' has no parameter {', '.join(map(repr, unknown))}",
            hint=f"choose among: {', '.join(known) or 'none'}",
        )
    try:
        attack: Attack = attack_class(**given)
    except (TypeError, ValueError) as error:
        raise AttackError(
            f"attack '{name}' cannot be made: {error}", hint="check its parameters"
        ) from error
    return attack


def parameters_of(attack: Attack) -> dict[str, Json]:
    """Return the attack's parameters as plain JSON, as `build_attack` takes them."""
    if not is_dataclass(attack):
        return {}
    shown = [x.name for x in fields(attack) if x.init and x.repr]
    return {name: _json(getattr(attack, name)) for name in shown}


def _plain(key: str, value: Any) -> Any:
    if key == INNER and isinstance(value, Mapping):
        return build_attack(str(value.get("name")), {k: v for k, v in value.items() if k != "name"})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(key, x) for x in value)
    return value


def _json(value: Any) -> Json:
    if isinstance(value, Attack):
        return {"name": registered_name(value), **parameters_of(value)}
    if isinstance(value, tuple | list):
        return [_json(x) for x in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return str(value)


def registered_name(attack: Attack) -> str:
    """Return the name it is registered by: a wrapper's own, not that of what it wraps."""
    return str(getattr(type(attack), "plugin", None) or attack.name)
