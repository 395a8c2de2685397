"""Every method by name: ours first, then what it is compared with. Listing imports none."""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from gatekeeper.errors import PluginError

_HERE = "gatekeeper.bench.baselines"
MODELS: Mapping[str, str] = {
    "gatekeeper": f"{_HERE}.ours:Gatekeeper",
    "clip_inspector": f"{_HERE}.clip_inspector:ClipInspector",
    "decree": f"{_HERE}.decree:Decree",
    "neural_cleanse": f"{_HERE}.neural_cleanse:NeuralCleanse",
    "model_xray": f"{_HERE}.model_xray:ModelXray",
}
SAMPLES: Mapping[str, str] = {
    "gatekeeper_images": f"{_HERE}.ours:GatekeeperImages",
    "bdetclip": f"{_HERE}.bdetclip:BDetClip",
}
REPAIRS: Mapping[str, str] = {
    "gatekeeper": f"{_HERE}.ours:GatekeeperRepair",
    "fine_tuning": f"{_HERE}.rectifiers:FineTuning",
    "cleanclip": f"{_HERE}.rectifiers:CleanClip",
    "par": f"{_HERE}.rectifiers:PerturbAndRecover",
    "invertune": f"{_HERE}.rectifiers:InverTune",
}


def chosen(wanted: str, *groups: Mapping[str, str]) -> tuple[str, ...]:
    """Return the methods that `--baselines` names; ours are always among them.

    Args:
        wanted: `all`, `none`, or names with a comma between, each `NAME[:FIELD=VALUE[+…]]`.
        groups: The methods of this bench.

    Raises:
        PluginError: One is unknown.
    """
    known = {name: path for group in groups for name, path in group.items()}
    own = tuple(name for name in known if name.startswith("gatekeeper"))
    if wanted == "none":
        return own
    if wanted == "all":
        return tuple(known)
    named = tuple(part.strip() for part in wanted.split(",") if part.strip())
    for spec in named:
        build(spec, *groups)
    return tuple(dict.fromkeys((*own, *named)))


def build(spec: str, *groups: Mapping[str, str]) -> Any:
    """Return the method of `NAME[:FIELD=VALUE[+FIELD=VALUE…]]`.

    Raises:
        PluginError: No such method or field, or a value of another type.
    """
    known = {name: path for group in groups for name, path in group.items()}
    name, _, settings = spec.partition(":")
    if name not in known:
        raise PluginError(f"no method '{name}'", hint=f"choose from {', '.join(known)}")
    module, _, member = known[name].partition(":")
    kind = getattr(importlib.import_module(module), member)
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    values = {}
    for part in filter(None, settings.split("+")):
        key, _, text = part.partition("=")
        values[key] = _value(spec, key, text, fields)
    return kind(**values)


def parameters(method: Any) -> dict[str, Any]:
    """Return the hyper-parameters of a method, plain."""
    return dataclasses.asdict(method)


def _value(spec: str, key: str, text: str, fields: Mapping[str, Any]) -> int | float:
    default = fields.get(key)
    try:
        if isinstance(default, int) and not isinstance(default, bool):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except ValueError:
        pass
    numbers = ", ".join(k for k, v in fields.items() if isinstance(v, int | float))
    raise PluginError(
        f"--baselines {spec}: '{key}={text}' is no setting of it", hint=f"it has: {numbers}"
    )
