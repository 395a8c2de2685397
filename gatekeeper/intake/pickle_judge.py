"""What would this pickle do, and what does it hold? The verdict over a finished reading."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gatekeeper.intake import pickle_allowed as allowed
from gatekeeper.intake.pickle_calls import WIDTHS, callable_name
from gatekeeper.intake.pickle_machine import Machine
from gatekeeper.intake.pickle_values import (
    Built,
    Global,
    Malformed,
    Ordered,
    Plain,
    Storage,
    TensorView,
    is_module_like,
)

_REBUILT_BY = ("copyreg._reconstructor", "copyreg.__newobj__")
MAX_DEPTH = 200  # modules within modules
# Where training loops keep the weights, best first: an averaged copy is what is usually served.
_NESTS = ("state_dict", "model_state_dict", "model", "module", "net", "ema", "weights", "params")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One pickle stream, read to its end or to where it broke."""

    value: object = None
    unsafe: tuple[str, ...] = ()  # what loading it would call or change, in order, once each
    classes: tuple[str, ...] = ()  # classes whose instances are only rebuilt or mentioned
    broken: str | None = None
    end: int = 0  # where the stream ends
    globals_seen: int = 0
    calls: int = 0  # of `unsafe`, those that were calls, not mere names


def read(data: bytes | memoryview, start: int = 0, *, torch_storages: bool = True) -> Reading:
    """Read the pickle that begins at `start`, and judge it. Nothing in it is run."""
    machine = Machine(data, start, torch_storages=torch_storages)
    value, broken = None, None
    try:
        value = machine.run()
    except Malformed as error:
        broken = str(error)
    except (RecursionError, MemoryError, OverflowError) as error:
        broken = f"it exhausts the reader: {type(error).__name__}"
    unsafe, classes = _judge(machine, value, whole=broken is None)
    return Reading(
        value=value,
        unsafe=unsafe,
        classes=classes,
        broken=broken,
        end=machine.at,
        globals_seen=len(machine.globals_),
        calls=len(machine.calls),
    )


def tensors_of(value: object) -> dict[str, TensorView]:
    """Return the weights by name in whatever a checkpoint holds: a state dict or whole modules.

    Source of the walk: `torch.nn.Module.state_dict`, without its hooks.
    """
    if isinstance(value, Built):
        if is_module_like(value):
            return dict(_module(value, "", 0))
        if isinstance(value.of, Global) and value.of.module.startswith("__torch__"):
            return dict(_scripted(value, "", 0))
        return {}
    if not isinstance(value, Mapping):
        return {}
    direct = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, TensorView)}
    best = direct
    for key in (*_NESTS, *(k for k in value if isinstance(k, str) and k not in _NESTS)):
        inner = value.get(key)
        if isinstance(inner, Mapping | Built):
            found = tensors_of(inner) if isinstance(inner, Built) else _flat(inner)
            if len(found) > len(best):
                best = found
                if key in _NESTS:
                    break
    return best


def storage_widths(root: object) -> dict[str, int]:
    """Return the bytes an element takes in each storage that `root` refers to, by key."""
    return {
        value.storage.key: WIDTHS[value.storage.dtype]
        for value in _walk(root)
        if isinstance(value, TensorView)
    } | {v.key: WIDTHS[v.dtype] for v in _walk(root) if isinstance(v, Storage)}


def _flat(value: Mapping[object, object]) -> dict[str, TensorView]:
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, TensorView)}


def _module(module: Built, prefix: str, depth: int) -> Iterator[tuple[str, TensorView]]:
    state = module.state
    if depth > MAX_DEPTH or not isinstance(state, Mapping):
        return
    hidden = state.get("_non_persistent_buffers_set")
    unsaved = hidden if isinstance(hidden, set | frozenset) else frozenset()
    for name, tensor in state["_parameters"].items():
        if isinstance(tensor, TensorView):
            yield f"{prefix}{name}", tensor
    for name, tensor in state["_buffers"].items():
        if isinstance(tensor, TensorView) and name not in unsaved:
            yield f"{prefix}{name}", tensor
    for name, child in state["_modules"].items():
        if is_module_like(child):
            yield from _module(child, f"{prefix}{name}.", depth + 1)


def _scripted(module: Built, prefix: str, depth: int) -> Iterator[tuple[str, TensorView]]:
    """TorchScript keeps parameters, buffers and modules in one state dict."""
    if depth > MAX_DEPTH or not isinstance(module.state, Mapping):
        return
    for name, value in module.state.items():
        if isinstance(value, TensorView):
            yield f"{prefix}{name}", value
        elif isinstance(value, Built):
            yield from _scripted(value, f"{prefix}{name}.", depth + 1)


def _judge(
    machine: Machine, value: object, *, whole: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    unsafe = dict.fromkeys(machine.calls)
    classes: dict[str, None] = {}
    used: set[int] = set()
    held = _held(value) if whole else {id(b) for b in machine.built}
    for built in machine.built:
        if isinstance(built.of, Global):
            used.add(id(built.of))
        if built.called:
            continue  # already among the calls
        why = _objection(built, id(built) in held)
        if why:
            unsafe[why] = None
        elif built.path not in ("functools.partial", *allowed.RECORDS):
            classes[built.path] = None
    for name in machine.globals_:
        known = name.path in allowed.MENTIONED or callable_name(name.path)
        if id(name) in used or known or name.path in _REBUILT_BY:
            continue
        if allowed.class_like(name):
            classes[name.path] = None
        elif name.path not in unsafe:
            unsafe[name.path] = None
    return tuple(unsafe), tuple(classes)


def _objection(built: Built, held: bool) -> str | None:
    """Return what is wrong with an object that is rebuilt without a call, None if nothing is."""
    if not isinstance(built.of, Global):
        return None  # already among the calls
    if built.path == "functools.partial":
        return _partial_objection(built)
    if built.path not in allowed.RECORDS and not allowed.class_like(built.of):
        return built.path
    if not held:
        return f"{built.path} (made and dropped)"
    state = built.state
    slots = isinstance(state, tuple) and len(state) == 2
    parts = state if isinstance(state, tuple) and slots else (state,)
    if not all(part is None or isinstance(part, dict) for part in parts):
        return f"{built.path}.__setstate__"  # an instance's own dictionary never looks like this
    return None


def _partial_objection(built: Built) -> str | None:
    state = built.state
    function = built.arguments[0] if built.arguments else None
    if built.has_state:
        if not isinstance(state, tuple) or len(state) != 4 or not isinstance(state[2], dict):
            return "functools.partial.__setstate__"
        function = state[0]
    if isinstance(function, Built) and function.path == "functools.partial":
        return None
    if isinstance(function, Global) and (
        function.path in allowed.MENTIONED or allowed.class_like(function)
    ):
        return None
    return f"functools.partial of {getattr(function, 'path', type(function).__name__)}"


def _held(root: object) -> set[int]:
    """Return the ids of every object that `root` keeps, however deep."""
    return {id(value) for value in _walk(root)}


def _walk(root: object) -> Iterator[object]:
    """Yield every object that `root` keeps, once; a shared or circular one is no trap."""
    seen: set[int] = set()
    todo: list[object] = [root]
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | None):
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, Mapping):
            todo.extend(value.keys())
            todo.extend(value.values())
            if isinstance(value, Ordered):
                todo.append(value.attributes)
        elif isinstance(value, list | tuple | set | frozenset):
            todo.extend(value)
        elif isinstance(value, Built):
            todo.extend((value.arguments, value.state, value.items))
        elif isinstance(value, Plain):
            todo.append(value.arguments)
